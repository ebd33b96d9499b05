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

static enum nib_status add_string(struct nib_buffer *data, const struct nib_text *parts,
                                  uint32_t n_parts, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint8_t length[8];
    size_t size = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        size += parts[i].size;
    nib_store_u64(length, size);
    NIB_TRY(nib_buffer_append(data, length, sizeof length, err));
    for (uint32_t i = 0; i < n_parts; i++)
        NIB_TRY(nib_buffer_append(data, parts[i].ptr, parts[i].size, err));
fail:
    return status;
}

static enum nib_status add_u32(struct nib_buffer *data, uint32_t value, struct nib_error *err)
{
    uint8_t bytes[4];
    nib_store_u32(bytes, value);
    return nib_buffer_append(data, bytes, sizeof bytes, err);
}

static enum nib_status write_array(struct nib_gguf_writer *writer, const char *key,
                                   enum nib_gguf_type type, uint64_t count,
                                   const struct nib_buffer *data, struct nib_error *err)
{
    const struct nib_gguf_value value = {
        .key = {key, strlen(key)},
        .type = NIB_GGUF_ARRAY,
        .element_type = type,
        .count = count,
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
    struct nib_buffer texts = {0}, types = {0};
    for (uint32_t i = 0; i < n_rows; i++) {
        char pad[32];
        struct nib_text text = {pad, 0};
        if (i < vocab->n_tokens)
            text = vocab->tokens[i].text;
        else
            text.size = (size_t)snprintf(pad, sizeof pad, "[PAD%" PRIu32 "]", i);
        NIB_TRY(add_string(&texts, &text, 1, err));
        NIB_TRY(
            add_u32(&types, i < vocab->n_tokens ? vocab->tokens[i].type : NIB_TOKEN_UNUSED, err));
    }
    NIB_TRY(write_array(writer, "tokenizer.ggml.tokens", NIB_GGUF_STRING, n_rows, &texts, err));
    NIB_TRY(write_array(writer, "tokenizer.ggml.token_type", NIB_GGUF_I32, n_rows, &types, err));
fail:
    nib_buffer_free(&texts);
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
    NIB_TRY(write_array(writer, "tokenizer.ggml.scores", NIB_GGUF_F32, n_rows, &data, err));
fail:
    free(scores);
    nib_buffer_free(&data);
    return status;
}

static enum nib_status write_merges(const struct nib_vocab *vocab, struct nib_gguf_writer *writer,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer data = {0};
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        const struct nib_vocab_merge *merge = &vocab->merges[i];
        const struct nib_text parts[] = {
            vocab->tokens[merge->left].text, {" ", 1}, vocab->tokens[merge->right].text};
        NIB_TRY(add_string(&data, parts, 3, err));
    }
    NIB_TRY(
        write_array(writer, "tokenizer.ggml.merges", NIB_GGUF_STRING, vocab->n_merges, &data, err));
fail:
    nib_buffer_free(&data);
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
    if (!pre)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "GGUF has no name for this tokenizer's way of splitting text");
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

enum nib_status nib_vocab_to_gguf(const struct nib_vocab *vocab, uint32_t n_rows,
                                  struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status;
    if (vocab->n_tokens > n_rows)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "the tokenizer has %" PRIu32 " tokens, but the embedding %" PRIu32 " rows",
                        vocab->n_tokens, n_rows);
    NIB_TRY(write_model(vocab, n_rows, writer, err));
    NIB_TRY(write_id(writer, "tokenizer.ggml.bos_token_id", vocab->bos, err));
    NIB_TRY(write_id(writer, "tokenizer.ggml.eos_token_id", vocab->eos, err));
    NIB_TRY(write_id(writer, "tokenizer.ggml.unknown_token_id", vocab->unknown, err));
    for (uint32_t i = 0, n = 0; i < vocab->n_ends && n < NIB_GGUF_END_KEYS; i++) {
        if (vocab->ends[i] != vocab->eos)
            NIB_TRY(write_id(writer, nib_gguf_end_keys[n++], vocab->ends[i], err));
    }
    NIB_TRY(nib_gguf_writer_add_bool(writer, "tokenizer.ggml.add_bos_token", vocab->add_bos, err));
    if (vocab->chat_template.size > 0)
        NIB_TRY(
            nib_gguf_writer_add_text(writer, "tokenizer.chat_template", vocab->chat_template, err));
fail:
    return nib_fail_context(err, status, "tokenizer");
}
