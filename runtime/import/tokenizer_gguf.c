#include "runtime/import/tokenizer_gguf.h"

#include "runtime/base/arena.h"
#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/base/string_map.h"

#include <string.h>

/// What a file is read into; `arena` holds the arrays.
struct reader {
    const struct nib_gguf *gguf;
    struct nib_arena *arena;
    struct nib_string_map by_text;
    struct nib_vocab vocab;
    struct nib_vocab_token *tokens;
};

const char *const nib_gguf_end_keys[NIB_GGUF_END_KEYS] = {"tokenizer.ggml.eot_token_id",
                                                          "tokenizer.ggml.eom_token_id"};

static bool text_is(struct nib_text text, const char *string)
{
    return text.size == strlen(string) && memcmp(text.ptr, string, text.size) == 0;
}

static enum nib_status find_array(const struct nib_gguf *gguf, const char *key, uint64_t count,
                                  bool required, const struct nib_gguf_value **out_value,
                                  struct nib_error *err)
{
    const struct nib_gguf_value *value = nib_gguf_find(gguf, key);
    *out_value = value;
    if (!value)
        return required ? nib_fail(err, NIB_ERROR_FORMAT, "%s is missing", key) : NIB_OK;
    if (value->type != NIB_GGUF_ARRAY || (count && value->count != count))
        return nib_fail(err, NIB_ERROR_FORMAT, "%s is not an array of one element per token", key);
    return NIB_OK;
}

static enum nib_status read_model(struct reader *reader, bool *out_present, struct nib_error *err)
{
    *out_present = false;
    const struct nib_gguf_value *value = nib_gguf_find(reader->gguf, "tokenizer.ggml.model");
    if (!value)
        return NIB_OK;
    struct nib_text model;
    if (!nib_gguf_get_text(value, &model))
        return nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.model is not a string");
    if (text_is(model, "no_vocab") || text_is(model, "none"))
        return NIB_OK;
    *out_present = true;
    if (text_is(model, "gpt2"))
        reader->vocab.model = NIB_VOCAB_BPE;
    else if (text_is(model, "llama"))
        reader->vocab.model = NIB_VOCAB_SPM;
    else if (text_is(model, "t5"))
        reader->vocab.model = NIB_VOCAB_UNIGRAM;
    else
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "tokenizer.ggml.model '%.*s' is none of gpt2, llama, t5",
                        (int)(model.size < 64 ? model.size : 64), model.ptr);
    return NIB_OK;
}

static enum nib_status read_tokens(struct reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_gguf_value *texts;
    const struct nib_gguf_value *scores;
    const struct nib_gguf_value *types;
    bool is_bpe = reader->vocab.model == NIB_VOCAB_BPE;
    NIB_TRY(find_array(reader->gguf, "tokenizer.ggml.tokens", 0, true, &texts, err));
    if (texts->element_type != NIB_GGUF_STRING || texts->count == 0 || texts->count > INT32_MAX)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.tokens holds no strings"));
    NIB_TRY(find_array(reader->gguf, "tokenizer.ggml.scores", texts->count, !is_bpe, &scores, err));
    NIB_TRY(
        find_array(reader->gguf, "tokenizer.ggml.token_type", texts->count, false, &types, err));

    uint32_t count = (uint32_t)texts->count;
    reader->tokens = nib_arena_array(reader->arena, count, sizeof *reader->tokens);
    if (!reader->tokens)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(nib_string_map_reserve(&reader->by_text, count, err));
    uint64_t cursor = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct nib_vocab_token *token = &reader->tokens[i];
        if (!nib_gguf_next_text(texts, &cursor, &token->text))
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.tokens ends at token %u", i));
        if (scores && !nib_gguf_element_f32(scores, i, &token->score))
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.scores holds no numbers"));
        int64_t type = NIB_TOKEN_NORMAL;
        if (types && !nib_gguf_element_i64(types, i, &type))
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.token_type holds no integers"));
        if (type < NIB_TOKEN_NORMAL || type > NIB_TOKEN_BYTE)
            type = NIB_TOKEN_UNUSED;
        token->type = (uint8_t)type;
        token->added = type == NIB_TOKEN_USER_DEFINED || type == NIB_TOKEN_CONTROL;
        NIB_TRY(nib_string_map_add(&reader->by_text, token->text, i, NULL, err));
    }
    reader->vocab.tokens = reader->tokens;
    reader->vocab.n_tokens = count;
fail:
    return status;
}

/// Adds a merge, two texts with a space between; one of which a part, or the join, is no token can
/// never happen and is left out.
static enum nib_status add_merge(struct reader *reader, struct nib_text text,
                                 struct nib_buffer *joined, struct nib_vocab_merge *merges,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const char *space = text.size > 1 ? memchr(text.ptr + 1, ' ', text.size - 1) : NULL;
    if (!space)
        return NIB_OK;
    struct nib_text left = {text.ptr, (size_t)(space - text.ptr)};
    struct nib_text right = {space + 1, text.size - left.size - 1};
    uint32_t ids[3];
    joined->size = 0;
    NIB_TRY(nib_buffer_append(joined, left.ptr, left.size, err));
    NIB_TRY(nib_buffer_append(joined, right.ptr, right.size, err));
    if (nib_string_map_find(&reader->by_text, left, &ids[0]) &&
        nib_string_map_find(&reader->by_text, right, &ids[1]) &&
        nib_string_map_find(&reader->by_text, (struct nib_text){joined->data, joined->size},
                            &ids[2]))
        merges[reader->vocab.n_merges++] =
            (struct nib_vocab_merge){(int32_t)ids[0], (int32_t)ids[1], (int32_t)ids[2]};
fail:
    return status;
}

static enum nib_status read_merges(struct reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer joined = {0};
    const struct nib_gguf_value *value;
    NIB_TRY(find_array(reader->gguf, "tokenizer.ggml.merges", 0, true, &value, err));
    if (value->element_type != NIB_GGUF_STRING || value->count >= UINT32_MAX)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.merges holds no strings"));
    struct nib_vocab_merge *merges =
        nib_arena_array(reader->arena, (size_t)value->count + 1, sizeof *merges);
    if (!merges)
        NIB_TRY(nib_fail_memory(err));
    uint64_t cursor = 0;
    struct nib_text text;
    while (nib_gguf_next_text(value, &cursor, &text))
        NIB_TRY(add_merge(reader, text, &joined, merges, err));
    reader->vocab.merges = merges;
fail:
    nib_buffer_free(&joined);
    return status;
}

/// Reads an id; `*out_id` stays where the file has none.
static enum nib_status read_id(const struct reader *reader, const char *key, int32_t *out_id,
                               struct nib_error *err)
{
    const struct nib_gguf_value *value = nib_gguf_find(reader->gguf, key);
    uint32_t id;
    if (!value)
        return NIB_OK;
    if (!nib_gguf_get_u32(value, &id) || id >= reader->vocab.n_tokens)
        return nib_fail(err, NIB_ERROR_FORMAT, "%s is no id of the %u tokens", key,
                        reader->vocab.n_tokens);
    *out_id = (int32_t)id;
    return NIB_OK;
}

static enum nib_status read_special_ids(struct reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vocab *vocab = &reader->vocab;
    int32_t *ends = nib_arena_array(reader->arena, NIB_GGUF_END_KEYS, sizeof *ends);
    if (!ends)
        NIB_TRY(nib_fail_memory(err));
    vocab->bos = vocab->eos = vocab->unknown = -1;
    // Files of SentencePiece models may leave out its usual ids.
    if (vocab->model == NIB_VOCAB_SPM && vocab->n_tokens > 2) {
        vocab->unknown = 0;
        vocab->bos = 1;
        vocab->eos = 2;
    }
    NIB_TRY(read_id(reader, "tokenizer.ggml.bos_token_id", &vocab->bos, err));
    NIB_TRY(read_id(reader, "tokenizer.ggml.eos_token_id", &vocab->eos, err));
    NIB_TRY(read_id(reader, "tokenizer.ggml.unknown_token_id", &vocab->unknown, err));
    // In byte-level files this id is often some other token's: text never becomes it.
    if (vocab->model == NIB_VOCAB_BPE && vocab->unknown >= 0 &&
        reader->tokens[vocab->unknown].type != NIB_TOKEN_UNKNOWN)
        vocab->unknown = -1;
    vocab->ends = ends;
    for (size_t i = 0; i < NIB_GGUF_END_KEYS; i++) {
        int32_t id = -1;
        NIB_TRY(read_id(reader, nib_gguf_end_keys[i], &id, err));
        if (id >= 0)
            ends[vocab->n_ends++] = id;
    }
fail:
    return status;
}

static enum nib_status read_bool(const struct nib_gguf *gguf, const char *key, bool *out_value,
                                 struct nib_error *err)
{
    const struct nib_gguf_value *value = nib_gguf_find(gguf, key);
    if (value && !nib_gguf_get_bool(value, out_value))
        return nib_fail(err, NIB_ERROR_FORMAT, "%s is not a boolean", key);
    return NIB_OK;
}

/// Reads the pre-tokenizer of a byte-level vocabulary, and what its family implies.
static enum nib_status read_pretokenizer(struct reader *reader, struct nib_error *err)
{
    struct nib_text text = {"default", strlen("default")};
    const struct nib_gguf_value *value = nib_gguf_find(reader->gguf, "tokenizer.ggml.pre");
    if (value && !nib_gguf_get_text(value, &text))
        return nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.ggml.pre is not a string");
    reader->vocab.pre = nib_arena_text(reader->arena, text.ptr, text.size);
    if (!reader->vocab.pre)
        return nib_fail_memory(err);
    const struct nib_pretokenizer *family = nib_pretokenizer_find(reader->vocab.pre);
    if (!family)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "tokenizer.ggml.pre '%.64s' is unknown",
                        reader->vocab.pre);
    reader->vocab.ignore_merges = family->ignore_merges;
    reader->vocab.add_bos = family->add_bos;
    return NIB_OK;
}

bool nib_phi3_strips_right(const struct nib_vocab_token *token)
{
    return token->type == NIB_TOKEN_CONTROL && !text_is(token->text, "<s>") &&
           !text_is(token->text, "<|endoftext|>");
}

static void apply_phi3_flags(struct reader *reader)
{
    struct nib_text arch;
    if (!nib_gguf_get_text(nib_gguf_find(reader->gguf, "general.architecture"), &arch) ||
        !text_is(arch, "phi3") || reader->vocab.model != NIB_VOCAB_SPM)
        return;
    for (uint32_t i = 0; i < reader->vocab.n_tokens; i++) {
        if (nib_phi3_strips_right(&reader->tokens[i]))
            reader->tokens[i].flags |= NIB_TOKEN_STRIP_RIGHT;
    }
}

static enum nib_status read_settings(struct reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vocab *vocab = &reader->vocab;
    const struct nib_gguf *gguf = reader->gguf;
    const struct nib_gguf_value *charsmap =
        nib_gguf_find(gguf, "tokenizer.ggml.precompiled_charsmap");
    if (charsmap && charsmap->size > 0)
        NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED,
                         "tokenizer.ggml.precompiled_charsmap: normalization by table"));
    if (vocab->model == NIB_VOCAB_BPE) {
        NIB_TRY(read_pretokenizer(reader, err));
    } else {
        vocab->escape_spaces = true;
        vocab->byte_fallback = true;
        vocab->fuse_unknown = vocab->model == NIB_VOCAB_UNIGRAM;
        vocab->add_bos = vocab->model == NIB_VOCAB_SPM;
    }
    bool prefix = vocab->model != NIB_VOCAB_BPE;
    NIB_TRY(read_bool(gguf, "tokenizer.ggml.add_space_prefix", &prefix, err));
    vocab->space_prefix = prefix ? NIB_SPACE_PREFIX_ALWAYS : NIB_SPACE_PREFIX_NONE;
    vocab->drops_first_space = prefix && vocab->model != NIB_VOCAB_BPE;
    NIB_TRY(read_bool(gguf, "tokenizer.ggml.add_bos_token", &vocab->add_bos, err));
    NIB_TRY(read_bool(gguf, "tokenizer.ggml.remove_extra_whitespaces", &vocab->remove_extra_spaces,
                      err));
    const struct nib_gguf_value *jinja = nib_gguf_find(gguf, "tokenizer.chat_template");
    if (jinja && !nib_gguf_get_text(jinja, &vocab->chat_template))
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tokenizer.chat_template is not a string"));
fail:
    return status;
}

enum nib_status nib_vocab_from_gguf(const struct nib_gguf *gguf, struct nib_arena *arena,
                                    struct nib_vocab *out_vocab, struct nib_error *err)
{
    struct reader reader = {.gguf = gguf, .arena = arena};
    enum nib_status status = NIB_OK;
    bool is_present;
    NIB_TRY(read_model(&reader, &is_present, err));
    if (is_present) {
        NIB_TRY(read_tokens(&reader, err));
        if (reader.vocab.model == NIB_VOCAB_BPE)
            NIB_TRY(read_merges(&reader, err));
        NIB_TRY(read_special_ids(&reader, err));
        NIB_TRY(read_settings(&reader, err));
        apply_phi3_flags(&reader);
    }
fail:
    nib_string_map_free(&reader.by_text);
    *out_vocab = reader.vocab;
    return nib_fail_context(err, status, "tokenizer");
}

enum nib_status nib_tokenizer_from_gguf(const struct nib_gguf *gguf,
                                        struct nib_tokenizer **out_tokenizer, struct nib_error *err)
{
    struct nib_arena arena = {0};
    struct nib_vocab vocab;
    *out_tokenizer = NULL;
    enum nib_status status = nib_vocab_from_gguf(gguf, &arena, &vocab, err);
    if (status == NIB_OK && vocab.n_tokens > 0)
        status =
            nib_fail_context(err, nib_tokenizer_create(&vocab, out_tokenizer, err), "tokenizer");
    nib_arena_free(&arena);
    return status;
}
