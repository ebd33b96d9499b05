#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/progress.h"
#include "tools/nibble/prompt.h"
#include "tools/nibble/report.h"
#include "tools/nibble/system.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(NIB_SCORE_HALF == 0 && NIB_SCORE_ALL == 1,
               "the table of flags lists the scores in this order");

#define DEFAULT_WINDOW 512

/// One evaluation, from the command line to its report.
struct evaluation {
    const struct options *options;
    uint32_t window; ///< tokens in one
    struct nib_model *model;
    struct setup setup;
    struct nib_engine *engine;
    int32_t *ids;
    size_t n_ids;
    int32_t bos; ///< −1: windows keep their first token

    struct nib_model *reference_model;
    struct nib_engine *reference_engine;
    struct nib_logits_reader *reader;
    struct nib_logits_writer *writer;
    enum nib_status written; ///< `write_err` tells more
    struct nib_error write_err;

    struct progress progress;
    double nll_so_far;
    struct nib_evaluation result;
};

static uint32_t first_scored(const struct evaluation *evaluation)
{
    return evaluation->options->score == NIB_SCORE_HALF ? evaluation->window / 2 : 0;
}

/// Returns the number of predictions that count in one window.
static uint32_t scored_per_window(const struct evaluation *evaluation)
{
    return evaluation->window - 1 - first_scored(evaluation);
}

static uint64_t n_windows(const struct evaluation *evaluation)
{
    uint64_t all = evaluation->n_ids / evaluation->window;
    const struct option_count *most = &evaluation->options->windows;
    return most->given && most->value < all ? most->value : all;
}

/// Tokenizes the text, whose special tokens' text stays text.
static enum nib_status read_text(struct evaluation *evaluation, struct nib_error *err)
{
    const struct options *options = evaluation->options;
    enum nib_status status = NIB_OK;
    const struct nib_tokenizer *tokenizer;
    struct nib_tokenizer_info info;
    char *text = NULL;
    size_t size;
    TRY(prompt_tokenizer(evaluation->model, options->model, &tokenizer, err));
    TRY(prompt_read_file(options->file, &text, &size, err));
    TRY(nib_tokenizer_encode(tokenizer, (struct nib_text){text, size},
                             nib_encode_params(.add_bos = true), &evaluation->ids,
                             &evaluation->n_ids, err));
    nib_tokenizer_get_info(tokenizer, &info);
    evaluation->bos = info.add_bos ? info.bos : -1;
    if (evaluation->n_ids < evaluation->window)
        TRY(fail_with(err, NIB_ERROR_ARGUMENT,
                      "%s: %zu tokens are fewer than one window of %" PRIu32
                      "; give a longer text or a smaller --ctx",
                      options->file, evaluation->n_ids, evaluation->window));

fail:
    free(text);
    return status;
}

static bool is_logits_file(const char *path)
{
    static const char suffix[] = ".safetensors";
    size_t size = strlen(path);
    return size >= sizeof suffix && strcmp(path + size - (sizeof suffix - 1), suffix) == 0;
}

/// Opens what --ref names, and refuses what cannot be compared with.
static enum nib_status open_reference(struct evaluation *evaluation, uint32_t vocabulary,
                                      struct nib_error *err)
{
    const char *path = evaluation->options->reference;
    enum nib_status status = NIB_OK;
    uint32_t width;
    if (is_logits_file(path)) {
        uint64_t rows, needed = n_windows(evaluation) * scored_per_window(evaluation);
        TRY(nib_logits_reader_open(path, &evaluation->reader, &rows, &width, err));
        if (rows < needed)
            TRY(fail_with(err, NIB_ERROR_ARGUMENT,
                          "%s: has %" PRIu64 " rows, but %" PRIu64
                          " predictions are scored; make it with the same text, --ctx, --score and "
                          "--windows",
                          path, rows, needed));
    } else {
        struct nib_model_info info;
        TRY(model_open(path, &evaluation->reference_model, err));
        nib_model_get_info(evaluation->reference_model, &info);
        width = info.vocabulary;
    }
    if (width != vocabulary)
        TRY(fail_with(err, NIB_ERROR_ARGUMENT,
                      "%s: has %" PRIu32 " logits a position, and %s has %" PRIu32
                      "; compare models of one vocabulary",
                      path, width, evaluation->options->model, vocabulary));
    if (evaluation->reference_model)
        TRY(engine_create(evaluation->reference_model, &evaluation->setup, evaluation->window,
                          &evaluation->reference_engine, err));

fail:
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
    TRY(engine_create(evaluation->model, &evaluation->setup, evaluation->window,
                      &evaluation->engine, err));
    nib_engine_get_info(evaluation->engine, &info);
    if (options->reference)
        TRY(open_reference(evaluation, info.vocabulary, err));
    if (options->save_logits)
        TRY(nib_logits_writer_open(options->save_logits, info.vocabulary, &evaluation->writer,
                                   err));
    TRY(engine_load(evaluation->engine, &evaluation->setup, err));
    if (evaluation->reference_engine)
        TRY(engine_load(evaluation->reference_engine, &evaluation->setup, err));

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
        uint32_t per_window = scored_per_window(evaluation);
        uint64_t next =
            row / per_window * evaluation->window + first_scored(evaluation) + row % per_window + 1;
        evaluation->nll_so_far += surprise(logits, vocabulary, evaluation->ids[next]);
        snprintf(evaluation->progress.note, sizeof evaluation->progress.note, "perplexity %.3f",
                 exp(evaluation->nll_so_far / (double)(row + 1)));
    }
    return !system_interrupted();
}

static bool read_reference(void *user, uint64_t row, float *logits, uint32_t vocabulary)
{
    (void)vocabulary;
    const struct evaluation *evaluation = user;
    return nib_logits_reader_read(evaluation->reader, row, logits);
}

static enum nib_status evaluate(struct evaluation *evaluation, struct nib_error *err)
{
    const struct options *options = evaluation->options;
    const struct nib_evaluate_params *params =
        nib_evaluate_params(.ids = evaluation->ids, .n_ids = evaluation->n_ids,
                            .bos = evaluation->bos, .context = evaluation->window,
                            .windows = (uint32_t)options->windows.value,
                            .score = (enum nib_score)options->score,
                            .reference_engine = evaluation->reference_engine,
                            .reference = evaluation->reader ? read_reference : NULL,
                            .on_logits = on_logits, .user = evaluation,
                            .progress = progress_hook(&evaluation->progress));
    enum nib_status status = nib_evaluate(evaluation->engine, params, &evaluation->result, err);
    progress_end(&evaluation->progress);
    if (evaluation->written != NIB_OK) {
        *err = evaluation->write_err;
        status = evaluation->written;
    }
    return status;
}

static void write_json(const struct evaluation *evaluation, const struct nib_op_profile *profiles,
                       uint32_t n_profiles)
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
    report_execution(&json, &info);
    if (profiles)
        report_profile(&json, profiles, n_profiles);
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
    struct nib_op_profile *profiles = NULL;
    uint32_t n_profiles = 0;
    if (evaluation->options->profile)
        TRY(report_read_profile(evaluation->engine, &profiles, &n_profiles, err));
    if (evaluation->options->json) {
        write_json(evaluation, profiles, n_profiles);
    } else {
        print_result(&evaluation->result);
        if (profiles)
            TRY(report_print_profile(profiles, n_profiles, err));
    }

fail:
    free(profiles);
    return status;
}

enum nib_status command_eval(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct evaluation evaluation = {
        .options = options,
        .window = options->context.given ? (uint32_t)options->context.value : DEFAULT_WINDOW,
        .progress = {.unit = PROGRESS_TOKENS},
    };
    TRY(prepare(&evaluation, err));
    TRY(evaluate(&evaluation, err));
    if (evaluation.writer)
        TRY(nib_logits_writer_commit(&evaluation.writer, err));
    TRY(report(&evaluation, err));

fail:
    nib_logits_writer_destroy(&evaluation.writer);
    nib_logits_reader_destroy(&evaluation.reader);
    nib_engine_destroy(&evaluation.reference_engine);
    nib_engine_destroy(&evaluation.engine);
    setup_close(&evaluation.setup);
    nib_model_destroy(&evaluation.reference_model);
    nib_model_destroy(&evaluation.model);
    nib_ids_free(evaluation.ids);
    return status;
}
