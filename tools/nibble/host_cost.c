#include "tools/nibble/host_cost.h"

#include "tools/nibble/engine_setup.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/report.h"
#include "tools/nibble/system.h"
#include <inttypes.h>
#include <stdlib.h>

#define DEFAULT_STEPS 1000
/// Tokens of the prompt, and steps before those that count.
#define N_PROMPT 8
#define N_WARM 8

/// Parts of a step: up to its token, the rest.
enum part { PART_RUN, PART_REST, N_PARTS };
static const char *const part_names[N_PARTS] = {"run_us", "rest_us"};
static const char *const part_texts[N_PARTS] = {"scheduling, submission, token read back or drawn",
                                                "the rest"};

struct steps {
    uint64_t token_ns; ///< when the current step's token came
    uint64_t *ns;      ///< [step][N_PARTS]
    uint32_t n;
};

static bool on_token(void *user, const struct nib_token_event *event)
{
    struct steps *steps = user;
    (void)event;
    steps->token_ns = system_now_ns();
    return true;
}

/// Generates, and notes the parts of every step but the first N_WARM.
static enum nib_status generate(struct nib_engine *engine, struct nib_session *session,
                                uint32_t n_steps, struct steps *steps, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    int32_t prompt[N_PROMPT] = {0};
    TRY(nib_session_append(session, prompt, N_PROMPT, err));
    TRY(nib_session_begin(session,
                          nib_generate_params(.max_tokens = n_steps + N_WARM, .ignore_eos = true,
                                              .on_token = on_token, .user = steps),
                          err));
    uint32_t active = 1;
    for (uint32_t i = 0; active > 0; i++) {
        if (system_interrupted())
            TRY(fail_with(err, NIB_ERROR_CANCELLED, "interrupted"));
        uint64_t start_ns = system_now_ns();
        TRY(nib_engine_step(engine, &active, err));
        uint64_t end_ns = system_now_ns();
        if (i < N_WARM || steps->n == n_steps)
            continue;
        uint64_t *parts = steps->ns + (size_t)N_PARTS * steps->n++;
        parts[PART_RUN] = steps->token_ns - start_ns;
        parts[PART_REST] = end_ns - steps->token_ns;
    }

fail:
    return status;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/// Returns the median over all steps, in microseconds, of part `part`, or of whole steps: N_PARTS.
static double median_us(const struct steps *steps, uint32_t part, uint64_t *sorted)
{
    for (uint32_t i = 0; i < steps->n; i++) {
        const uint64_t *parts = steps->ns + (size_t)N_PARTS * i;
        sorted[i] = part < N_PARTS ? parts[part] : parts[PART_RUN] + parts[PART_REST];
    }
    qsort(sorted, steps->n, sizeof *sorted, compare);
    return (double)sorted[steps->n / 2] / 1e3;
}

static void print(const struct options *options, struct nib_engine *engine,
                  const struct steps *steps, uint64_t *sorted)
{
    double step_us = median_us(steps, N_PARTS, sorted);
    if (!options->json) {
        printf("%" PRIu32 " steps, medians in microseconds\n", steps->n);
        printf("%8.1f  from one step to the next\n", step_us);
        for (uint32_t i = 0; i < N_PARTS; i++)
            printf("%8.1f  %s\n", median_us(steps, i, sorted), part_texts[i]);
        return;
    }
    struct nib_engine_info info;
    nib_engine_get_info(engine, &info);
    struct json_out json = json_begin(stdout);
    json_put_string(&json, "model", options->model);
    json_put_string(&json, "device", info.device.name);
    json_put_size(&json, "steps", steps->n);
    json_put_real(&json, "step_us", step_us);
    for (uint32_t i = 0; i < N_PARTS; i++)
        json_put_real(&json, part_names[i], median_us(steps, i, sorted));
    report_execution(&json, engine);
    json_end(&json);
}

/// Chooses the context that `n` steps take, which must not be more than the model's.
static enum nib_status choose_context(const struct options *options, const struct nib_model *model,
                                      uint32_t n, uint32_t *out_context, struct nib_error *err)
{
    struct nib_model_info info;
    nib_model_get_info(model, &info);
    *out_context = n + N_PROMPT + N_WARM + 1;
    if (*out_context <= info.context)
        return NIB_OK;
    return fail_with(err, NIB_ERROR_ARGUMENT,
                     "%s: %" PRIu32 " steps take a context of %" PRIu32
                     " tokens, more than the model's %" PRIu32 "; lower -n",
                     options->model, n, *out_context, info.context);
}

enum nib_status host_cost(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t n = options->tokens.given ? (uint32_t)options->tokens.value : DEFAULT_STEPS;
    uint32_t context;
    struct nib_model *model = NULL;
    struct setup setup = {0};
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct steps steps = {.ns = calloc((size_t)n * N_PARTS, sizeof *steps.ns)};
    uint64_t *sorted = calloc(n, sizeof *sorted);
    if (!steps.ns || !sorted)
        TRY(fail_memory(err));
    TRY(model_open(options->model, &model, err));
    TRY(choose_context(options, model, n, &context, err));
    TRY(setup_open(options, &setup, err));
    TRY(engine_create(model, &setup, context, &engine, err));
    TRY(engine_load(engine, &setup, err));
    TRY(nib_session_create(engine, &session, err));
    TRY(generate(engine, session, n, &steps, err));
    print(options, engine, &steps, sorted);

fail:
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
    setup_close(&setup);
    nib_model_destroy(&model);
    free(steps.ns);
    free(sorted);
    return status;
}
