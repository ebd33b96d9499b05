#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/progress.h"
#include "tools/nibble/prompt.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>

_Static_assert(NIB_QUANTIZE_RTN == 0 && NIB_QUANTIZE_IMPORTANCE == 7,
               "the table of flags lists the methods in this order");
_Static_assert(NIB_QUANTIZE_AS_GGUF == 1 && NIB_QUANTIZE_AS_COMPRESSED_TENSORS == 5,
               "the table of flags lists the containers in this order");

/// Tokenizes the calibration text, whose special tokens' text stays text. No BOS: windows begin
/// anywhere in the text.
static enum nib_status read_calibration(const struct options *options, struct nib_model *model,
                                        int32_t **out_ids, size_t *out_count, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_tokenizer *tokenizer;
    char *text = NULL;
    size_t size;
    TRY(prompt_tokenizer(model, options->model, &tokenizer, err));
    TRY(prompt_read_file(options->calibration, &text, &size, err));
    TRY(nib_tokenizer_encode(tokenizer, (struct nib_text){text, size}, nib_encode_params(0),
                             out_ids, out_count, err));

fail:
    free(text);
    return status;
}

static struct nib_quantize_params make_params(const struct options *options)
{
    const struct option_quantize *q = &options->quantize;
    return (struct nib_quantize_params){
        .struct_size = sizeof(struct nib_quantize_params),
        .method = (enum nib_quantize_method)q->method,
        .container = (enum nib_quantize_container)q->container,
        .format = q->format,
        .bits = (uint32_t)q->bits.value,
        .granularity = (enum nib_quantize_granularity)q->granularity,
        .group = (uint32_t)q->group.value,
        .zero = q->symmetric    ? NIB_QUANTIZE_SYMMETRIC
                : q->asymmetric ? NIB_QUANTIZE_ASYMMETRIC
                                : NIB_QUANTIZE_ZERO_DEFAULT,
        .range = (enum nib_quantize_range)q->range,
        .activation_range = (enum nib_quantize_range)q->activation_range,
        .percentile = (float)q->percentile.value,
        .activations = (enum nib_quantize_activations)q->activations,
        .mix = q->mix,
        .windows = (uint32_t)q->windows.value,
        .context = (uint32_t)q->context.value,
        .damping = (float)q->damping.value,
        .act_order = q->act_order,
        .no_static_groups = q->no_static_groups,
        .smoothing = (float)q->smoothing.value,
        .single_quantized = q->single_quantized,
        .outlier_threshold = (float)q->outlier_threshold.value,
        .threads = (uint32_t)options->threads.value,
    };
}

/// What is told of matrices while they are quantized.
struct matrices {
    struct nib_matrix_report *reports;
    size_t count, capacity;
    bool has_overflow;
};

static void on_matrix(void *user, const struct nib_matrix_report *report)
{
    struct matrices *matrices = user;
    if (matrices->count == matrices->capacity) {
        size_t capacity = 2 * matrices->capacity + 64;
        void *grown = realloc(matrices->reports, capacity * sizeof *report);
        if (!grown) {
            matrices->has_overflow = true;
            return;
        }
        matrices->reports = grown;
        matrices->capacity = capacity;
    }
    matrices->reports[matrices->count++] = *report;
}

static void write_json(const struct options *options, const struct nib_quantization_report *result,
                       const struct matrices *matrices)
{
    static const char *const methods[] = {"rtn",      "gptq", "awq", "smoothquant",
                                          "llm-int8", "nf4",  "fp4", "importance"};
    struct json_out json = json_begin(stdout);
    json_put_string(&json, "input", options->model);
    json_put_string(&json, "output", options->output);
    json_put_string(&json, "method", methods[options->quantize.method]);
    json_put_string(&json, "format", matrices->count ? matrices->reports[0].format : "");
    json_put_real(&json, "bits_per_weight", result->bits_per_weight);
    json_put_size(&json, "quantized_weights", result->quantized_weights);
    json_put_size(&json, "input_bytes", result->input_bytes);
    json_put_size(&json, "output_bytes", result->file_bytes);
    json_put_size(&json, "resumed_layers", result->resumed_layers);
    json_put_size(&json, "peak_rss_bytes", system_peak_rss());
    json_put_real(&json, "seconds", (double)result->ns * 1e-9);
    json_open_array(&json, "matrices");
    for (size_t i = 0; i < matrices->count; i++) {
        json_open_object(&json, NULL);
        json_put_string(&json, "name", matrices->reports[i].name);
        json_put_string(&json, "format", matrices->reports[i].format);
        json_put_real(&json, "error", matrices->reports[i].error);
        json_close_object(&json);
    }
    json_close_array(&json);
    json_end(&json);
}

static void print_result(const struct options *options,
                         const struct nib_quantization_report *result)
{
    char file[TEXT_NUMBER_SIZE], memory[TEXT_NUMBER_SIZE];
    text_bytes(file, result->file_bytes);
    text_bytes(memory, system_peak_rss());
    printf("written         %s, %s\n", options->output, file);
    printf("quantized       %" PRIu64 " weights, %.3f bits each\n", result->quantized_weights,
           result->bits_per_weight);
    if (result->resumed_layers > 0)
        printf("taken over      %" PRIu32 " layers of an interrupted run\n",
               result->resumed_layers);
    printf("peak memory     %s\n", memory);
    printf("time            %.1f s\n", (double)result->ns * 1e-9);
}

enum nib_status command_quantize(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_quantize_params params = make_params(options);
    struct progress progress = {.unit = PROGRESS_SHARE};
    struct nib_quantization_report result;
    struct nib_model *model = NULL;
    struct matrices matrices = {0};
    int32_t *ids = NULL;
    system_catch_termination();
    TRY(model_open(options->model, &model, err));
    if (options->calibration)
        TRY(read_calibration(options, model, &ids, &params.n_calibration, err));
    params.calibration = ids;
    params.log = message_log();
    params.progress = progress_hook(&progress);
    if (options->json) {
        params.on_matrix = on_matrix;
        params.user = &matrices;
    }
    status = nib_quantize(model, options->output, &params, &result, err);
    progress_end(&progress);
    if (status != NIB_OK)
        goto fail;
    if (matrices.has_overflow)
        TRY(fail_memory(err));
    if (options->json)
        write_json(options, &result, &matrices);
    else
        print_result(options, &result);

fail:
    free(matrices.reports);
    nib_model_destroy(&model);
    nib_ids_free(ids);
    return status;
}
