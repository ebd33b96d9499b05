"""nibble bench on a tiny model: what it counts, and what it refuses."""
import cli


class BenchTest(cli.Case):
    """Speeds are not compared, tokens and bytes are."""

    def bench(self, *flags, model="llama3-rope"):
        """Returns the object."""
        return self.good("bench", cli.tiny(model), "--json", *flags).json

    def test_results(self):
        """One for each context and batch, in ascending order, whatever the order of the lists."""
        result = self.bench("--batch", "4,1,2,4", "--ctx", "128,64", "-n", "16")
        results = result["results"]
        self.assertEqual([(entry["context"], entry["batch"]) for entry in results],
                         [(64, 1), (64, 2), (64, 4), (128, 1), (128, 2), (128, 4)])
        for entry, added in zip(results, (1, 1, 2) * 2):
            self.assertEqual(entry["prefill_tokens"], added * (entry["context"] - 16))
            self.assertEqual(entry["computed_tokens"], entry["prefill_tokens"])
            self.assertEqual(entry["decode_tokens"], entry["batch"] * 15)
            self.assertGreater(entry["prefill_tps"], 0)
            self.assertGreater(entry["decode_tps"], 0)
            self.assertLessEqual(entry["kv_bytes"], result["memory"]["kv_bytes"])
        # Pages of 32 tokens, the last one of them full or not.
        page = results[0]["kv_bytes"] // 2
        for entry in results:
            self.assertEqual(entry["kv_bytes"], page * entry["context"] // 32 * entry["batch"])

    def test_shared(self):
        """A common beginning is computed and kept once."""
        flags = ("--ctx", "256", "-n", "32")
        results = self.bench("--batch", "8", "--shared", "128", *flags)["results"]
        self.assertEqual(results[0]["prefill_tokens"], 8 * 224)
        self.assertEqual(results[0]["computed_tokens"], 128 + 8 * 96)
        alone = self.bench("--batch", "1", *flags)["results"]
        page = alone[0]["kv_bytes"] // 8
        self.assertEqual(results[0]["kv_bytes"], page * (4 + 8 * 4))

    def test_windows(self):
        """Layers with a window hold no more than that."""
        results = self.bench("--batch", "2", "--ctx", "64,480", model="mistral-window")["results"]
        self.assertLess(results[1]["kv_bytes"], 7 * results[0]["kv_bytes"])

    def test_kv_formats(self):
        """The formats are named, and counted."""
        for kv, recent in (("i4", 64), ("i8", 0), ("k=i8,v=i4,recent=32", 32)):
            self.assertEqual(self.bench("--batch", "1", "--ctx", "64", "--kv", kv)["kv"]["recent"],
                             recent)
        half, full = (self.bench("--batch", "1", "--ctx", "64", "--kv", kv) for kv in
                      ("f16", "f32"))
        self.assertEqual(half["kv"], {"keys": "f16", "values": "f16", "recent": 0, "first": 0,
                                      "keys_transformed": False, "values_transformed": False})
        self.assertEqual(2 * half["results"][0]["kv_bytes"], full["results"][0]["kv_bytes"])

    def test_table(self):
        """Without --json, a line for each."""
        text = self.good("bench", cli.tiny(), "--batch", "1,2", "--ctx", "64", "-n", "8").text
        lines = text.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertIn("decode tok/s", lines[0])
        self.assertEqual(lines[2].split()[:2], ["64", "2"])

    def test_wrong_values(self):
        """Lists are checked whole."""
        for flag, value in (("--batch", "0"), ("--batch", "1,,2"), ("--batch", "1,x"),
                            ("--batch", ""), ("--batch", "5000"), ("--ctx", "2k,1"),
                            ("--ctx", "4194304k"), ("--ctx", "1kk"), ("--ctx", "-1"),
                            ("-n", "1")):
            self.bad(cli.USAGE, "bench", cli.tiny(), flag, value)
        self.assertIn("raise --ctx or lower -n",
                      self.bad(cli.FAILED, "bench", cli.tiny(), "--ctx", "32"))
        self.bad(cli.FAILED, "bench", cli.tiny(), "--ctx", "1024k")
        message = self.bad(cli.FAILED, "bench", cli.tiny(), "--host-cost", "-n", "65536")
        self.assertIn("lower -n", message)
        self.assertNotIn("--ctx", message)
