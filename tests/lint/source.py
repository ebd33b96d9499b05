"""What the checks share: the tree's files, and C without comments and strings."""
import os
import pathlib
import re
import subprocess

SKIPPED_FOLDERS = {".git", "build", "models", "__pycache__"}
# Bytes of others: test data, and what fuzzers found.
DATA_FOLDERS = ("tests/data/", "tests/fuzz/corpus/")

C_SUFFIXES = (".c", ".h", ".cpp", ".comp", ".glsl")


def tree_files(root):
    """Returns the paths of the project's files below root, relative and sorted.

    In a git checkout these are the tracked files and those that git does not ignore.
    """
    root = pathlib.Path(root)
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout
        names = {name for name in listing.decode().split("\0") if name}
    else:
        names = set()
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS]
            names |= {os.path.relpath(os.path.join(folder, f), root) for f in files}
    return sorted(n for n in names if (root / n).is_file() and not n.startswith(DATA_FOLDERS))


def read(root, name):
    """Returns a file's text; bytes that are not UTF-8 become U+FFFD."""
    return (pathlib.Path(root) / name).read_bytes().decode("utf-8", errors="replace")


_NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def _blank(match):
    text = match.group(0)
    if text[0] == "/":
        return re.sub(r"[^\n]", " ", text)
    return text[0] + " " * (len(text) - 2) + text[-1]


def strip(text):
    """Returns C text with comments and the insides of literals made blank; lines stay."""
    return _NOISE.sub(_blank, text)


def strip_preprocessor(text):
    """Returns stripped text with preprocessor lines and their continuations made blank."""
    lines, continued = [], False
    for line in text.split("\n"):
        directive = continued or line.lstrip().startswith("#")
        continued = directive and line.endswith("\\")
        lines.append("" if directive else line)
    return "\n".join(lines)


def line_of(text, offset):
    """Returns the number, from 1, of the line that holds an offset."""
    return text.count("\n", 0, offset) + 1


def matches(pattern, text):
    """Yields (line number, match) for each place where a pattern occurs."""
    for match in re.finditer(pattern, text):
        yield line_of(text, match.start()), match
