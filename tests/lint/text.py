"""Text of every file: white space, invisible characters, notes to self, paths of one machine."""
import re

from source import matches, read, tree_files

TEXT = (".c", ".h", ".cpp", ".comp", ".glsl", ".py", ".cmake", ".txt", ".in", ".sh", ".md",
        ".json", ".yml", ".pc", ".clang-format", ".editorconfig", ".gitignore")

# Put together here so that this file passes its own check.
NOTES = r"\b(?:%s)\b" % "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"))
MACHINE_PATHS = r"(?<![\w.}/])/(?:%s)/" % "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me"))
INVISIBLE = "[\u00a0\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff]"

RULES = (
    (r"\t", "has a tab"),
    (r"\r", "has a carriage return"),
    (r"(?m)[ \t]+$", "has white space at its end"),
    (INVISIBLE, "has an invisible character"),
    (NOTES, "is a note to self: do it or file it"),
    (MACHINE_PATHS, "names a path of one machine"),
)


def is_text(name):
    """True for the project's own text: known suffixes, and scripts without one."""
    last = name.rsplit("/", 1)[-1]
    return name.endswith(TEXT) or "." not in last


def check(root):
    """Yields (file, line, message) for each break of a rule about text."""
    for name in filter(is_text, tree_files(root)):
        text = read(root, name)
        for pattern, message in RULES:
            for line, _ in matches(pattern, text):
                yield name, line, message
        if text and not text.endswith("\n"):
            yield name, text.count("\n") + 1, "does not end with a newline"
        if re.search(r"\n\n\Z", text):
            yield name, text.count("\n"), "ends with an empty line"
