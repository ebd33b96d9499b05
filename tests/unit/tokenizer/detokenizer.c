#include "tests/unit/tokenizer/vocabs.h"

#include "runtime/base/utf8.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct test_vocab vocab;
static struct nib_error error;

static struct nib_tokenizer *make(void)
{
    struct nib_tokenizer *tokenizer = test_vocab_make(&vocab, &error);
    cr_assert_not_null(tokenizer, "%s", error.message);
    return tokenizer;
}

/// Appends what is given out; each piece must be whole characters.
static void collect(char *out, struct nib_text piece)
{
    cr_expect(piece.size == 0 || nib_utf8_valid(piece.ptr, piece.size));
    if (piece.size)
        strncat(out, piece.ptr, piece.size);
}

static void expect_text(const struct nib_tokenizer *tokenizer,
                        const struct nib_detokenizer_params *params, const int32_t *ids,
                        size_t count, const char *text)
{
    struct nib_detokenizer *detokenizer;
    cr_assert_eq(nib_detokenizer_create(tokenizer, params, &detokenizer, &error), NIB_OK);
    // The second round shows that a finished one is as new.
    for (int round = 0; round < 2; round++) {
        char got[256] = "";
        struct nib_text piece;
        for (size_t i = 0; i < count; i++) {
            cr_assert_eq(nib_detokenizer_push(detokenizer, ids[i], &piece, &error), NIB_OK);
            collect(got, piece);
        }
        cr_assert_eq(nib_detokenizer_finish(detokenizer, &piece, &error), NIB_OK);
        collect(got, piece);
        cr_expect_str_eq(got, text, "'%s' instead of '%s'", got, text);
    }
    nib_detokenizer_destroy(&detokenizer);
    cr_expect_null(detokenizer);
}

#define IDS(...) \
    (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

Test(detokenizer, never_splits_a_character)
{
    test_vocab_bytes(&vocab);
    struct nib_tokenizer *tokenizer = make();
    struct nib_detokenizer *detokenizer;
    cr_assert_eq(nib_detokenizer_create(tokenizer, NULL, &detokenizer, &error), NIB_OK);
    static const struct {
        int32_t id;
        const char *text;
    } STEPS[] = {{'a', "a"},
                 {0xf0, ""},
                 {0x9f, ""},
                 {0x98, ""},
                 {0x80, "😀"},
                 {0xe2, ""},
                 {0x82, ""},
                 {'b', "\xef\xbf\xbd"
                       "b"},
                 {0xc3, ""},
                 {0xc3, "\xef\xbf\xbd"},
                 {0xa9, "é"},
                 {0x80, "\xef\xbf\xbd"}};
    for (size_t i = 0; i < sizeof STEPS / sizeof STEPS[0]; i++) {
        struct nib_text piece;
        cr_assert_eq(nib_detokenizer_push(detokenizer, STEPS[i].id, &piece, &error), NIB_OK);
        cr_expect(piece.size == strlen(STEPS[i].text) &&
                      (piece.size == 0 || memcmp(piece.ptr, STEPS[i].text, piece.size) == 0),
                  "step %zu: '%.*s'", i, (int)piece.size, piece.ptr);
    }
    nib_detokenizer_destroy(&detokenizer);
    expect_text(tokenizer, NULL, IDS('x', 0xe2, 0x82), "x\xef\xbf\xbd");
    expect_text(tokenizer, NULL, IDS(0xe2, 0x82, 0xac), "€");
    nib_tokenizer_destroy(&tokenizer);
}

Test(detokenizer, control_tokens)
{
    test_vocab_bytes(&vocab);
    int32_t user = test_vocab_add(&vocab, "Ġplain", 0, NIB_TOKEN_USER_DEFINED);
    struct nib_tokenizer *tokenizer = make();
    int32_t bos = vocab.vocab.bos;
    expect_text(tokenizer, NULL, IDS(bos, 'a', user, bos), "aĠplain");
    expect_text(tokenizer, nib_detokenizer_params(.keep_special = true), IDS(bos, 'a', bos),
                "<s>a<s>");
    // Bytes on both sides of a control token that is left out make one character.
    expect_text(tokenizer, NULL, IDS(0xc3, bos, 0xa9), "é");
    nib_tokenizer_destroy(&tokenizer);
}

Test(detokenizer, space_of_the_prefix)
{
    test_vocab_spm(&vocab);
    struct nib_tokenizer *tokenizer = make();
    int32_t hello = test_vocab_find(&vocab, "▁hello");
    int32_t space = test_vocab_find(&vocab, "▁");
    int32_t bos = vocab.vocab.bos;
    expect_text(tokenizer, NULL, IDS(hello, hello), "hello hello");
    expect_text(tokenizer, NULL, IDS(bos, hello), "hello");
    expect_text(tokenizer, NULL, IDS(space, space, hello), "  hello");
    expect_text(tokenizer, nib_detokenizer_params(.continuation = true), IDS(hello, hello),
                " hello hello");
    expect_text(tokenizer, NULL, IDS(3 + 0xe2, 3 + 0x82, 3 + 0xac), "€");
    nib_tokenizer_destroy(&tokenizer);
}

Test(detokenizer, unused_tokens_and_ids_out_of_range)
{
    test_vocab_bytes(&vocab);
    int32_t unused = test_vocab_add(&vocab, "[PAD]", 0, NIB_TOKEN_UNUSED);
    int32_t odd = test_vocab_add(&vocab, "日本", 0, NIB_TOKEN_NORMAL);
    struct nib_tokenizer *tokenizer = make();
    expect_text(tokenizer, NULL, IDS('a', unused, odd), "a日本");
    struct nib_detokenizer *detokenizer;
    cr_assert_eq(nib_detokenizer_create(tokenizer, NULL, &detokenizer, &error), NIB_OK);
    struct nib_text piece;
    static const int32_t BAD[] = {-1, INT32_MIN, INT32_MAX, 1000};
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++)
        cr_expect_eq(nib_detokenizer_push(detokenizer, BAD[i], &piece, &error), NIB_ERROR_ARGUMENT);
    nib_detokenizer_destroy(&detokenizer);
    nib_tokenizer_destroy(&tokenizer);
}

/// Whatever text is encoded byte by byte comes back, special tokens' text included.
Test(detokenizer, round_trip)
{
    test_vocab_bytes(&vocab);
    static const char *const FAMILIES[] = {"gpt-2", "llama-bpe", "deepseek-v3", "tekken"};
    static const char *const TEXTS[] = {"", "hello  world\r\n\t", "<s>é\u200d日本 😀</s>",
                                        " it's 12345 o'clock \u3000", "\u180e\xc2\x85\u2028x"};
    for (size_t i = 0; i < sizeof FAMILIES / sizeof FAMILIES[0]; i++) {
        vocab.vocab.pre = FAMILIES[i];
        struct nib_tokenizer *tokenizer = make();
        for (size_t j = 0; j < sizeof TEXTS / sizeof TEXTS[0]; j++) {
            int32_t *ids;
            size_t count;
            struct nib_text text = {TEXTS[j], strlen(TEXTS[j])};
            cr_assert_eq(nib_tokenizer_encode(tokenizer, text, NULL, &ids, &count, &error), NIB_OK);
            expect_text(tokenizer, NULL, ids, count, TEXTS[j]);
            nib_ids_free(ids);
        }
        nib_tokenizer_destroy(&tokenizer);
    }
}
