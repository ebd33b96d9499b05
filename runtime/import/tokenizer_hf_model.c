/// The model and the added tokens of tokenizer.json.
#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/import/tokenizer_hf_reader.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/// Ids may leave gaps; a file that has fewer tokens than half of its ids, and this, is refused.
enum { MAX_GAPS = 65536 };

int32_t nib_hf_find(const struct nib_hf_reader *reader, struct nib_text text)
{
    uint32_t id;
    return nib_string_map_find(&reader->by_text, text, &id) ? (int32_t)id : -1;
}

/// Reads a non-negative integer.
static bool read_id(const json_t *value, uint32_t *out_id)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= 0 && number < INT32_MAX) || number != floor(number))
        return false;
    *out_id = (uint32_t)number;
    return true;
}

/// Counts the ids of "added_tokens" and of the model's vocabulary, gaps included.
static enum nib_status count_tokens(json_t *vocab, json_t *added, uint32_t *out_count,
                                    struct nib_error *err)
{
    uint64_t n_listed = json_array_size(vocab) + json_object_size(vocab) + json_array_size(added);
    uint64_t count = json_array_size(vocab);
    const char *key;
    json_t *value;
    size_t i;
    uint32_t id;
    json_object_foreach(vocab, key, value)
    {
        if (!read_id(value, &id))
            return nib_fail(err, NIB_ERROR_FORMAT, "model.vocab: token '%.64s' has no id", key);
        count = id >= count ? (uint64_t)id + 1 : count;
    }
    json_array_foreach(added, i, value)
    {
        if (!read_id(json_object_get(value, "id"), &id))
            return nib_fail(err, NIB_ERROR_FORMAT, "added_tokens: entry %zu has no id", i);
        count = id >= count ? (uint64_t)id + 1 : count;
    }
    if (count == 0 || count > 2 * n_listed + MAX_GAPS || count > INT32_MAX)
        return nib_fail(err, NIB_ERROR_FORMAT, "%" PRIu64 " tokens have ids up to %" PRIu64,
                        n_listed, count);
    *out_count = (uint32_t)count;
    return NIB_OK;
}

/// Adds a token of the model's vocabulary.
static enum nib_status add_token(struct nib_hf_reader *reader, uint32_t id, struct nib_text text,
                                 float score, struct nib_error *err)
{
    struct nib_vocab_token *token = &reader->tokens[id];
    if (token->type != NIB_TOKEN_UNUSED)
        return nib_fail(err, NIB_ERROR_FORMAT, "model.vocab: two tokens have the id %u", id);
    *token = (struct nib_vocab_token){.text = text, .score = score, .type = NIB_TOKEN_NORMAL};
    bool is_byte = text.size == 6 && memcmp(text.ptr, "<0x", 3) == 0 && text.ptr[5] == '>';
    if (is_byte && reader->vocab.byte_fallback)
        token->type = NIB_TOKEN_BYTE;
    return nib_string_map_add(&reader->by_text, text, id, NULL, err);
}

static enum nib_status read_object_vocab(struct nib_hf_reader *reader, json_t *vocab,
                                         struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value)
    {
        uint32_t id = 0;
        read_id(value, &id);
        NIB_TRY(add_token(reader, id, (struct nib_text){key, strlen(key)}, 0.0f, err));
    }
fail:
    return status;
}

/// Reads a Unigram vocabulary, pairs of text and score.
static enum nib_status read_array_vocab(struct nib_hf_reader *reader, const json_t *vocab,
                                        struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t i;
    json_t *value;
    json_array_foreach(vocab, i, value)
    {
        const json_t *text = json_array_get(value, 0);
        double score = json_number_value(json_array_get(value, 1));
        if (!json_is_string(text) || !json_is_number(json_array_get(value, 1)) ||
            !(fabs(score) <= FLT_MAX))
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                             "model.vocab: entry %zu is no pair of text and score", i));
        NIB_TRY(add_token(reader, (uint32_t)i,
                          (struct nib_text){json_string_value(text), json_string_length(text)},
                          (float)score, err));
    }
fail:
    return status;
}

/// Reads the two parts of a merge, "a b" or ["a", "b"].
static bool read_merge_parts(const json_t *merge, struct nib_text *out_left,
                             struct nib_text *out_right)
{
    if (json_is_array(merge)) {
        const json_t *left = json_array_get(merge, 0);
        const json_t *right = json_array_get(merge, 1);
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
            return false;
        *out_left = (struct nib_text){json_string_value(left), json_string_length(left)};
        *out_right = (struct nib_text){json_string_value(right), json_string_length(right)};
        return true;
    }
    if (!json_is_string(merge))
        return false;
    struct nib_text text = {json_string_value(merge), json_string_length(merge)};
    const char *space = text.size ? memchr(text.ptr, ' ', text.size) : NULL;
    if (!space)
        return false;
    *out_left = (struct nib_text){text.ptr, (size_t)(space - text.ptr)};
    *out_right = (struct nib_text){space + 1, text.size - out_left->size - 1};
    return true;
}

static enum nib_status read_merges(struct nib_hf_reader *reader, const json_t *list,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer joined = {0};
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > UINT32_MAX)
        return nib_fail(err, NIB_ERROR_FORMAT, "model.merges is no array");
    struct nib_vocab_merge *merges = nib_arena_array(&reader->arena, count + 1, sizeof *merges);
    if (!merges)
        return nib_fail_memory(err);
    for (size_t i = 0; i < count; i++) {
        struct nib_text left;
        struct nib_text right;
        if (!read_merge_parts(json_array_get(list, i), &left, &right))
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "model.merges: entry %zu is no pair", i));
        joined.size = 0;
        NIB_TRY(nib_buffer_append(&joined, left.ptr, left.size, err));
        NIB_TRY(nib_buffer_append(&joined, right.ptr, right.size, err));
        merges[i] = (struct nib_vocab_merge){
            nib_hf_find(reader, left), nib_hf_find(reader, right),
            nib_hf_find(reader, (struct nib_text){joined.data, joined.size})};
        if (merges[i].left < 0 || merges[i].right < 0 || merges[i].result < 0)
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                             "model.merges: entry %zu names a token that the vocabulary lacks", i));
    }
    reader->vocab.merges = merges;
    reader->vocab.n_merges = (uint32_t)count;
fail:
    nib_buffer_free(&joined);
    return status;
}

static enum nib_status read_added(struct nib_hf_reader *reader, const json_t *list,
                                  struct nib_error *err)
{
    static const struct {
        const char *key;
        enum nib_token_flag flag;
    } FLAGS[] = {{"lstrip", NIB_TOKEN_STRIP_LEFT},
                 {"rstrip", NIB_TOKEN_STRIP_RIGHT},
                 {"single_word", NIB_TOKEN_SINGLE_WORD},
                 {"normalized", NIB_TOKEN_NORMALIZED}};
    enum nib_status status = NIB_OK;
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        uint32_t id = 0;
        struct nib_text text;
        read_id(json_object_get(entry, "id"), &id);
        if (!nib_json_get_text(entry, "content", &text))
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "added_tokens: entry %zu has no content", i));
        struct nib_vocab_token *token = &reader->tokens[id];
        bool is_special = false;
        nib_json_get_bool(entry, "special", &is_special);
        token->text = text;
        token->type = is_special ? NIB_TOKEN_CONTROL : NIB_TOKEN_USER_DEFINED;
        token->added = true;
        token->flags = 0;
        for (size_t j = 0; j < sizeof FLAGS / sizeof FLAGS[0]; j++) {
            bool is_set = false;
            nib_json_get_bool(entry, FLAGS[j].key, &is_set);
            if (is_set)
                token->flags |= (uint8_t)FLAGS[j].flag;
        }
        NIB_TRY(nib_string_map_add(&reader->by_text, text, id, NULL, err));
    }
fail:
    return status;
}

/// Finds what kind of model it is. Files of old versions do not say; they are BPE's or Unigram's.
static enum nib_status read_kind(struct nib_hf_reader *reader, const json_t *model,
                                 struct nib_error *err)
{
    static const char *const AFFIXES[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    struct nib_text type = nib_hf_text(model, "type");
    bool has_type = type.size > 0;
    if (nib_hf_text_is(type, "Unigram") ||
        (!has_type && json_is_array(json_object_get(model, "vocab")))) {
        reader->vocab.model = NIB_VOCAB_UNIGRAM;
        if (reader->is_byte_level)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED, "Unigram with pre_tokenizer ByteLevel");
        return NIB_OK;
    }
    if (!nib_hf_text_is(type, "BPE") && (has_type || !json_object_get(model, "merges")))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "model '%.*s' is none of BPE, Unigram",
                        (int)(type.size < 64 ? type.size : 64), type.ptr);
    reader->vocab.model = reader->is_byte_level ? NIB_VOCAB_BPE : NIB_VOCAB_RANKED_SPM;
    for (size_t i = 0; i < sizeof AFFIXES / sizeof AFFIXES[0]; i++)
        if (nib_hf_text(model, AFFIXES[i]).size)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED, "model.%s", AFFIXES[i]);
    return NIB_OK;
}

/// Finds the token for what has none.
static enum nib_status read_unknown(struct nib_hf_reader *reader, const json_t *model,
                                    struct nib_error *err)
{
    struct nib_vocab *vocab = &reader->vocab;
    struct nib_text text = nib_hf_text(model, "unk_token");
    uint32_t id;
    vocab->unknown = -1;
    if (vocab->model == NIB_VOCAB_UNIGRAM && !nib_hf_is_null(model, "unk_id")) {
        if (!nib_json_get_u32(model, "unk_id", &id) || id >= vocab->n_tokens)
            return nib_fail(err, NIB_ERROR_FORMAT, "model.unk_id is no id of the %u tokens",
                            vocab->n_tokens);
        vocab->unknown = (int32_t)id;
    } else if (text.size) {
        vocab->unknown = nib_hf_find(reader, text);
        if (vocab->unknown < 0)
            return nib_fail(err, NIB_ERROR_FORMAT, "model.unk_token is not in the vocabulary");
    }
    if (vocab->unknown >= 0) {
        struct nib_vocab_token *token = &reader->tokens[vocab->unknown];
        if (token->type == NIB_TOKEN_NORMAL || token->type == NIB_TOKEN_UNUSED)
            token->type = NIB_TOKEN_UNKNOWN;
    }
    return NIB_OK;
}

enum nib_status nib_hf_read_model(struct nib_hf_reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vocab *vocab = &reader->vocab;
    const json_t *model = json_object_get(reader->files->tokenizer, "model");
    json_t *list = json_object_get(model, "vocab");
    json_t *added = json_object_get(reader->files->tokenizer, "added_tokens");
    NIB_TRY(read_kind(reader, model, err));
    bool is_unigram = vocab->model == NIB_VOCAB_UNIGRAM;
    if (is_unigram ? !json_is_array(list) : !json_is_object(list))
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "model.vocab is missing"));
    vocab->fuse_unknown = is_unigram;
    nib_json_get_bool(model, "byte_fallback", &vocab->byte_fallback);
    nib_json_get_bool(model, "fuse_unk", &vocab->fuse_unknown);
    nib_json_get_bool(model, "ignore_merges", &vocab->ignore_merges);

    uint32_t count;
    NIB_TRY(count_tokens(list, added, &count, err));
    reader->tokens = nib_arena_array(&reader->arena, count, sizeof *reader->tokens);
    if (!reader->tokens)
        NIB_TRY(nib_fail_memory(err));
    for (uint32_t i = 0; i < count; i++)
        reader->tokens[i].type = NIB_TOKEN_UNUSED;
    vocab->tokens = reader->tokens;
    vocab->n_tokens = count;
    NIB_TRY(nib_string_map_reserve(&reader->by_text, count, err));
    if (is_unigram)
        NIB_TRY(read_array_vocab(reader, list, err));
    else
        NIB_TRY(read_object_vocab(reader, list, err));
    if (!is_unigram)
        NIB_TRY(read_merges(reader, json_object_get(model, "merges"), err));
    NIB_TRY(read_added(reader, added, err));
    NIB_TRY(read_unknown(reader, model, err));
fail:
    return status;
}
