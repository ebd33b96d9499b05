/// Vocabularies written as tokenizer.json and read again encode as they did.
#include "runtime/base/os.h"
#include "runtime/formats/json.h"
#include "runtime/import/tokenizer_gguf.h"
#include "runtime/import/tokenizer_hf.h"
#include "runtime/import/tokenizer_write.h"
#include "tests/unit/tokenizer/vocabs.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

static struct nib_tokenizer *write_and_read(const struct nib_vocab *vocab)
{
    struct nib_tokenizer_files files = {0};
    struct nib_tokenizer *tokenizer;
    cr_assert_eq(
        nib_tokenizer_to_files(vocab, 512, &files.tokenizer, &files.tokenizer_config, &error),
        NIB_OK, "%s", error.message);
    // As a file would be: through text.
    char *text = json_dumps(files.tokenizer, 0);
    cr_assert_not_null(text);
    json_decref(files.tokenizer);
    cr_assert_eq(nib_json_parse(text, strlen(text), "written", &files.tokenizer, &error), NIB_OK);
    free(text);
    cr_assert_eq(nib_tokenizer_from_files(&files, &tokenizer, &error), NIB_OK, "%s", error.message);
    json_decref(files.tokenizer);
    json_decref(files.tokenizer_config);
    return tokenizer;
}

static void expect_same(const struct nib_tokenizer *a, const struct nib_tokenizer *b,
                        struct nib_text text)
{
    const struct nib_tokenizer *const both[2] = {a, b};
    int32_t *ids[2];
    size_t counts[2];
    for (int k = 0; k < 2; k++)
        cr_assert_eq(nib_tokenizer_encode(both[k], text,
                                          nib_encode_params(.add_bos = true, .parse_special = true),
                                          &ids[k], &counts[k], &error),
                     NIB_OK, "%s", error.message);
    cr_expect(counts[0] == counts[1] && memcmp(ids[0], ids[1], counts[0] * sizeof ids[0][0]) == 0,
              "'%s'", text.ptr);
    nib_ids_free(ids[0]);
    nib_ids_free(ids[1]);
}

static void expect_same_facts(const struct nib_tokenizer *a, const struct nib_tokenizer *b)
{
    struct nib_tokenizer_info x, y;
    nib_tokenizer_get_info(a, &x);
    nib_tokenizer_get_info(b, &y);
    cr_expect_eq(x.vocabulary, y.vocabulary);
    cr_expect_eq(x.bos, y.bos);
    cr_expect_eq(x.eos, y.eos);
    cr_expect_eq(x.add_bos, y.add_bos);
    cr_expect(x.chat_template == y.chat_template, "one family has one name");
}

/// The real vocabularies, on texts of many scripts.
static void check_model(const char *model, const char *vectors)
{
    if (nib_path_kind(model) != NIB_PATH_FILE)
        cr_skip_test("the model has not been fetched (tools/fetch-model)");
    struct nib_gguf *gguf;
    struct nib_arena arena = {0};
    struct nib_vocab vocab;
    struct nib_tokenizer *original;
    json_t *cases, *item;
    size_t index;
    cr_assert_eq(nib_gguf_open(model, &gguf, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_vocab_from_gguf(gguf, &arena, &vocab, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_tokenizer_create(&vocab, &original, &error), NIB_OK);
    struct nib_tokenizer *written = write_and_read(&vocab);
    expect_same_facts(original, written);
    cr_assert_eq(nib_json_open(NIB_TEST_DATA "/tokenizer", vectors, true, &cases, &error), NIB_OK);
    json_array_foreach(cases, index, item)
    {
        struct nib_text text;
        cr_assert(nib_json_get_text(item, "text", &text));
        expect_same(original, written, text);
    }
    cr_expect_gt(index, 50);
    json_decref(cases);
    nib_tokenizer_destroy(&original);
    nib_tokenizer_destroy(&written);
    nib_arena_free(&arena);
    nib_gguf_destroy(&gguf);
}

Test(written, smollm2)
{
    check_model(NIB_MODELS "/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.json");
}

Test(written, gemma3)
{
    check_model(NIB_MODELS "/gemma-3-270m-q4_k_m.gguf", "gemma3.json");
}

static void check_vocab(const struct test_vocab *vocab)
{
    static const char *const texts[] = {"",         "hello",       " t hello",   "hell lo",
                                        "<s>hello", "a </s> tool", "\n\xc3\xa9", "hellohello t"};
    struct nib_tokenizer *original = test_vocab_make(vocab, &error);
    cr_assert_not_null(original, "%s", error.message);
    struct nib_tokenizer *written = write_and_read(&vocab->vocab);
    expect_same_facts(original, written);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        expect_same(original, written, (struct nib_text){texts[i], strlen(texts[i])});
    nib_tokenizer_destroy(&original);
    nib_tokenizer_destroy(&written);
}

/// Byte-level, with a pre-tokenizer that normalizes; BOS first and not; an added token that takes
/// the space before it.
Test(written, bytes)
{
    static const char *const families[] = {"gpt-2", "qwen2", "llama-bpe", "deepseek-v3", "falcon"};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        static struct test_vocab vocab;
        test_vocab_bytes(&vocab);
        vocab.vocab.pre = families[i];
        vocab.vocab.add_bos = i % 2 == 0;
        vocab.vocab.ignore_merges = i == 2;
        const int32_t id = test_vocab_add(&vocab, "tool", 0, NIB_TOKEN_USER_DEFINED);
        vocab.tokens[id].added = true;
        vocab.tokens[id].flags = NIB_TOKEN_STRIP_LEFT;
        check_vocab(&vocab);
    }
}

Test(written, sentencepiece)
{
    static struct test_vocab vocab;
    test_vocab_spm(&vocab);
    check_vocab(&vocab);
    test_vocab_spm(&vocab);
    vocab.vocab.space_prefix = NIB_SPACE_PREFIX_NONE;
    vocab.vocab.drops_first_space = false;
    check_vocab(&vocab);
}

Test(written, refused)
{
    static struct test_vocab vocab;
    json_t *tokenizer, *config;
    test_vocab_unigram(&vocab);
    cr_expect_eq(nib_tokenizer_to_files(&vocab.vocab, 1, &tokenizer, &config, &error),
                 NIB_ERROR_UNSUPPORTED);
    test_vocab_spm(&vocab);
    vocab.tokens[5].text = (struct nib_text){"\xff", 1};
    cr_expect_eq(nib_tokenizer_to_files(&vocab.vocab, 1, &tokenizer, &config, &error),
                 NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, "token 5"), "%s", error.message);
    cr_expect(!tokenizer && !config);
}
