"""Checks that need a program: symbols by nm, headers by a compiler, layout by clang-format."""
import pathlib
import re
import shutil
import subprocess

from source import read, tree_files

# The layout of other versions differs in places.
CLANG_FORMAT_VERSION = 14
C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wstrict-prototypes", "-Werror"]
CXX_FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def _run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, **options)


def public_symbols(root):
    """Returns {name: header} of the functions that the public headers declare with NIB_API."""
    return {function: name for name in tree_files(root) if name.startswith("include/nibble/")
            for function in re.findall(r"(?m)^NIB_API\s[^;(]*?\b(nib_\w+)\(", read(root, name))}


def check_symbols(library, public):
    """Yields (library, 0, message) for each symbol that is global and not public, or missing.

    What nibble/vulkan.h declares may be missing: a build without Vulkan has none of it.
    """
    dynamic = ["-D"] if ".so" in pathlib.Path(library).name else []
    result = _run(["nm", "-g", "--defined-only", *dynamic, library])
    if result.returncode:
        yield library, 0, result.stdout.strip()
        return
    names = re.findall(r"(?m)^[0-9a-f]+ [A-Za-z] (\S+)$", result.stdout)
    for name, header in public.items():
        if name not in names and header != "include/nibble/vulkan.h":
            yield library, 0, "lacks %s, which %s declares" % (name, header)
    for name in names:
        if name not in public:
            yield library, 0, "exports %s, which no public header declares" % name


def _compile_alone(compiler, language, flags, root, name):
    include = '#include <%s>\n' % name[len("include/"):] if name.startswith("include/") else (
        '#include "%s"\n' % name)
    command = [compiler, "-x", language, *flags, "-fsyntax-only", "-I", str(root), "-I",
               str(pathlib.Path(root) / "include"), "-"]
    result = _run(command, input=include)
    if result.returncode:
        yield name, 1, "does not compile alone with %s:\n%s" % (compiler, result.stdout.strip())


def check_headers(root, c_compiler="cc", cxx_compiler="c++"):
    """Yields (header, 1, message) for each header that does not compile alone.

    Public headers as C11 and as C++17, internal ones as C11.
    """
    for name in tree_files(root):
        if not name.endswith(".h") or not name.startswith(("include/", "runtime/")):
            continue
        yield from _compile_alone(c_compiler, "c", C_FLAGS, root, name)
        if name.startswith("include/") and shutil.which(cxx_compiler):
            yield from _compile_alone(cxx_compiler, "c++", CXX_FLAGS, root, name)


def clang_format_works():
    """True where clang-format of the expected version is installed."""
    if not shutil.which("clang-format"):
        return False
    version = re.search(r"version (\d+)", _run(["clang-format", "--version"]).stdout)
    return bool(version) and int(version.group(1)) == CLANG_FORMAT_VERSION


def check_format(root):
    """Yields (file, line, message) for each place that clang-format would change."""
    files = [n for n in tree_files(root) if n.endswith((".c", ".h", ".cpp"))]
    if not files:
        return
    result = _run(["clang-format", "--dry-run", "-Werror", *files], cwd=root)
    for name, line in re.findall(r"(?m)^(\S+?):(\d+):\d+: error: code should be", result.stdout):
        yield name, int(line), "is not laid out as clang-format would"


def check_version(root):
    """Yields a problem where CMake's version is not that of nibble/base.h."""
    header = read(root, "include/nibble/base.h")
    parts = re.findall(r"#define NIB_VERSION_(?:MAJOR|MINOR|PATCH)\s+(\d+)", header)
    project = re.search(r"project\(\w+ VERSION ([\d.]+)", read(root, "CMakeLists.txt"))
    if not project or ".".join(parts) != project.group(1):
        yield "CMakeLists.txt", 1, "its version is not that of include/nibble/base.h"
