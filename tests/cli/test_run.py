"""nibble run on a tiny model: reproducible, stoppable, and as the references say."""
import json
import pathlib
import signal
import subprocess
import time

import cli

VOCABULARY = 320


class RunTest(cli.Case):
    """Random weights, so that only ids are compared."""

    def run_json(self, *flags, model=None, count=8):
        """Runs with --json and returns the object."""
        return self.good("run", model or cli.tiny(), "--prompt-ids", cli.prompt(count), "--json",
                         *flags).json

    def test_ids_are_printed(self):
        """Without a tokenizer the data are ids, the same as in the JSON."""
        flags = ("--prompt-ids", cli.prompt(), "-n", "6", "--greedy")
        ids = self.good("run", cli.tiny(), *flags).text
        self.assertRegex(ids, r"\A\d+( \d+){0,5}\n\Z")
        self.assertEqual([int(word) for word in ids.split()],
                         self.good("run", cli.tiny(), *flags, "--json").json["ids"])

    def test_reference(self):
        """The greedy tokens of the reference, in precise mode, up to the first near tie."""
        expected = json.loads(pathlib.Path(cli.tiny(), "expected.json").read_text("utf-8"))
        ids = ",".join(str(i) for i in expected["ids"])
        result = self.good("run", cli.tiny(), "--prompt-ids", ids, "-n", "16", "--greedy",
                           "--precise", "--kv", "f32", "--ignore-eos", "--json").json
        self.assertEqual(result["prompt_ids"], expected["ids"])
        self.assertEqual(result["ids"][0], expected["greedy_next16"][0])

    def test_reproducible(self):
        """The same seed, whatever the threads; another seed, another text."""
        flags = ("-n", "32", "--temp", "1", "--top-p", "1", "--ignore-eos", "--seed")
        first = self.run_json(*flags, "7")["ids"]
        self.assertEqual(self.run_json(*flags, "7")["ids"], first)
        self.assertEqual(self.run_json(*flags, "7", "--threads", "1")["ids"], first)
        self.assertEqual(self.run_json(*flags, "7", "--threads", "3")["ids"], first)
        self.assertNotEqual(self.run_json(*flags, "8")["ids"], first)

    def test_no_seed(self):
        """Without a seed each run draws anew."""
        flags = ("-n", "32", "--temp", "5", "--ignore-eos")
        self.assertNotEqual(self.run_json(*flags)["ids"], self.run_json(*flags)["ids"])

    def test_temperature_zero_is_greedy(self):
        """Two ways to say the same."""
        self.assertEqual(self.run_json("-n", "8", "--temp", "0")["ids"],
                         self.run_json("-n", "8", "--greedy")["ids"])
        self.assertEqual(self.run_json("-n", "8", "--temp", "2", "--top-k", "1")["ids"],
                         self.run_json("-n", "8", "--greedy")["ids"])

    def test_stops_at_length(self):
        """As many tokens as wanted."""
        result = self.run_json("-n", "5", "--ignore-eos")
        self.assertEqual((result["stop"], len(result["ids"])), ("length", 5))
        self.assertEqual(result["timing"]["decode_tokens"], 5)
        self.assertEqual(result["timing"]["prefill_tokens"], 8)

    def test_stops_at_context(self):
        """As many tokens as fit."""
        result = self.run_json("--ctx", "20", "--ignore-eos")
        self.assertEqual((result["stop"], len(result["ids"])), ("context", 12))

    def test_prompt_fills_context(self):
        """A prompt that leaves no room runs, and nothing is generated."""
        result = self.run_json("--ctx", "8", "--ignore-eos")
        self.assertEqual((result["stop"], result["ids"]), ("context", []))

    def test_single_token(self):
        """No rate can be given for one token."""
        result = self.run_json("-n", "1", count=1)
        self.assertIsNone(result["timing"]["decode_tps"])
        self.assertGreater(result["timing"]["first_token_s"], 0)

    def test_save_logits(self):
        """One row for each position but the last; each chose the token that follows."""
        path = self.folder / "l.safetensors"
        result = self.run_json("-n", "5", "--greedy", "--ignore-eos", "--save-logits", str(path))
        rows = cli.read_logits(path)
        self.assertEqual((len(rows), len(rows[0])), (8 + 5 - 1, VOCABULARY))
        chosen = [max(range(VOCABULARY), key=row.__getitem__) for row in rows[7:]]
        self.assertEqual(chosen, result["ids"])

    def test_save_logits_leaves_nothing_behind(self):
        """A run that fails leaves no file."""
        self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids=1,4000", "--save-logits",
                 str(self.folder / "l.safetensors"))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_kv_formats(self):
        """Both formats, together and apart."""
        for kv in ("f32", "f16", "k=f32,v=f16", "v=f32"):
            self.assertEqual(len(self.run_json("-n", "3", "--ignore-eos", "--kv", kv)["ids"]), 3)
        full, half = (self.run_json("-n", "1", "--kv", kv)["memory"]["kv_bytes"]
                      for kv in ("f32", "f16"))
        self.assertEqual(full, 2 * half)

    def test_all_architectures(self):
        """Every tiny model runs."""
        for folder in sorted(pathlib.Path(cli.tiny()).parent.iterdir()):
            with self.subTest(folder.name):
                result = self.run_json("-n", "4", "--ignore-eos", model=str(folder))
                self.assertEqual(len(result["ids"]), 4)

    def test_profile(self):
        """The table goes to standard error, the ids to standard output."""
        result = cli.nibble("run", cli.tiny(), "--prompt-ids", "1,2", "-n", "3", "--greedy",
                            "--profile")
        self.assertEqual(result.status, cli.DONE)
        self.assertRegex(result.text, r"\A[\d ]+\n\Z")
        self.assertIn("GMAC/s", result.message)
        self.assertIn("matmul", result.message)

    def interrupt(self, delay, *flags):
        """Sends Ctrl-C to a long run after its first output, or a delay; returns its output."""
        with subprocess.Popen([cli.PROGRAM, "run", cli.real(), "-p", "Hello", "--ignore-eos",
                               "--ctx", "4096", *flags], stderr=subprocess.PIPE,
                              stdout=subprocess.PIPE, env=cli.environment()) as process:
            out = b""
            if delay:
                time.sleep(delay)
            else:
                out = process.stdout.read(8)
            process.send_signal(signal.SIGINT)
            rest, message = process.communicate(timeout=cli.TIMEOUT)
        self.assertEqual((process.returncode, message), (cli.INTERRUPTED, b""))
        return out + rest

    def test_interrupt(self):
        """Ctrl-C ends the generation; what there is is printed."""
        self.assertRegex(self.interrupt(0), rb"(?s)\A.+\n\Z")

    def test_interrupt_with_json(self):
        """The report says what came of it."""
        out, delay = b"", 1
        while not out: # interrupted while it was loading
            out = self.interrupt(delay, "--json")
            delay *= 2
        result = json.loads(out)
        self.assertEqual(result["stop"], "cancelled")
        self.assertGreater(len(result["ids"]), 0)
