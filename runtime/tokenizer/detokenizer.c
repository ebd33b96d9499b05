#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

struct nib_detokenizer {
    const struct nib_tokenizer *tokenizer;
    bool keep_special;
    bool keeps_space;        ///< a space at the very beginning stays
    bool at_start;           ///< nothing has come out yet
    struct nib_buffer bytes; ///< of the tokens taken, not yet given out
    struct nib_buffer text;  ///< what was given out last
};

enum nib_status nib_detokenizer_create(const struct nib_tokenizer *tokenizer,
                                       const struct nib_detokenizer_params *params,
                                       struct nib_detokenizer **out_detokenizer,
                                       struct nib_error *err)
{
    *out_detokenizer = NULL;
    struct nib_detokenizer_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    if (!tokenizer)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "tokenizer is NULL: the model has none");
    struct nib_detokenizer *detokenizer = calloc(1, sizeof *detokenizer);
    if (!detokenizer)
        return nib_fail_memory(err);
    detokenizer->tokenizer = tokenizer;
    detokenizer->keep_special = current.keep_special;
    detokenizer->keeps_space = current.continuation || !tokenizer->drops_first_space;
    detokenizer->at_start = true;
    *out_detokenizer = detokenizer;
    return NIB_OK;
}

void nib_detokenizer_destroy(struct nib_detokenizer **detokenizer)
{
    if (!detokenizer || !*detokenizer)
        return;
    nib_buffer_free(&(*detokenizer)->bytes);
    nib_buffer_free(&(*detokenizer)->text);
    free(*detokenizer);
    *detokenizer = NULL;
}

/// Appends text with "▁" written as a space.
static enum nib_status append_unescaped(struct nib_buffer *out, struct nib_text text,
                                        struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t done = 0;
    for (size_t i = 0; i + NIB_SPACE_MARK_SIZE <= text.size;) {
        if (memcmp(text.ptr + i, NIB_SPACE_MARK, NIB_SPACE_MARK_SIZE) != 0) {
            i++;
            continue;
        }
        NIB_TRY(nib_buffer_append(out, text.ptr + done, i - done, err));
        NIB_TRY(nib_buffer_append(out, " ", 1, err));
        i += NIB_SPACE_MARK_SIZE;
        done = i;
    }
    NIB_TRY(nib_buffer_append(out, text.ptr + done, text.size - done, err));
fail:
    return status;
}

static enum nib_status append_token(struct nib_detokenizer *detokenizer, int32_t id,
                                    struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = detokenizer->tokenizer;
    const struct nib_token *token = &tokenizer->tokens[id];
    struct nib_buffer *out = &detokenizer->bytes;
    switch (token->type) {
    case NIB_TOKEN_BYTE:
        return nib_buffer_append(out, &token->byte, 1, err);
    case NIB_TOKEN_UNUSED:
        return NIB_OK;
    case NIB_TOKEN_CONTROL:
    case NIB_TOKEN_UNKNOWN:
        if (!detokenizer->keep_special)
            return NIB_OK;
        return nib_buffer_append(out, token->text.ptr, token->text.size, err);
    default:
        if (tokenizer->escape_spaces)
            return append_unescaped(out, token->text, err);
        return nib_buffer_append(out, token->text.ptr, token->text.size, err);
    }
}

/// Moves the first `size` bytes that were taken to `text`, made well-formed.
static enum nib_status give_out(struct nib_detokenizer *detokenizer, size_t size,
                                struct nib_text *out_text, struct nib_error *err)
{
    struct nib_buffer *bytes = &detokenizer->bytes;
    size_t begin =
        detokenizer->at_start && !detokenizer->keeps_space && size > 0 && bytes->data[0] == ' ';
    detokenizer->text.size = 0;
    enum nib_status status =
        size == 0 ? NIB_OK
                  : nib_append_utf8(&detokenizer->text,
                                    (struct nib_text){bytes->data + begin, size - begin}, err);
    if (status != NIB_OK)
        return status;
    if (size > 0) {
        detokenizer->at_start = false;
        bytes->size -= size;
        memmove(bytes->data, bytes->data + size, bytes->size);
    }
    *out_text = nib_buffer_text(&detokenizer->text);
    return NIB_OK;
}

enum nib_status nib_detokenizer_push(struct nib_detokenizer *detokenizer, int32_t id,
                                     struct nib_text *out_text, struct nib_error *err)
{
    *out_text = (struct nib_text){0};
    if (id < 0 || (uint32_t)id >= detokenizer->tokenizer->n_tokens)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "token id %d is not in the vocabulary of %u", id,
                        detokenizer->tokenizer->n_tokens);
    enum nib_status status = append_token(detokenizer, id, err);
    if (status != NIB_OK)
        return status;
    const struct nib_buffer *bytes = &detokenizer->bytes;
    size_t held = bytes->size ? nib_utf8_incomplete_tail(bytes->data, bytes->size) : 0;
    return give_out(detokenizer, bytes->size - held, out_text, err);
}

enum nib_status nib_detokenizer_finish(struct nib_detokenizer *detokenizer,
                                       struct nib_text *out_text, struct nib_error *err)
{
    *out_text = (struct nib_text){0};
    enum nib_status status = give_out(detokenizer, detokenizer->bytes.size, out_text, err);
    detokenizer->at_start = true;
    return status;
}
