"""Every --json output has the members, and only those, that docs/json.md lists, of its types."""
import re

import cli


def is_integer(value):
    """JSON's true and false are no integers, although Python's are."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_type(value, name):
    """Returns whether a value is of the type that the document's table names."""
    if name == "1":
        return value == 1
    if name == "text":
        return isinstance(value, str)
    if name == "integer":
        return is_integer(value)
    if name == "number":
        return value is None or is_integer(value) or isinstance(value, float)
    if name == "object":
        return isinstance(value, dict)
    if name.endswith(" or null"):
        return value is None or is_type(value, name[:-len(" or null")])
    if name.startswith("["):
        return isinstance(value, list) and all(is_type(item, name[1:-1]) for item in value)
    raise AssertionError("docs/json.md has a type %s that the test does not know" % name)


def read_tables(text):
    """Returns {heading or object's name: {member: (type, meaning)}} of one section."""
    tables, name = {}, ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        heading = re.match(r"`(\w+)`[,:]", line)
        if heading:
            name = heading.group(1)
        elif line.startswith("| `"):
            for member in re.findall(r"`(\w+)`", cells[0]):
                tables.setdefault(name, {})[member] = (cells[1], cells[2])
    return tables


class JsonTest(cli.Case):
    """The document is the specification."""

    def section(self, command):
        """Returns the tables of one command."""
        text = (cli.DOCS / "json.md").read_text(encoding="utf-8")
        parts = re.split(r"(?m)^## `nibble (\w+) --json`$", text)
        return read_tables(parts[parts.index(command) + 1])

    def check(self, value, table, optional=()):
        """Holds an object to a table."""
        self.assertEqual(set(value) | set(optional), set(table))
        for member, (kind, _) in table.items():
            if member in value:
                self.assertTrue(is_type(value[member], kind), (member, kind, value[member]))

    def check_members(self, objects, table, member):
        """Holds objects to the names in the meaning of a member of type object."""
        names = re.findall(r"`(\w+)`", table[member][1])
        self.assertGreater(len(objects), 0)
        for value in objects:
            self.assertEqual(set(value), set(names), member)

    def check_run(self, result, tables, optional=()):
        """Holds what run writes to its tables."""
        self.check(result, tables[""], optional)
        for member in ("execution", "timing", "memory"):
            self.check(result[member], tables[member])

    def test_run(self):
        """Without and with a profile."""
        tables = self.section("run")
        flags = ("run", cli.tiny(), "--prompt-ids", cli.prompt(), "-n", "4", "--ignore-eos",
                 "--json")
        self.check_run(self.good(*flags).json, tables, ("profile", "limits"))
        result = self.good(*flags, "--profile").json
        self.check_run(result, tables)
        for member in ("profile", "limits"):
            for entry in result[member]:
                self.check(entry, tables[member])
        self.assertEqual([entry["device"] for entry in result["limits"]], ["cpu"])
        self.assertTrue(all(entry["roofline"] > 0 for entry in result["profile"]
                            if entry["seconds"] > 0))
        self.assertGreater(sum(entry["macs"] for entry in result["profile"]), 0)

    def test_tokenize(self):
        """Ids, or text."""
        table = self.section("tokenize")[""]
        result = self.good("tokenize", cli.real(), "-p", "Hello", "--json").json
        self.check(result, table)
        result = self.good("tokenize", cli.real(), "--detokenize", "1,2", "--json").json
        self.assertEqual(set(result), {"schema", "model", "text"})
        self.assertEqual(result["text"], "<|im_start|><|im_end|>")

    def test_eval(self):
        """One short window."""
        text = self.folder / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. " * 8, encoding="utf-8")
        tables = self.section("eval")
        flags = ("eval", cli.real(), "-f", str(text), "--ctx", "32", "--windows", "1", "--json")
        result = self.good(*flags).json
        self.check(result, tables[""], ("profile", "limits"))
        self.check(result["execution"], self.section("run")["execution"])
        self.assertIsNone(result["kl_mean"])
        self.check(self.good(*flags, "--profile").json, tables[""])

    def test_compare(self):
        """A line for each model, with what was measured alone."""
        tables = self.section("compare")
        result = self.good("compare", cli.tiny(), cli.tiny("qwen2"), "--json").json
        self.check(result, tables[""])
        self.assertEqual([entry["model"] for entry in result["models"]],
                         [cli.tiny(), cli.tiny("qwen2")])
        for entry in result["models"]:
            self.check(entry, tables["models"])
            self.assertGreater(entry["prefill_tps"], 0)
            self.assertGreater(entry["decode_tps"], 0)
            self.assertIsNone(entry["perplexity"])
            self.assertIsNone(entry["kl_mean"])

    def check_inspect(self, path):
        """Holds what inspect writes of a model to its table."""
        table = self.section("inspect")[""]
        result = self.good("inspect", path, "--json").json
        self.check(result, table)
        self.check_members([result["config"]], table, "config")
        if result["tokenizer"] is not None:
            self.assertEqual(set(result["tokenizer"]), {"model", "pre", "vocabulary", "bos", "eos",
                                                        "add_bos", "chat_template"})
        for member in ("formats", "tensors"):
            self.check_members(result[member], table, member)
        for entry in result["memory"]:
            self.assertEqual(set(entry), {"weights", "kv", "context", "weights_bytes", "kv_bytes",
                                          "scratch_bytes", "total_bytes"})
            if entry["kv"] == "f16":
                self.assertEqual(entry["total_bytes"], entry["weights_bytes"] + entry["kv_bytes"] +
                                 entry["scratch_bytes"])
        self.assertEqual(sum(entry["bytes"] for entry in result["formats"]),
                         sum(entry["bytes"] for entry in result["tensors"]))
        return result

    def test_inspect_tiny(self):
        """A folder of Hugging Face's."""
        result = self.check_inspect(cli.tiny())
        self.assertEqual((result["architecture"], result["container"], result["tokenizer"]),
                         ("llama", "safetensors", None))

    def test_inspect_real(self):
        """A GGUF file."""
        result = self.check_inspect(cli.real())
        self.assertEqual((result["architecture"], result["container"]), ("llama", "gguf"))
        self.assertEqual(result["tokenizer"]["chat_template"], "chatml")

    def test_bench(self):
        """Without and with a profile."""
        tables = self.section("bench")
        flags = ("bench", cli.tiny(), "--batch", "1,2", "--ctx", "64", "-n", "8", "--json")
        result = self.good(*flags).json
        self.check(result, tables[""], ("profile", "limits"))
        self.check_members([result["kv"]], tables[""], "kv")
        self.check(result["memory"], self.section("run")["memory"])
        for entry in result["results"]:
            self.check(entry, tables["results"])
        self.check(self.good(*flags, "--profile").json, tables[""])
        result = self.good("bench", cli.tiny(), "--host-cost", "-n", "20", "--json").json
        for member in ("schema", "model", "device", "execution"):
            del result[member]
        self.check(result, tables["host_cost"])

    def test_devices(self):
        """The CPU comes first."""
        table = self.section("devices")[""]
        result = self.good("devices", "--json").json
        self.check(result, table, ("checks", "limits"))
        self.assertEqual(set(result["devices"][0]),
                         {"device", "backend", "type", "usable", "name", "driver", "features",
                          "threads", "memory_bytes"})
        first = result["devices"][0]
        self.assertEqual((first["device"], first["backend"], first["type"]), ("cpu", "cpu", "cpu"))
        self.assertGreater(first["memory_bytes"], 0)
        for device in result["devices"]:
            for feature in device["features"]:
                self.assertNotIn(" " if device["backend"] == "cpu" else ";", feature)
            if device["backend"] == "vulkan" and device["usable"]:
                self.assertEqual(device["features"][0], "baseline")
                self.assertTrue(device["features"][1].startswith("matmuls "))

    def test_device_that_cannot_be_measured(self):
        """It leaves a gap, and the others are measured."""
        result = cli.nibble("devices", "--measure", "--json", "--cpu-mask", "frobnicate")
        self.assertEqual(result.status, cli.DONE, result.message)
        self.assertRegex(result.message, r"\Anibble: cpu is not measured: [^\n]*frobnicate")
        usable = [device["device"] for device in result.json["devices"] if device["usable"]]
        limits = result.json["limits"]
        self.assertEqual([entry["device"] for entry in limits], usable)
        self.assertEqual(limits[0], {"device": "cpu", "read_bytes_per_s": None,
                                     "int8_macs_per_s": None, "f32_macs_per_s": None})
        for entry in limits[1:]:
            self.assertGreater(entry["read_bytes_per_s"], 0)

    def test_inspected_caches(self):
        """What --kv names is told once, whether one of the formats or another."""
        for kv, more in (("f16", []), ("k=f16", []), ("v=f16", []), ("k=i8", ["k=i8,v=f16"])):
            memory = self.good("inspect", cli.tiny(), "--json", "--kv", kv).json["memory"]
            told = [(entry["weights"], entry["kv"], entry["context"]) for entry in memory]
            self.assertEqual(len(set(told)), len(told), kv)
            self.assertEqual(sorted({entry["kv"] for entry in memory}),
                             sorted(["f16", "i8", "i4", *more]), kv)

    def test_measured_devices(self):
        """Every device that can be used has its limits."""
        result = self.good("devices", "--measure", "--json").json
        self.check(result, self.section("devices")[""], ("checks",))
        self.assertEqual([entry["device"] for entry in result["limits"]],
                         [device["device"] for device in result["devices"] if device["usable"]])
        for entry in result["limits"]:
            self.check(entry, self.section("run")["limits"])
            for rate in ("read_bytes_per_s", "int8_macs_per_s", "f32_macs_per_s"):
                self.assertGreater(entry[rate], 1e6)

    def test_path_that_is_no_text(self):
        """A path with bytes that are not UTF-8 is repaired in the output."""
        path = bytes(self.folder) + b"/m\xff\"\\odel"
        try:
            (self.folder / "link").symlink_to(cli.tiny())
            (self.folder / "link").rename(path.decode("utf-8", "surrogateescape"))
        except OSError:
            self.skipTest("this file system has no such names")
        result = self.good("inspect", path, "--json").json
        self.assertTrue(result["model"].endswith("/m\ufffd\"\\odel"))
