/// The tokenizer of a Hugging Face folder: tokenizer.json, with what tokenizer_config.json,
/// special_tokens_map.json, generation_config.json and chat_template.jinja add to it.
#ifndef RUNTIME_IMPORT_TOKENIZER_HF_H
#define RUNTIME_IMPORT_TOKENIZER_HF_H

#include "runtime/tokenizer/tokenizer.h"

#include <jansson.h>

/// The parsed files; all but `tokenizer` may be NULL. Borrowed during the call alone.
struct nib_tokenizer_files {
    json_t *tokenizer;             ///< tokenizer.json
    json_t *tokenizer_config;      ///< tokenizer_config.json
    json_t *special_tokens_map;    ///< special_tokens_map.json
    json_t *generation_config;     ///< generation_config.json
    struct nib_text chat_template; ///< chat_template.jinja; empty: tokenizer_config.json's
};

/// Builds the tokenizer that `files` describe. Safe for untrusted input.
/// Errors: format (the member is named), unsupported (a model, normalizer, pre-tokenizer or decoder
/// of another kind than these: it is named), memory.
enum nib_status nib_tokenizer_from_files(const struct nib_tokenizer_files *files,
                                         struct nib_tokenizer **out_tokenizer,
                                         struct nib_error *err);

/// Gets a vocabulary, alive during the call alone.
typedef enum nib_status nib_use_vocab_fn(void *user, const struct nib_vocab *vocab,
                                         struct nib_error *err);
/// Reads the vocabulary of `folder` and hands it to `use`, which is not called where there is no
/// tokenizer.json. Errors: those of nib_tokenizer_from_files and of `use`, io; messages name the
/// file.
enum nib_status nib_vocab_from_folder(const char *folder, nib_use_vocab_fn *use, void *user,
                                      struct nib_error *err);

/// Builds the tokenizer of `folder`; OK with `*out_tokenizer` NULL where it has no tokenizer.json.
/// Errors: those of nib_tokenizer_from_files, io; messages name the file.
enum nib_status nib_tokenizer_from_folder(const char *folder, struct nib_tokenizer **out_tokenizer,
                                          struct nib_error *err);

#endif
