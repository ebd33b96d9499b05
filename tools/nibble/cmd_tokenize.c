#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/output.h"
#include "tools/nibble/prompt.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static enum nib_status print_ids(const struct options *options,
                                 const struct nib_tokenizer *tokenizer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    char *file = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    struct nib_text text = {options->prompt, options->prompt ? strlen(options->prompt) : 0};
    if (options->file) {
        TRY(prompt_read_file(options->file, &file, &text.size, err));
        text.ptr = file;
    }
    const struct nib_encode_params *params =
        nib_encode_params(.add_bos = !options->no_bos, .parse_special = true);
    TRY(nib_tokenizer_encode(tokenizer, text, params, &ids, &count, err));
    if (options->json) {
        struct json_out json = json_begin(stdout);
        json_put_string(&json, "model", options->model);
        json_put_ids(&json, "ids", ids, count);
        json_end(&json);
    } else {
        for (size_t i = 0; i < count; i++)
            printf(i > 0 ? " %" PRId32 : "%" PRId32, ids[i]);
        putchar('\n');
    }

fail:
    nib_ids_free(ids);
    free(file);
    return status;
}

/// Writes the text of all ids, special ones included, to `sink`.
static enum nib_status detokenize(const struct option_ids *ids,
                                  const struct nib_tokenizer *tokenizer, FILE *sink,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_detokenizer *detokenizer = NULL;
    struct nib_text text;
    TRY(nib_detokenizer_create(tokenizer, nib_detokenizer_params(.keep_special = true),
                               &detokenizer, err));
    for (size_t i = 0; i < ids->count; i++) {
        TRY(nib_detokenizer_push(detokenizer, ids->ids[i], &text, err));
        fwrite(text.ptr, 1, text.size, sink);
    }
    TRY(nib_detokenizer_finish(detokenizer, &text, err));
    fwrite(text.ptr, 1, text.size, sink);

fail:
    nib_detokenizer_destroy(&detokenizer);
    return status;
}

static enum nib_status print_text(const struct options *options,
                                  const struct nib_tokenizer *tokenizer, struct nib_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *sink = open_memstream(&text, &size);
    if (!sink)
        return fail_memory(err);
    enum nib_status status = detokenize(&options->detokenize, tokenizer, sink, err);
    bool failed = ferror(sink);
    failed = fclose(sink) != 0 || failed;
    if (status == NIB_OK && failed)
        status = fail_memory(err);
    if (status == NIB_OK && options->json) {
        struct json_out json = json_begin(stdout);
        json_put_string(&json, "model", options->model);
        json_put_text(&json, "text", text, size);
        json_end(&json);
    } else if (status == NIB_OK) {
        output_text(text, size);
        output_text("\n", 1);
    }
    free(text);
    return status;
}

enum nib_status command_tokenize(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_model *model = NULL;
    const struct nib_tokenizer *tokenizer;
    TRY(model_open(options->model, &model, err));
    TRY(prompt_tokenizer(model, options->model, &tokenizer, err));
    if (options->detokenize.given)
        TRY(print_text(options, tokenizer, err));
    else
        TRY(print_ids(options, tokenizer, err));

fail:
    nib_model_destroy(&model);
    return status;
}
