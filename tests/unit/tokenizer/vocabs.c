#include "tests/unit/tokenizer/vocabs.h"

#include <stdio.h>
#include <string.h>

int32_t test_vocab_find(const struct test_vocab *vocab, const char *text)
{
    for (uint32_t i = 0; i < vocab->vocab.n_tokens; i++) {
        struct nib_text token = vocab->tokens[i].text;
        if (token.size == strlen(text) && memcmp(token.ptr, text, token.size) == 0)
            return (int32_t)i;
    }
    return -1;
}

int32_t test_vocab_add(struct test_vocab *vocab, const char *text, float score,
                       enum nib_token_type type)
{
    uint32_t id = vocab->vocab.n_tokens++;
    vocab->tokens[id] = (struct nib_vocab_token){
        .text = {text, strlen(text)},
        .score = score,
        .type = (uint8_t)type,
        .added = type == NIB_TOKEN_CONTROL || type == NIB_TOKEN_USER_DEFINED,
    };
    return (int32_t)id;
}

void test_vocab_merge(struct test_vocab *vocab, const char *left, const char *right)
{
    char joined[16];
    snprintf(joined, sizeof joined, "%s%s", left, right);
    if (test_vocab_find(vocab, joined) < 0) {
        char *text = vocab->texts[vocab->vocab.n_tokens];
        snprintf(text, sizeof vocab->texts[0], "%s%s", left, right);
        test_vocab_add(vocab, text, 0, NIB_TOKEN_NORMAL);
    }
    vocab->merges[vocab->vocab.n_merges++] =
        (struct nib_vocab_merge){test_vocab_find(vocab, left), test_vocab_find(vocab, right),
                                 test_vocab_find(vocab, joined)};
}

static void begin(struct test_vocab *out, enum nib_vocab_model model)
{
    memset(out, 0, sizeof *out);
    out->vocab = (struct nib_vocab){.model = model,
                                    .tokens = out->tokens,
                                    .merges = out->merges,
                                    .bos = -1,
                                    .eos = -1,
                                    .unknown = -1};
}

void test_vocab_bytes(struct test_vocab *out)
{
    begin(out, NIB_VOCAB_BPE);
    int next = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        int c = printable ? byte : next++;
        char *text = out->texts[byte];
        if (c < 0x80)
            snprintf(text, sizeof out->texts[0], "%c", c);
        else
            snprintf(text, sizeof out->texts[0], "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
        test_vocab_add(out, text, 0, NIB_TOKEN_NORMAL);
    }
    static const char *const MERGES[][2] = {{"h", "e"}, {"l", "l"},    {"he", "ll"},
                                            {"l", "o"}, {"hell", "o"}, {"Ġ", "t"}};
    for (size_t i = 0; i < sizeof MERGES / sizeof MERGES[0]; i++)
        test_vocab_merge(out, MERGES[i][0], MERGES[i][1]);
    out->vocab.bos = test_vocab_add(out, "<s>", 0, NIB_TOKEN_CONTROL);
    out->vocab.eos = test_vocab_add(out, "</s>", 0, NIB_TOKEN_CONTROL);
    out->vocab.add_bos = true;
}

static void add_specials(struct test_vocab *out)
{
    out->vocab.unknown = test_vocab_add(out, "<unk>", 0, NIB_TOKEN_UNKNOWN);
    out->vocab.bos = test_vocab_add(out, "<s>", 0, NIB_TOKEN_CONTROL);
    out->vocab.eos = test_vocab_add(out, "</s>", 0, NIB_TOKEN_CONTROL);
    out->vocab.add_bos = true;
    out->vocab.escape_spaces = true;
    out->vocab.space_prefix = NIB_SPACE_PREFIX_ALWAYS;
    out->vocab.drops_first_space = true;
}

static void add_bytes(struct test_vocab *out)
{
    out->vocab.byte_fallback = true;
    for (int byte = 0; byte < 256; byte++) {
        char *text = out->texts[out->vocab.n_tokens];
        snprintf(text, sizeof out->texts[0], "<0x%02X>", byte);
        test_vocab_add(out, text, 0, NIB_TOKEN_BYTE);
    }
}

static const char *const CHARACTERS[] = {"▁", "a", "b", "c", "h", "e", "l", "o", "é"};
enum { N_CHARACTERS = sizeof CHARACTERS / sizeof CHARACTERS[0] };

void test_vocab_spm(struct test_vocab *out)
{
    begin(out, NIB_VOCAB_SPM);
    add_specials(out);
    add_bytes(out);
    for (size_t i = 0; i < N_CHARACTERS; i++)
        test_vocab_add(out, CHARACTERS[i], -10.0f - (float)i, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "he", -1, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "ll", -2, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "hell", -3, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "lo", -4, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "hello", -5, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "▁hello", -6, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "ab", -2, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "bc", -2, NIB_TOKEN_NORMAL);
}

void test_vocab_ranked(struct test_vocab *out)
{
    begin(out, NIB_VOCAB_RANKED_SPM);
    add_specials(out);
    add_bytes(out);
    for (size_t i = 0; i < N_CHARACTERS; i++)
        test_vocab_add(out, CHARACTERS[i], 0, NIB_TOKEN_NORMAL);
    test_vocab_merge(out, "h", "e");
    test_vocab_merge(out, "l", "l");
    test_vocab_merge(out, "he", "ll");
    test_vocab_merge(out, "l", "o");
    test_vocab_merge(out, "hell", "o");
    test_vocab_merge(out, "b", "c");
    test_vocab_merge(out, "a", "b");
}

void test_vocab_unigram(struct test_vocab *out)
{
    begin(out, NIB_VOCAB_UNIGRAM);
    add_specials(out);
    out->vocab.fuse_unknown = true;
    for (size_t i = 0; i < N_CHARACTERS; i++)
        test_vocab_add(out, CHARACTERS[i], -8, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "he", -5, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "llo", -6, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "hell", -4, NIB_TOKEN_NORMAL);
    test_vocab_add(out, "▁a", -3, NIB_TOKEN_NORMAL);
}

struct nib_tokenizer *test_vocab_make(const struct test_vocab *vocab, struct nib_error *err)
{
    struct nib_vocab copy = vocab->vocab;
    copy.tokens = vocab->tokens;
    copy.merges = vocab->merges;
    struct nib_tokenizer *tokenizer = NULL;
    nib_tokenizer_create(&copy, &tokenizer, err);
    return tokenizer;
}
