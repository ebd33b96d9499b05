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

/// Adds the keys of a tokenizer to `writer`. GGUF wants a token for each of the embedding's
/// `n_rows` rows; those without get one that is unused. Errors: format (more tokens than rows),
/// unsupported (a step that GGUF has no key or name for: the message names it and the remedy),
/// memory.
enum nib_status nib_vocab_to_gguf(const struct nib_vocab *vocab, uint32_t n_rows,
                                  struct nib_gguf_writer *writer, struct nib_error *err);
/// Writes a warning for each small thing that gets lost in GGUF files of the architecture that they
/// call `arch`, as it does with other converters: where spaces are put before text, and what white
/// space added tokens swallow.
void nib_vocab_report_gguf(const struct nib_vocab *vocab, const char *arch,
                           const struct nib_log *log);

/// For both. Errors: unsupported, as of nib_vocab_to_gguf.
enum nib_status nib_vocab_check_gguf(const struct nib_vocab *vocab, struct nib_error *err);
/// Returns whether nothing but a key of its own tells that ends[index] ends generation.
bool nib_vocab_end_needs_key(const struct nib_vocab *vocab, uint32_t index);
/// Returns whether a token of Phi-3's swallows the white space behind it, which its GGUF files do
/// not tell.
bool nib_phi3_strips_right(const struct nib_vocab_token *token);

/// Keys of ids that end generation, beside eos_token_id. Tokens whose text says that they do need
/// none.
enum { NIB_GGUF_END_KEYS = 2 };
extern const char *const nib_gguf_end_keys[NIB_GGUF_END_KEYS];

#endif
