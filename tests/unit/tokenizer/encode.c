#include "tests/unit/tokenizer/vocabs.h"

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

/// Expects that `text` becomes the tokens whose texts follow, separated by spaces.
static void expect_tokens(const struct nib_tokenizer *tokenizer, struct nib_text text,
                          const struct nib_encode_params *params, const char *tokens)
{
    int32_t *ids;
    size_t count;
    cr_assert_eq(nib_tokenizer_encode(tokenizer, text, params, &ids, &count, &error), NIB_OK, "%s",
                 error.message);
    char got[1024] = "";
    for (size_t i = 0; i < count; i++) {
        struct nib_text token = vocab.tokens[ids[i]].text;
        strncat(got, token.ptr, token.size);
        if (i + 1 < count)
            strcat(got, " ");
    }
    cr_expect_str_eq(got, tokens, "'%.*s': '%s' instead of '%s'", (int)text.size, text.ptr, got,
                     tokens);
    nib_ids_free(ids);
}

static struct nib_text text_of(const char *string)
{
    return (struct nib_text){string, strlen(string)};
}

#define EXPECT(tokenizer, text, tokens) expect_tokens(tokenizer, text_of(text), NULL, tokens)
#define SPECIAL nib_encode_params(.parse_special = true)

Test(encode, merges_by_rank)
{
    test_vocab_bytes(&vocab);
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "", "");
    EXPECT(tokenizer, "hello", "hello");
    EXPECT(tokenizer, "hellhello", "hell hello");
    EXPECT(tokenizer, "lllo", "ll lo");
    EXPECT(tokenizer, "llll", "ll ll");
    EXPECT(tokenizer, "lll", "ll l");
    EXPECT(tokenizer, "a tot", "a Ġt o t");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, special_tokens_only_where_asked)
{
    test_vocab_bytes(&vocab);
    test_vocab_add(&vocab, "<x>", 0, NIB_TOKEN_USER_DEFINED);
    test_vocab_add(&vocab, "<x><y>", 0, NIB_TOKEN_USER_DEFINED);
    test_vocab_add(&vocab, "<x><y><z>", 0, NIB_TOKEN_CONTROL);
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "<s>", "< s >");
    EXPECT(tokenizer, "a<x>b<x><y>c", "a <x> b <x><y> c");
    EXPECT(tokenizer, "<x><y><z>", "<x><y> < z >");
    expect_tokens(tokenizer, text_of("<s>hello</s><s"), SPECIAL, "<s> hello </s> < s");
    expect_tokens(tokenizer, text_of("<x><y><z><x><y"), SPECIAL, "<x><y><z> <x> < y");
    expect_tokens(tokenizer, text_of("hello"), nib_encode_params(.add_bos = true), "<s> hello");
    expect_tokens(tokenizer, text_of(""), nib_encode_params(.add_bos = true), "<s>");
    nib_tokenizer_destroy(&tokenizer);
    vocab.vocab.add_bos = false;
    tokenizer = make();
    expect_tokens(tokenizer, text_of("hello"), nib_encode_params(.add_bos = true), "hello");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, merges_never_make_control_tokens)
{
    test_vocab_bytes(&vocab);
    test_vocab_merge(&vocab, "<", "e");
    test_vocab_merge(&vocab, "<e", ">");
    vocab.vocab.ignore_merges = true;
    vocab.tokens[test_vocab_find(&vocab, "<e>")].type = NIB_TOKEN_CONTROL;
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "<e>", "<e >");
    expect_tokens(tokenizer, text_of("<e>"), SPECIAL, "<e>");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, flags_of_added_tokens)
{
    test_vocab_bytes(&vocab);
    vocab.tokens[test_vocab_add(&vocab, "<l>", 0, NIB_TOKEN_CONTROL)].flags = NIB_TOKEN_STRIP_LEFT;
    vocab.tokens[test_vocab_add(&vocab, "<r>", 0, NIB_TOKEN_CONTROL)].flags = NIB_TOKEN_STRIP_RIGHT;
    vocab.tokens[test_vocab_add(&vocab, "up", 0, NIB_TOKEN_USER_DEFINED)].flags =
        NIB_TOKEN_SINGLE_WORD;
    struct nib_tokenizer *tokenizer = make();
    expect_tokens(tokenizer, text_of("a \n<l>\tb"), SPECIAL, "a <l> ĉ b");
    expect_tokens(tokenizer, text_of("a <r> \xe3\x80\x80 b"), SPECIAL, "a Ġ <r> b");
    expect_tokens(tokenizer, text_of("<r> <l> <r>"), SPECIAL, "<r> <l> Ġ <r>");
    EXPECT(tokenizer, "up,up", "up , up");
    EXPECT(tokenizer, "cup upé", "c u p Ġ u p Ã ©");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, nul_and_malformed_bytes)
{
    test_vocab_bytes(&vocab);
    struct nib_tokenizer *tokenizer = make();
    expect_tokens(tokenizer, (struct nib_text){"a\0b", 3}, NULL, "a Ā b");
    EXPECT(tokenizer, "a\xff", "a ï ¿ ½");
    EXPECT(tokenizer, "\xe2\x96", "ï ¿ ½");
    expect_tokens(tokenizer, (struct nib_text){NULL, 0}, SPECIAL, "");
    nib_tokenizer_destroy(&tokenizer);
}

/// A GGUF file's tokens can be any bytes; one found within a character would leave broken ones to
/// the pre-tokenizer, which reads them as whole.
Test(encode, added_tokens_that_are_not_utf8)
{
    for (int normalized = 0; normalized < 2; normalized++) {
        test_vocab_bytes(&vocab);
        vocab.vocab.pre = "llama-bpe";
        vocab.vocab.normal_form = normalized ? NIB_NORMAL_NFC : NIB_NORMAL_NONE;
        static const char *const BROKEN[] = {"\xe6\x97", "\x98\x80", "\xf0", "\xaf"};
        for (size_t i = 0; i < sizeof BROKEN / sizeof BROKEN[0]; i++) {
            int32_t id = test_vocab_add(&vocab, BROKEN[i], 0, NIB_TOKEN_USER_DEFINED);
            vocab.tokens[id].flags = normalized ? NIB_TOKEN_NORMALIZED : 0;
        }
        struct nib_tokenizer *tokenizer = make();
        EXPECT(tokenizer, "a日", "a æ Ĺ ¥");
        EXPECT(tokenizer, "😀", "ð Ł ĺ Ģ");
        EXPECT(tokenizer, "naïve", "n a Ã ¯ v e");
        nib_tokenizer_destroy(&tokenizer);
    }
}

Test(encode, missing_bytes_are_unknown_or_dropped)
{
    test_vocab_bytes(&vocab);
    vocab.tokens['q'].type = NIB_TOKEN_UNUSED;
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "aqqb", "a b");
    nib_tokenizer_destroy(&tokenizer);
    vocab.vocab.unknown = test_vocab_add(&vocab, "<unk>", 0, NIB_TOKEN_UNKNOWN);
    tokenizer = make();
    EXPECT(tokenizer, "aqqb", "a <unk> <unk> b");
    nib_tokenizer_destroy(&tokenizer);
    vocab.vocab.fuse_unknown = true;
    tokenizer = make();
    EXPECT(tokenizer, "aqqb", "a <unk> b");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, scores_and_byte_fallback)
{
    test_vocab_spm(&vocab);
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "hello", "▁hello");
    EXPECT(tokenizer, " hello", "▁ ▁hello");
    EXPECT(tokenizer, "abc", "▁ ab c");
    EXPECT(tokenizer, "é", "▁ é");
    EXPECT(tokenizer, "ü\n", "▁ <0xC3> <0xBC> <0x0A>");
    EXPECT(tokenizer, "<0x41>", "▁ <0x3C> <0x30> <0x78> <0x34> <0x31> <0x3E>");
    expect_tokens(tokenizer, text_of("<s>a</s>b"), SPECIAL, "<s> ▁ a </s> ▁ b");
    nib_tokenizer_destroy(&tokenizer);
    vocab.vocab.space_prefix_first_only = true;
    tokenizer = make();
    expect_tokens(tokenizer, text_of("<s>a</s>b"), SPECIAL, "<s> a </s> b");
    expect_tokens(tokenizer, text_of("a</s>b"), SPECIAL, "▁ a </s> b");
    nib_tokenizer_destroy(&tokenizer);
    vocab.vocab.space_prefix = NIB_SPACE_PREFIX_MISSING;
    tokenizer = make();
    EXPECT(tokenizer, " hello", "▁hello");
    EXPECT(tokenizer, "▁hello", "▁hello");
    EXPECT(tokenizer, "hello", "▁hello");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, scores_that_are_no_numbers)
{
    test_vocab_spm(&vocab);
    vocab.tokens[test_vocab_find(&vocab, "he")].score = (float)strtod("nan", NULL);
    vocab.tokens[test_vocab_find(&vocab, "ll")].score = (float)strtod("-inf", NULL);
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "hello", "▁ he l lo");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, ranked_merges_and_byte_fallback)
{
    test_vocab_ranked(&vocab);
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "hello", "▁ hello");
    EXPECT(tokenizer, "abc", "▁ a bc");
    EXPECT(tokenizer, "aüc", "▁ a <0xC3> <0xBC> c");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, best_segmentation)
{
    test_vocab_unigram(&vocab);
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "hello", "▁ he llo");
    EXPECT(tokenizer, "hell", "▁ hell");
    EXPECT(tokenizer, "a", "▁a");
    EXPECT(tokenizer, "aüzb", "▁a <unk> b");
    EXPECT(tokenizer, "ü", "▁ <unk>");
    nib_tokenizer_destroy(&tokenizer);
}

Test(encode, normalization)
{
    test_vocab_bytes(&vocab);
    vocab.vocab.normal_form = NIB_NORMAL_NFKC;
    vocab.vocab.lowercase = true;
    vocab.vocab.remove_extra_spaces = true;
    vocab.tokens[test_vocab_add(&vocab, "WORD", 0, NIB_TOKEN_USER_DEFINED)].flags =
        NIB_TOKEN_NORMALIZED;
    struct nib_tokenizer *tokenizer = make();
    EXPECT(tokenizer, "  A  Ｂ ", "a Ġ b");
    EXPECT(tokenizer, "e\xcc\x81", "Ã ©");
    EXPECT(tokenizer, "a Word b", "a Ġ WORD Ġ b");
    EXPECT(tokenizer, "   ", "");
    nib_tokenizer_destroy(&tokenizer);
}

/// Marks in an order that is far from their canonical one: sorting by exchange would not end before
/// the program's time is up.
Test(encode, long_runs_of_marks_end)
{
    enum { N_MARKS = 500000 };
    test_vocab_bytes(&vocab);
    vocab.vocab.normal_form = NIB_NORMAL_NFC;
    struct nib_tokenizer *tokenizer = make();
    char *text = malloc(1 + 2 * N_MARKS);
    text[0] = 'q';
    for (size_t i = 0; i < N_MARKS; i++)
        memcpy(text + 1 + 2 * i, i < N_MARKS / 2 ? "\xcc\x81" : "\xcc\xa7", 2);
    int32_t *ids;
    size_t count;
    cr_assert_eq(nib_tokenizer_encode(tokenizer, (struct nib_text){text, 1 + 2 * N_MARKS}, NULL,
                                      &ids, &count, &error),
                 NIB_OK);
    cr_expect_eq(count, 1 + 2 * N_MARKS);
    cr_expect(ids[1] == 0xcc && ids[2] == 0xa7 && ids[count - 1] == 0x81);
    nib_ids_free(ids);
    free(text);
    nib_tokenizer_destroy(&tokenizer);
}

/// A line of 100,000 characters, of all kinds, with every model and family of patterns: with what
/// takes the square of a length this does not end before the program's time is up.
Test(encode, long_lines_end)
{
    enum { SIZE = 100000 };
    static const char *const FAMILIES[] = {
        "gpt-2",        "smollm",         "llama-bpe",   "qwen2",  "gpt-4o", "tekken",
        "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "bloom",  "viking"};
    static const char *const LINES[] = {"a", " ",      "\n", "1",   "A",   "Ab",
                                        "é", "hello ", "!",  " \t", "lhel"};
    char *text = malloc(SIZE);
    for (size_t family = 0; family < 3 + sizeof FAMILIES / sizeof FAMILIES[0]; family++) {
        if (family == 0)
            test_vocab_spm(&vocab);
        else if (family == 1)
            test_vocab_ranked(&vocab);
        else if (family == 2)
            test_vocab_unigram(&vocab);
        else
            test_vocab_bytes(&vocab);
        vocab.vocab.pre = family < 3 ? NULL : FAMILIES[family - 3];
        struct nib_tokenizer *tokenizer = make();
        for (size_t line = 0; line < sizeof LINES / sizeof LINES[0]; line++) {
            size_t unit = strlen(LINES[line]);
            for (size_t i = 0; i < SIZE; i++)
                text[i] = LINES[line][i % unit];
            text[SIZE - 1] = 'x';
            int32_t *ids;
            size_t count;
            enum nib_status status = nib_tokenizer_encode(tokenizer, (struct nib_text){text, SIZE},
                                                          NULL, &ids, &count, &error);
            cr_expect_eq(status, NIB_OK, "%s '%s': %s", vocab.vocab.pre ? vocab.vocab.pre : "-",
                         LINES[line], error.message);
            nib_ids_free(ids);
        }
        nib_tokenizer_destroy(&tokenizer);
    }
    free(text);
}
