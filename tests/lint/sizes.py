"""Sizes: lines of a file, lines and arguments of a function, columns of a line."""
import re

from source import C_SUFFIXES, line_of, read, strip, strip_preprocessor, tree_files

MAX_FILE, MAX_FUNCTION, MAX_ARGUMENTS, MAX_COLUMNS = 1000, 120, 6, 100
# Prose and generated vectors may have long lines.
NARROW = C_SUFFIXES + (".py", ".cmake", ".txt", ".in", ".sh")
# Lines "path what reason": what is "file", "columns", or a function's name.
ALLOWED = "tests/lint/allow.txt"


def read_allowed(root):
    """Returns the set of (path, what) that may exceed a limit."""
    try:
        lines = read(root, ALLOWED).splitlines()
    except FileNotFoundError:
        return set()
    entries = [line.split(None, 2) for line in lines if line and not line.startswith("#")]
    return {(entry[0], entry[1]) for entry in entries if len(entry) == 3}


def _heading(text, brace):
    """Returns (name, its offset, arguments) where a function's body opens at brace, else None."""
    end = brace - 1
    while end >= 0 and text[end].isspace():
        end -= 1
    if end < 0 or text[end] != ")":
        return None
    depth, start = 0, end
    while start >= 0:
        depth += {")": 1, "(": -1}.get(text[start], 0)
        if depth == 0:
            break
        start -= 1
    name = re.search(r"(\w+)\s*$", text[:start])
    if not name:
        return None
    inner, level, commas = text[start + 1:end], 0, 0
    for char in inner:
        level += {"(": 1, ")": -1}.get(char, 0)
        commas += char == "," and level == 0
    empty = inner.strip() in ("", "void")
    return name.group(1), name.start(), 0 if empty else commas + 1


def functions(text):
    """Yields (name, first line, lines, arguments) of each function that C text defines."""
    text = strip_preprocessor(strip(text))
    depth, heading = 0, None
    for match in re.finditer(r"[{}]", text):
        offset = match.start()
        if match.group() == "{":
            if depth == 0:
                if re.search(r'extern\s*" *"\s*$', text[:offset][-40:]):
                    continue
                heading = _heading(text, offset)
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0 and heading:
                first = line_of(text, heading[1])
                yield heading[0], first, line_of(text, offset) - first + 1, heading[2]
                heading = None


def check(root):
    """Yields (file, line, message) for each size above its limit that allow.txt does not name."""
    allowed = read_allowed(root)
    for name in tree_files(root):
        narrow = name.endswith(NARROW) or name.startswith("tools/") and "." not in name
        if not narrow:
            continue
        text = read(root, name)
        lines = text.splitlines()
        if len(lines) > MAX_FILE and (name, "file") not in allowed:
            yield name, 1, "has %d lines, more than %d" % (len(lines), MAX_FILE)
        if (name, "columns") not in allowed:
            for number, line in enumerate(lines, 1):
                if len(line) > MAX_COLUMNS:
                    yield name, number, "has %d columns, more than %d" % (len(line), MAX_COLUMNS)
        if not name.endswith((".c", ".h")):
            continue
        for function, first, length, arguments in functions(text):
            if (name, function) in allowed:
                continue
            if length > MAX_FUNCTION:
                yield name, first, "%s has %d lines, more than %d" % (
                    function, length, MAX_FUNCTION)
            if arguments > MAX_ARGUMENTS:
                yield name, first, "%s takes %d arguments, more than %d" % (
                    function, arguments, MAX_ARGUMENTS)
