"""What the library may not call: the operating system outside base, printing, ending, getenv."""
from source import matches, read, strip, tree_files

OS_FILES = ("runtime/base/posix/", "runtime/base/win32/")
ALONE = "which only runtime/base/posix and runtime/base/win32 may"
OS_HEADERS = (r'(?m)^\s*#\s*include\s*<((?:unistd|fcntl|dlfcn|pthread|sched|threads|windows|io|'
              r'direct|process|signal|time|dirent|poll|termios|sys/[\w/]+|arpa/\w+|netinet/\w+'
              r')\.h)>')
OS_CALLS = r"(?<![\w.>])(fopen|freopen|tmpfile|remove|rename|system|popen|mmap|pthread_\w+)\s*\("
# snprintf and vsnprintf write into memory, so they are no printing.
PRINTS = r"(?<![\w.>])(v?f?printf|v?sprintf|puts|fputs|putchar|fputc|putc|perror)\s*\("
ENDS = r"(?<![\w.>])(abort|exit|_exit|_Exit|quick_exit|assert|raise|signal|longjmp)\s*\("
STATE = r"(?<![\w.>])(getenv|secure_getenv|setenv|putenv|setlocale|srand|rand|strtok)\s*\("


def check(root):
    """Yields (file, line, message) for each forbidden header or call."""
    for name in tree_files(root):
        if not name.endswith((".c", ".h")) or not name.startswith("runtime/"):
            continue
        raw = read(root, name)
        code = strip(raw)
        for line, match in matches(STATE, code):
            yield name, line, "calls %s, which has state of the process" % match.group(1)
        for line, match in matches(PRINTS, code):
            yield name, line, "prints with %s; the library does not print" % match.group(1)
        for line, match in matches(ENDS, code):
            yield name, line, "calls %s; return a status" % match.group(1)
        if name.startswith(OS_FILES):
            continue
        for line, match in matches(OS_HEADERS, raw):
            yield name, line, "includes <%s>, %s" % (match.group(1), ALONE)
        for line, match in matches(OS_CALLS, code):
            yield name, line, "calls %s, %s" % (match.group(1), ALONE)
