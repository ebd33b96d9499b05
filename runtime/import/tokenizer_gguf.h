/// The tokenizer that a GGUF file describes in its `tokenizer.*` metadata.
#ifndef RUNTIME_IMPORT_TOKENIZER_GGUF_H
#define RUNTIME_IMPORT_TOKENIZER_GGUF_H

#include "runtime/base/arena.h"
#include "runtime/formats/gguf.h"
#include "runtime/tokenizer/tokenizer.h"

/// Builds the tokenizer of `gguf`, which is not borrowed afterwards; OK with `*out_tokenizer` NULL
/// where the file has none. Safe for untrusted input.
/// Keys as in docs/gguf.md of the ggml project: tokenizer.ggml.{model, pre, tokens, scores,
/// token_type, merges, bos_token_id, ...} and tokenizer.chat_template.
/// Errors: format (the key is named), unsupported (model or pre-tokenizer: it is named), memory.
enum nib_status nib_tokenizer_from_gguf(const struct nib_gguf *gguf,
                                        struct nib_tokenizer **out_tokenizer,
                                        struct nib_error *err);
/// Reads what nib_tokenizer_from_gguf builds the tokenizer of, with its errors; `n_tokens` is 0
/// where the file has none. Arrays are in `arena`, texts in the file.
enum nib_status nib_vocab_from_gguf(const struct nib_gguf *gguf, struct nib_arena *arena,
                                    struct nib_vocab *out_vocab, struct nib_error *err);

#endif
