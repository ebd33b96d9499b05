#include "tests/unit/tokenizer/vocabs.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct test_vocab vocab;
static struct nib_error error;

static void expect_refused(enum nib_status status, const char *part)
{
    cr_expect_null(test_vocab_make(&vocab, &error));
    cr_expect_eq(error.status, status);
    cr_expect(strstr(error.message, part), "'%s' lacks '%s'", error.message, part);
}

Test(create, ids_out_of_range)
{
    test_vocab_bytes(&vocab);
    vocab.vocab.bos = 1000;
    expect_refused(NIB_ERROR_FORMAT, "BOS token id 1000");
    test_vocab_bytes(&vocab);
    vocab.vocab.eos = -2;
    expect_refused(NIB_ERROR_FORMAT, "EOS");
    test_vocab_bytes(&vocab);
    vocab.vocab.unknown = INT32_MAX;
    expect_refused(NIB_ERROR_FORMAT, "unknown");
    test_vocab_bytes(&vocab);
    static const int32_t ENDS[] = {5, -1};
    vocab.vocab.ends = ENDS;
    vocab.vocab.n_ends = 2;
    expect_refused(NIB_ERROR_FORMAT, "end");
    test_vocab_bytes(&vocab);
    vocab.merges[3].right = -1;
    expect_refused(NIB_ERROR_FORMAT, "merge 3");
    test_vocab_bytes(&vocab);
    vocab.merges[0].result = (int32_t)vocab.vocab.n_tokens;
    expect_refused(NIB_ERROR_FORMAT, "merge 0");
    test_vocab_bytes(&vocab);
    vocab.vocab.n_tokens = 0;
    expect_refused(NIB_ERROR_FORMAT, "0 tokens");
}

Test(create, token_too_long)
{
    test_vocab_bytes(&vocab);
    char *text = calloc(5000, 1);
    vocab.tokens[7].text = (struct nib_text){text, 5000};
    expect_refused(NIB_ERROR_FORMAT, "token 7 has 5000 bytes");
    free(text);
}

Test(create, pre_tokenizers)
{
    test_vocab_bytes(&vocab);
    vocab.vocab.pre = "nonesuch";
    expect_refused(NIB_ERROR_UNSUPPORTED, "'nonesuch'");
    static const struct nib_vocab_split SPLITS[] = {{{"[a", 2}, NIB_SPLIT_ISOLATE, false}};
    vocab.vocab.pre = NULL;
    vocab.vocab.splits = SPLITS;
    vocab.vocab.n_splits = 1;
    expect_refused(NIB_ERROR_FORMAT, "'[a'");
}

Test(create, info)
{
    test_vocab_bytes(&vocab);
    vocab.vocab.pre = "smollm";
    struct nib_tokenizer *tokenizer = test_vocab_make(&vocab, &error);
    cr_assert_not_null(tokenizer);
    struct nib_tokenizer_info info;
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect_str_eq(info.model, "bpe");
    cr_expect_str_eq(info.pre, "smollm");
    cr_expect_eq(info.vocabulary, vocab.vocab.n_tokens);
    cr_expect_eq(info.bos, vocab.vocab.bos);
    cr_expect_eq(info.eos, vocab.vocab.eos);
    cr_expect_eq(info.unknown, -1);
    cr_expect(info.add_bos);
    cr_expect_null(info.chat_template);
    nib_tokenizer_destroy(&tokenizer);
    cr_expect_null(tokenizer);
    nib_tokenizer_destroy(&tokenizer);
}

Test(create, ends)
{
    test_vocab_bytes(&vocab);
    int32_t by_text = test_vocab_add(&vocab, "<|im_end|>", 0, NIB_TOKEN_USER_DEFINED);
    static const int32_t ENDS[] = {'z'};
    vocab.vocab.ends = ENDS;
    vocab.vocab.n_ends = 1;
    struct nib_tokenizer *tokenizer = test_vocab_make(&vocab, &error);
    cr_assert_not_null(tokenizer);
    cr_expect(nib_tokenizer_is_end(tokenizer, vocab.vocab.eos));
    cr_expect(nib_tokenizer_is_end(tokenizer, by_text));
    cr_expect(nib_tokenizer_is_end(tokenizer, 'z'));
    cr_expect_not(nib_tokenizer_is_end(tokenizer, vocab.vocab.bos));
    cr_expect_not(nib_tokenizer_is_end(tokenizer, -1));
    nib_tokenizer_destroy(&tokenizer);
}
