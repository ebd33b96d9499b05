"""Models on Vulkan devices, where there are any: several at once, and what goes to the CPU."""
import json
import os
import pathlib
import pty
import subprocess

import cli


class DevicesTest(cli.Case):
    """A tiny model, on the first device and the last one, which may be the same."""

    def setUp(self):
        super().setUp()
        devices = [device for device in self.good("devices", "--json").json["devices"]
                   if device["backend"] == "vulkan" and device["usable"]]
        if not devices:
            self.skipTest("no Vulkan device")
        self.first, self.last = devices[0], devices[-1]

    def run_json(self, *flags, model=None):
        """Runs with --json and returns the object."""
        return self.good("run", model or cli.tiny(), "--prompt-ids", cli.prompt(), "-n", "16",
                         "--greedy", "--ignore-eos", "--precise", "--kv", "f32", "--json",
                         *flags).json

    def run_shared(self, *flags, model=None):
        """Runs on both devices, without a check of their kernels."""
        names = "%s,%s" % (self.first["device"], self.last["device"])
        return self.run_json("--device", names, "--self-test", "off", *flags, model=model)

    def test_shared_layers(self):
        """The same text as on the CPU; the report names both."""
        expected = self.run_json("--device", "cpu")
        result = self.run_shared()
        self.assertEqual(result["ids"], expected["ids"])
        execution = result["execution"]
        self.assertEqual([device["name"] for device in execution["devices"]],
                         [self.first["name"], self.last["name"]])
        self.assertEqual((execution["gpu_layers"], execution["cpu_layers"]), (3, 0))
        self.assertEqual((execution["replaced"], execution["fallbacks"]), ([], []))

    def test_split(self):
        """Layers by the numbers given."""
        for split, layers in (("9,1", [2, 1]), ("1,9", [1, 2])):
            devices = self.run_shared("--split", split)["execution"]["devices"]
            self.assertEqual([device["layers"] for device in devices], layers)

    def test_shared_with_the_cpu(self):
        """--gpu-layers counts those of all GPUs."""
        execution = self.run_shared("--gpu-layers", "2")["execution"]
        self.assertEqual([device["layers"] for device in execution["devices"]], [1, 1, 1])
        self.assertEqual((execution["gpu_layers"], execution["cpu_layers"]), (2, 1))

    def test_predicted_cache(self):
        """What inspect says of a GPU's cache is what the run takes."""
        for kv in ("f16", "i4", "i4,recent=0", "k=i8,v=i4,recent=32", "i8,first=32"):
            flags = (cli.tiny(), "--kv", kv, "--ctx", "256", "--device", self.first["device"],
                     "--json")
            predicted = [entry["kv_bytes"] for entry in self.good("inspect", *flags).json["memory"]
                         if entry["weights"] == "file" and entry["context"] == 256 and
                         entry["kv"] == kv]
            taken = self.good("run", *flags, "--prompt-ids=1,2", "-n1", "--self-test", "off").json
            self.assertEqual(predicted, [taken["memory"]["kv_bytes"]], kv)

    def test_too_many_devices(self):
        """Each needs a layer."""
        names = ",".join([self.first["device"]] * 4)
        self.assertIn("4 devices cannot divide 3 layers",
                      self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids=1", "-n1", "--device",
                               names, "--self-test", "off"))

    def test_device_left_out(self):
        """One that cannot be opened is told of where the CPU runs in its place."""
        flags = ("run", cli.tiny(), "--prompt-ids=1", "-n2", "--greedy", "--json", "--device",
                 self.first["device"], "--vulkan-mask", "frobnicate")
        self.bad(cli.FAILED, *flags)
        result = cli.nibble(*flags, "--fallback")
        self.assertEqual(result.status, cli.DONE, result.message)
        self.assertIn("frobnicate", result.message)
        execution = result.json["execution"]
        self.assertEqual(execution["gpu_layers"], 0)
        self.assertEqual(len(execution["fallbacks"]), 1)
        self.assertIn("frobnicate", execution["fallbacks"][0])

    def test_progress(self):
        """On a terminal the check of the kernels shows its speed and the time that is left."""
        master, terminal = pty.openpty()
        cli.nibble("run", cli.tiny("gemma3"), "--prompt-ids=1", "-n1", "--json", "--device",
                   self.first["device"], "--self-test", "full", stderr=terminal)
        os.close(terminal)
        shown = b""
        try:
            while block := os.read(master, 65536):
                shown += block
        except OSError:  # the terminal's end
            pass
        os.close(master)
        self.assertRegex(shown, rb"check kernels +\d+ %  [0-9.]+ kernels/s  \d+ s left")


class GpuCheckTest(cli.Case):
    """tools/gpu-check with programs that only say that they have run."""

    def check(self, *devices, **environment):
        """Runs it on these devices; returns its process, and the device of its results."""
        text = json.dumps({"devices": [
            {"device": "vulkan:%d" % index, "backend": "vulkan", "type": kind, "usable": usable,
             "name": "{\"usable\":true}, \"type\":\"discrete\""}
            for index, (kind, usable) in enumerate(devices)]}, separators=(",", ":"))
        table = "".join("vulkan:%d %s\n" % (index, kind)
                        for index, (kind, _) in enumerate(devices))
        script = ("#!/bin/sh\ncase \"$*\" in\ndevices*--json) cat <<'END'\n%s\nEND\n;;\n"
                  "devices) cat <<'END'\n%sEND\n;;\nrun*) echo '{}' ;;\nesac\n" % (text, table))
        build = self.folder / "build"
        (build / "lib").mkdir(parents=True, exist_ok=True)
        for name in ("nibble", "tests/unit/vulkan/test_vulkan", "tests/golden/golden_architectures",
                     "tests/golden/golden_checkpoints", "tests/golden/golden_models"):
            path = build / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(script)
            path.chmod(0o755)
        tool = pathlib.Path(__file__).resolve().parents[2] / "tools" / "gpu-check"
        results = self.folder / "results.json"
        process = subprocess.run([str(tool), str(build), str(results)], check=False,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 timeout=cli.TIMEOUT, env=dict(cli.environment(), **environment))
        chosen = json.loads(results.read_text())["device"] if process.returncode == 0 else None
        return process, chosen

    def test_choice(self):
        """The first device that can be used, and one of type cpu only where that is wanted."""
        for devices, chosen in (((("discrete", False), ("cpu", True), ("integrated", True)), 2),
                                ((("discrete", True), ("discrete", True)), 0),
                                ((("cpu", True),), None), ((("discrete", False),), None),
                                ((), None)):
            process, index = self.check(*devices)
            self.assertEqual(index, chosen, process.stderr)
            self.assertEqual(process.returncode == 0, chosen is not None)
        self.assertEqual(self.check(("cpu", False), ("cpu", True), NIB_GPU_CHECK_ANY="1")[1], 1)
