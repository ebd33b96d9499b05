/// The patterns of pre-tokenizers, as the models' own tokenizer.json files have them, but for how
/// characters are written: what is not ASCII is escaped here.
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer.h"

#include <string.h>

#define TEXT(literal)                  \
    {                                  \
        (literal), sizeof(literal) - 1 \
    }
#define ISOLATE(literal)                        \
    {                                           \
        TEXT(literal), NIB_SPLIT_ISOLATE, false \
    }

#define DIGIT "\\p{N}"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" SPACES
/// GPT-4's pattern and its kin, which differ in how many digits stay together.
#define GPT4(digits)                                     \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
                "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES
/// Words of GPT-4o and Tekken: upper case, then lower case; `end` may follow.
#define CASED_WORD(end)                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"   \
    "+" end "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}" \
    "\\p{M}]*" end
#define CASED(end, digits) \
    CASED_WORD(end) "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|" SPACES
#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
/// What Hugging Face calls punctuation: Unicode's, and the rest of ASCII's.
#define PUNCTUATION "[\\p{P}$+<=>^`|~]"
/// Ideographs, with what DeepSeek's models add to them.
#define DEEPSEEK_IDEOGRAPHS "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define DEEPSEEK_IDEOGRAPHS_3 "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define DEEPSEEK_3                                                                       \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?" \
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES
#define DEEPSEEK_PUNCTUATION \
    "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+"
/// The model's pattern is END_SPACES, of which this finds the same matches, but without trying anew
/// at each place of a long run of spaces.
#define DEEPSEEK_END_SPACES "(?<!\\s)\\s++$"
#define END_SPACES "\\s+$"
/// Letters with case, as DeepSeek LLM lists them.
#define DEEPSEEK_LETTERS                                                                   \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"         \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}" \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"          \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"               \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"         \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"         \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"         \
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}" \
    "\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"                   \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"         \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"  \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"          \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}" \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"          \
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"         \
    "\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"         \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}" \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

static const struct nib_pretokenizer FAMILIES[] = {
    {.name = "gpt-2", .splits = {ISOLATE(GPT2)}, .n_splits = 1},
    {.name = "starcoder", .splits = {ISOLATE(DIGIT), ISOLATE(GPT2)}, .n_splits = 2},
    {.name = "command-r",
     .splits = {ISOLATE(DIGIT), ISOLATE(GPT2)},
     .n_splits = 2,
     .normal_form = NIB_NORMAL_NFC},
    {.name = "llama-bpe",
     .splits = {ISOLATE(GPT4("\\p{N}{1,3}"))},
     .n_splits = 1,
     .ignore_merges = true,
     .add_bos = true},
    {.name = "dbrx", .splits = {ISOLATE(GPT4("\\p{N}{1,3}"))}, .n_splits = 1},
    {.name = "qwen2",
     .splits = {ISOLATE(GPT4("\\p{N}"))},
     .n_splits = 1,
     .normal_form = NIB_NORMAL_NFC},
    {.name = "hunyuan", .splits = {ISOLATE(GPT4("\\p{N}"))}, .n_splits = 1},
    {.name = "gpt-4o", .splits = {ISOLATE(CASED(CONTRACTION "?", "\\p{N}{1,3}"))}, .n_splits = 1},
    {.name = "tekken",
     .splits = {ISOLATE(CASED("", "\\p{N}"))},
     .n_splits = 1,
     .ignore_merges = true,
     .add_bos = true},
    {.name = "deepseek-llm",
     .splits = {ISOLATE("[\\r\\n]"), ISOLATE("\\s?[" DEEPSEEK_LETTERS "]+"),
                ISOLATE(DEEPSEEK_PUNCTUATION), ISOLATE(DEEPSEEK_END_SPACES),
                ISOLATE(DEEPSEEK_IDEOGRAPHS), ISOLATE(DIGIT)},
     .n_splits = 6},
    {.name = "deepseek-coder",
     .splits = {ISOLATE("[\\r\\n]"), ISOLATE("\\s?\\p{L}+"), ISOLATE("\\s?\\p{P}+"),
                ISOLATE(DEEPSEEK_IDEOGRAPHS), ISOLATE(DIGIT)},
     .n_splits = 5},
    {.name = "deepseek-v3",
     .splits = {ISOLATE("\\p{N}{1,3}"), ISOLATE(DEEPSEEK_IDEOGRAPHS_3), ISOLATE(DEEPSEEK_3)},
     .n_splits = 3},
    {.name = "falcon",
     .splits = {{TEXT(PUNCTUATION), NIB_SPLIT_CONTIGUOUS, false},
                ISOLATE(GPT2),
                ISOLATE("\\p{N}+"),
                ISOLATE("[0-9][0-9][0-9]")},
     .n_splits = 4},
    {.name = "bloom", .splits = {ISOLATE(BLOOM)}, .n_splits = 1},
    {.name = "viking", .splits = {ISOLATE(BLOOM), ISOLATE(DIGIT)}, .n_splits = 2},
};

/// What else GGUF files call a family.
static const struct {
    const char *alias;
    const char *name;
} ALIASES[] = {
    {"default", "gpt-2"},
    {"phi-2", "gpt-2"},
    {"mpt", "gpt-2"},
    {"olmo", "gpt-2"},
    {"jais", "gpt-2"},
    {"gigachat", "gpt-2"},
    {"mellum", "gpt-2"},
    {"a.x-4.0", "gpt-2"},
    {"exaone4", "gpt-2"},
    {"trillion", "gpt-2"},
    {"granite-docling", "gpt-2"},
    {"jina-v2-es", "gpt-2"},
    {"jina-v2-de", "gpt-2"},
    {"jina-v2-code", "gpt-2"},
    {"roberta-bpe", "gpt-2"},
    {"smollm", "starcoder"},
    {"refact", "starcoder"},
    {"codeshell", "starcoder"},
    {"exaone", "starcoder"},
    {"minerva-7b", "starcoder"},
    {"llama3", "llama-bpe"},
    {"llama-v3", "llama-bpe"},
    {"falcon3", "llama-bpe"},
    {"falcon-h1", "llama-bpe"},
    {"pixtral", "llama-bpe"},
    {"midm-2.0", "llama-bpe"},
    {"lfm2", "llama-bpe"},
    {"smaug-bpe", "dbrx"},
    {"chatglm-bpe", "dbrx"},
    {"glm4", "dbrx"},
    {"stablelm2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"kormo", "qwen2"},
    {"megrez", "hunyuan"},
    {"grok-2", "hunyuan"},
    {"llama4", "gpt-4o"},
    {"minimax-m2", "gpt-4o"},
    {"hunyuan-dense", "deepseek-v3"},
    {"poro-chat", "bloom"},
    {"gpt3-finnish", "bloom"},
};

const struct nib_pretokenizer *nib_pretokenizer_find(const char *name)
{
    for (size_t i = 0; i < sizeof ALIASES / sizeof ALIASES[0]; i++) {
        if (strcmp(ALIASES[i].alias, name) == 0) {
            name = ALIASES[i].name;
            break;
        }
    }
    for (size_t i = 0; i < sizeof FAMILIES / sizeof FAMILIES[0]; i++)
        if (strcmp(FAMILIES[i].name, name) == 0)
            return &FAMILIES[i];
    return NULL;
}

/// Escaped characters that stay so have this added to their code.
enum { ESCAPED = 0x40000000 };

/// Reads the digits and the brace that end "\x{4e00}"; returns their size, or 0.
static size_t read_code(struct nib_text text, uint32_t *out_code)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    size_t size = 0;
    *out_code = 0;
    for (; size < text.size && size < 6 && text.ptr[size] != '}'; size++) {
        const char *digit = memchr(digits, text.ptr[size], sizeof digits - 1);
        if (!digit)
            return 0;
        const uint32_t value = (uint32_t)(digit - digits);
        *out_code = *out_code * 16 + (value < 16 ? value : value - 6);
    }
    return size > 0 && size < text.size && text.ptr[size] == '}' ? size + 1 : 0;
}

/// Takes one character of a pattern from the front of `*text`, so that "\n", "\r" and "\x{4e00}"
/// are the same as the characters that they stand for. Escapes of ASCII characters stay, since some
/// of these mean something by themselves.
static uint32_t next_character(struct nib_text *text)
{
    uint32_t c, code;
    bool valid;
    size_t size = nib_utf8_decode(text->ptr, text->size, &c, &valid);
    if (c == '\\' && size < text->size) {
        const char kind = text->ptr[1];
        size_t code_size = 0;
        if (kind == 'x' && text->size > 3 && text->ptr[2] == '{')
            code_size = read_code((struct nib_text){text->ptr + 3, text->size - 3}, &code);
        if (code_size && code >= 0x80) {
            c = code;
            size = 3 + code_size;
        } else if (kind == 'n' || kind == 'r') {
            c = kind == 'n' ? '\n' : '\r';
            size = 2;
        } else {
            size += nib_utf8_decode(text->ptr + 1, text->size - 1, &c, &valid);
            c += ESCAPED;
        }
    }
    text->ptr += size;
    text->size -= size;
    return c;
}

static bool is_same_pattern(struct nib_text a, struct nib_text b)
{
    while (a.size && b.size) {
        if (next_character(&a) != next_character(&b))
            return false;
    }
    return a.size == b.size;
}

/// Returns whether `split`, of a file, is `ours`.
static bool is_same_split(const struct nib_vocab_split *ours, const struct nib_vocab_split *split)
{
    static const struct nib_text end_spaces = TEXT(DEEPSEEK_END_SPACES), theirs = TEXT(END_SPACES);
    if (ours->kind != split->kind || ours->invert != split->invert)
        return false;
    return is_same_pattern(ours->pattern, split->pattern) ||
           (is_same_pattern(ours->pattern, end_spaces) && is_same_pattern(theirs, split->pattern));
}

const char *nib_pretokenizer_match(const struct nib_vocab *vocab)
{
    for (size_t i = 0; i < sizeof FAMILIES / sizeof FAMILIES[0]; i++) {
        const struct nib_pretokenizer *family = &FAMILIES[i];
        bool same = family->n_splits == vocab->n_splits &&
                    family->normal_form == vocab->normal_form &&
                    family->ignore_merges == vocab->ignore_merges;
        for (uint32_t j = 0; same && j < family->n_splits; j++)
            same = is_same_split(&family->splits[j], &vocab->splits[j]);
        if (same)
            return family->name;
    }
    return NULL;
}
