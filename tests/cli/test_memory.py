"""What inspect predicts is what a run then takes."""
import cli

SHARE = 0.03


class MemoryTest(cli.Case):
    """Weights, cache and activations, within three percent."""

    def check(self, model, contexts, *prompt):
        """Compares at several context lengths and in several cache formats."""
        for kv in ("f16", "f32", "i8", "i4"):
            for context in contexts:
                predicted = [entry for entry in
                             self.good("inspect", model, "--json", "--ctx", str(context), "--kv",
                                       kv).json["memory"]
                             if (entry["weights"], entry["kv"], entry["context"]) ==
                             ("file", kv, context)]
                self.assertEqual(len(predicted), 1)
                taken = self.good("run", model, *prompt, "-n", "2", "--ignore-eos", "--ctx",
                                  str(context), "--kv", kv, "--json").json["memory"]
                total = taken["weights_bytes"] + taken["kv_bytes"] + taken["scratch_bytes"]
                for name, value in (("weights_bytes", taken["weights_bytes"]),
                                    ("kv_bytes", taken["kv_bytes"]), ("total_bytes", total)):
                    error = abs(predicted[0][name] / value - 1)
                    self.assertLess(error, SHARE, (name, kv, context))

    def test_smollm2(self):
        """Full attention in every layer."""
        self.check(cli.real(cli.SMOLLM2), (512, 2048, 8192), "-p", "Hello")

    def test_gemma(self):
        """A sliding window in most layers."""
        self.check(cli.real(cli.GEMMA), (512, 2048, 8192), "-p", "Hello")

    def cache_bytes(self, model, kv):
        """What the cache takes for a session of 8,192 tokens."""
        return self.good("run", model, "-p", "Hello", "-n", "1", "--ctx", "8192", "--kv", kv,
                         "--json").json["memory"]["kv_bytes"]

    def test_integer_caches(self):
        """Shares of what f16 takes."""
        for model in (cli.real(cli.SMOLLM2), cli.real(cli.GEMMA)):
            half = self.cache_bytes(model, "f16")
            self.assertLess(self.cache_bytes(model, "i8"), 0.54 * half)
            self.assertLess(self.cache_bytes(model, "i4"), 0.34 * half)
            self.assertLess(self.cache_bytes(model, "k=i8,v=i4"), 0.44 * half)

    def test_no_second_copy(self):
        """The resident size stays near what is told, so that the weights are there once."""
        model = cli.real(cli.SMOLLM2)
        memory = self.good("run", model, "-p", "Hello", "-n", "2", "--ctx", "512",
                           "--json").json["memory"]
        told = memory["weights_bytes"] + memory["kv_bytes"] + memory["scratch_bytes"]
        self.assertLess(memory["peak_rss_bytes"], told + memory["weights_bytes"] // 2)
