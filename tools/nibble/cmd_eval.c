#include "tools/nibble/commands.h"
#include "tools/nibble/eval_text.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/profile.h"
#include "tools/nibble/progress.h"
#include "tools/nibble/prompt.h"
#include "tools/nibble/report.h"
#include "tools/nibble/system.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/// One evaluation, from the command line to its report.
struct evaluation {
    const struct options *options;
    struct nib_model *model;
    struct setup setup;
    struct nib_engine *engine;
    struct eval_text text;

    struct eval_reference reference;
    struct nib_logits_writer *writer;
    enum nib_status written; ///< `write_err` tells more
    struct nib_error write_err;

    struct progress progress;
    double nll_so_far;
    struct nib_evaluation result;
};

/// Reads and tokenizes the text.
static enum nib_status read_text(struct evaluation *evaluation, struct nib_error *err)
{
    const struct options *options = evaluation->options;
    char *text = NULL;
    size_t size;
    enum nib_status status = prompt_read_file(options->file, &text, &size, err);
    if (status == NIB_OK)
        status = eval_text_encode(options, evaluation->model, options->model,
                                  (struct nib_text){text, size}, &evaluation->text, err);
    free(text);
    return status;
}

static enum nib_status prepare(struct evaluation *evaluation, struct nib_error *err)
{
    const struct options *options = evaluation->options;
    enum nib_status status = NIB_OK;
    struct nib_engine_info info;
    TRY(model_open(options->model, &evaluation->model, err));
    TRY(read_text(evaluation, err));
    TRY(setup_open(options, &evaluation->setup, err));
    TRY(engine_create(evaluation->model, &evaluation->setup, evaluation->text.window,
                      &evaluation->engine, err));
    nib_engine_get_info(evaluation->engine, &info);
    TRY(eval_reference_open(options, &evaluation->setup, &evaluation->reference, err));
    TRY(eval_reference_check(&evaluation->reference, options, &evaluation->text, options->model,
                             info.vocabulary, err));
    if (options->save_logits) {
        const struct nib_evaluate_params params = eval_params(options, &evaluation->text);
        TRY(nib_logits_writer_open(options->save_logits, info.vocabulary, &evaluation->writer,
                                   err));
        TRY(nib_logits_writer_note_windows(evaluation->writer, &params, err));
    }
    TRY(engine_load(evaluation->engine, &evaluation->setup, err));
    if (evaluation->reference.engine)
        TRY(engine_load(evaluation->reference.engine, &evaluation->setup, err));

fail:
    return status;
}

/// Returns the negative natural log-likelihood of `id`.
static double surprise(const float *logits, uint32_t vocabulary, int32_t id)
{
    float largest = logits[0];
    for (uint32_t i = 1; i < vocabulary; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    double sum = 0;
    for (uint32_t i = 0; i < vocabulary; i++)
        sum += (double)expf(logits[i] - largest);
    return log(sum) + (double)(largest - logits[id]);
}

/// Stores a row, and tells people who watch how the perplexity develops.
static bool on_logits(void *user, uint64_t row, const float *logits, uint32_t vocabulary)
{
    struct evaluation *evaluation = user;
    if (evaluation->writer) {
        evaluation->written =
            nib_logits_writer_append(evaluation->writer, logits, &evaluation->write_err);
        if (evaluation->written != NIB_OK)
            return false;
    }
    if (system_is_terminal(stderr)) {
        uint32_t per_window = eval_scored_per_window(evaluation->options);
        uint64_t next = row / per_window * evaluation->text.window +
                        eval_first_scored(evaluation->options) + row % per_window + 1;
        evaluation->nll_so_far += surprise(logits, vocabulary, evaluation->text.ids[next]);
        snprintf(evaluation->progress.note, sizeof evaluation->progress.note, "perplexity %.3f",
                 exp(evaluation->nll_so_far / (double)(row + 1)));
    }
    return !system_interrupted();
}

static bool read_reference(void *user, uint64_t row, float *logits, uint32_t vocabulary)
{
    struct evaluation *evaluation = user;
    return eval_reference_read(&evaluation->reference, row, logits, vocabulary);
}

static enum nib_status evaluate(struct evaluation *evaluation, struct nib_error *err)
{
    struct nib_evaluate_params params = eval_params(evaluation->options, &evaluation->text);
    params.reference_engine = evaluation->reference.engine;
    params.reference = evaluation->reference.reader ? read_reference : NULL;
    params.on_logits = on_logits;
    params.user = evaluation;
    params.progress = progress_hook(&evaluation->progress);
    enum nib_status status = nib_evaluate(evaluation->engine, &params, &evaluation->result, err);
    progress_end(&evaluation->progress);
    if (evaluation->written != NIB_OK) {
        *err = evaluation->write_err;
        status = evaluation->written;
    }
    return status;
}

static void write_json(const struct evaluation *evaluation, const struct profile *profile)
{
    const struct nib_evaluation *result = &evaluation->result;
    struct nib_engine_info info;
    nib_engine_get_info(evaluation->engine, &info);
    struct json_out json = json_begin(stdout);
    json_put_string(&json, "model", evaluation->options->model);
    json_put_string(&json, "device", info.device.name);
    json_put_real(&json, "perplexity", result->perplexity);
    json_put_real(&json, "nll", result->nll);
    json_put_size(&json, "tokens", result->tokens);
    json_put_size(&json, "windows", result->windows);
    json_put_size(&json, "scored", result->scored);
    json_put_real(&json, "seconds", result->seconds);
    json_put_real(&json, "kl_mean", result->compared ? result->kl_mean : NAN);
    json_put_real(&json, "kl_p99", result->compared ? result->kl_p99 : NAN);
    json_put_real(&json, "top1_agreement", result->compared ? result->top1_agreement : NAN);
    report_execution(&json, evaluation->engine);
    profile_write(profile, &json);
    json_end(&json);
}

static void print_result(const struct nib_evaluation *result)
{
    printf("perplexity      %.4f\n", result->perplexity);
    printf("nll             %.6f nats a token\n", result->nll);
    printf("scored          %" PRIu64 " predictions in %" PRIu32 " windows, of %" PRIu64
           " tokens\n",
           result->scored, result->windows, result->tokens);
    if (result->compared) {
        printf("KL divergence   %.3e nats on average, %.3e at the 99th percentile\n",
               result->kl_mean, result->kl_p99);
        printf("same top token  %.2f %%\n", 100.0 * result->top1_agreement);
    }
    printf("time            %.1f s\n", result->seconds);
}

static enum nib_status report(const struct evaluation *evaluation, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct profile profile = {0};
    if (evaluation->options->profile)
        TRY(profile_read(evaluation->engine, &profile, err));
    if (evaluation->options->json) {
        write_json(evaluation, &profile);
    } else {
        print_result(&evaluation->result);
        TRY(profile_print(&profile, err));
    }

fail:
    profile_free(&profile);
    return status;
}

enum nib_status command_eval(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct evaluation evaluation = {.options = options, .progress = {.unit = PROGRESS_TOKENS}};
    TRY(prepare(&evaluation, err));
    TRY(evaluate(&evaluation, err));
    if (evaluation.writer)
        TRY(nib_logits_writer_commit(&evaluation.writer, err));
    TRY(report(&evaluation, err));

fail:
    nib_logits_writer_destroy(&evaluation.writer);
    eval_reference_close(&evaluation.reference);
    nib_engine_destroy(&evaluation.engine);
    setup_close(&evaluation.setup);
    nib_model_destroy(&evaluation.model);
    eval_text_free(&evaluation.text);
    return status;
}
