/// Every allocation of making and using a tokenizer fails once: the call says so, and nothing leaks
/// (which the leak sanitizer sees).
#include "tests/support/alloc_fail.h"
#include "tests/unit/tokenizer/vocabs.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct test_vocab vocab;
static struct nib_error error;

static enum nib_status use(const struct nib_tokenizer *tokenizer)
{
    static const char TEXT[] = "<s>hello ÉÜ\xff  abc\n";
    int32_t *ids = NULL;
    size_t count = 0;
    struct nib_detokenizer *detokenizer = NULL;
    struct nib_text piece;
    enum nib_status status =
        nib_tokenizer_encode(tokenizer, (struct nib_text){TEXT, sizeof TEXT - 1},
                             nib_encode_params(.parse_special = true), &ids, &count, &error);
    if (status == NIB_OK)
        status = nib_detokenizer_create(tokenizer, NULL, &detokenizer, &error);
    for (size_t i = 0; i < count && status == NIB_OK; i++)
        status = nib_detokenizer_push(detokenizer, ids[i], &piece, &error);
    if (status == NIB_OK)
        status = nib_detokenizer_finish(detokenizer, &piece, &error);
    nib_detokenizer_destroy(&detokenizer);
    nib_ids_free(ids);
    if (status != NIB_OK)
        return status;

    const struct nib_chat_message messages[] = {{NIB_CHAT_SYSTEM, {"be", 2}},
                                                {NIB_CHAT_USER, {"hello", 5}}};
    status = nib_tokenizer_encode_chat(tokenizer, messages, 2, NULL, &ids, &count, &error);
    nib_ids_free(ids);
    return status;
}

static enum nib_status make_and_use(void)
{
    struct nib_vocab copy = vocab.vocab;
    struct nib_tokenizer *tokenizer;
    enum nib_status status = nib_tokenizer_create(&copy, &tokenizer, &error);
    cr_assert_eq(status == NIB_OK, tokenizer != NULL);
    if (status == NIB_OK)
        status = use(tokenizer);
    nib_tokenizer_destroy(&tokenizer);
    return status;
}

static void fail_each(void)
{
    static const char JINJA[] = "{{ bos_token }}<|im_start|>system\\nDefault<|im_end|>";
    vocab.vocab.chat_template = (struct nib_text){JINJA, sizeof JINJA - 1};
    for (uint32_t n = 0;; n++) {
        cr_assert_lt(n, 10000);
        error = (struct nib_error){0};
        alloc_fail_after(n);
        enum nib_status status = make_and_use();
        if (!alloc_fail_off()) {
            cr_assert_eq(status, NIB_OK, "%s", error.message);
            cr_expect_geq(n, 10, "only %u allocations", n);
            return;
        }
        cr_assert_eq(status, NIB_ERROR_MEMORY, "allocation %u: %d %s", n, status, error.message);
        cr_assert_eq(error.status, status);
    }
}

Test(alloc, bytes)
{
    test_vocab_bytes(&vocab);
    vocab.vocab.pre = "smollm";
    vocab.vocab.normal_form = NIB_NORMAL_NFC;
    vocab.vocab.lowercase = true;
    fail_each();
}

Test(alloc, spm)
{
    test_vocab_spm(&vocab);
    fail_each();
}

Test(alloc, ranked)
{
    test_vocab_ranked(&vocab);
    fail_each();
}

Test(alloc, unigram)
{
    test_vocab_unigram(&vocab);
    vocab.tokens[test_vocab_add(&vocab, "ABC", 0, NIB_TOKEN_USER_DEFINED)].flags =
        NIB_TOKEN_NORMALIZED;
    vocab.vocab.lowercase = true;
    fail_each();
}
