#include "runtime/evaluate/evaluate.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/progress.h"
#include "runtime/evaluate/score.h"
#include <math.h>
#include <stdlib.h>

#define DEFAULT_CONTEXT 512
/// Logits that are kept for the lockstep with a reference take at most so many bytes.
#define MAX_KEPT_BYTES (64u << 20)

/// A run: its params with defaults filled in, its sessions and its sums.
struct evaluation {
    const struct nib_evaluate_params *params;
    uint32_t context;
    uint32_t windows;
    uint32_t first_scored; ///< position in a window
    uint32_t vocabulary;
    struct nib_session *session;
    struct nib_session *reference; ///< NULL: none
    int32_t *window;               ///< [context]
    float *kept;    ///< [chunk][vocabulary] model's logits until the reference's are there, or one
                    ///< row of stored logits; NULL without a reference
    uint32_t chunk; ///< rows that are kept at most
    uint32_t first_kept; ///< position of the first kept row
    double *divergences; ///< [scored in all]; NULL without a reference
    struct nib_meter meter;
    uint64_t window_start; ///< tokens of the windows before this one

    double nll_sum;
    uint64_t scored;
    uint64_t compared;
    uint64_t agreed;
    enum nib_status failure; ///< why a callback returned false
    bool is_of_reference;    ///< the failure
};

static bool give_up(struct evaluation *e, enum nib_status status)
{
    e->failure = status;
    return false;
}

/// Adds the model's prediction at `position` of the window to the sums.
static bool score_model(struct evaluation *e, uint32_t position, const float *logits)
{
    struct nib_scored_row row;
    if (!nib_score_row(logits, e->vocabulary, &row))
        return give_up(e, NIB_ERROR_UNSUPPORTED);
    e->nll_sum += nib_score_nll(&row, (uint32_t)e->window[position + 1]);
    if (e->params->on_logits &&
        !e->params->on_logits(e->params->user, e->scored, logits, e->vocabulary))
        return give_up(e, NIB_ERROR_CANCELLED);
    e->scored++;
    return nib_meter_report(&e->meter, e->window_start + position + 1) ||
           give_up(e, NIB_ERROR_CANCELLED);
}

static bool compare_rows(struct evaluation *e, const float *reference, const float *model)
{
    struct nib_scored_row reference_row;
    struct nib_scored_row model_row;
    e->is_of_reference = !nib_score_row(reference, e->vocabulary, &reference_row);
    if (e->is_of_reference || !nib_score_row(model, e->vocabulary, &model_row))
        return give_up(e, NIB_ERROR_UNSUPPORTED);
    e->agreed += reference_row.argmax == model_row.argmax;
    e->divergences[e->compared++] = nib_score_divergence(&reference_row, &model_row);
    return true;
}

/// Returns whether the chunk that is being computed scores the prediction at `position`.
static bool is_scored(const struct evaluation *e, uint32_t position)
{
    return position >= e->first_kept && position + 1 < e->context;
}

/// nib_logits_fn of the model's session.
static bool on_model_logits(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct evaluation *e = user;
    if (!is_scored(e, position))
        return true;
    if (e->reference) {
        float *line = e->kept + (size_t)(position - e->first_kept) * vocabulary;
        for (uint32_t i = 0; i < vocabulary; i++)
            line[i] = logits[i];
    } else if (e->params->reference) {
        if (!e->params->reference(e->params->user, e->scored, e->kept, vocabulary))
            return give_up(e, NIB_ERROR_IO);
        if (!compare_rows(e, e->kept, logits))
            return false;
    }
    return score_model(e, position, logits);
}

/// nib_logits_fn of the reference's session.
static bool on_reference_logits(void *user, uint32_t position, const float *logits,
                                uint32_t vocabulary)
{
    struct evaluation *e = user;
    if (!is_scored(e, position))
        return true;
    return compare_rows(e, logits, e->kept + (size_t)(position - e->first_kept) * vocabulary);
}

static enum nib_status explain(const struct evaluation *e, enum nib_status status,
                               struct nib_error *err)
{
    if (e->failure == NIB_ERROR_IO)
        return nib_fail(err, NIB_ERROR_IO, "the reference has no logits for scored row %llu",
                        (unsigned long long)e->scored);
    if (e->failure == NIB_ERROR_UNSUPPORTED)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "every logit of %s scored row %llu is NaN or minus infinity",
                        e->is_of_reference ? "the reference's" : "the model's",
                        (unsigned long long)(e->is_of_reference ? e->compared : e->scored));
    return status;
}

/// Computes tokens [first, end) of the window in both sessions.
static enum nib_status run_chunk(struct evaluation *e, uint32_t first, uint32_t end,
                                 struct nib_error *err)
{
    const int32_t *ids = e->window + first;
    enum nib_status status = NIB_OK;
    e->first_kept = first > e->first_scored ? first : e->first_scored;
    NIB_TRY(nib_session_append(e->session, ids, end - first, err));
    NIB_TRY(nib_session_forward(e->session, e->first_scored, on_model_logits, e, err));
    if (e->reference) {
        NIB_TRY(nib_session_append(e->reference, ids, end - first, err));
        NIB_TRY(nib_session_forward(e->reference, e->first_scored, on_reference_logits, e, err));
    }
    return NIB_OK;

fail:
    return explain(e, status, err);
}

/// Fills the window. Scoring looks one token ahead of what a session has checked, so all are
/// checked here.
static enum nib_status fill_window(struct evaluation *e, struct nib_error *err)
{
    const struct nib_evaluate_params *params = e->params;
    for (uint32_t i = 0; i < e->context; i++) {
        int32_t id = i == 0 && params->bos >= 0 ? params->bos : params->ids[e->window_start + i];
        if (id < 0 || (uint32_t)id >= e->vocabulary)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "token %llu of the text is %d, outside the model's vocabulary of %u",
                            (unsigned long long)(e->window_start + i), id, e->vocabulary);
        e->window[i] = id;
    }
    return NIB_OK;
}

static enum nib_status run_window(struct evaluation *e, uint32_t index, struct nib_error *err)
{
    e->window_start = (uint64_t)index * e->context;
    enum nib_status status = fill_window(e, err);
    if (status == NIB_OK)
        status = nib_session_truncate(e->session, 0, err);
    if (status == NIB_OK && e->reference)
        status = nib_session_truncate(e->reference, 0, err);
    uint32_t chunk = e->reference ? e->chunk : e->context;
    uint32_t first = 0;
    // The rows that are not scored keep no logits, so they are one chunk.
    uint32_t end = e->first_scored > 0 ? e->first_scored : chunk;
    while (status == NIB_OK && first < e->context) {
        end = end < e->context ? end : e->context;
        status = run_chunk(e, first, end, err);
        first = end;
        end = first + chunk;
    }
    if (status == NIB_OK && !nib_meter_report(&e->meter, e->window_start + e->context))
        status = nib_fail(err, NIB_ERROR_CANCELLED, "cancelled");
    return status;
}

enum nib_status nib_evaluation_windows(const struct nib_evaluate_params *params,
                                       struct nib_windows *out_windows, struct nib_error *err)
{
    const uint32_t context = params->context ? params->context : DEFAULT_CONTEXT;
    if (context < 4)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "a window has at least 4 tokens, not %u", context);
    if (params->n_ids < context)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the text has %zu tokens, fewer than one window of %u; lower --ctx",
                        params->n_ids, context);
    const uint64_t most = params->windows > 0 ? params->windows : UINT32_MAX;
    const uint64_t all = params->n_ids / context;
    *out_windows = (struct nib_windows){
        .context = context,
        .count = (uint32_t)(all < most ? all : most),
        .first_scored = params->score == NIB_SCORE_ALL ? 0 : context / 2,
    };
    return NIB_OK;
}

static enum nib_status check_params(struct evaluation *e, const struct nib_engine_info *info,
                                    struct nib_error *err)
{
    const struct nib_evaluate_params *params = e->params;
    if (e->context > info->context)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "windows of %u tokens do not fit the engine's context of %u", e->context,
                        info->context);
    if (params->reference_engine && params->reference)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "a reference engine and stored logits cannot both be compared with");
    if (params->reference_engine) {
        struct nib_engine_info other;
        nib_engine_get_info(params->reference_engine, &other);
        if (other.vocabulary != info->vocabulary || other.context < e->context)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "the reference has a vocabulary of %u and a context of %u, but %u and "
                            "at least %u are needed",
                            other.vocabulary, other.context, info->vocabulary, e->context);
    }
    return NIB_OK;
}

static enum nib_status set_up(struct evaluation *e, struct nib_engine *engine,
                              struct nib_error *err)
{
    const struct nib_evaluate_params *params = e->params;
    struct nib_engine_info info;
    nib_engine_get_info(engine, &info);
    e->vocabulary = info.vocabulary;
    struct nib_windows windows;
    enum nib_status status = nib_evaluation_windows(params, &windows, err);
    if (status != NIB_OK)
        return status;
    e->context = windows.context;
    e->windows = windows.count;
    e->first_scored = windows.first_scored;
    status = check_params(e, &info, err);
    if (status != NIB_OK)
        return status;

    e->meter = (struct nib_meter){.progress = params->progress,
                                  .what = "evaluate",
                                  .total = (uint64_t)e->windows * e->context};
    e->window = calloc(e->context, sizeof *e->window);
    if (!e->window)
        return nib_fail_memory(err);
    if (params->reference_engine || params->reference) {
        size_t rows = MAX_KEPT_BYTES / sizeof(float) / e->vocabulary;
        rows = rows < e->context ? rows : e->context;
        e->chunk = params->reference || rows == 0 ? 1 : (uint32_t)rows;
        e->kept = calloc((size_t)e->chunk * e->vocabulary, sizeof *e->kept);
        size_t scored = (size_t)e->windows * (e->context - 1 - e->first_scored);
        e->divergences = calloc(scored, sizeof *e->divergences);
        if (!e->kept || !e->divergences)
            return nib_fail_memory(err);
    }
    status = nib_session_create(engine, &e->session, err);
    if (status == NIB_OK && params->reference_engine)
        status = nib_session_create(params->reference_engine, &e->reference, err);
    return status;
}

static void tear_down(struct evaluation *e)
{
    nib_session_destroy(&e->session);
    nib_session_destroy(&e->reference);
    free(e->window);
    free(e->kept);
    free(e->divergences);
}

static void sum_up(struct evaluation *e, uint64_t ns, struct nib_evaluation *out)
{
    *out = (struct nib_evaluation){
        .nll = e->nll_sum / (double)e->scored,
        .tokens = e->params->n_ids,
        .windows = e->windows,
        .scored = e->scored,
        .seconds = (double)ns * 1e-9,
        .compared = e->compared > 0,
    };
    out->perplexity = exp(out->nll);
    if (!out->compared)
        return;
    double sum = 0.0;
    for (uint64_t i = 0; i < e->compared; i++)
        sum += e->divergences[i];
    out->kl_mean = sum / (double)e->compared;
    out->kl_p99 = nib_score_quantile(e->divergences, (size_t)e->compared, 0.99);
    out->top1_agreement = (double)e->agreed / (double)e->compared;
}

enum nib_status nib_evaluation_run(struct nib_engine *engine,
                                   const struct nib_evaluate_params *params,
                                   struct nib_evaluation *out_evaluation, struct nib_error *err)
{
    *out_evaluation = (struct nib_evaluation){0};
    struct evaluation e = {.params = params};
    uint64_t start_ns = nib_clock_ns();
    enum nib_status status = set_up(&e, engine, err);
    for (uint32_t i = 0; status == NIB_OK && i < e.windows; i++)
        status = run_window(&e, i, err);
    if (status == NIB_OK)
        sum_up(&e, nib_clock_ns() - start_ns, out_evaluation);
    tear_down(&e);
    return status;
}
