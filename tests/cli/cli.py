"""What the command-line tests share: running the program, models, and reading what it writes."""
import array
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

# Set by run.py.
PROGRAM = None
DATA = None
MODELS = None
DOCS = None

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
TIMEOUT = 300
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"


class Result:
    """How one run of the program ended."""

    def __init__(self, process):
        self.status = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def text(self):
        """Standard output as text, which must be UTF-8."""
        return self.out.decode("utf-8")

    @property
    def message(self):
        """Standard error as text."""
        return self.err.decode("utf-8", errors="replace")

    @property
    def json(self):
        """Standard output as JSON."""
        return json.loads(self.text)


def environment():
    """Returns an environment in which the program finds nothing of the user's."""
    kept = {name: value for name, value in os.environ.items()
            if name in ("PATH", "LD_LIBRARY_PATH", "VK_ICD_FILENAMES")
            or name.endswith("SAN_OPTIONS")}
    return dict(kept, LC_ALL="C.UTF-8", TERM="xterm")


def nibble(*arguments, **options):
    """Runs the program with standard input empty, unless `options` of subprocess.run say else."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return Result(subprocess.run([PROGRAM, *arguments], timeout=TIMEOUT, env=environment(),
                                 check=False, **options))


def tiny(name="llama3-rope"):
    """Returns the folder of a tiny model, which has random weights and no tokenizer."""
    return str(DATA / "architectures" / name)


def real(name=SMOLLM2):
    """Returns the path of a real model; skips the test where it was not fetched."""
    if MODELS is None:
        raise unittest.SkipTest("real models are not used in this configuration")
    path = MODELS / name
    if not path.is_file():
        raise unittest.SkipTest("%s is not there; tools/fetch-model fetches it" % name)
    return str(path)


def prompt(count=8):
    """Returns `count` ids for --prompt-ids."""
    return ",".join(str(7 * i % 89 + 3) for i in range(count))


def read_logits(path):
    """Returns the rows of a file of logits as lists of numbers."""
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    rows, width = header["logits"]["shape"]
    assert header["logits"]["dtype"] == "F32"
    values = array.array("f")
    values.frombytes(data[8 + size:])
    assert len(values) == rows * width
    return [values[i * width:(i + 1) * width] for i in range(rows)]


def gguf_text(text):
    """Returns a string as GGUF stores it."""
    return struct.pack("<Q", len(text)) + text


def make_gguf(path, architecture):
    """Writes a GGUF file with no tensor, of an architecture by this name."""
    pair = gguf_text(b"general.architecture") + struct.pack("<I", 8) + gguf_text(architecture)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    return str(path)


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nibble"))
        self.addCleanup(shutil.rmtree, self.folder)

    def good(self, *arguments, **options):
        """Runs the program, which must succeed without a message."""
        result = nibble(*arguments, **options)
        self.assertEqual((result.status, result.message), (DONE, ""), arguments)
        return result

    def bad(self, status, *arguments, **options):
        """Runs the program, which must fail with one line; returns the line."""
        result = nibble(*arguments, **options)
        self.assertEqual(result.status, status, (arguments, result.message))
        self.assertRegex(result.message, r"\Anibble: [^\n]+\n\Z", arguments)
        if result.out is not None:
            self.assertEqual(result.out, b"", arguments)
        return result.message
