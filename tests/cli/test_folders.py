"""Hugging Face folders that quantize writes."""
import os

import cli

ARCHITECTURES = ("gemma2", "gemma3", "granite", "llama3-rope", "mistral-window", "olmo2", "phi3",
                 "qwen2", "qwen3", "smollm3")
BASE = "base"


def base():
    """Returns the folder of a tiny model whose rows blocks of 64 divide."""
    return str(cli.DATA / "checkpoints" / BASE)


class FolderTest(cli.Case):
    """What is written can be run, and what cannot be written leaves nothing behind."""

    def setUp(self):
        super().setUp()
        self.out = str(self.folder / "out")

    def logits(self, model):
        """Returns the bytes of the file of logits of a prompt."""
        path = str(self.folder / "logits.safetensors")
        self.good("run", model, "--prompt-ids", "1,5,9,200,33,17,250,7,8,9,10,11,12,13,14,15,16,17",
                  "-n", "2", "--greedy", "--precise", "--kv", "f32", "--save-logits", path)
        with open(path, "rb") as file:
            return file.read()

    def test_plain_copies(self):
        """A folder written without quantization gives the same bits, whatever the architecture."""
        for name in ARCHITECTURES:
            out = str(self.folder / name)
            self.good("quantize", cli.tiny(name), out, "--as", "safetensors")
            self.assertEqual(self.logits(cli.tiny(name)), self.logits(out), name)

    def test_every_container(self):
        """Each kind of folder is recognised for what it is."""
        kinds = (("gptq-int4", "rtn", "gptq"), ("awq-int4", "rtn", "awq"),
                 ("bnb-nf4", "nf4", "bnb"), ("bnb-int8", "llm-int8", "bnb"),
                 ("compressed-tensors-int4", "rtn", "compressed-tensors"))
        for kind, method, container in kinds:
            out = str(self.folder / kind)
            self.good("quantize", base(), out, "--method", method, "--as", container)
            self.assertEqual(self.good("inspect", out, "--json").json["quantization"], kind)
            self.logits(out)

    def test_tokenizer_of_gguf(self):
        """The folder of a GGUF file has its tokenizer and chat template."""
        self.good("quantize", cli.real(), self.out, "--method", "nf4")
        for flags in (("-p", "caf\u00e9 1234 <|im_end|>\n\tx"),):
            ids = [self.good("tokenize", model, *flags, "--json").json["ids"]
                   for model in (cli.real(), self.out)]
            self.assertEqual(*ids)
        chats = [self.good("run", model, "--chat", "-p", "Hi", "-n", "1", "--json")
                 .json["prompt_ids"] for model in (cli.real(), self.out)]
        self.assertEqual(*chats)

    def test_nothing_is_overwritten(self):
        """A folder that is there is refused before the work, and stays."""
        os.mkdir(self.out)
        message = self.bad(cli.FAILED, "quantize", base(), self.out, "--method", "nf4")
        self.assertIn("exists already", message)
        self.assertEqual(os.listdir(self.folder), ["out"])
        self.assertEqual(os.listdir(self.out), [])

    def test_a_file_is_not_overwritten(self):
        """Nor is a file, which may be the model itself."""
        file = self.folder / "model.gguf"
        self.good("quantize", base(), str(file), "--format", "q8_0")
        before = file.read_bytes()
        for source in (base(), str(file)):
            message = self.bad(cli.FAILED, "quantize", source, str(file), "--format", "q4_0")
            self.assertIn("exists already", message)
            self.assertEqual(os.listdir(self.folder), ["model.gguf"])
            self.assertEqual(file.read_bytes(), before)

    def test_refused(self):
        """What a container cannot hold names the matrix, and nothing is left."""
        tiny = cli.tiny()
        message = self.bad(cli.FAILED, "quantize", tiny, self.out, "--method", "rtn", "--as", "awq",
                           "--group", "64")
        self.assertIn("q_proj", message)
        self.assertIn("--group", message)
        self.assertIn("blocks of 64", self.bad(cli.FAILED, "quantize", tiny, self.out, "--method",
                                               "nf4"))
        self.assertIn("--as compressed-tensors",
                      self.bad(cli.FAILED, "quantize", base(), self.out, "--method", "rtn", "--as",
                               "gptq", "--mix", "ffn_down=keep"))
        self.assertEqual(os.listdir(self.folder), [])
