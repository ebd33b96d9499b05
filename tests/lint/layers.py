"""The include rule: each file sees its own folder and what the layer table allows."""
import pathlib
import re

from source import matches, read, tree_files

TABLE = "runtime/README.md"
# The only files that may name a backend, which is otherwise reached by its vtable.
BACKEND_USERS = ("runtime/engine/registry.c", "runtime/api/vulkan.c")
BACKENDS = ("cpu", "vulkan")
# The level from which all public headers, but for the ones named below, may be included.
FREE_LEVEL = 2

INCLUDE = r'(?m)^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]'


def _cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_table(root):
    """Returns {folder: (level, set of folders that it may include)} of the layer table."""
    rows = [_cells(line) for line in read(root, TABLE).splitlines() if line.startswith("|")]
    heading = next((row for row in rows if {"folder", "level", "may include"} <= set(row)), None)
    if not heading:
        return {}
    folder, level, allowed = map(heading.index, ("folder", "level", "may include"))
    return {row[folder]: (int(row[level]), set(re.findall(r"[a-z]+", row[allowed])))
            for row in rows if len(row) == len(heading) and row[level].isdigit()}


def check_table(root, table):
    """Yields what is wrong with the table itself: unknown folders, includes that do not go down."""
    files = [n for n in tree_files(root) if n.startswith("runtime/") and n.count("/") > 1]
    for folder in sorted({name.split("/")[1] for name in files} - set(table)):
        yield TABLE, 1, "folder %s has no row" % folder
    for folder, (level, allowed) in table.items():
        for other in sorted(allowed):
            if other not in table or table[other][0] >= level:
                yield TABLE, 1, "%s may not include %s, which is not below it" % (folder, other)


def public_header_allowed(name, layer, level, target):
    """True where a file of the runtime may include the public header target."""
    if target == "nibble/base.h":
        return True
    if target == "nibble/vulkan.h":
        return layer == "vulkan" or name == "runtime/api/vulkan.c"
    return level >= FREE_LEVEL or (target == "nibble/tokenizer.h" and layer == "tokenizer")


def check_runtime(name, quote, target, table):
    """Returns what is wrong with one include of a file below runtime/, or None."""
    layer = name.split("/")[1]
    level, allowed = table.get(layer, (0, ()))
    if target.startswith("runtime/"):
        other = target.split("/")[1]
        if quote != '"':
            return "internal headers are included with quotes"
        if other == layer:
            return None
        if other in BACKENDS:
            return None if name in BACKEND_USERS else "only %s may name a backend" % (
                " and ".join(BACKEND_USERS))
        if other not in allowed:
            return "layer %s may not see %s (%s)" % (layer, other, TABLE)
        return None
    if target.startswith("nibble/"):
        good = public_header_allowed(name, layer, level, target)
        return None if good else "this public header is not for layer %s (%s)" % (layer, TABLE)
    if target.startswith("shaders/shared/"):
        return None if level >= FREE_LEVEL else "shaders/shared is not for layer %s" % layer
    if quote == '"':
        return "internal includes start at the root of the repository"
    return None


def check_public(target):
    """Returns what is wrong with one include of a public header, or None."""
    if target.startswith("nibble/") or re.fullmatch(r"[a-z]+\.h", target):
        return None
    return None if target.startswith("vulkan/") else "public headers see each other and C's alone"


def check_tool(name, quote, target):
    """Returns what is wrong with one include of the program's sources, or None."""
    if quote == "<" or target.startswith(name.rsplit("/", 1)[0] + "/"):
        return None
    return "programs see include/ and their own folder alone"


def check(root):
    """Yields (file, line, message) for each include that breaks the rule."""
    table = read_table(root)
    files = [n for n in tree_files(root) if n.endswith((".c", ".h"))]
    yield from check_table(root, table)
    for name in files:
        for line, match in matches(INCLUDE, read(root, name)):
            quote, target = match.groups()
            problem = None
            if name.startswith("runtime/"):
                problem = check_runtime(name, quote, target, table)
            elif name.startswith("include/"):
                problem = check_public(target)
            elif name.startswith("tools/nibble/"):
                problem = check_tool(name, quote, target)
            elif name.startswith("shaders/shared/"):
                own = quote == "<" or (pathlib.Path(root, name).parent / target).is_file()
                problem = None if own else "shared shader headers see each other alone"
            if problem:
                yield name, line, "includes %s: %s" % (target, problem)
