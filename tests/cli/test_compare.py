"""Models side by side."""
import cli


class CompareTest(cli.Case):
    """The table, and what cannot be compared."""

    def setUp(self):
        super().setUp()
        self.text = self.folder / "text.txt"
        self.text.write_text("It was a bright cold day in April, and clocks were striking. " * 6,
                             encoding="utf-8")

    def test_without_text(self):
        """Sizes and speeds alone; models need no tokenizer."""
        lines = self.good("compare", cli.tiny(), cli.tiny("qwen3")).text.splitlines()
        self.assertNotIn("perplexity", lines[0])
        self.assertIn(cli.tiny(), lines[1])
        self.assertIn(cli.tiny("qwen3"), lines[2])

    def test_agrees_with_eval(self):
        """Perplexity is that of eval, and a model is at no distance from itself."""
        flags = ("-f", str(self.text), "--ctx", "24", "--windows", "2", "--precise", "--json")
        score = self.good("eval", cli.real(), *flags).json
        result = self.good("compare", cli.real(), *flags, "--ref", cli.real()).json
        entry, = result["models"]
        self.assertEqual(result["reference"], cli.real())
        self.assertEqual(entry["perplexity"], score["perplexity"])
        self.assertLess(abs(entry["kl_mean"]), 1e-6)
        self.assertEqual(entry["top1_agreement"], 1)

    def test_stored_reference(self):
        """Logits that eval stored serve as well."""
        path = str(self.folder / "l.safetensors")
        flags = ("-f", str(self.text), "--ctx", "24", "--windows", "2", "--precise")
        self.good("eval", cli.real(), *flags, "--save-logits", path)
        lines = self.good("compare", cli.real(), *flags, "--ref", path).text.splitlines()
        self.assertIn("same top", lines[0])
        self.assertIn("100.00 %", lines[1])

    def test_refused(self):
        """No model, a reference without a text, a second model that is not there, another
        vocabulary: an error before the long work."""
        self.assertIn("no model", self.bad(cli.USAGE, "compare"))
        self.assertIn("-f FILE", self.bad(cli.USAGE, "compare", "M", "--ref", "R"))
        self.assertIn("none.gguf", self.bad(cli.FAILED, "compare", cli.tiny(), "none.gguf"))
        self.assertIn("tokenizer", self.bad(cli.FAILED, "compare", cli.tiny(), "-f",
                                            str(self.text)))
        self.assertIn("logits a position",
                      self.bad(cli.FAILED, "compare", cli.real(), "-f", str(self.text), "--ctx",
                               "24", "--ref", cli.tiny()))
