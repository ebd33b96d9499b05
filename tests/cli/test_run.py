"""nibble run on a tiny model: reproducible, stoppable, and as the references say."""
import json
import pathlib
import resource
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

    def test_draft(self):
        """Drafts change the speed, not the text."""
        for flags in (("--greedy",), ("--temp", "0.5", "--seed", "3")):
            flags = ("-n", "120", "--ignore-eos", *flags)
            plain = self.run_json(*flags)
            drafted = self.run_json(*flags, "--draft", "8")
            self.assertEqual(plain["ids"], drafted["ids"])
            self.assertEqual(plain["timing"]["drafted_tokens"], 0)
            timing = drafted["timing"]
            self.assertLessEqual(timing["accepted_tokens"], timing["drafted_tokens"])
        self.bad(cli.USAGE, "run", cli.tiny(), "--prompt-ids", "1", "--draft", "32")

    def test_session(self):
        """A run in two parts is the run in one, wherever it is cut."""
        path = str(self.folder / "s")
        for model, count in (("llama3-rope", 8), ("gemma3", 70), ("mistral-window", 100)):
            whole = self.run_json("-n", "60", "--greedy", "--ignore-eos", model=cli.tiny(model),
                                  count=count)
            first = self.run_json("-n", "25", "--greedy", "--ignore-eos", "--save-session", path,
                                  model=cli.tiny(model), count=count)
            second = self.good("run", cli.tiny(model), "--session", path, "-n", "35", "--greedy",
                               "--ignore-eos", "--json").json
            self.assertEqual(first["ids"] + second["ids"], whole["ids"])
            self.assertEqual(second["prompt_ids"], whole["prompt_ids"] + first["ids"])
            self.assertLessEqual(second["timing"]["prefill_tokens"], 32)

    def test_session_with_a_prompt(self):
        """A prompt follows what was saved."""
        path = str(self.folder / "s")
        first = self.run_json("-n", "3", "--greedy", "--ignore-eos", "--save-session", path)
        ids = ",".join(str(i) for i in [*first["prompt_ids"], *first["ids"], 5, 6])
        whole = self.good("run", cli.tiny(), "--prompt-ids", ids, "-n", "5", "--greedy", "--json",
                          "--ignore-eos").json
        second = self.good("run", cli.tiny(), "--session", path, "--prompt-ids", "5,6", "-n", "5",
                           "--greedy", "--json", "--ignore-eos").json
        self.assertEqual(second["ids"], whole["ids"])
        self.assertEqual(second["prompt_ids"], whole["prompt_ids"])

    def test_session_that_does_not_fit(self):
        """One line that says why, and the file stays as it is."""
        path = self.folder / "s"
        self.run_json("-n", "30", "--ignore-eos", "--save-session", str(path))
        flags = ("-n", "1", "--session", str(path))
        for words, model, more in (
                ("another model", "qwen2", ()), ("use --kv k=f16,v=f16", "llama3-rope",
                                                 ("--kv", "f32")),
                ("open it without it", "llama3-rope", ("--precise",)),
                ("raise --ctx", "llama3-rope", ("--ctx", "20"))):
            message = self.bad(cli.FAILED, "run", cli.tiny(model), *flags, *more)
            self.assertIn(words, message)
            self.assertIn(str(path), message)
        data = path.read_bytes()
        for damaged in (data[:-8], data[:100] + b"x" + data[101:], b"", b"GGUF" + data):
            path.write_bytes(damaged)
            self.assertIn(str(path), self.bad(cli.FAILED, "run", cli.tiny(), *flags))
        self.assertIn("no/s", self.bad(cli.FAILED, "run", cli.tiny(), "--prompt-ids", "1", "-n",
                                       "1", "--save-session", str(self.folder / "no/s")))
        self.assertEqual([entry.name for entry in self.folder.iterdir()], ["s"])
        self.bad(cli.USAGE, "run", cli.tiny(), "--session", str(path), "--save-logits", "l")
        self.bad(cli.USAGE, "run", cli.tiny(), "--session", str(path), "--chat")
        self.bad(cli.USAGE, "chat", cli.tiny(), "--session", str(path), "--system", "x")

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
        self.assertRegex(result.message, r"matmul .* \d+\.\d %\n")
        self.assertRegex(result.message, r"(?m)^cpu reads \d+\.\d GB/s, multiplies")

    def interrupt(self, delay, *flags, message=rb"", **options):
        """Sends Ctrl-C to a long run after its first output, or a delay; returns its output."""
        with subprocess.Popen([cli.PROGRAM, "run", cli.real(), "-p", "Hello", "--ignore-eos",
                               "--ctx", "4096", *flags], stderr=subprocess.PIPE,
                              stdout=subprocess.PIPE, env=cli.environment(),
                              **options) as process:
            out = b""
            if delay:
                time.sleep(delay)
            else:
                out = process.stdout.read(8)
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=cli.TIMEOUT)
        self.assertEqual(process.returncode, cli.INTERRUPTED)
        self.assertRegex(errors, rb"\A%b\Z" % message)
        return out + rest

    def test_interrupt(self):
        """Ctrl-C ends the generation; what there is is printed."""
        self.assertRegex(self.interrupt(0), rb"(?s)\A.+\n\Z")

    def test_interrupt_with_a_failure(self):
        """What cannot be saved afterwards is said."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        path = self.folder / "session"
        self.interrupt(0, "--save-session", str(path), message=rb"[^\n]*session[^\n]*\n",
                       preexec_fn=limit, restore_signals=False)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_interrupt_with_json(self):
        """The report says what came of it."""
        out, delay = b"", 1
        while not out: # interrupted while it was loading
            out = self.interrupt(delay, "--json")
            delay *= 2
        result = json.loads(out)
        self.assertEqual(result["stop"], "cancelled")
        self.assertGreater(len(result["ids"]), 0)
