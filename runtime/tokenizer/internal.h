/// What the files of this folder share: the tokenizer itself and the state of one encoding.
#ifndef RUNTIME_TOKENIZER_INTERNAL_H
#define RUNTIME_TOKENIZER_INTERNAL_H

#include "runtime/base/arena.h"
#include "runtime/base/buffer.h"
#include "runtime/base/string_map.h"
#include "runtime/tokenizer/merge.h"
#include "runtime/tokenizer/pattern.h"
#include "runtime/tokenizer/prefix_index.h"
#include "runtime/tokenizer/tokenizer.h"

/// "▁", U+2581, which stands for a space in SentencePiece vocabularies.
#define NIB_SPACE_MARK "\xe2\x96\x81"
enum { NIB_SPACE_MARK_SIZE = 3 };

struct nib_token {
    struct nib_text text; ///< in a byte-level vocabulary the bytes themselves; else as in nib_vocab
    float score;
    uint8_t type;  ///< enum nib_token_type
    uint8_t flags; ///< enum nib_token_flag
    bool added;
    uint8_t byte; ///< of BYTE tokens
};

struct nib_chat_family;

/// What the model's own chat template says beyond its family.
struct nib_chat_style {
    const struct nib_chat_family *family; ///< NULL: no template, or an unknown one
    bool has_template;                    ///< the model has one, known or not
    bool bos;                             ///< the conversation begins with BOS
    bool drops_thinking;                  ///< earlier answers lose what stands before "</think>"
    bool trims_after_thinking;            ///< and the line feeds behind it
    bool thinks;                          ///< the answer begins within "<think>"
    struct nib_text default_system;       ///< system text where the conversation has none
    struct nib_text system_preamble;      ///< text that every system turn begins with
};

struct nib_tokenizer {
    struct nib_arena arena;
    enum nib_vocab_model model;
    struct nib_token *tokens;
    uint32_t n_tokens;
    struct nib_string_map by_text; ///< tokens that plain text can become
    size_t longest_text;           ///< bytes of the longest of them
    int32_t byte_ids[256];         ///< token of a single byte, or -1
    struct nib_merge_table merges;
    struct nib_prefix_index added;            ///< added tokens looked for in the text as it is
    struct nib_prefix_index added_normalized; ///< and in normalized text
    struct nib_prefix_index pieces;           ///< of a Unigram model: what `by_text` holds
    float unknown_score;                      ///< of a Unigram model
    struct nib_pattern_step *splits;
    uint32_t n_splits;
    const char *pre;

    bool remove_extra_spaces;
    enum nib_normal_form normal_form;
    bool lowercase;
    enum nib_space_prefix space_prefix;
    bool space_prefix_first_only;
    bool escape_spaces;
    bool drops_first_space;
    bool byte_fallback;
    bool fuse_unknown;
    bool ignore_merges;
    bool add_bos;
    int32_t bos;
    int32_t eos;
    int32_t unknown;
    int32_t *ends;
    uint32_t n_ends;
    struct nib_chat_style chat;
};

/// The state of one encoding; its arrays are used again from piece to piece.
struct nib_encoder {
    const struct nib_tokenizer *tokenizer;
    int32_t *ids;
    size_t n_ids;
    size_t ids_capacity;
    bool after_unknown; ///< the last id of this piece is `unknown`
    struct nib_merge_scratch merge;
    struct nib_unigram_node *nodes; ///< unigram.c's
    size_t nodes_capacity;
    struct nib_pattern_matcher matcher;
    struct nib_range_list pieces;
    struct nib_range_list next_pieces;
    struct nib_buffer normalized;
    uint8_t *literal; ///< nib_encode_source's, of normalized text
    size_t literal_capacity;
    struct nib_buffer escaped;
};

/// What is encoded.
struct nib_encode_source {
    struct nib_text text; ///< well-formed UTF-8
    /// NULL, or a byte for each byte of the text, non-zero where it is a speaker's own words, which
    /// no control token may touch.
    const uint8_t *literal;
    bool add_bos;
    bool parse_special;
};

/// Encodes `source`, as nib_tokenizer_encode does.
enum nib_status nib_encode_source(const struct nib_tokenizer *tokenizer,
                                  const struct nib_encode_source *source, int32_t **out_ids,
                                  size_t *out_count, struct nib_error *err);

/// Appends one id. Errors: memory.
enum nib_status nib_encoder_push(struct nib_encoder *encoder, int32_t id, struct nib_error *err);
/// Appends what stands for `text`, a character without a token: BYTE tokens, else unknown, else
/// nothing. Errors: memory.
enum nib_status nib_encoder_push_missing(struct nib_encoder *encoder, struct nib_text text,
                                         struct nib_error *err);
/// Appends the tokens of one piece, by the tokenizer's merges, or by its scores. Errors: memory.
enum nib_status nib_merge_encode(struct nib_encoder *encoder, struct nib_text piece,
                                 struct nib_error *err);
enum nib_status nib_unigram_encode(struct nib_encoder *encoder, struct nib_text piece,
                                   struct nib_error *err);

/// Returns whether nib_normalize can change anything.
bool nib_normalizes(const struct nib_tokenizer *tokenizer);
/// Appends `text` to `out` (emptied first), normalized: the steps up to `lowercase`.
/// Errors: memory, argument (the text would grow beyond 2 GiB).
enum nib_status nib_normalize(const struct nib_tokenizer *tokenizer, struct nib_text text,
                              struct nib_buffer *out, struct nib_error *err);
/// Appends `text` to `out` (emptied first) with the space prefix, where `prefix` asks for one, and
/// spaces escaped. Errors: memory.
enum nib_status nib_escape(const struct nib_tokenizer *tokenizer, struct nib_text text, bool prefix,
                           struct nib_buffer *out, struct nib_error *err);
/// Returns the length of the white space at the beginning, or at the end, of well-formed text.
size_t nib_leading_space(struct nib_text text);
size_t nib_trailing_space(struct nib_text text);
/// Returns whether the text begins, or ends, with a word character (letter, mark, number,
/// connector).
bool nib_begins_with_word(struct nib_text text);
bool nib_ends_with_word(struct nib_text text);

/// Returns what a buffer holds; never a null pointer.
static inline struct nib_text nib_buffer_text(const struct nib_buffer *buffer)
{
    return (struct nib_text){buffer->size ? buffer->data : "", buffer->size};
}

/// Appends `text` to `out`, malformed sequences as U+FFFD. Errors: memory.
enum nib_status nib_append_utf8(struct nib_buffer *out, struct nib_text text,
                                struct nib_error *err);

/// Finds the family and the peculiarities of `jinja`, a model's own template (may be empty); texts
/// go to the tokenizer's arena. Errors: memory.
enum nib_status nib_chat_recognise(struct nib_tokenizer *tokenizer, struct nib_text jinja,
                                   struct nib_error *err);

#endif
