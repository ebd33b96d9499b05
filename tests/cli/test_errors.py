"""What goes wrong while a command works: files, models, outputs."""
import os
import pathlib
import subprocess
import time

import cli


class FilesTest(cli.Case):
    """Models that are none."""

    def fails(self, path, *told):
        """Every command refuses the model with one line that names it."""
        for command in (("run", "--prompt-ids=1"), ("inspect",), ("inspect", "--json"),
                        ("tokenize", "-p", "x"), ("chat",), ("eval", "-f", os.devnull)):
            message = self.bad(cli.FAILED, command[0], path, *command[1:])
            for text in (os.path.basename(path), *told):
                self.assertIn(text, message)

    def test_missing(self):
        """No such file."""
        self.fails(str(self.folder / "none.gguf"), "no such file")

    def test_name_with_control_characters(self):
        """A path cannot drive the terminal through the message, nor make a second line of it."""
        message = self.bad(cli.FAILED, "inspect", str(self.folder / "a\x1b[31m\nb.gguf"))
        self.assertNotIn("\x1b", message)

    def test_folder_without_model(self):
        """A folder that holds no model."""
        self.fails(str(self.folder))

    def test_not_a_model(self):
        """Files of other kinds, and an empty one."""
        for name, data in (("empty.gguf", b""), ("text.gguf", b"Once upon a time\n" * 100),
                           ("short.gguf", b"GGUF"), ("version.gguf", b"GGUF" + b"\xff" * 100)):
            path = self.folder / name
            path.write_bytes(data)
            self.fails(str(path))

    def test_wrong_architecture(self):
        """A sound file of a model that is not supported."""
        self.fails(cli.make_gguf(self.folder / "m.gguf", b"frobnicator"), "frobnicator")

    def test_no_tokenizer(self):
        """A text for a model without a tokenizer names the way out."""
        for arguments in (("run", "-p", "x"), ("tokenize", "-p", "x"), ("chat",),
                          ("eval", "-f", os.devnull)):
            message = self.bad(cli.FAILED, arguments[0], cli.tiny(), *arguments[1:])
            self.assertIn("--prompt-ids", message)

    def test_truncated_weights(self):
        """A folder whose weights are cut off."""
        source = pathlib.Path(cli.tiny())
        data = (source / "model.safetensors").read_bytes()
        (self.folder / "config.json").write_bytes((source / "config.json").read_bytes())
        for size in (0, 7, 8, 1000, len(data) - 1):
            (self.folder / "model.safetensors").write_bytes(data[:size])
            self.bad(cli.FAILED, "run", str(self.folder), "--prompt-ids=1")


class PromptTest(cli.Case):
    """Prompts that cannot be run."""

    def test_longer_than_context(self):
        """The message has both sizes."""
        message = self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids", cli.prompt(9),
                           "--ctx", "8")
        self.assertIn("9 tokens", message)
        self.assertIn("context of 8", message)

    def test_empty(self):
        """Nothing to start from."""
        self.assertIn("empty", self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids="))

    def test_outside_vocabulary(self):
        """An id that the model does not have."""
        self.assertIn("2000000000",
                      self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids=1,2000000000"))

    def test_unreadable_file(self):
        """A text that is not there, or a folder."""
        model = cli.real()
        for path in (self.folder / "none.txt", self.folder):
            for arguments in (("run", model), ("tokenize", model), ("eval", model)):
                self.assertIn(str(path), self.bad(cli.FAILED, *arguments, "-f", str(path)))


class DeviceTest(cli.Case):
    """Devices and formats that are not there."""

    def run_tiny(self, *flags):
        """Returns the error of a run with these flags."""
        return self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids=1", "-n1", *flags)

    def test_missing_vulkan_device(self):
        """A number that no device has, on any machine."""
        self.run_tiny("--device", "vulkan:4000000000")

    def test_gpu_layers_without_gpu(self):
        """Layers on a GPU that was excluded."""
        self.assertIn("--gpu-layers", self.run_tiny("--device", "cpu", "--gpu-layers", "2"))

    def test_unknown_cpu_mask(self):
        """An instruction set by a made-up name."""
        self.assertIn("frobnicate", self.run_tiny("--cpu-mask", "frobnicate"))


class OutputTest(cli.Case):
    """Outputs that take nothing."""

    def test_unwritable_logits_fail_before_the_work(self):
        """A long run is not begun where its result has no place."""
        start = time.monotonic()
        for path in (self.folder / "none" / "f.safetensors", self.folder):
            message = self.bad(cli.FAILED, "run", cli.real(), "-p", "Hello", "--ignore-eos",
                               "--save-logits", str(path))
            self.assertIn(str(path), message)
        self.assertLess(time.monotonic() - start, 60)

    def test_full_disk(self):
        """Every command notices that its data were not written."""
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full")
        model = cli.tiny()
        for arguments in (("--help",), ("--version",), ("run", "--help"), ("devices",),
                          ("devices", "--json"), ("inspect", model), ("inspect", model, "--json"),
                          ("run", model, "--prompt-ids=1", "-n3"),
                          ("run", model, "--prompt-ids=1", "-n3", "--json")):
            with open("/dev/full", "wb") as full:
                message = self.bad(cli.FAILED, *arguments, stdout=full)
            self.assertIn("No space left", message, arguments)

    def test_closed_output(self):
        """Standard output closed by the caller is an error, and no file takes its place."""
        logits = self.folder / "f.safetensors"
        command = '"$0" run "$1" --prompt-ids=1 -n3 --save-logits "$2" >&-'
        process = subprocess.run(["sh", "-c", command, cli.PROGRAM, cli.tiny(), str(logits)],
                                 stderr=subprocess.PIPE, env=cli.environment(), check=False,
                                 timeout=cli.TIMEOUT)
        self.assertEqual(process.returncode, cli.FAILED)
        self.assertIn(b"standard output", process.stderr)

    def test_closed_pipe(self):
        """A reader that goes away ends the run, and nobody is told."""
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            result = cli.nibble("run", cli.tiny(), "--prompt-ids=1", "-n", "1000", "--ignore-eos",
                                stdout=pipe)
        self.assertEqual((result.status, result.message), (cli.FAILED, ""))
