/// Making a tokenizer; using it is the public interface of <nibble/tokenizer.h>, which this layer
/// implements.
#ifndef RUNTIME_TOKENIZER_TOKENIZER_H
#define RUNTIME_TOKENIZER_TOKENIZER_H

#include "runtime/tokenizer/vocab.h"
#include <nibble/tokenizer.h>

/// Builds a tokenizer from `vocab`; everything is copied. Safe for untrusted input.
/// Errors: format (ids out of range, a pattern that does not compile: its text is named), unsupported
/// (unknown `pre`: the message names it), memory.
enum nib_status nib_tokenizer_create(const struct nib_vocab *vocab,
                                     struct nib_tokenizer **out_tokenizer, struct nib_error *err);
void nib_tokenizer_destroy(struct nib_tokenizer **tokenizer);

/// Splits of a pre-tokenizer family, or NULL where `name` is none. Families: "default"/"gpt-2",
/// "smollm", "llama-bpe" (Llama 3), "qwen2", "starcoder", "deepseek-llm", "deepseek-coder",
/// "deepseek-v3", "tekken", and the other names that GGUF files use for the same patterns.
const struct nib_vocab_split *nib_pretokenizer_find(const char *name, uint32_t *out_count);

#endif
