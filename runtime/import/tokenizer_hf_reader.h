/// What the parts of the tokenizer.json reader share.
#ifndef RUNTIME_IMPORT_TOKENIZER_HF_READER_H
#define RUNTIME_IMPORT_TOKENIZER_HF_READER_H

#include "runtime/base/arena.h"
#include "runtime/base/string_map.h"
#include "runtime/formats/json.h"
#include "runtime/import/tokenizer_hf.h"

/// Pre-tokenizer steps of one file; the longest in use has 6.
enum { NIB_HF_MAX_SPLITS = 16 };

/// What the files are read into; `arena` holds the arrays, the texts stay in the JSON.
struct nib_hf_reader {
    const struct nib_tokenizer_files *files;
    struct nib_arena arena;
    struct nib_string_map by_text; ///< ids of all tokens
    struct nib_vocab_token *tokens;
    struct nib_vocab vocab;
    struct nib_vocab_split splits[NIB_HF_MAX_SPLITS];
    bool is_byte_level; ///< the pre-tokenizer writes bytes as characters
    int text_stage;     ///< of the normalizers, how far the fixed order has come
};

/// Reads "normalizer", "pre_tokenizer" and "decoder". Errors: format, unsupported (the type is
/// named), memory.
enum nib_status nib_hf_read_text_steps(struct nib_hf_reader *reader, struct nib_error *err);
/// Reads "model" and "added_tokens"; comes after the text steps. Errors: as above.
enum nib_status nib_hf_read_model(struct nib_hf_reader *reader, struct nib_error *err);
/// Returns the id of a token's text, or -1.
int32_t nib_hf_find(const struct nib_hf_reader *reader, struct nib_text text);
/// Returns whether member `key` is absent or null.
bool nib_hf_is_null(const json_t *object, const char *key);
/// Returns the text of member `key`, empty where it is no string.
struct nib_text nib_hf_text(const json_t *object, const char *key);
/// Returns whether the text is `string`.
bool nib_hf_text_is(struct nib_text text, const char *string);

#endif
