#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/host_cost.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/output.h"
#include "tools/nibble/profile.h"
#include "tools/nibble/progress.h"
#include "tools/nibble/report.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>

/// Tokens that each sequence generates, where -n does not say.
#define DEFAULT_TOKENS 32
static const uint32_t default_batches[] = {1, 4};
static const uint32_t default_contexts[] = {512, 2048};

/// A list of numbers in ascending order.
struct axis {
    const uint32_t *values;
    size_t count;
};

/// What was measured with one batch and one context.
struct result {
    uint32_t context, batch;
    uint64_t prefill_tokens, computed_tokens, prefill_ns;
    uint64_t decode_tokens, decode_ns;
    struct nib_engine_info info;
};

struct bench {
    const struct options *options;
    struct axis batches, contexts;
    uint32_t n_tokens;
    struct nib_model *model;
    struct setup setup;
    struct nib_engine *engine;
    struct nib_session **sessions; ///< [largest batch]
    uint32_t n_sessions;
    int32_t *ids; ///< [largest context] a prompt
    struct result *results;
    size_t n_results;
    struct progress progress;
};

static struct axis choose_axis(const struct option_list *list, const uint32_t *values, size_t count)
{
    return list->given ? (struct axis){list->values, list->count} : (struct axis){values, count};
}

static uint32_t largest(const struct axis *axis)
{
    return axis->values[axis->count - 1];
}

/// The contexts of the default that the model has, or those that were asked for.
static void choose_contexts(struct bench *bench)
{
    struct nib_model_info info;
    nib_model_get_info(bench->model, &info);
    bench->contexts = choose_axis(&bench->options->contexts, default_contexts,
                                  sizeof default_contexts / sizeof default_contexts[0]);
    while (!bench->options->contexts.given && bench->contexts.count > 1 &&
           largest(&bench->contexts) > info.context)
        bench->contexts.count--;
}

static enum nib_status prepare(struct bench *bench, struct nib_error *err)
{
    const struct options *options = bench->options;
    enum nib_status status = NIB_OK;
    bench->n_tokens = options->tokens.given ? (uint32_t)options->tokens.value : DEFAULT_TOKENS;
    bench->batches = choose_axis(&options->batches, default_batches,
                                 sizeof default_batches / sizeof default_batches[0]);
    TRY(model_open(options->model, &bench->model, err));
    choose_contexts(bench);
    if (bench->contexts.values[0] <= bench->n_tokens)
        TRY(fail_with(err, NIB_ERROR_ARGUMENT,
                      "--ctx: %" PRIu32 " tokens leave no prompt before the %" PRIu32
                      " that are generated; raise --ctx or lower -n",
                      bench->contexts.values[0], bench->n_tokens));
    TRY(setup_open(options, &bench->setup, err));
    bench->setup.max_sessions = largest(&bench->batches);
    bench->sessions = calloc(bench->setup.max_sessions, sizeof(struct nib_session *));
    bench->ids = calloc(largest(&bench->contexts), sizeof *bench->ids);
    bench->results = calloc(bench->batches.count * bench->contexts.count, sizeof *bench->results);
    if (!bench->sessions || !bench->ids || !bench->results)
        TRY(fail_memory(err));
    TRY(engine_create(bench->model, &bench->setup, largest(&bench->contexts), &bench->engine, err));
    TRY(engine_load(bench->engine, &bench->setup, err));

fail:
    return status;
}

/// Steps to be run.
struct work {
    const char *what;
    uint64_t n_tokens; ///< to be computed
    uint32_t rows;     ///< of them in a step
};

/// Steps until every session has ended its generation. `*out_ns` is how long it took.
static enum nib_status run_all(struct bench *bench, const struct work *work, uint64_t *out_ns,
                               struct nib_error *err)
{
    uint64_t start_ns = system_now_ns(), done = 0;
    struct nib_progress hook = progress_hook(&bench->progress);
    enum nib_status status = NIB_OK;
    for (uint32_t active = 1; active > 0 && status == NIB_OK;) {
        status = nib_engine_step(bench->engine, &active, err);
        done = done + work->rows < work->n_tokens ? done + work->rows : work->n_tokens;
        if (status == NIB_OK && !hook.report(hook.user, work->what, done, work->n_tokens))
            status = fail_with(err, NIB_ERROR_CANCELLED, "interrupted");
    }
    *out_ns = system_now_ns() - start_ns;
    progress_end(&bench->progress);
    return status;
}

static enum nib_status begin(struct nib_session *session, uint32_t n_tokens, struct nib_error *err)
{
    const struct nib_generate_params *params =
        nib_generate_params(.max_tokens = n_tokens, .ignore_eos = true);
    return nib_session_begin(session, params, err);
}

/// Writes a prompt that no other sequence has, but for its first tokens with --shared.
static void write_prompt(struct bench *bench, uint32_t length, uint32_t vocabulary)
{
    uint64_t shared = bench->options->shared.value;
    // A linear congruential generator (Knuth's MMIX) whose high bits are taken.
    uint64_t common = length;
    uint64_t own = (uint64_t)length << 32 | (bench->n_sessions + 1);
    for (uint32_t i = 0; i < length; i++) {
        uint64_t *state = i < shared ? &common : &own;
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        bench->ids[i] = (int32_t)((*state >> 33) % vocabulary);
    }
}

/// Makes sessions up to `batch` and has them read their prompts and draw one token.
static enum nib_status prefill(struct bench *bench, struct result *result, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t length = result->context - bench->n_tokens;
    uint32_t first = bench->n_sessions;
    struct nib_engine_info info;
    nib_engine_get_info(bench->engine, &info);
    while (bench->n_sessions < result->batch) {
        struct nib_session **session = &bench->sessions[bench->n_sessions];
        TRY(nib_session_create(bench->engine, session, err));
        write_prompt(bench, length, info.vocabulary);
        bench->n_sessions++;
        TRY(nib_session_append(*session, bench->ids, length, err));
        TRY(begin(*session, 1, err));
    }
    result->prefill_tokens = (uint64_t)(bench->n_sessions - first) * length;
    struct work work = {"prefill", result->prefill_tokens, NIB_MAX_ROWS};
    TRY(run_all(bench, &work, &result->prefill_ns, err));
    for (uint32_t i = first; i < bench->n_sessions; i++) {
        struct nib_generation generation;
        nib_session_get_generation(bench->sessions[i], &generation);
        result->computed_tokens += generation.n_prompt;
    }

fail:
    return status;
}

static void end_sessions(struct bench *bench)
{
    while (bench->n_sessions > 0)
        nib_session_destroy(&bench->sessions[--bench->n_sessions]);
}

/// Reads one prompt that no other sequence begins like, so that what is measured finds memory that
/// the system has handed out.
static enum nib_status warm_up(struct bench *bench, struct nib_error *err)
{
    struct result result = {.context = bench->contexts.values[0] - 1, .batch = 1};
    if (result.context == bench->n_tokens)
        return NIB_OK;
    enum nib_status status = prefill(bench, &result, err);
    end_sessions(bench);
    return status;
}

/// Has all sessions generate side by side, `n_tokens` each, and takes the tokens back.
static enum nib_status generate(struct bench *bench, struct result *result, uint32_t n_tokens,
                                struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t length = result->context - bench->n_tokens + 1;
    for (uint32_t i = 0; i < bench->n_sessions; i++)
        TRY(begin(bench->sessions[i], n_tokens, err));
    result->decode_tokens = (uint64_t)bench->n_sessions * n_tokens;
    struct work work = {"decode", result->decode_tokens, bench->n_sessions};
    TRY(run_all(bench, &work, &result->decode_ns, err));
    nib_engine_get_info(bench->engine, &result->info);
    for (uint32_t i = 0; i < bench->n_sessions; i++)
        TRY(nib_session_truncate(bench->sessions[i], length, err));

fail:
    return status;
}

/// Measures generation up to the context, after a token that is not timed: some drivers compile
/// what they run when they first run it.
static enum nib_status decode(struct bench *bench, struct result *result, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (bench->n_tokens > 1 && !bench->options->profile)
        status = generate(bench, result, 1, err);
    return status != NIB_OK ? status : generate(bench, result, bench->n_tokens - 1, err);
}

static uint64_t memory_in_use(const struct result *result)
{
    const struct nib_memory *memory = &result->info.memory;
    return memory->weights_bytes + memory->scratch_bytes + result->info.kv_used_bytes;
}

static void print_header(void)
{
    printf("%8s %6s %15s %14s %15s %11s %11s\n", "context", "batch", "prefill tok/s",
           "decode tok/s", "per sequence", "KV cache", "all memory");
}

static void print_result(const struct result *result)
{
    char context[TEXT_NUMBER_SIZE], cache[TEXT_NUMBER_SIZE], memory[TEXT_NUMBER_SIZE];
    double decode_rate = report_rate(result->decode_tokens, result->decode_ns);
    printf("%8s %6" PRIu32 " %15.1f %14.1f %15.1f %11s %11s\n",
           text_tokens(context, result->context), result->batch,
           report_rate(result->prefill_tokens, result->prefill_ns), decode_rate,
           decode_rate / result->batch, text_bytes(cache, result->info.kv_used_bytes),
           text_bytes(memory, memory_in_use(result)));
    fflush(stdout);
}

/// Measures every batch with one context.
static enum nib_status measure_context(struct bench *bench, uint32_t context, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (size_t b = 0; b < bench->batches.count; b++) {
        struct result *result = &bench->results[bench->n_results];
        *result = (struct result){.context = context, .batch = bench->batches.values[b]};
        TRY(prefill(bench, result, err));
        TRY(decode(bench, result, err));
        bench->n_results++;
        if (!bench->options->json)
            print_result(result);
    }

fail:
    end_sessions(bench);
    return status;
}

static void write_result(struct json_out *json, const struct result *result)
{
    json_open_object(json, NULL);
    json_put_size(json, "context", result->context);
    json_put_size(json, "batch", result->batch);
    json_put_size(json, "prefill_tokens", result->prefill_tokens);
    json_put_size(json, "computed_tokens", result->computed_tokens);
    json_put_real(json, "prefill_tps", report_rate(result->prefill_tokens, result->prefill_ns));
    json_put_size(json, "decode_tokens", result->decode_tokens);
    json_put_real(json, "decode_tps", report_rate(result->decode_tokens, result->decode_ns));
    json_put_size(json, "kv_bytes", result->info.kv_used_bytes);
    json_put_size(json, "memory_bytes", memory_in_use(result));
    json_close_object(json);
}

/// Writes the report as docs/json.md describes it.
static void write_json(const struct bench *bench, const struct profile *profile)
{
    const struct options *options = bench->options;
    struct nib_engine_info info;
    nib_engine_get_info(bench->engine, &info);
    struct json_out json = json_begin(stdout);
    json_put_string(&json, "model", options->model);
    json_put_string(&json, "device", info.device.name);
    json_open_object(&json, "kv");
    json_put_string(&json, "keys", options_kv_name(options->kv.keys));
    json_put_string(&json, "values", options_kv_name(options->kv.values));
    json_put_size(&json, "recent", info.kv_recent);
    json_put_size(&json, "first", info.kv_first);
    json_put_boolean(&json, "keys_transformed", info.kv_keys_transformed);
    json_put_boolean(&json, "values_transformed", info.kv_values_transformed);
    json_close_object(&json);
    json_put_size(&json, "shared", options->shared.value);
    json_open_array(&json, "results");
    for (size_t i = 0; i < bench->n_results; i++)
        write_result(&json, &bench->results[i]);
    json_close_array(&json);
    report_execution(&json, bench->engine);
    report_memory(&json, &info);
    profile_write(profile, &json);
    json_end(&json);
}

enum nib_status command_bench(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct bench bench = {.options = options, .progress = {.unit = PROGRESS_TOKENS}};
    struct profile profile = {0};
    if (options->host_cost)
        return host_cost(options, err);
    TRY(prepare(&bench, err));
    if (!options->json)
        print_header();
    if (!options->profile) // which counts all that was run
        TRY(warm_up(&bench, err));
    for (size_t c = 0; c < bench.contexts.count; c++)
        TRY(measure_context(&bench, bench.contexts.values[c], err));
    if (options->profile)
        TRY(profile_read(bench.engine, &profile, err));
    if (options->json)
        write_json(&bench, &profile);
    else
        TRY(profile_print(&profile, err));

fail:
    profile_free(&profile);
    free(bench.results);
    free(bench.ids);
    free(bench.sessions);
    nib_engine_destroy(&bench.engine);
    setup_close(&bench.setup);
    nib_model_destroy(&bench.model);
    return status;
}
