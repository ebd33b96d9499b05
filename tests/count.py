#!/usr/bin/env python3
"""Counts the tests of one ctest run.

usage: count.py JUNIT_XML TAP_FOLDER
Prints "passed failed skipped". A Criterion program counts as the tests in its TAP report, which
alone names the skipped ones; every other ctest entry counts as one.
"""
import pathlib
import sys
import xml.etree.ElementTree


def count_tap(path):
    """Returns (passed, failed, skipped) of one TAP report."""
    passed = failed = skipped = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("not ok"):
            failed += 1
        elif line.startswith("ok"):
            if "# SKIP" in line:
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped


def count_case(case, tap_folder):
    """Returns (passed, failed, skipped) of one ctest entry."""
    broken = case.find("failure") is not None or case.get("status") == "fail"
    tap = tap_folder / (case.get("name") + ".tap")
    if tap.is_file():
        passed, failed, skipped = count_tap(tap)
        return passed, failed or int(broken), skipped
    if case.find("skipped") is not None:
        return 0, 0, 1
    return int(not broken), int(broken), 0


def main(junit, tap_folder):
    """Sums over all entries; fails where there is none."""
    cases = xml.etree.ElementTree.parse(junit).getroot().findall("testcase")
    counts = [count_case(case, pathlib.Path(tap_folder)) for case in cases]
    print(*(sum(column) for column in zip(*counts)) if counts else (0, 0, 0))
    return 0 if counts else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
