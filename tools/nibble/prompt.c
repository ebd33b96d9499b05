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

/// Encodes the text as it is, or as a user's message.
static enum nib_status encode(const struct options *options, const struct nib_tokenizer *tokenizer,
                              struct nib_text text, int32_t **out_ids, size_t *out_count,
                              struct nib_error *err)
{
    if (!options->chat) {
        const struct nib_encode_params *params =
            nib_encode_params(.add_bos = true, .parse_special = true);
        return nib_tokenizer_encode(tokenizer, text, params, out_ids, out_count, err);
    }
    struct nib_chat_message messages[2];
    size_t count = 0;
    if (options->system)
        messages[count++] =
            (struct nib_chat_message){NIB_CHAT_SYSTEM, {options->system, strlen(options->system)}};
    messages[count++] = (struct nib_chat_message){NIB_CHAT_USER, text};
    const struct nib_chat_params *params = nib_chat_params(.template_name = options->chat_template);
    return nib_tokenizer_encode_chat(tokenizer, messages, count, params, out_ids, out_count, err);
}

/// Encodes the text of -p or -f.
static enum nib_status encode_given(const struct options *options, const struct nib_model *model,
                                    struct prompt *prompt, struct nib_error *err)
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
    TRY(encode(options, tokenizer, text, &prompt->encoded, &prompt->count, err));
    prompt->ids = prompt->encoded;

fail:
    free(file);
    return status;
}

enum nib_status prompt_make(const struct options *options, const struct nib_model *model,
                            struct prompt *out_prompt, struct nib_error *err)
{
    *out_prompt =
        (struct prompt){.ids = options->prompt_ids.ids, .count = options->prompt_ids.count};
    if (!options->prompt_ids.given) {
        enum nib_status status = encode_given(options, model, out_prompt, err);
        if (status != NIB_OK)
            return status;
    }
    if (out_prompt->count == 0)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: the prompt is empty, and there is no beginning-of-sequence token to "
                         "start from; give some text",
                         options->model);
    return NIB_OK;
}

void prompt_free(struct prompt *prompt)
{
    nib_ids_free(prompt->encoded);
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
