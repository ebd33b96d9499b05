#!/usr/bin/env python3
"""Holds the tree to its rules.

usage: lint.py CHECK ROOT          CHECK: layers sizes text calls format version scripts
       lint.py headers ROOT [CC [CXX]]
       lint.py symbols ROOT LIBRARY...
Prints "file:line: message" for each break; exit 0 where there is none, 1 where there is one, 2 for
wrong usage, 77 where a program that the check needs is missing.
"""
import itertools
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
import calls
import layers
import sizes
import source
import text
import tools

SKIPPED = 77
CHECKS = {"layers": layers.check, "sizes": sizes.check, "text": text.check, "calls": calls.check,
          "format": tools.check_format, "version": tools.check_version}


def check_scripts(root):
    """Yields (script, 0, message) for each shell script that shellcheck finds fault with."""
    for name in source.tree_files(root):
        if source.read(root, name).startswith("#!/usr/bin/env bash\n"):
            result = subprocess.run(["shellcheck", "-f", "gcc", name], cwd=root, check=False,
                                    stdout=subprocess.PIPE, text=True)
            if result.returncode:
                yield name, 0, result.stdout.strip()


def main(arguments):
    """Runs the check that the arguments name."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    name, *rest = arguments
    needs = {"format": tools.clang_format_works(), "scripts": shutil.which("shellcheck"),
             "symbols": shutil.which("nm")}
    if not needs.get(name, True):
        print("lint %s: skipped, a program that it needs is missing" % name)
        return SKIPPED
    if name == "symbols":
        public = tools.public_symbols(rest[0])
        problems = itertools.chain.from_iterable(
            tools.check_symbols(library, public) for library in rest[1:])
    elif name == "headers":
        problems = tools.check_headers(*rest)
    elif name == "scripts":
        problems = check_scripts(rest[0])
    elif name in CHECKS:
        problems = CHECKS[name](rest[0])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    count = 0
    for count, (path, line, message) in enumerate(problems, 1):
        print("%s:%d: %s" % (path, line, message))
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
