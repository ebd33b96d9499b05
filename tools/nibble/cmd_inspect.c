#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/inspect.h"
#include "tools/nibble/message.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void print_header(const struct nib_model *model, const char *path)
{
    struct nib_model_info info;
    char parameters[TEXT_NUMBER_SIZE], file[TEXT_NUMBER_SIZE];
    nib_model_get_info(model, &info);
    inspect_print_name(info.name[0] ? info.name : path, 0);
    printf("\n  %s, %s parameters, %s, %s in %s", info.architecture,
           text_count(parameters, info.parameters), info.quantization,
           text_bytes(file, info.file_bytes), info.container);
    if (info.parameters > 0)
        printf(" (%.2f bits a weight)", 8.0 * (double)info.weight_bytes / (double)info.parameters);
    printf("\n  %" PRIu32 " layers of %" PRIu32 ", feed-forward %" PRIu32 ", %" PRIu32
           " heads of %" PRIu32 " over %" PRIu32 " for keys and values\n",
           info.layers, info.hidden_size, info.ffn_size, info.heads, info.head_dim, info.kv_heads);
    printf("  vocabulary %" PRIu32 ", context %" PRIu32, info.vocabulary, info.context);
    if (info.sliding_window > 0)
        printf(", sliding window %" PRIu32, info.sliding_window);
    putchar('\n');
}

static void print_tokenizer(const struct nib_tokenizer *tokenizer)
{
    struct nib_tokenizer_info info;
    if (!tokenizer) {
        puts("  no tokenizer");
        return;
    }
    nib_tokenizer_get_info(tokenizer, &info);
    printf("  tokenizer %s%s%s, %" PRIu32 " tokens", info.model, info.pre[0] ? " " : "", info.pre,
           info.vocabulary);
    if (info.bos >= 0)
        printf(", BOS %" PRId32 "%s", info.bos, info.add_bos ? " put first" : "");
    if (info.eos >= 0)
        printf(", EOS %" PRId32, info.eos);
    printf("\n  chat template %s\n",
           info.chat_template ? info.chat_template : "none, or of an unknown family");
}

static void write_config(struct json_out *json, const struct nib_model_info *info)
{
    json_open_object(json, "config");
    json_put_size(json, "layers", info->layers);
    json_put_size(json, "hidden_size", info->hidden_size);
    json_put_size(json, "ffn_size", info->ffn_size);
    json_put_size(json, "heads", info->heads);
    json_put_size(json, "kv_heads", info->kv_heads);
    json_put_size(json, "head_dim", info->head_dim);
    json_put_size(json, "vocabulary", info->vocabulary);
    json_put_size(json, "context", info->context);
    json_put_size(json, "sliding_window", info->sliding_window);
    json_close_object(json);
}

static void write_tokenizer(struct json_out *json, const struct nib_tokenizer *tokenizer)
{
    struct nib_tokenizer_info info;
    if (!tokenizer) {
        json_put_null(json, "tokenizer");
        return;
    }
    nib_tokenizer_get_info(tokenizer, &info);
    json_open_object(json, "tokenizer");
    json_put_string(json, "model", info.model);
    json_put_string(json, "pre", info.pre);
    json_put_size(json, "vocabulary", info.vocabulary);
    json_put_integer(json, "bos", info.bos);
    json_put_integer(json, "eos", info.eos);
    json_put_boolean(json, "add_bos", info.add_bos);
    json_put_string(json, "chat_template", info.chat_template);
    json_close_object(json);
}

static enum nib_status write_json(FILE *file, const struct nib_model *model,
                                  const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_model_info info;
    nib_model_get_info(model, &info);
    struct json_out json = json_begin(file);
    json_put_string(&json, "model", options->model);
    json_put_string(&json, "name", info.name);
    json_put_string(&json, "architecture", info.architecture);
    json_put_string(&json, "container", info.container);
    json_put_string(&json, "quantization", info.quantization);
    json_put_size(&json, "parameters", info.parameters);
    json_put_size(&json, "file_bytes", info.file_bytes);
    json_put_size(&json, "weight_bytes", info.weight_bytes);
    write_config(&json, &info);
    write_tokenizer(&json, nib_model_tokenizer(model));
    TRY(inspect_write_formats(&json, model, err));
    inspect_write_tensors(&json, model);
    TRY(inspect_write_memory(&json, model, options, err));
    json_end(&json);

fail:
    return status;
}

static enum nib_status print_text(const struct nib_model *model, const struct options *options,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    print_header(model, options->model);
    print_tokenizer(nib_model_tokenizer(model));
    TRY(inspect_print_formats(model, err));
    TRY(inspect_print_tensors(model, options->tensors, err));
    TRY(inspect_print_memory(model, options, err));

fail:
    return status;
}

/// Makes the JSON in memory first, since a command that fails prints none.
static enum nib_status print_json(const struct nib_model *model, const struct options *options,
                                  struct nib_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    if (!file)
        return fail_memory(err);
    enum nib_status status = write_json(file, model, options, err);
    bool failed = ferror(file);
    failed = fclose(file) != 0 || failed;
    if (status == NIB_OK && failed)
        status = fail_memory(err);
    if (status == NIB_OK)
        fwrite(text, 1, size, stdout);
    free(text);
    return status;
}

enum nib_status command_inspect(const struct options *options, struct nib_error *err)
{
    struct nib_model *model = NULL;
    enum nib_status status = model_open(options->model, &model, err);
    if (status == NIB_OK)
        status = options->json ? print_json(model, options, err) : print_text(model, options, err);
    nib_model_destroy(&model);
    return status;
}
