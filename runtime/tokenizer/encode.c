#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

/// Offsets within a piece are 32-bit, and normalization can make text 18 times as long.
enum { MAX_TEXT_SIZE = INT32_MAX / 18 };

enum nib_status nib_encoder_push(struct nib_encoder *encoder, int32_t id, struct nib_error *err)
{
    enum nib_status status = nib_array_reserve((void **)&encoder->ids, &encoder->ids_capacity,
                                               encoder->n_ids + 1, sizeof *encoder->ids, err);
    if (status != NIB_OK)
        return status;
    encoder->ids[encoder->n_ids++] = id;
    encoder->after_unknown = false;
    return NIB_OK;
}

enum nib_status nib_encoder_push_missing(struct nib_encoder *encoder, struct nib_text text,
                                         struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    enum nib_status status = NIB_OK;
    bool as_bytes = tokenizer->byte_fallback;
    for (size_t i = 0; i < text.size && as_bytes; i++)
        as_bytes = tokenizer->byte_ids[(uint8_t)text.ptr[i]] >= 0;
    if (as_bytes) {
        for (size_t i = 0; i < text.size; i++)
            NIB_TRY(nib_encoder_push(encoder, tokenizer->byte_ids[(uint8_t)text.ptr[i]], err));
        return NIB_OK;
    }
    if (tokenizer->unknown < 0 || (encoder->after_unknown && tokenizer->fuse_unknown))
        return NIB_OK;
    NIB_TRY(nib_encoder_push(encoder, tokenizer->unknown, err));
    encoder->after_unknown = true;
fail:
    return status;
}

/// Where an added token was found, with the white space that it swallows.
struct added_match {
    size_t begin;
    size_t end;
    int32_t id;
};

/// Which added tokens may be found.
struct added_search {
    const struct nib_prefix_index *index;
    struct nib_text text;
    const uint8_t *literal; ///< of `text`, or NULL
    bool controls;          ///< control tokens, too
};

static bool may_match(const struct nib_tokenizer *tokenizer, const struct added_search *search,
                      size_t begin, size_t size, int32_t id)
{
    if (tokenizer->tokens[id].type == NIB_TOKEN_USER_DEFINED)
        return true;
    return search->controls && !(search->literal && memchr(search->literal + begin, 1, size));
}

/// Looks for the first added token in the text from `start` on, and of those that begin there the
/// longest. Returns whether there is one; `floor` bounds what it swallows to the left.
static bool find_added(const struct nib_tokenizer *tokenizer, const struct added_search *search,
                       size_t start, struct added_match *out)
{
    struct nib_text text = search->text;
    for (size_t begin = start; begin < text.size; begin++) {
        int32_t id = -1;
        size_t end = begin;
        struct nib_prefix_walk walk;
        bool more = nib_prefix_start(search->index, (uint8_t)text.ptr[begin], &walk);
        while (more) {
            const struct nib_prefix_entry *entry = nib_prefix_whole(search->index, &walk);
            if (entry && may_match(tokenizer, search, begin, walk.depth, entry->id)) {
                id = entry->id;
                end = begin + walk.depth;
            }
            more = begin + walk.depth < text.size &&
                   nib_prefix_step(search->index, (uint8_t)text.ptr[begin + walk.depth], &walk);
        }
        if (id < 0)
            continue;
        struct nib_text before = {text.ptr, begin};
        struct nib_text after = {text.ptr + end, text.size - end};
        uint8_t flags = tokenizer->tokens[id].flags;
        if ((flags & NIB_TOKEN_SINGLE_WORD) &&
            (nib_ends_with_word(before) || nib_begins_with_word(after))) {
            begin = end - 1;
            continue;
        }
        size_t left = begin;
        if (flags & NIB_TOKEN_STRIP_LEFT)
            left -= nib_trailing_space((struct nib_text){text.ptr + start, begin - start});
        if (flags & NIB_TOKEN_STRIP_RIGHT)
            end += nib_leading_space(after);
        *out = (struct added_match){left, end, id};
        return true;
    }
    return false;
}

/// Splits the text into pieces by the pre-tokenizer and encodes them.
static enum nib_status encode_words(struct nib_encoder *encoder, struct nib_text text,
                                    struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    enum nib_status status = NIB_OK;
    encoder->pieces.count = 0;
    NIB_TRY(nib_range_list_add(&encoder->pieces, (struct nib_range){0, text.size}, err));
    for (uint32_t i = 0; i < tokenizer->n_splits; i++) {
        encoder->next_pieces.count = 0;
        for (size_t j = 0; j < encoder->pieces.count; j++)
            NIB_TRY(nib_pattern_split(&tokenizer->splits[i], &encoder->matcher, text.ptr,
                                      encoder->pieces.ranges[j], &encoder->next_pieces, err));
        struct nib_range_list swap = encoder->pieces;
        encoder->pieces = encoder->next_pieces;
        encoder->next_pieces = swap;
    }
    for (size_t i = 0; i < encoder->pieces.count; i++) {
        struct nib_range range = encoder->pieces.ranges[i];
        struct nib_text piece = {text.ptr + range.begin, range.end - range.begin};
        if (tokenizer->model == NIB_VOCAB_UNIGRAM)
            NIB_TRY(nib_unigram_encode(encoder, piece, err));
        else
            NIB_TRY(nib_merge_encode(encoder, piece, err));
    }
fail:
    return status;
}

/// Encodes normalized text without added tokens.
static enum nib_status encode_normalized(struct nib_encoder *encoder, struct nib_text text,
                                         bool first, struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    bool prefix = tokenizer->space_prefix != NIB_SPACE_PREFIX_NONE &&
                  (first || !tokenizer->space_prefix_first_only);
    if (text.size == 0)
        return NIB_OK;
    if (!prefix && !tokenizer->escape_spaces)
        return encode_words(encoder, text, err);
    enum nib_status status = nib_escape(tokenizer, text, prefix, &encoder->escaped, err);
    if (status != NIB_OK)
        return status;
    return encode_words(encoder, nib_buffer_text(&encoder->escaped), err);
}

/// Normalizes a speaker's words apart from what is not theirs, so that it stays known which bytes
/// are whose: encoder->literal is to the normalized text what `literal`, as in nib_encode_source,
/// is to `text`.
static enum nib_status normalize_runs(struct nib_encoder *encoder, struct nib_text text,
                                      const uint8_t *literal, struct nib_error *err)
{
    struct nib_buffer *out = &encoder->normalized;
    struct nib_buffer run = {0};
    enum nib_status status = NIB_OK;
    out->size = 0;
    for (size_t begin = 0, end; begin < text.size; begin = end) {
        for (end = begin + 1; end < text.size && literal[end] == literal[begin];)
            end++;
        struct nib_text part = {text.ptr + begin, end - begin};
        NIB_TRY(nib_normalize(encoder->tokenizer, part, &run, err));
        NIB_TRY(nib_array_reserve((void **)&encoder->literal, &encoder->literal_capacity,
                                  out->size + run.size, 1, err));
        memset(encoder->literal + out->size, literal[begin], run.size);
        NIB_TRY(nib_buffer_append(out, run.data, run.size, err));
    }
fail:
    nib_buffer_free(&run);
    return status;
}

/// Encodes text without those added tokens that are looked for in the text as it is. `literal` is
/// as in nib_encode_source.
static enum nib_status encode_plain(struct nib_encoder *encoder, struct nib_text text,
                                    const uint8_t *literal, bool first, bool controls,
                                    struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    enum nib_status status = NIB_OK;
    if (text.size == 0)
        return NIB_OK;
    if (nib_normalizes(tokenizer)) {
        if (literal && tokenizer->added_normalized.count && !tokenizer->remove_extra_spaces) {
            NIB_TRY(normalize_runs(encoder, text, literal, err));
            literal = encoder->literal;
        } else {
            // Bytes move, so that nobody knows any more which of them are a speaker's own.
            controls = controls && !(literal && memchr(literal, 1, text.size));
            literal = NULL;
            NIB_TRY(nib_normalize(tokenizer, text, &encoder->normalized, err));
        }
        text = nib_buffer_text(&encoder->normalized);
    }
    struct added_search search = {&tokenizer->added_normalized, text, literal, controls};
    size_t done = 0;
    struct added_match match;
    while (find_added(tokenizer, &search, done, &match)) {
        NIB_TRY(encode_normalized(encoder, (struct nib_text){text.ptr + done, match.begin - done},
                                  first && done == 0, err));
        NIB_TRY(nib_encoder_push(encoder, match.id, err));
        done = match.end;
    }
    NIB_TRY(encode_normalized(encoder, (struct nib_text){text.ptr + done, text.size - done},
                              first && done == 0, err));
fail:
    return status;
}

static void encoder_free(struct nib_encoder *encoder)
{
    free(encoder->ids);
    nib_merge_scratch_free(&encoder->merge);
    free(encoder->nodes);
    nib_pattern_matcher_free(&encoder->matcher);
    nib_range_list_free(&encoder->pieces);
    nib_range_list_free(&encoder->next_pieces);
    nib_buffer_free(&encoder->normalized);
    free(encoder->literal);
    nib_buffer_free(&encoder->escaped);
}

enum nib_status nib_encode_source(const struct nib_tokenizer *tokenizer,
                                  const struct nib_encode_source *source, int32_t **out_ids,
                                  size_t *out_count, struct nib_error *err)
{
    *out_ids = NULL;
    *out_count = 0;
    struct nib_encoder encoder = {.tokenizer = tokenizer};
    enum nib_status status = NIB_OK;
    struct nib_text text = source->text.size ? source->text : (struct nib_text){"", 0};
    if (text.size > MAX_TEXT_SIZE)
        NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT,
                         "text of %zu bytes is longer than %d: encode it in parts", text.size,
                         (int)MAX_TEXT_SIZE));
    NIB_TRY(nib_pattern_matcher_begin(&encoder.matcher, text.size, err));
    // An empty result is an array, too.
    NIB_TRY(nib_array_reserve((void **)&encoder.ids, &encoder.ids_capacity, 1, sizeof *encoder.ids,
                              err));
    if (source->add_bos && tokenizer->add_bos && tokenizer->bos >= 0)
        NIB_TRY(nib_encoder_push(&encoder, tokenizer->bos, err));

    struct added_search search = {&tokenizer->added, text, source->literal, source->parse_special};
    size_t done = 0;
    bool more = true;
    while (more) {
        struct added_match match = {text.size, text.size, -1};
        more = find_added(tokenizer, &search, done, &match);
        const uint8_t *literal = source->literal ? source->literal + done : NULL;
        NIB_TRY(encode_plain(&encoder, (struct nib_text){text.ptr + done, match.begin - done},
                             literal, done == 0, source->parse_special, err));
        if (more)
            NIB_TRY(nib_encoder_push(&encoder, match.id, err));
        done = match.end;
    }
    *out_ids = encoder.ids;
    *out_count = encoder.n_ids;
    encoder.ids = NULL;
fail:
    encoder_free(&encoder);
    return status;
}

enum nib_status nib_tokenizer_encode(const struct nib_tokenizer *tokenizer, struct nib_text text,
                                     const struct nib_encode_params *params, int32_t **out_ids,
                                     size_t *out_count, struct nib_error *err)
{
    *out_ids = NULL;
    *out_count = 0;
    struct nib_encode_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    if (!tokenizer)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "tokenizer is NULL: the model has none");
    struct nib_encode_source source = {
        .text = text,
        .add_bos = current.add_bos,
        .parse_special = current.parse_special,
    };
    if (text.size == 0 || nib_utf8_valid(text.ptr, text.size))
        return nib_encode_source(tokenizer, &source, out_ids, out_count, err);

    struct nib_buffer repaired = {0};
    status = nib_append_utf8(&repaired, text, err);
    source.text = nib_buffer_text(&repaired);
    if (status == NIB_OK)
        status = nib_encode_source(tokenizer, &source, out_ids, out_count, err);
    nib_buffer_free(&repaired);
    return status;
}

void nib_ids_free(int32_t *ids)
{
    free(ids);
}
