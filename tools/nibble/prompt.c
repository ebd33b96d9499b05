#include "tools/nibble/prompt.h"
#include "tools/nibble/message.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/// A text that is larger is no prompt.
#define MAX_FILE_BYTES ((size_t)1 << 30)

static enum nib_status read_stream(FILE *file, const char *name, char **out_text, size_t *out_size,
                                   struct nib_error *err)
{
    size_t capacity = 1 << 16, size = 0;
    char *text = malloc(capacity);
    if (!text)
        return fail_memory(err);
    for (;;) {
        errno = 0;
        size += fread(text + size, 1, capacity - size, file);
        if (size < capacity)
            break;
        char *grown = capacity < MAX_FILE_BYTES ? realloc(text, capacity * 2) : NULL;
        if (!grown) {
            free(text);
            if (capacity < MAX_FILE_BYTES)
                return fail_memory(err);
            return fail_with(err, NIB_ERROR_ARGUMENT, "%s: more than 1 GiB; give a shorter text",
                             name);
        }
        text = grown;
        capacity *= 2;
    }
    if (ferror(file)) {
        free(text);
        if (errno == EINTR)
            return fail_with(err, NIB_ERROR_CANCELLED, "%s: interrupted", name);
        return fail_with(err, NIB_ERROR_IO, "%s: cannot read: %s", name, strerror(errno));
    }
    *out_text = text;
    *out_size = size;
    return NIB_OK;
}

enum nib_status prompt_read_file(const char *path, char **out_text, size_t *out_size,
                                 struct nib_error *err)
{
    *out_text = NULL;
    *out_size = 0;
    if (strcmp(path, "-") == 0)
        return read_stream(stdin, "standard input", out_text, out_size, err);
    FILE *file = fopen(path, "rb");
    if (!file)
        return fail_with(err, NIB_ERROR_IO, "%s: cannot open: %s", path, strerror(errno));
    enum nib_status status = read_stream(file, path, out_text, out_size, err);
    fclose(file);
    return status;
}

enum nib_status prompt_tokenizer(const struct nib_model *model, const char *path,
                                 const struct nib_tokenizer **out_tokenizer, struct nib_error *err)
{
    *out_tokenizer = nib_model_tokenizer(model);
    if (*out_tokenizer)
        return NIB_OK;
    return fail_with(err, NIB_ERROR_NOT_FOUND,
                     "%s: the model has no tokenizer; give tokens with 'nibble run --prompt-ids'",
                     path);
}

enum nib_status prompt_end_of_turn(const struct options *options,
                                   const struct nib_tokenizer *tokenizer, int32_t *out_id,
                                   struct nib_error *err)
{
    // A turn is rendered to see what it ends with.
    const struct nib_chat_message message = {NIB_CHAT_ASSISTANT, {"a", 1}};
    const struct nib_chat_params *params =
        nib_chat_params(.template_name = options->chat_template, .continue_conversation = true,
                        .no_generation_prompt = true);
    int32_t *ids;
    size_t count;
    enum nib_status status =
        nib_tokenizer_encode_chat(tokenizer, &message, 1, params, &ids, &count, err);
    if (status != NIB_OK)
        return status;
    *out_id = -1;
    for (size_t i = 0; i < count; i++) {
        if (nib_tokenizer_is_end(tokenizer, ids[i]))
            *out_id = ids[i];
    }
    nib_ids_free(ids);
    return NIB_OK;
}

/// Puts the token before the prompt that ends an answer that was cut off.
static enum nib_status end_turn(const struct options *options,
                                const struct nib_tokenizer *tokenizer, struct prompt *prompt,
                                struct nib_error *err)
{
    int32_t end;
    enum nib_status status = prompt_end_of_turn(options, tokenizer, &end, err);
    if (status != NIB_OK || end < 0)
        return status;
    int32_t *ids = calloc(prompt->count + 1, sizeof *ids);
    if (!ids)
        return fail_memory(err);
    ids[0] = end;
    memcpy(ids + 1, prompt->encoded, prompt->count * sizeof *ids);
    prompt->owned = ids;
    prompt->ids = ids;
    prompt->count++;
    return NIB_OK;
}

/// Encodes the text as it is, or as a user's message, to follow the session's tokens.
static enum nib_status encode(const struct options *options, const struct nib_tokenizer *tokenizer,
                              struct nib_text text, const struct nib_session *session,
                              struct prompt *prompt, struct nib_error *err)
{
    size_t n_tokens;
    const int32_t *tokens = nib_session_tokens(session, &n_tokens);
    enum nib_status status = NIB_OK;
    if (!options->chat) {
        const struct nib_encode_params *params =
            nib_encode_params(.add_bos = n_tokens == 0, .parse_special = true);
        TRY(nib_tokenizer_encode(tokenizer, text, params, &prompt->encoded, &prompt->count, err));
        prompt->ids = prompt->encoded;
        return NIB_OK;
    }
    struct nib_chat_message messages[2];
    size_t count = 0;
    if (options->system && n_tokens == 0)
        messages[count++] =
            (struct nib_chat_message){NIB_CHAT_SYSTEM, {options->system, strlen(options->system)}};
    messages[count++] = (struct nib_chat_message){NIB_CHAT_USER, text};
    const struct nib_chat_params *params = nib_chat_params(.template_name = options->chat_template,
                                                           .continue_conversation = n_tokens > 0);
    TRY(nib_tokenizer_encode_chat(tokenizer, messages, count, params, &prompt->encoded,
                                  &prompt->count, err));
    prompt->ids = prompt->encoded;
    if (n_tokens > 0 && !nib_tokenizer_is_end(tokenizer, tokens[n_tokens - 1]))
        status = end_turn(options, tokenizer, prompt, err);

fail:
    return status;
}

/// Encodes the text of -p or -f.
static enum nib_status encode_given(const struct options *options, const struct nib_model *model,
                                    const struct nib_session *session, struct prompt *prompt,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_tokenizer *tokenizer;
    struct nib_text text = {options->prompt, options->prompt ? strlen(options->prompt) : 0};
    char *file = NULL;
    TRY(prompt_tokenizer(model, options->model, &tokenizer, err));
    if (options->file) {
        TRY(prompt_read_file(options->file, &file, &text.size, err));
        text.ptr = file;
    }
    status = encode(options, tokenizer, text, session, prompt, err);

fail:
    free(file);
    return status;
}

enum nib_status prompt_make(const struct options *options, const struct nib_model *model,
                            const struct nib_session *session, struct prompt *out_prompt,
                            struct nib_error *err)
{
    size_t n_tokens;
    nib_session_tokens(session, &n_tokens);
    *out_prompt =
        (struct prompt){.ids = options->prompt_ids.ids, .count = options->prompt_ids.count};
    if (options->prompt || options->file) {
        enum nib_status status = encode_given(options, model, session, out_prompt, err);
        if (status != NIB_OK)
            return status;
    }
    if (out_prompt->count + n_tokens == 0)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: the prompt is empty, and there is no beginning-of-sequence token to "
                         "start from; give some text",
                         options->model);
    return NIB_OK;
}

void prompt_free(struct prompt *prompt)
{
    nib_ids_free(prompt->encoded);
    free(prompt->owned);
    *prompt = (struct prompt){0};
}

enum nib_status prompt_stops(const struct options *options, struct nib_text **out_stops,
                             struct nib_error *err)
{
    size_t count = options->stops.count;
    *out_stops = calloc(count + 1, sizeof **out_stops);
    if (!*out_stops)
        return fail_memory(err);
    for (size_t i = 0; i < count; i++)
        (*out_stops)[i] =
            (struct nib_text){options->stops.texts[i], strlen(options->stops.texts[i])};
    return NIB_OK;
}
