#!/usr/bin/env python3
"""Runs one module of command-line tests and writes a TAP report.

usage: run.py MODULE --program NIBBLE --data FOLDER --models FOLDER --docs FOLDER [--tap FILE]
              [-k PATTERN]
Exit status: 0 all passed or skipped, 1 some failed, 77 all skipped.
"""
import argparse
import importlib
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
import cli

SKIPPED = 77


class TapResult(unittest.TextTestResult):
    """Collects a line of TAP for each test."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.lines = []

    def add_line(self, good, test, note=""):
        """Adds one test's line; a subtest that failed counts as its test."""
        self.lines.append("%s %d - %s%s" % ("ok" if good else "not ok", len(self.lines) + 1,
                                            test.id(), note))

    # pylint: disable=invalid-name
    def addSuccess(self, test):
        super().addSuccess(test)
        self.add_line(True, test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.add_line(False, test)

    def addError(self, test, err):
        super().addError(test, err)
        self.add_line(False, test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.add_line(True, test, " # SKIP " + reason)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.add_line(False, subtest)


def main():
    """Parses the arguments and runs the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    for name in ("program", "data", "models", "docs"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--tap")
    parser.add_argument("-k", action="append")
    arguments = parser.parse_args()
    cli.PROGRAM = arguments.program
    cli.DATA = pathlib.Path(arguments.data)
    cli.MODELS = pathlib.Path(arguments.models) if arguments.models else None
    cli.DOCS = pathlib.Path(arguments.docs)

    loader = unittest.TestLoader()
    if arguments.k:
        loader.testNamePatterns = ["*%s*" % pattern for pattern in arguments.k]
    suite = loader.loadTestsFromModule(importlib.import_module(arguments.module))
    runner = unittest.TextTestRunner(resultclass=TapResult, verbosity=2, stream=sys.stdout)
    result = runner.run(suite)
    if arguments.tap:
        text = "1..%d\n%s\n" % (len(result.lines), "\n".join(result.lines))
        pathlib.Path(arguments.tap).write_text(text, encoding="utf-8")
    if not result.wasSuccessful():
        return 1
    return SKIPPED if result.testsRun == len(result.skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
