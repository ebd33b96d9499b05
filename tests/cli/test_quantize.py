"""What quantize does where it cannot go on: nothing half-written is left."""
import fcntl
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time

import cli

BASE = ("checkpoints", "base")


def base():
    """Returns the folder of a tiny model whose rows blocks of 64 divide."""
    return str(cli.DATA.joinpath(*BASE))


class BadInputTest(cli.Case):
    """A weight, a text or a flag that will not do is named."""

    def setUp(self):
        super().setUp()
        self.out = str(self.folder / "out")

    def spoil(self, tensor, element, bits):
        """Returns a copy of the tiny model with one bf16 number of a tensor replaced."""
        model = self.folder / "model"
        shutil.copytree(base(), model, copy_function=shutil.copyfile)
        path = model / "model.safetensors"
        data = bytearray(path.read_bytes())
        size, = struct.unpack("<Q", data[:8])
        first, _ = json.loads(data[8:8 + size])[tensor]["data_offsets"]
        struct.pack_into("<H", data, 8 + size + first + 2 * element, bits)
        path.write_bytes(data)
        return str(model)

    def refused(self, status, *arguments):
        """Quantizes, which must fail, and leave nothing behind; returns the message."""
        before = sorted(os.listdir(self.folder))
        message = self.bad(status, "quantize", *arguments)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        return message

    def test_weights_that_are_no_numbers(self):
        """NaN and infinity are found in matrices, with or without a method that sees inputs."""
        tensor = "model.layers.1.mlp.up_proj.weight"
        for bits, word in ((0x7fc0, "NaN"), (0xff80, "infinite")):
            model = self.spoil(tensor, 3 * 128 + 5, bits)
            for method in ("rtn", "nf4", "llm-int8"):
                message = self.refused(cli.FAILED, model, self.out, "--method", method)
                for part in (tensor, "row 3", "column 5", word):
                    self.assertIn(part, message)
            self.assertIn(word, self.refused(cli.FAILED, model, self.out + ".gguf", "--method",
                                             "importance", "--format", "q4_0"))
            shutil.rmtree(model)

    def test_calibration_texts(self):
        """A text that is too short, or missing, is refused before anything is written."""
        text = self.folder / "text"
        text.write_text("Too few words.")
        for method in ("gptq", "awq", "smoothquant"):
            message = self.refused(cli.FAILED, cli.real(), self.out, "--method", method, "--calib",
                                   str(text))
            self.assertIn("fewer than one window of 512", message)
            self.assertIn("--calib-ctx", message)
            self.assertIn("--calib", self.refused(cli.FAILED, base(), self.out, "--method", method))

    def test_flags(self):
        """Methods, widths and groups that there are not."""
        self.assertIn("--method", self.refused(cli.USAGE, base(), self.out, "--method", "magic"))
        self.assertIn("codes have 2, 3, 4 or 8",
                      self.refused(cli.FAILED, base(), self.out, "--method", "rtn", "--bits", "5"))
        for container in ("awq", "compressed-tensors"):
            message = self.refused(cli.FAILED, base(), self.out, "--method", "rtn", "--as",
                                   container, "--group", "48")
            self.assertIn("--group", message)

    def test_full_disk(self):
        """A file that cannot grow is an error of one line, and is removed."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        for name, flags in (("out", ("--method", "nf4")), ("out", ("--as", "safetensors")),
                            ("out.gguf", ("--format", "q4_0"))):
            message = self.bad(cli.FAILED, "quantize", base(), str(self.folder / name), *flags,
                               preexec_fn=limit, restore_signals=False)
            self.assertIn(name, message)
            self.assertEqual(os.listdir(self.folder), [])


class NarrowTest(cli.Case):
    """Codes of 2 and 3 bits."""

    def test_folders(self):
        """They are written as GPTQ and compressed-tensors, recognised, and run."""
        for container, kind in (("gptq", "gptq-int"),
                                ("compressed-tensors", "compressed-tensors-int")):
            for bits in ("3", "2"):
                for flag in ("--sym", "--asym"):
                    out = str(self.folder / (container + bits + flag))
                    self.good("quantize", base(), out, "--method", "rtn", "--as", container,
                              "--bits", bits, "--group", "32", flag)
                    self.assertEqual(self.good("inspect", out, "--json").json["quantization"],
                                     kind + bits)
                    self.good("run", out, "--prompt-ids", cli.prompt(), "-n", "2", "--greedy")


class StopTest(cli.Case):
    """A run that is stopped."""

    def stop(self, signal_number, out_name="out", *flags):
        """Stops a run once its first layer is done, and lets it go on; returns what was there."""
        text = self.folder / "text"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
        out = self.folder / out_name
        first = self.folder / (out_name + ".part") / "layer-0.safetensors"
        flags = flags or ("--method", "rtn", "--activations", "static")
        command = ("quantize", cli.real(), str(out), *flags, "--calib", str(text), "--calib-ctx",
                   "128")
        with subprocess.Popen([cli.PROGRAM, *command], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=cli.environment()) as process:
            while process.poll() is None and not first.exists():
                time.sleep(0.005)
            process.send_signal(signal_number)
            status = process.wait(cli.TIMEOUT)
        killed = signal_number == signal.SIGKILL
        self.assertEqual(status, -signal.SIGKILL if killed else cli.INTERRUPTED)
        left = sorted(os.listdir(self.folder))
        self.assertGreater(self.good(*command, "--json").json["resumed_layers"], 0)
        self.assertEqual(sorted(os.listdir(self.folder)), [out_name, "text"])
        return left

    def test_interrupt(self):
        """Ctrl-C keeps the layers that are done, and nothing else."""
        self.assertEqual(self.stop(signal.SIGINT), ["out.part", "text"])

    def test_termination(self):
        """So does SIGTERM."""
        self.assertEqual(self.stop(signal.SIGTERM), ["out.part", "text"])

    def test_kill(self):
        """What a killed run has left beside its layers, the next one uses up."""
        self.assertEqual(self.stop(signal.SIGKILL), ["out.part", "out.tmp-0", "text"])

    def test_kill_of_a_file(self):
        """The same of a file."""
        flags = ("--method", "rtn", "--format", "q4_0")
        self.assertEqual(self.stop(signal.SIGKILL, "out.gguf", *flags),
                         ["out.gguf.part", "out.gguf.tmp-0", "text"])

    def test_two_at_once(self):
        """What a running process writes is left alone by another one."""
        held = self.folder / "out.gguf.tmp-0"
        with open(held, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.good("quantize", base(), str(self.folder / "out.gguf"), "--format", "q8_0")
            self.assertEqual(sorted(os.listdir(self.folder)), ["out.gguf", held.name])
            self.assertEqual(held.stat().st_size, 0)


class MixTest(cli.Case):
    """Rules for single matrices."""

    def formats(self, *flags):
        """Quantizes the tiny model and returns the formats by tensor."""
        out = self.folder / "out.gguf"
        out.unlink(missing_ok=True)
        report = self.good("quantize", base(), str(out), *flags, "--json").json
        return {matrix["name"]: matrix["format"] for matrix in report["matrices"]}

    def test_names(self):
        """Patterns fit the model's own names and GGUF's; the last rule that fits counts."""
        found = self.formats("--format", "q4_0", "--mix",
                             "blk.0.*=q8_0,*.down_proj=q5_0,model.layers.?.mlp.up_proj=q5_1")
        layer = "model.layers.%d.%s.weight"
        self.assertEqual(found[layer % (0, "self_attn.q_proj")], "q8_0")
        self.assertEqual(found[layer % (1, "self_attn.q_proj")], "q4_0")
        self.assertEqual(found[layer % (0, "mlp.down_proj")], "q5_0")
        self.assertEqual(found[layer % (2, "mlp.up_proj")], "q5_1")

    def test_names_of_mixes(self):
        """A format's name is a mix with a finer head, unless a rule is for all."""
        self.assertEqual(self.formats("--format", "q4_0")["lm_head.weight"], "q8_0")
        self.assertEqual(self.formats("--method", "rtn")["lm_head.weight"], "q8_0")
        pure = self.formats("--format", "q4_0", "--mix", "*=q4_0")
        self.assertEqual(set(pure.values()), {"q4_0"})

    def test_rules_that_fit_nothing(self):
        """They are named."""
        out = str(self.folder / "out.gguf")
        for rule in ("blk.7.*=q8_0", "*@7=q8_0", "qkv=q8_0", "blk.0.attn_??=q8_0"):
            message = self.bad(cli.FAILED, "quantize", base(), out, "--format", "q4_0", "--mix",
                               "v=q8_0," + rule)
            self.assertIn("'%s' fits no matrix" % rule, message)
        self.assertIn("is no rule", self.bad(cli.FAILED, "quantize", base(), out, "--format",
                                             "q4_0", "--mix", "ffn_dwn=q8_0"))
