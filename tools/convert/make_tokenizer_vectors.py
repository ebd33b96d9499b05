#!/usr/bin/env python3
"""Makes the test vectors of tests/data/tokenizer but for the two of real models.

hf/NAME.json: a small tokenizer.json, trained here, with texts and their ids.
pretokenizers.json: texts and the pieces into which each family of pre-tokenizers cuts them.
chat.json: conversations as the templates of chat_templates.json render them.

Needs the packages tokenizers and jinja2. Usage: make_tokenizer_vectors.py [OUT_FOLDER]
"""

import json
import pathlib
import sys

import jinja2
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests/data/tokenizer"

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
WORD = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
        r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
DEEPSEEK_V3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"""
               r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TRAINING = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind at all.",
    "A tokenizer turns text into numbers: 1, 12, 123, 1234 and 2024-01-31.",
    "It's what they're for; I'm sure we've seen that they'd do it, haven't we?",
    "def main(argc, argv):\n    if argc > 1:\n        print(argv[1])\n    return 0\n",
    "naïve café résumé über Straße, señor, São Paulo, Ελλάδα, Москва",
    "中文测试，今天天气很好。 日本語のテキスト 한국어 텍스트 مرحبا שלום ไทย",
    "THE END. Camel Case and camelCase and SCREAMING_SNAKE_CASE",
] * 4

TEXTS = [
    "", "a", " ", "  ", "\n", "\t", "Hello world", " Hello  world ", "hello\r\nworld\n\n",
    "I'm you're they'll we've I'D", "x=y+z;  // c++ comment\n\tif(a<b){}",
    "naïve café résumé über", "cafe\u0301 A\u030a \u1100\u1161", "中文测试，今天天气很好。",
    "한국어 텍스트", "مرحبا بالعالم", "שלום עולם", "ไทย ภาษา", "😀😃👩\u200d👩\u200d👧🏳\ufe0f\u200d🌈",
    "\u200bzero\u200dwidth\ufeff", "a\u00a0b\u2003c\u180ed\u0085e", "1234567890 १२३४ ٣٤٥ Ⅷ ①",
    "2024-01-31 3.14159 1,000,000", "…—–“”‘’", "ﬁ ＦＵＬＬ", "null\x00byte", "▁▁underscore▁",
    "    indented\n        code\n   ", "!!!???... ---", "snake_case camelCase HTTPServer",
    "<s>text</s> <s> x", "<tool>a <tool> b<tool>", "foo food foo. xfoo", "THE Quick bROWN",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the dog \u3000 \u3000the", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ⓐ",
]


def byte_level(pre, normalizer=None, specials=("<s>", "</s>"), **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(specials), show_progress=False))
    return tokenizer


def sentencepiece(normalizer=None, pre=None, decoder=None, byte_fallback=True, **model):
    """A BPE over characters, with BYTE tokens put in front of the vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **model))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    specials = ["<unk>", "<s>", "</s>"]
    specials += ["<0x%02X>" % i for i in range(256)] if byte_fallback else []
    tokenizer.train_from_iterator(TRAINING[:4], trainers.BpeTrainer(
        vocab_size=len(specials) + 150, limit_alphabet=80, special_tokens=specials,
        show_progress=False))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    data["model"]["byte_fallback"] = byte_fallback
    data["model"]["fuse_unk"] = True
    tokenizer = Tokenizer.from_str(json.dumps(data))
    if decoder:
        tokenizer.decoder = decoder
    return tokenizer


def unigram(byte_fallback):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TRAINING, trainers.UnigramTrainer(
        vocab_size=220, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
        show_progress=False))
    data = json.loads(tokenizer.to_str())
    if byte_fallback:
        data["model"]["vocab"] += [["<0x%02X>" % i, -20.0] for i in range(256)]
        data["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(data))


def make_tokenizers():
    split = lambda pattern, behavior="isolated", **rest: pre_tokenizers.Split(
        Regex(pattern), behavior, **rest)
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    mark = "\u2581"
    sentence_decoder = decoders.Sequence([
        decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])

    out = {}
    out["llama3"] = byte_level(pre_tokenizers.Sequence([split(GPT4 % r"\p{N}{1,3}"), raw]),
                               ignore_merges=True)
    out["llama3"].post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B",
                                      special_tokens=[("<s>", 0)])])
    out["smollm"] = byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    out["qwen2"] = byte_level(pre_tokenizers.Sequence([split(GPT4 % r"\p{N}"), raw]),
                              normalizers.NFC())
    out["prefix"] = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    out["prefix"].add_tokens([
        AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("foo", single_word=True, normalized=False)])
    out["behaviours"] = byte_level(pre_tokenizers.Sequence([
        split(r"[ \t]", "merged_with_next"), split(r"[,.!?]", "merged_with_previous"),
        split(r"\d", "contiguous"), split(r"[a-z]+", "removed", invert=True),
        pre_tokenizers.Split("e", "isolated"), raw]), normalizers.Lowercase())
    out["llama2"] = sentencepiece(normalizers.Sequence([
        normalizers.Prepend(mark), normalizers.Replace(" ", mark)]), decoder=sentence_decoder)
    out["llama2"].post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    out["gemma"] = sentencepiece(normalizers.Replace(" ", mark),
                                 pre_tokenizers.Split(" ", "merged_with_previous"),
                                 decoders.Sequence([decoders.Replace(mark, " "),
                                                    decoders.ByteFallback(), decoders.Fuse()]))
    out["gemma"].add_tokens([AddedToken("\n\n", normalized=False),
                             AddedToken("<tool>", normalized=False)])
    out["metaspace"] = sentencepiece(
        pre=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        decoder=sentence_decoder)
    out["words"] = sentencepiece(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]),
        byte_fallback=False)
    out["words"].add_tokens([AddedToken("FOO", normalized=True, single_word=True)])
    out["unigram"] = unigram(False)
    out["unigram-bytes"] = unigram(True)
    out["unigram-bytes"].decoder = sentence_decoder

    (OUT / "hf").mkdir(parents=True, exist_ok=True)
    for name, tokenizer in out.items():
        vectors = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            # Without a decoder all tokens are set apart by spaces; decoders.Metaspace drops all
            # spaces of the first token, where SentencePiece itself drops one.
            if name == "words" or (name == "unigram" and text[:1] in (" ", mark)):
                decoded = None
            vectors.append({"text": text, "ids": ids, "decoded": decoded})
        write(OUT / "hf" / (name + ".json"), {
            "tokenizer": json.loads(tokenizer.to_str()), "vectors": vectors})


def make_pretokenizers():
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    digits = pre_tokenizers.Digits(individual_digits=True)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = "".join(letter_class())
    families = {
        "gpt-2": [gpt2],
        "smollm": [digits, gpt2],
        "llama-bpe": [split(GPT4 % r"\p{N}{1,3}")],
        "qwen2": [split(GPT4 % r"\p{N}")],
        "gpt-4o": [split(WORD % (CONTRACTION, CONTRACTION, "{1,3}"))],
        "tekken": [split(WORD % ("", "", ""))],
        "deepseek-llm": [split(r"[\r\n]"), split(r"\s?[" + letters + "]+"),
                         split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"),
                         split("[一-龥ࠀ-一가-퟿]+"), digits],
        "deepseek-coder": [split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                           split("[一-龥ࠀ-一가-퟿]+"), digits],
        "deepseek-v3": [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK_V3)],
    }
    out = {}
    for name, steps in families.items():
        steps = [s for s in steps if s is not gpt2]
        out[name] = []
        for text in TEXTS:
            pieces = [text] if text else []
            for step in steps:
                pieces = [p for piece in pieces for p, _ in step.pre_tokenize_str(piece)]
            if gpt2 in families[name]:
                pieces = [p for piece in pieces for p in gpt2_pieces(gpt2, piece)]
            assert "".join(pieces) == text, (name, text, pieces)
            out[name].append({"text": text, "pieces": pieces})
    write(OUT / "pretokenizers.json", out)


def gpt2_pieces(gpt2, text):
    """The pieces of ByteLevel, as text instead of characters that stand for bytes."""
    return [text[begin:end] for _, (begin, end) in gpt2.pre_tokenize_str(text)]


def letter_class():
    """The letters of DeepSeek LLM's pattern, taken from pretokenizer.c, which quotes the model."""
    source = (ROOT / "runtime/tokenizer/pretokenizer.c").read_text()
    block = source[source.index("#define DEEPSEEK_LETTERS"):]
    block = block[:block.index("static const")]
    for part in block.split('"')[1::2]:
        yield part.replace("\\\\x", "\\x")


def conversations(system):
    """Conversations as lists of [role, text]; system texts only where a template has them."""
    out = [
        [["user", "Hello"]],
        [["user", "Hello"], ["assistant", "Hi there"], ["user", "Who are you?\n"]],
        [["user", "  spaces \n"], ["assistant", "   I am an assistant   "], ["user", "\tand tabs"]],
        [["user", "a"], ["assistant", "<think>\nhmm\n</think>\n\nb"], ["user", "c"]],
    ]
    if system:
        out += [[["system", "You are a pirate."], ["user", "Grüß Gott, 你好!"]],
                [["system", "Be brief."]] + out[1]]
    return out


def make_chat():
    """Renders chat_templates.json, whose tool calls are left out, as transformers does."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    templates = json.loads((OUT / "chat_templates.json").read_text())
    out = {}
    for name, case in templates.items():
        template = environment.from_string(case["template"])
        out[name] = []
        for conversation in conversations(case["system"]):
            messages = [{"role": role, "content": text} for role, text in conversation]
            out[name].append({"messages": conversation, "text": template.render(
                messages=messages, add_generation_prompt=True,
                bos_token=case["bos"], eos_token=case["eos"])})
    write(OUT / "chat.json", out)


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    make_tokenizers()
    make_pretokenizers()
    make_chat()
