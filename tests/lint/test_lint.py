#!/usr/bin/env python3
"""Shows that every check finds what it is there to find, on small trees made for it."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
import calls
import layers
import lint
import sizes
import text
import tools

TABLE = """# Layers
| folder | level | what it holds | may include |
|---|---|---|---|
| base | 0 | everything's ground | |
| quant | 1 | formats | base |
| tokenizer | 1 | words | base |
| ops | 2 | backends' functions | base quant |
| cpu | 3 | kernels | base quant ops |
| vulkan | 3 | kernels | base quant ops |
| engine | 4 | sessions | base quant ops cpu vulkan |
| api | 5 | checks | base engine |
"""


class LintTest(unittest.TestCase):
    """Makes a tree for each test and compares what a check says of it."""

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.put("runtime/README.md", TABLE)

    def put(self, name, content):
        """Writes one file of the tree."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")

    def found(self, check):
        """Returns the set of (file, line) that a check names."""
        return {(name, line) for name, line, _ in check(self.root)}

    def assert_include(self, name, include, good):
        """Holds one include of one file to the expected verdict."""
        self.put(name, "#include %s\n" % include)
        expected = set() if good else {(name, 1)}
        self.assertEqual(self.found(layers.check), expected, "%s: %s" % (name, include))
        (self.root / name).unlink()

    def test_layers(self):
        """Every kind of include, allowed and not."""
        for name, include, good in (
                ("runtime/quant/a.c", '"runtime/quant/b.h"', True),
                ("runtime/quant/a.c", '"runtime/base/b.h"', True),
                ("runtime/ops/a.c", '"shaders/shared/layout.h"', True),
                ("runtime/quant/a.c", '"shaders/shared/layout.h"', False),
                ("runtime/quant/a.c", "<stdint.h>", True),
                ("runtime/quant/a.c", "<nibble/base.h>", True),
                ("runtime/base/a.c", '"runtime/quant/b.h"', False),
                ("runtime/quant/a.c", '"b.h"', False),
                ("runtime/quant/a.c", "<runtime/base/b.h>", False),
                ("runtime/quant/a.c", "<nibble/model.h>", False),
                ("runtime/tokenizer/a.c", "<nibble/tokenizer.h>", True),
                ("runtime/quant/a.c", "<nibble/tokenizer.h>", False),
                ("runtime/api/a.c", "<nibble/model.h>", True),
                ("runtime/api/a.c", "<nibble/vulkan.h>", False),
                ("runtime/vulkan/a.c", "<nibble/vulkan.h>", True),
                ("runtime/vulkan/a.c", '"runtime/cpu/cpu.h"', False),
                ("runtime/engine/load.c", '"runtime/cpu/cpu.h"', False),
                ("runtime/engine/registry.c", '"runtime/cpu/cpu.h"', True),
                ("runtime/api/vulkan.c", '"runtime/vulkan/attach.h"', True),
                ("include/nibble/a.h", "<nibble/base.h>", True),
                ("include/nibble/a.h", '"runtime/base/b.h"', False),
                ("include/nibble/a.h", "<sys/types.h>", False),
                ("shaders/shared/a.h", '"runtime/base/b.h"', False),
                ("tools/nibble/a.c", "<nibble/base.h>", True),
                ("tools/nibble/a.c", '"tools/nibble/b.h"', True),
                ("tools/nibble/a.c", '"runtime/base/b.h"', False)):
            self.assert_include(name, include, good)

    def test_layer_without_row(self):
        """A folder that the table does not name."""
        self.put("runtime/extra/a.c", "\n")
        self.assertEqual(self.found(layers.check), {("runtime/README.md", 1)})

    def test_layer_table_goes_down(self):
        """A row that allows its own level."""
        self.put("runtime/README.md", TABLE + "| up | 3 | wrong | base cpu |\n")
        self.assertEqual(self.found(layers.check), {("runtime/README.md", 1)})

    def test_real_table_is_read(self):
        """The table of this repository has its lowest and highest layers."""
        real = pathlib.Path(__file__).resolve().parents[2]
        table = layers.read_table(real)
        self.assertEqual(table["base"], (0, set()))
        self.assertIn("engine", table["api"][1])

    def test_sizes(self):
        """A long file, function, line and argument list, and their like within the limits."""
        body = "    x++;\n"
        self.put("runtime/base/long_function.c",
                 "// }\nstatic void f(int x)\n{\n" + body * 118 + "}\n")
        self.put("runtime/base/function.c", 'void f(int x)\n{\n    g("{");\n' + body * 116 + "}\n")
        self.put("runtime/base/file.h", "// text\n" * 1001)
        self.put("runtime/base/column.c", "int x;\n// " + "x" * 98 + "\n")
        self.put("runtime/base/arguments.c",
                 "int f(int a, int b, int c, int d, int e, int g, int h)\n{\n}\n")
        self.put("include/nibble/six.h",
                 'extern "C" {\nstatic int f(int a, int (*b)(int, int), int c)\n{\n}\n}\n')
        self.assertEqual(self.found(sizes.check), {
            ("runtime/base/long_function.c", 2), ("runtime/base/file.h", 1),
            ("runtime/base/column.c", 2), ("runtime/base/arguments.c", 1)})
        self.put("tests/lint/allow.txt", "runtime/base/file.h file a table\n"
                 "runtime/base/column.c columns a table\nruntime/base/arguments.c f a reason\n"
                 "runtime/base/long_function.c f\n")
        self.assertEqual(self.found(sizes.check), {("runtime/base/long_function.c", 2)})

    def test_function_measure(self):
        """Functions are found in the presence of structs, initialisers, macros and guards."""
        code = ('#define M(x) { x }\nextern "C" {\nstruct s {\n    int a;\n};\n'
                "static const int t[] = {1, 2};\n__attribute__((noinline)) int f(void)\n{\n"
                "    if (x) {\n    }\n}\nint g(int a,\n      int b)\n{\n}\n}\n")
        self.assertEqual(list(sizes.functions(code)), [("f", 7, 5, 0), ("g", 12, 4, 2)])

    def test_text(self):
        """Each rule about text."""
        bad = {"tab.c": "\tx\n", "trailing.md": "x \n", "crlf.h": "x\r\n", "end.py": "x",
               "blank.txt": "x\n\n", "zero.c": "x\u200b\n", "note.c": "// TO" "DO: more\n",
               "path.sh": "cd /wo" "rk/main\n", "script": "\n\t\n"}
        for name, content in bad.items():
            self.put("tests/" + name, content)
        self.put("tests/good.c", "int home; // see src/home/x, /usr/include\n")
        self.put("tests/data/x.txt", "\t")
        names = {name for name, _ in self.found(text.check)}
        self.assertEqual(names, {"tests/" + name for name in bad})

    def test_calls(self):
        """Forbidden calls and headers, and names that only look like them."""
        for index, line in enumerate((
                "printf(x);", "exit(1);", "assert(x);", "getenv(x);", "abort ();", "rand();",
                "fopen(x, y);", "#include <unistd.h>", "#include <sys/mman.h>", "pthread_join(x);",
                "#include <windows.h>", "puts(x);", "fprintf(stderr, x);", "sprintf(a, b);")):
            self.put("runtime/quant/%d.c" % index, line + "\n")
        self.put("tests/unit/a.c", "void f(void) { getenv(x); printf(y); }\n")
        self.put("runtime/base/posix/file.c", "#include <unistd.h>\nvoid f(void) { mmap(x); }\n")
        self.put("runtime/quant/good.c",
                 "// printf(x); exit(1)\nconst char *s = \"abort()\";\nsnprintf(a, b);\n"
                 "ops->exit(1);\nstatic_assert(1, x);\nnib_puts(x);\n")
        self.put("tools/nibble/main.c", "printf(x); exit(1); getenv(y);\n")
        self.assertEqual(self.found(calls.check), {
            ("runtime/quant/%d.c" % index, 1) for index in range(14)})

    def test_version(self):
        """CMake's version against the header's."""
        self.put("CMakeLists.txt", "project(nibble VERSION 1.2.3 LANGUAGES C\n")
        header = "#define NIB_VERSION_MAJOR 1\n#define NIB_VERSION_MINOR 2\n"
        self.put("include/nibble/base.h", header + "#define NIB_VERSION_PATCH 3\n")
        self.assertFalse(self.found(tools.check_version))
        self.put("include/nibble/base.h", header + "#define NIB_VERSION_PATCH 4\n")
        self.assertTrue(self.found(tools.check_version))

    def test_headers(self):
        """Headers that do not stand alone, in C and in C++."""
        self.put("include/nibble/good.h", "#include <stdint.h>\nuint8_t nib_f(void);\n")
        self.put("include/nibble/no_c.h", "uint8_t nib_f(void);\n")
        self.put("include/nibble/no_cxx.h", "int *nib_new(int class);\n")
        self.put("runtime/base/a.h", '#include "runtime/base/none.h"\n')
        self.assertEqual({name for name, _ in self.found(tools.check_headers)}, {
            "include/nibble/no_c.h", "include/nibble/no_cxx.h", "runtime/base/a.h"})

    def test_symbols(self):
        """An object whose names no public header declares."""
        self.put("include/nibble/a.h", "NIB_API const char *nib_f(int x);\nint nib_g(void);\n")
        self.put("include/nibble/vulkan.h", "NIB_API int nib_vk(void);\n")
        public = tools.public_symbols(self.root)
        self.assertEqual(set(public), {"nib_f", "nib_vk"})
        for name, good in (("nib_f", True), ("nib_g", False), ("other", False)):
            output = str(self.root / (name + ".o"))
            subprocess.run(["cc", "-x", "c", "-c", "-o", output, "-"], check=True,
                           input=b"int %s(void) { return 0; }" % name.encode())
            self.assertEqual(not list(tools.check_symbols(output, public)), good)
        self.assertTrue(list(tools.check_symbols(str(self.root / "absent.a"), public)))

    @unittest.skipUnless(tools.clang_format_works(), "clang-format of the project's version")
    def test_format(self):
        """A file that clang-format would change."""
        self.put(".clang-format", "BasedOnStyle: LLVM\n")
        self.put("a.c", "int x;\n")
        self.assertFalse(self.found(tools.check_format))
        self.put("a.c", "int   x;\n")
        self.assertEqual(self.found(tools.check_format), {("a.c", 1)})

    @unittest.skipUnless(shutil.which("shellcheck"), "shellcheck")
    def test_scripts(self):
        """A script with an unquoted variable."""
        self.put("tools/x", "#!/usr/bin/env bash\nset -eu\nrm $1/y\n")
        self.assertEqual(self.found(lint.check_scripts), {("tools/x", 0)})

    def test_usage(self):
        """Wrong usage is told apart from a break."""
        stderr, sys.stderr = sys.stderr, open("/dev/null", "w", encoding="utf-8")
        try:
            self.assertEqual(lint.main([]), 2)
            self.assertEqual(lint.main(["nonsense", "."]), 2)
        finally:
            sys.stderr.close()
            sys.stderr = stderr


if __name__ == "__main__":
    unittest.main()
