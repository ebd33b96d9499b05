/// Folders' vocabularies written as GGUF metadata and read again encode as they did, or are
/// refused.
#include "runtime/base/os.h"
#include "runtime/formats/gguf.h"
#include "runtime/formats/json.h"
#include "runtime/import/tokenizer_gguf.h"
#include "runtime/import/tokenizer_hf.h"
#include "tests/support/folder.h"
#include "tests/unit/tokenizer/ids.h"
#include "tests/unit/tokenizer/vocabs.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(gguf_written, .init = make_folder, .fini = remove_folder);

static struct nib_error error;
static char log_text[2048];

static void take_line(void *user, enum nib_log_level level, const char *text)
{
    (void)user;
    cr_expect_eq(level, NIB_LOG_WARNING);
    strncat(log_text, text, sizeof log_text - strlen(log_text) - 1);
}

/// Writes the vocabulary to a file; `arch` is GGUF's name of the model's.
static enum nib_status write_vocab(const struct nib_vocab *vocab, const char *arch)
{
    const struct nib_log log = {.write = take_line, .level = NIB_LOG_DEBUG};
    struct nib_gguf_writer *writer;
    log_text[0] = '\0';
    cr_assert_eq(nib_gguf_writer_open(path_in_folder("out.gguf"), &writer, &error), NIB_OK);
    enum nib_status status = nib_vocab_to_gguf(vocab, vocab->n_tokens + 2, writer, &error);
    if (status == NIB_OK) {
        nib_vocab_report_gguf(vocab, arch, &log);
        cr_assert_eq(nib_gguf_writer_add_text(writer, "general.architecture",
                                              (struct nib_text){arch, strlen(arch)}, &error),
                     NIB_OK);
        cr_assert_eq(nib_gguf_writer_commit(&writer, NULL, &error), NIB_OK, "%s", error.message);
    }
    nib_gguf_writer_destroy(&writer);
    return status;
}

static struct nib_tokenizer *read_written(void)
{
    struct nib_gguf *gguf;
    struct nib_tokenizer *tokenizer;
    cr_assert_eq(nib_gguf_open(path_in_folder("out.gguf"), &gguf, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_tokenizer_from_gguf(gguf, &tokenizer, &error), NIB_OK, "%s", error.message);
    nib_gguf_destroy(&gguf);
    return tokenizer;
}

static enum nib_status write_llama(void *user, const struct nib_vocab *vocab, struct nib_error *err)
{
    (void)user;
    (void)err;
    return write_vocab(vocab, "llama");
}

/// Writes one of the test vocabularies as GGUF metadata; its texts and ids are in `*out_vectors`.
static enum nib_status write_file(const char *name, json_t **out_vectors)
{
    json_t *root;
    cr_assert_eq(nib_json_open(NIB_TEST_DATA "/tokenizer/hf", name, true, &root, &error), NIB_OK,
                 "%s", error.message);
    char *text = json_dumps(json_object_get(root, "tokenizer"), 0);
    put_file(path_in_folder("tokenizer.json"), text, strlen(text));
    free(text);
    *out_vectors = json_incref(json_object_get(root, "vectors"));
    json_decref(root);
    return nib_vocab_from_folder(path_in_folder("."), write_llama, NULL, &error);
}

static bool same_ids(const struct nib_tokenizer *tokenizer, struct nib_text text,
                     const json_t *expected)
{
    int32_t *ids;
    size_t count;
    cr_assert_eq(nib_tokenizer_encode(tokenizer, text, nib_encode_params(.parse_special = true),
                                      &ids, &count, &error),
                 NIB_OK, "%s", error.message);
    const bool same = ids_are(ids, count, expected);
    nib_ids_free(ids);
    return same;
}

/// Returns whether a space, or what stands for one, begins a piece of text between added tokens.
static bool begins_with_space(struct nib_text text)
{
    static const char *const starts[] = {" ", "\xe2\x96\x81", "<s>", "<tool>"};
    bool begins = false;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        begins |= strncmp(text.ptr, starts[i], strlen(starts[i])) == 0;
    return begins;
}

static void check_file(const char *name, const char *warning)
{
    json_t *vectors, *item;
    size_t index;
    cr_assert_eq(write_file(name, &vectors), NIB_OK, "%s: %s", name, error.message);
    struct nib_tokenizer *tokenizer = read_written();
    json_array_foreach(vectors, index, item)
    {
        struct nib_text text;
        cr_assert(nib_json_get_text(item, "text", &text));
        if (!warning[0] || !begins_with_space(text))
            cr_expect(same_ids(tokenizer, text, json_object_get(item, "ids")), "%s %zu: '%s'", name,
                      index, text.ptr);
    }
    cr_expect_gt(index, 30);
    cr_expect(warning[0] ? strstr(log_text, warning) != NULL : log_text[0] == '\0', "%s: '%s'",
              name, log_text);
    json_decref(vectors);
    nib_tokenizer_destroy(&tokenizer);
}

Test(gguf_written, as_the_folder)
{
    check_file("llama3.json", "");
    check_file("qwen2.json", "");
    check_file("smollm.json", "");
    check_file("llama2.json", "");
    check_file("gemma.json", "");
    check_file("metaspace.json", "after added tokens, too");
    check_file("unigram.json", "begins with a space");
    check_file("unigram-bytes.json", "begins with a space");
}

static void expect_refused(const struct nib_vocab *vocab, const char *part)
{
    cr_expect_eq(write_vocab(vocab, "llama"), NIB_ERROR_UNSUPPORTED, "%s", part);
    cr_expect(strstr(error.message, part) && strstr(error.message, "write a folder"),
              "'%s' lacks '%s'", error.message, part);
    cr_expect_neq(nib_path_kind(path_in_folder("out.gguf")), NIB_PATH_FILE);
}

Test(gguf_written, refused_files)
{
    static const struct {
        const char *name;
        const char *part;
    } cases[] = {{"behaviours.json", "normalizer Lowercase"},
                 {"words.json", "normalizer Lowercase"},
                 {"prefix.json", "add_prefix_space"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *vectors;
        cr_expect_eq(write_file(cases[i].name, &vectors), NIB_ERROR_UNSUPPORTED);
        cr_expect(strstr(error.message, cases[i].part), "%s: %s", cases[i].name, error.message);
        json_decref(vectors);
    }
}

Test(gguf_written, refused_steps)
{
    static struct test_vocab vocab;
    const struct nib_vocab_split at_mark = {{"\xe2\x96\x81", 3}, NIB_SPLIT_MERGE_NEXT, false};
    const struct nib_vocab_split at_words = {{"\\s", 2}, NIB_SPLIT_REMOVE, false};
    test_vocab_ranked(&vocab);
    cr_expect_eq(write_vocab(&vocab.vocab, "llama"), NIB_OK, "%s", error.message);
    remove(path_in_folder("out.gguf"));

    vocab.vocab.normal_form = NIB_NORMAL_NFKC;
    expect_refused(&vocab.vocab, "normalizer NFKC");
    vocab.vocab.normal_form = NIB_NORMAL_NONE;
    vocab.vocab.escape_spaces = false;
    expect_refused(&vocab.vocab, "leaves spaces");
    vocab.vocab.escape_spaces = true;
    vocab.vocab.ignore_merges = true;
    expect_refused(&vocab.vocab, "ignore_merges");
    vocab.vocab.ignore_merges = false;
    vocab.vocab.byte_fallback = false;
    expect_refused(&vocab.vocab, "byte_fallback");
    vocab.vocab.byte_fallback = true;
    vocab.vocab.n_splits = 1;
    vocab.vocab.splits = &at_words;
    expect_refused(&vocab.vocab, "pre_tokenizer");

    // A split before each word matters where a token spans two.
    vocab.vocab.splits = &at_mark;
    cr_expect_eq(write_vocab(&vocab.vocab, "llama"), NIB_OK, "%s", error.message);
    remove(path_in_folder("out.gguf"));
    test_vocab_merge(&vocab, "a", "\xe2\x96\x81");
    expect_refused(&vocab.vocab, "pre_tokenizer");

    test_vocab_bytes(&vocab);
    expect_refused(&vocab.vocab, "way of splitting");
}

/// The first two keys go to tokens whose text does not say that they end generation.
Test(gguf_written, ends)
{
    static struct test_vocab vocab;
    int32_t ends[5];
    test_vocab_spm(&vocab);
    vocab.vocab.ends = ends;
    ends[0] = test_vocab_add(&vocab, "<|im_end|>", 0, NIB_TOKEN_CONTROL);
    ends[1] = vocab.vocab.eos;
    ends[2] = test_vocab_add(&vocab, "<one>", 0, NIB_TOKEN_CONTROL);
    ends[3] = test_vocab_add(&vocab, "<two>", 0, NIB_TOKEN_CONTROL);
    ends[4] = test_vocab_add(&vocab, "<three>", 0, NIB_TOKEN_CONTROL);
    vocab.vocab.n_ends = 4;
    cr_assert_eq(write_vocab(&vocab.vocab, "llama"), NIB_OK, "%s", error.message);
    struct nib_tokenizer *tokenizer = read_written();
    for (int i = 0; i < 4; i++)
        cr_expect(nib_tokenizer_is_end(tokenizer, ends[i]), "%d", i);
    nib_tokenizer_destroy(&tokenizer);
    remove(path_in_folder("out.gguf"));
    vocab.vocab.n_ends = 5;
    expect_refused(&vocab.vocab, "and the model has 3");
}

Test(gguf_written, lost_flags)
{
    static struct test_vocab vocab;
    test_vocab_spm(&vocab);
    vocab.tokens[test_vocab_add(&vocab, "<end>", 0, NIB_TOKEN_CONTROL)].flags =
        NIB_TOKEN_STRIP_RIGHT;
    cr_assert_eq(write_vocab(&vocab.vocab, "llama"), NIB_OK, "%s", error.message);
    cr_expect(strstr(log_text, "of 1 added tokens such as '<end>'"), "%s", log_text);
    cr_assert_eq(write_vocab(&vocab.vocab, "phi3"), NIB_OK, "%s", error.message);
    cr_expect_str_eq(log_text, "");
    vocab.tokens[test_vocab_add(&vocab, "<word>", 0, NIB_TOKEN_USER_DEFINED)].flags =
        NIB_TOKEN_SINGLE_WORD;
    cr_assert_eq(write_vocab(&vocab.vocab, "phi3"), NIB_OK, "%s", error.message);
    cr_expect(strstr(log_text, "'<word>'"), "%s", log_text);
}
