/// Making a tokenizer; using it is the public interface of <nibble/tokenizer.h>, which this layer
/// implements.
#ifndef RUNTIME_TOKENIZER_TOKENIZER_H
#define RUNTIME_TOKENIZER_TOKENIZER_H

#include "runtime/tokenizer/vocab.h"
#include <nibble/tokenizer.h>

/// Builds a tokenizer from `vocab`; everything is copied. Safe for untrusted input.
/// Errors: format (ids out of range, a pattern that does not compile: its text is named),
/// unsupported (unknown `pre`: the message names it), memory.
enum nib_status nib_tokenizer_create(const struct nib_vocab *vocab,
                                     struct nib_tokenizer **out_tokenizer, struct nib_error *err);
void nib_tokenizer_destroy(struct nib_tokenizer **tokenizer);

/// Returns whether the token's text says that it ends generation, as "<|im_end|>" does.
bool nib_vocab_token_is_end(const struct nib_vocab_token *token);

/// A pre-tokenizer family: the patterns, and what the models that use it also have in common.
struct nib_pretokenizer {
    const char *name;
    struct nib_vocab_split splits[6];
    uint32_t n_splits;
    enum nib_normal_form normal_form;
    bool ignore_merges;
    bool add_bos;
};

/// Returns the family that `name` names, or NULL. Families: "gpt-2", "starcoder" (digits one by
/// one, then GPT-2), "llama-bpe" (Llama 3), "qwen2", "deepseek-llm", "deepseek-coder",
/// "deepseek-v3", "tekken" and more; also under the other names that GGUF files use for the same
/// patterns, such as "default" for GPT-2 and "smollm" for StarCoder.
const struct nib_pretokenizer *nib_pretokenizer_find(const char *name);
/// Returns the name of the family that splits text as the steps of `vocab` do, or NULL; static.
/// Characters in their patterns may be written as themselves or escaped.
const char *nib_pretokenizer_match(const struct nib_vocab *vocab);

#endif
