#include "tools/nibble/commands.h"
#include "tools/nibble/eval_text.h"
#include "tools/nibble/inspect.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/prompt.h"
#include "tools/nibble/report.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// Tokens whose rate is measured after the prompt, and runs of which the median counts.
enum { N_DECODED = 64, N_RUNS = 3 };

/// One model's line of the table. Rates and distances that were not measured are NaN.
struct result {
    const char *path;
    struct nib_model_info info;
    uint64_t memory_bytes;
    uint32_t gpu_layers, cpu_layers; ///< that it ran on
    double prefill_tps, decode_tps;
    struct nib_evaluation evaluation;
};

/// One comparison, from the command line to its table.
struct comparison {
    const struct options *options;
    struct setup setup;
    struct nib_text text; ///< of -f; NULL: none
    char *text_memory;
    struct eval_reference reference;
    struct progress progress;
    struct nib_model **models; ///< all opened before the long work, so that errors come early
    struct result *results;
    size_t count;
};

static double bits_per_weight(const struct nib_model_info *info)
{
    return info->parameters > 0 ? 8.0 * (double)info->weight_bytes / (double)info->parameters : NAN;
}

static enum nib_status open_models(struct comparison *comparison, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct option_texts *paths = &comparison->options->operands;
    comparison->models = calloc(paths->count, sizeof *comparison->models);
    comparison->results = calloc(paths->count, sizeof *comparison->results);
    if (!comparison->models || !comparison->results)
        TRY(fail_memory(err));
    comparison->count = paths->count;
    for (size_t i = 0; i < paths->count; i++) {
        struct result *result = &comparison->results[i];
        TRY(model_open(paths->texts[i], &comparison->models[i], err));
        *result = (struct result){.path = paths->texts[i], .prefill_tps = NAN, .decode_tps = NAN};
        nib_model_get_info(comparison->models[i], &result->info);
    }

fail:
    return status;
}

static enum nib_status prepare(struct comparison *comparison, struct nib_error *err)
{
    const struct options *options = comparison->options;
    enum nib_status status = NIB_OK;
    TRY(open_models(comparison, err));
    if (options->file) {
        TRY(prompt_read_file(options->file, &comparison->text_memory, &comparison->text.size, err));
        comparison->text.ptr = comparison->text_memory;
    }
    TRY(setup_open(options, &comparison->setup, err));
    TRY(eval_reference_open(options, &comparison->setup, &comparison->reference, err));
    if (comparison->reference.engine)
        TRY(engine_load(comparison->reference.engine, &comparison->setup, err));

fail:
    return status;
}

/// Returns the tokens of the prompt whose rate is measured: a window, fewer where the model's
/// context has no room for it and the tokens that follow.
static uint32_t prompt_size(const struct comparison *comparison, const struct nib_model_info *info)
{
    uint32_t window = eval_window(comparison->options);
    uint32_t room = info->context > N_DECODED + 1 ? info->context - N_DECODED - 1 : 1;
    return window < room ? window : room;
}

static bool on_token(void *user, const struct nib_token_event *event)
{
    (void)user;
    (void)event;
    return !system_interrupted();
}

/// Computes a prompt of n tokens, others in each run, and N_DECODED tokens after the first that
/// follows it.
static enum nib_status run_once(struct nib_engine *engine, const struct nib_model_info *info,
                                uint32_t n, uint32_t run, struct nib_generation *out_generation,
                                struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_session *session = NULL;
    int32_t *ids = calloc(n, sizeof *ids);
    if (!ids)
        return fail_memory(err);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(((uint64_t)i * 7919 + 104729 * (run + 1)) % info->vocabulary);
    TRY(nib_session_create(engine, &session, err));
    TRY(nib_session_append(session, ids, n, err));
    const struct nib_generate_params *params =
        nib_generate_params(.max_tokens = N_DECODED + 1, .ignore_eos = true, .on_token = on_token);
    system_watch(session);
    status = nib_session_generate(session, params, out_generation, err);
    system_watch(NULL);
    if (status == NIB_OK && system_interrupted())
        status = fail_with(err, NIB_ERROR_CANCELLED, "interrupted");

fail:
    nib_session_destroy(&session);
    free(ids);
    return status;
}

static int compare_reals(const void *left, const void *right)
{
    const double *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

static enum nib_status measure_speed(const struct comparison *comparison, struct nib_engine *engine,
                                     struct result *result, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    double prefill[N_RUNS], decode[N_RUNS];
    uint32_t n = prompt_size(comparison, &result->info);
    for (uint32_t run = 0; run < N_RUNS; run++) {
        struct nib_generation generation;
        TRY(run_once(engine, &result->info, n, run, &generation, err));
        prefill[run] = report_rate(n, generation.prefill_ns);
        decode[run] = report_decode_rate(&generation);
    }
    qsort(prefill, N_RUNS, sizeof *prefill, compare_reals);
    qsort(decode, N_RUNS, sizeof *decode, compare_reals);
    result->prefill_tps = prefill[N_RUNS / 2];
    result->decode_tps = decode[N_RUNS / 2];

fail:
    return status;
}

static bool read_reference(void *user, uint64_t row, float *logits, uint32_t vocabulary)
{
    struct comparison *comparison = user;
    return eval_reference_read(&comparison->reference, row, logits, vocabulary);
}

static enum nib_status evaluate(struct comparison *comparison, size_t index,
                                struct nib_engine *engine, struct nib_error *err)
{
    const struct options *options = comparison->options;
    struct result *result = &comparison->results[index];
    struct eval_text text = {0};
    enum nib_status status = eval_text_encode(options, comparison->models[index], result->path,
                                              comparison->text, &text, err);
    if (status == NIB_OK)
        status = eval_reference_check(&comparison->reference, options, &text, result->path,
                                      result->info.vocabulary, err);
    if (status == NIB_OK) {
        struct nib_evaluate_params params = eval_params(options, &text);
        params.reference_engine = comparison->reference.engine;
        params.reference = comparison->reference.reader ? read_reference : NULL;
        params.user = comparison;
        params.progress = progress_hook(&comparison->progress);
        status = nib_evaluate(engine, &params, &result->evaluation, err);
        progress_end(&comparison->progress);
    }
    eval_text_free(&text);
    return status;
}

/// Measures one model, and lets go of its engine before the next comes.
static enum nib_status measure(struct comparison *comparison, size_t index, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct result *result = &comparison->results[index];
    struct nib_engine *engine = NULL;
    struct nib_engine_info info;
    uint32_t window = eval_window(comparison->options);
    uint32_t needed = prompt_size(comparison, &result->info) + N_DECODED + 1;
    TRY(engine_create(comparison->models[index], &comparison->setup,
                      comparison->text.ptr && window > needed ? window : needed, &engine, err));
    TRY(engine_load(engine, &comparison->setup, err));
    nib_engine_get_info(engine, &info);
    result->memory_bytes = info.memory.total_bytes;
    TRY(measure_speed(comparison, engine, result, err));
    if (comparison->text.ptr)
        TRY(evaluate(comparison, index, engine, err));

    nib_engine_get_info(engine, &info);
    result->gpu_layers = info.execution.gpu_layers;
    result->cpu_layers = info.execution.cpu_layers;

fail:
    nib_engine_destroy(&engine);
    return status;
}

static void write_json(const struct comparison *comparison)
{
    struct json_out json = json_begin(stdout);
    json_put_string(&json, "reference", comparison->reference.path);
    json_open_array(&json, "models");
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        const struct nib_evaluation *evaluation = &result->evaluation;
        json_open_object(&json, NULL);
        json_put_string(&json, "model", result->path);
        json_put_real(&json, "bits_per_weight", bits_per_weight(&result->info));
        json_put_size(&json, "file_bytes", result->info.file_bytes);
        json_put_size(&json, "memory_bytes", result->memory_bytes);
        json_put_size(&json, "gpu_layers", result->gpu_layers);
        json_put_size(&json, "cpu_layers", result->cpu_layers);
        json_put_real(&json, "prefill_tps", result->prefill_tps);
        json_put_real(&json, "decode_tps", result->decode_tps);
        json_put_real(&json, "perplexity", evaluation->scored ? evaluation->perplexity : NAN);
        json_put_real(&json, "kl_mean", evaluation->compared ? evaluation->kl_mean : NAN);
        json_put_real(&json, "kl_p99", evaluation->compared ? evaluation->kl_p99 : NAN);
        json_put_real(&json, "top1_agreement",
                      evaluation->compared ? evaluation->top1_agreement : NAN);
        json_close_object(&json);
    }
    json_close_array(&json);
    json_end(&json);
}

static int name_width(const struct comparison *comparison)
{
    const size_t least = strlen("model"), most = 60;
    size_t width = least;
    for (size_t i = 0; i < comparison->count; i++) {
        size_t size = strlen(comparison->results[i].path);
        width = size > width ? size : width;
    }
    return (int)(width < most ? width : most);
}

static void print_table(const struct comparison *comparison)
{
    const bool scored = comparison->text.ptr != NULL, compared = comparison->reference.path != NULL;
    int width = name_width(comparison);
    printf("%-*s  bits/w        file      memory   prefill    decode", width, "model");
    printf("%s%s\n", scored ? "  perplexity" : "",
           compared ? "    KL mean     KL p99  same top" : "");
    for (size_t i = 0; i < comparison->count; i++) {
        const struct result *result = &comparison->results[i];
        char file[TEXT_NUMBER_SIZE], memory[TEXT_NUMBER_SIZE];
        inspect_print_name(result->path, width);
        printf("  %6.2f  %10s  %10s  %8.1f  %8.1f", bits_per_weight(&result->info),
               text_bytes(file, result->info.file_bytes), text_bytes(memory, result->memory_bytes),
               result->prefill_tps, result->decode_tps);
        if (scored)
            printf("  %10.4f", result->evaluation.perplexity);
        if (compared)
            printf("  %9.3e  %9.3e  %6.2f %%", result->evaluation.kl_mean,
                   result->evaluation.kl_p99, 100.0 * result->evaluation.top1_agreement);
        putchar('\n');
    }
    puts("\nbits a weight as stored; memory with weights, cache and scratch; tokens a second");
}

enum nib_status command_compare(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct comparison comparison = {.options = options, .progress = {.unit = PROGRESS_TOKENS}};
    TRY(prepare(&comparison, err));
    for (size_t i = 0; i < comparison.count; i++)
        TRY(measure(&comparison, i, err));
    if (options->json)
        write_json(&comparison);
    else
        print_table(&comparison);

fail:
    eval_reference_close(&comparison.reference);
    setup_close(&comparison.setup);
    for (size_t i = 0; i < comparison.count; i++)
        nib_model_destroy(&comparison.models[i]);
    free(comparison.models);
    free(comparison.results);
    free(comparison.text_memory);
    return status;
}
