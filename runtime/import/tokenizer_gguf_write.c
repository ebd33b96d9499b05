// The inverse of tokenizer_gguf.c.
#include "runtime/import/tokenizer_gguf.h"

#include "runtime/base/buffer.h"
#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include "runtime/tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Texts to be written; they lie one after another in `bytes`.
struct text_list {
    struct nib_text *texts; ///< [capacity]; `ptr` is set when they are written
    uint32_t count;
    struct nib_buffer bytes;
};

static enum nib_status text_list_begin(struct text_list *list, uint32_t capacity,
                                       struct nib_error *err)
{
    *list = (struct text_list){.texts = calloc((size_t)capacity + 1, sizeof *list->texts)};
    return list->texts ? NIB_OK : nib_fail_memory(err);
}

/// Adds a text in parts.
static enum nib_status text_list_add(struct text_list *list, const struct nib_text *parts,
                                     uint32_t n_parts, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const size_t begin = list->bytes.size;
    for (uint32_t i = 0; i < n_parts; i++)
        NIB_TRY(nib_buffer_append(&list->bytes, parts[i].ptr, parts[i].size, err));
    list->texts[list->count++].size = list->bytes.size - begin;
fail:
    return status;
}

static enum nib_status text_list_write(const struct text_list *list, const char *key,
                                       struct nib_gguf_writer *writer, struct nib_error *err)
{
    const char *at = list->bytes.data;
    for (uint32_t i = 0; i < list->count; i++) {
        list->texts[i].ptr = at;
        at += list->texts[i].size;
    }
    return nib_gguf_writer_add_texts(writer, key, list->texts, list->count, err);
}

static void text_list_free(struct text_list *list)
{
    free(list->texts);
    nib_buffer_free(&list->bytes);
}

static enum nib_status add_u32(struct nib_buffer *data, uint32_t value, struct nib_error *err)
{
    uint8_t bytes[4];
    nib_store_u32(bytes, value);
    return nib_buffer_append(data, bytes, sizeof bytes, err);
}

static enum nib_status write_numbers(struct nib_gguf_writer *writer, const char *key,
                                     enum nib_gguf_type type, const struct nib_buffer *data,
                                     struct nib_error *err)
{
    const struct nib_gguf_value value = {
        .key = {key, strlen(key)},
        .type = NIB_GGUF_ARRAY,
        .element_type = type,
        .count = data->size / 4,
        .data = (const uint8_t *)data->data,
        .size = data->size,
    };
    return nib_gguf_writer_add_value(writer, &value, err);
}

/// Texts and types; rows of the embedding beyond the tokens get texts that nobody writes.
static enum nib_status write_tokens(const struct nib_vocab *vocab, uint32_t n_rows,
                                    struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct text_list texts;
    struct nib_buffer types = {0};
    NIB_TRY(text_list_begin(&texts, n_rows, err));
    for (uint32_t i = 0; i < n_rows; i++) {
        char pad[32];
        struct nib_text text = {pad, 0};
        if (i < vocab->n_tokens)
            text = vocab->tokens[i].text;
        else
            text.size = (size_t)snprintf(pad, sizeof pad, "[PAD%" PRIu32 "]", i);
        NIB_TRY(text_list_add(&texts, &text, 1, err));
        NIB_TRY(
            add_u32(&types, i < vocab->n_tokens ? vocab->tokens[i].type : NIB_TOKEN_UNUSED, err));
    }
    NIB_TRY(text_list_write(&texts, "tokenizer.ggml.tokens", writer, err));
    NIB_TRY(write_numbers(writer, "tokenizer.ggml.token_type", NIB_GGUF_I32, &types, err));
fail:
    text_list_free(&texts);
    nib_buffer_free(&types);
    return status;
}

/// Scores; a vocabulary with ranked merges over characters gets those that make the pair of the
/// lowest rank the best: of two merges the one whose result was made first comes first.
static enum nib_status write_scores(const struct nib_vocab *vocab, uint32_t n_rows,
                                    struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer data = {0};
    float *scores = calloc((size_t)n_rows + 1, sizeof *scores);
    if (!scores)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < vocab->n_tokens; i++)
        scores[i] = vocab->tokens[i].score;
    if (vocab->model == NIB_VOCAB_RANKED_SPM) {
        for (uint32_t i = 0; i < vocab->n_tokens; i++)
            scores[i] = -(float)vocab->n_merges - 1.0f;
        for (uint32_t i = vocab->n_merges; i-- > 0;)
            scores[vocab->merges[i].result] = -(float)i;
    }
    for (uint32_t i = 0; i < n_rows; i++)
        NIB_TRY(add_u32(&data, nib_f32_bits(scores[i]), err));
    NIB_TRY(write_numbers(writer, "tokenizer.ggml.scores", NIB_GGUF_F32, &data, err));
fail:
    free(scores);
    nib_buffer_free(&data);
    return status;
}

static enum nib_status write_merges(const struct nib_vocab *vocab, struct nib_gguf_writer *writer,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct text_list merges;
    NIB_TRY(text_list_begin(&merges, vocab->n_merges, err));
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        const struct nib_vocab_merge *merge = &vocab->merges[i];
        const struct nib_text parts[] = {
            vocab->tokens[merge->left].text, {" ", 1}, vocab->tokens[merge->right].text};
        NIB_TRY(text_list_add(&merges, parts, 3, err));
    }
    NIB_TRY(text_list_write(&merges, "tokenizer.ggml.merges", writer, err));
fail:
    text_list_free(&merges);
    return status;
}

static enum nib_status write_name(struct nib_gguf_writer *writer, const char *key, const char *name,
                                  struct nib_error *err)
{
    return nib_gguf_writer_add_text(writer, key, (struct nib_text){name, strlen(name)}, err);
}

/// Writes how text becomes pieces.
static enum nib_status write_model(const struct nib_vocab *vocab, uint32_t n_rows,
                                   struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    static const char *const models[] = {[NIB_VOCAB_BPE] = "gpt2",
                                         [NIB_VOCAB_SPM] = "llama",
                                         [NIB_VOCAB_RANKED_SPM] = "llama",
                                         [NIB_VOCAB_UNIGRAM] = "t5"};
    NIB_TRY(write_name(writer, "tokenizer.ggml.model", models[vocab->model], err));
    NIB_TRY(write_tokens(vocab, n_rows, writer, err));
    if (vocab->model != NIB_VOCAB_BPE) {
        NIB_TRY(write_scores(vocab, n_rows, writer, err));
        NIB_TRY(nib_gguf_writer_add_bool(writer, "tokenizer.ggml.add_space_prefix",
                                         vocab->space_prefix != NIB_SPACE_PREFIX_NONE, err));
        NIB_TRY(nib_gguf_writer_add_bool(writer, "tokenizer.ggml.remove_extra_whitespaces",
                                         vocab->remove_extra_spaces, err));
        return NIB_OK;
    }
    const char *pre = vocab->pre ? vocab->pre : nib_pretokenizer_match(vocab);
    NIB_TRY(write_name(writer, "tokenizer.ggml.pre", pre, err));
    NIB_TRY(write_merges(vocab, writer, err));
fail:
    return status;
}

static enum nib_status write_id(struct nib_gguf_writer *writer, const char *key, int32_t id,
                                struct nib_error *err)
{
    return id < 0 ? NIB_OK : nib_gguf_writer_add_u32(writer, key, (uint32_t)id, err);
}

/// Writes the ids that end generation, without those that need no key where there are too many.
static enum nib_status write_ends(const struct nib_vocab *vocab, struct nib_gguf_writer *writer,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t n_written = 0, n_needed = 0;
    for (uint32_t i = 0; i < vocab->n_ends; i++)
        n_needed += nib_vocab_end_needs_key(vocab, i);
    for (uint32_t i = 0; i < vocab->n_ends; i++) {
        const bool is_needed = nib_vocab_end_needs_key(vocab, i);
        n_needed -= is_needed;
        if (vocab->ends[i] != vocab->eos && (is_needed || n_written + n_needed < NIB_GGUF_END_KEYS))
            NIB_TRY(write_id(writer, nib_gguf_end_keys[n_written++], vocab->ends[i], err));
    }
fail:
    return status;
}

enum nib_status nib_vocab_to_gguf(const struct nib_vocab *vocab, uint32_t n_rows,
                                  struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status;
    if (vocab->n_tokens > n_rows)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "the tokenizer has %" PRIu32 " tokens, but the embedding %" PRIu32 " rows",
                        vocab->n_tokens, n_rows);
    NIB_TRY(nib_vocab_check_gguf(vocab, err));
    NIB_TRY(write_model(vocab, n_rows, writer, err));
    NIB_TRY(write_id(writer, "tokenizer.ggml.bos_token_id", vocab->bos, err));
    NIB_TRY(write_id(writer, "tokenizer.ggml.eos_token_id", vocab->eos, err));
    NIB_TRY(write_id(writer, "tokenizer.ggml.unknown_token_id", vocab->unknown, err));
    NIB_TRY(write_ends(vocab, writer, err));
    NIB_TRY(nib_gguf_writer_add_bool(writer, "tokenizer.ggml.add_bos_token", vocab->add_bos, err));
    if (vocab->chat_template.size > 0)
        NIB_TRY(
            nib_gguf_writer_add_text(writer, "tokenizer.chat_template", vocab->chat_template, err));
fail:
    return nib_fail_context(err, status, "tokenizer");
}
