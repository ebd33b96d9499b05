// A small vocabulary of any model, with settings, a pattern and a chat template from the input, on
// text from the input. What is encoded byte by byte must come back, and no speaker's text may
// become a control token.
//
// Input: model, settings, split kind and whether it is a conversation, length of the pattern,
// pattern, text.
#include "runtime/base/utf8.h"
#include "tests/unit/tokenizer/vocabs.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADER = 4 };

static void check(bool holds)
{
    if (!holds)
        abort();
}

static bool is_control(const struct test_vocab *vocab, int32_t id)
{
    return vocab->tokens[id].type == NIB_TOKEN_CONTROL;
}

/// Decodes; with `expected`, what comes out must be it.
static void decode(const struct nib_tokenizer *tokenizer, const int32_t *ids, size_t count,
                   const struct nib_text *expected)
{
    struct nib_error error;
    struct nib_detokenizer *detokenizer;
    if (nib_detokenizer_create(tokenizer, NULL, &detokenizer, &error) != NIB_OK)
        return;
    size_t place = 0;
    for (size_t i = 0; i <= count; i++) {
        struct nib_text piece;
        if (i < count)
            check(nib_detokenizer_push(detokenizer, ids[i], &piece, &error) == NIB_OK);
        else
            check(nib_detokenizer_finish(detokenizer, &piece, &error) == NIB_OK);
        check(piece.size == 0 || nib_utf8_valid(piece.ptr, piece.size));
        if (expected)
            check(piece.size <= expected->size - place &&
                  (piece.size == 0 || memcmp(expected->ptr + place, piece.ptr, piece.size) == 0));
        place += piece.size;
    }
    check(!expected || place == expected->size);
    nib_detokenizer_destroy(&detokenizer);
}

static void encode(const struct test_vocab *vocab, const struct nib_tokenizer *tokenizer,
                   struct nib_text text, bool comes_back)
{
    struct nib_error error;
    for (int special = 0; special < 2; special++) {
        int32_t *ids;
        size_t count;
        if (nib_tokenizer_encode(tokenizer, text, nib_encode_params(.parse_special = special), &ids,
                                 &count, &error) != NIB_OK)
            continue;
        for (size_t i = 0; i < count; i++) {
            check(ids[i] >= 0 && (uint32_t)ids[i] < vocab->vocab.n_tokens);
            check(special || !is_control(vocab, ids[i]));
        }
        decode(tokenizer, ids, count, comes_back && !special ? &text : NULL);
        nib_ids_free(ids);
    }
}

/// Returns how many control tokens a conversation with `text` has, or -1.
static int count_controls(const struct test_vocab *vocab, const struct nib_tokenizer *tokenizer,
                          struct nib_text text, const char *family)
{
    struct nib_error error;
    const struct nib_chat_message messages[] = {{NIB_CHAT_SYSTEM, text},
                                                {NIB_CHAT_USER, text},
                                                {NIB_CHAT_ASSISTANT, text},
                                                {NIB_CHAT_USER, text}};
    int32_t *ids;
    size_t count;
    if (nib_tokenizer_encode_chat(tokenizer, messages, 4, nib_chat_params(.template_name = family),
                                  &ids, &count, &error) != NIB_OK)
        return -1;
    int controls = 0;
    for (size_t i = 0; i < count; i++)
        controls += is_control(vocab, ids[i]);
    nib_ids_free(ids);
    return controls;
}

static void make_vocab(struct test_vocab *vocab, const uint8_t *header)
{
    static void (*const MAKE[])(struct test_vocab *) = {test_vocab_bytes, test_vocab_spm,
                                                        test_vocab_ranked, test_vocab_unigram};
    static struct test_vocab made[4];
    struct test_vocab *model = &made[header[0] % 4];
    if (model->vocab.n_tokens == 0) {
        MAKE[header[0] % 4](model);
        test_vocab_add(model, "<|im_start|>", 0, NIB_TOKEN_CONTROL);
        test_vocab_add(model, "<|im_end|>", 0, NIB_TOKEN_CONTROL);
        test_vocab_add(model, "ab", -1, NIB_TOKEN_USER_DEFINED);
    }
    *vocab = *model;
    uint32_t user = vocab->vocab.n_tokens - 1;
    uint8_t settings = header[1];
    vocab->tokens[user].flags = settings & 15;
    vocab->vocab.normal_form = (enum nib_normal_form)(settings % 16 / 3 % 5);
    vocab->vocab.lowercase = settings & 16;
    vocab->vocab.remove_extra_spaces = settings & 32;
    vocab->vocab.ignore_merges = settings & 64;
    vocab->vocab.space_prefix_first_only = settings & 128;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct test_vocab vocab;
    if (size < HEADER)
        return 0;
    size_t pattern_size = data[3] < size - HEADER ? data[3] : size - HEADER;
    struct nib_text text = {(const char *)data + HEADER + pattern_size,
                            size - HEADER - pattern_size};
    struct nib_vocab_split split = {
        .pattern = {(const char *)data + HEADER, pattern_size},
        .kind = (enum nib_split_kind)(data[2] % 5),
        .invert = data[2] & 128,
    };
    make_vocab(&vocab, data);
    vocab.vocab.splits = &split;
    vocab.vocab.n_splits = pattern_size > 0;
    vocab.vocab.chat_template = text;
    struct nib_error error;
    struct nib_tokenizer *tokenizer = test_vocab_make(&vocab, &error);
    if (!tokenizer)
        return 0;
    if (data[2] & 64) {
        int expected = count_controls(&vocab, tokenizer, (struct nib_text){"x", 1}, "chatml");
        int controls = count_controls(&vocab, tokenizer, text, "chatml");
        check(controls < 0 || expected < 0 || controls == expected);
        count_controls(&vocab, tokenizer, text, NULL);
    } else {
        bool comes_back = vocab.vocab.model == NIB_VOCAB_BPE &&
                          vocab.vocab.normal_form == NIB_NORMAL_NONE &&
                          !(data[1] & (NIB_TOKEN_STRIP_LEFT | NIB_TOKEN_STRIP_RIGHT | 16 | 32)) &&
                          (pattern_size == 0 || split.kind != NIB_SPLIT_REMOVE) &&
                          (text.size == 0 || nib_utf8_valid(text.ptr, text.size));
        encode(&vocab, tokenizer, text, comes_back);
    }
    nib_tokenizer_destroy(&tokenizer);
    return 0;
}
