/// Small vocabularies for tests, one of each model, and the encoding of strings.
#ifndef TESTS_UNIT_TOKENIZER_VOCABS_H
#define TESTS_UNIT_TOKENIZER_VOCABS_H

#include "runtime/tokenizer/tokenizer.h"

enum { MAX_TEST_TOKENS = 400, MAX_TEST_MERGES = 32 };

/// A vocabulary with its storage; may be changed before a tokenizer is made of it.
struct test_vocab {
    struct nib_vocab vocab;
    struct nib_vocab_token tokens[MAX_TEST_TOKENS];
    struct nib_vocab_merge merges[MAX_TEST_MERGES];
    char texts[MAX_TEST_TOKENS][8]; ///< those that are made
};

/// 256 bytes in the order of their values, "he" "ll" "hell" "lo" "hello" " t" by merges, then
/// control tokens "<s>" (BOS) and "</s>" (EOS); no pre-tokenizer.
void test_vocab_bytes(struct test_vocab *out);
/// "<unk>", "<s>", "</s>", 256 BYTE tokens, then pieces with scores; a space prefix.
void test_vocab_spm(struct test_vocab *out);
/// The same pieces with merges instead of scores.
void test_vocab_ranked(struct test_vocab *out);
/// "<unk>", "<s>", "</s>" and pieces with scores, no BYTE tokens.
void test_vocab_unigram(struct test_vocab *out);

/// Adds a token and returns its id.
int32_t test_vocab_add(struct test_vocab *vocab, const char *text, float score,
                       enum nib_token_type type);
/// Adds the merge of two tokens by their texts, and its result where it is no token yet.
void test_vocab_merge(struct test_vocab *vocab, const char *left, const char *right);
/// Returns the id of a token by its text as it is in the vocabulary, or -1.
int32_t test_vocab_find(const struct test_vocab *vocab, const char *text);

/// Makes the tokenizer; returns NULL on failure, with `err` filled.
struct nib_tokenizer *test_vocab_make(const struct test_vocab *vocab, struct nib_error *err);

#endif
