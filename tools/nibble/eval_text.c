#include "tools/nibble/eval_text.h"
#include "tools/nibble/message.h"
#include "tools/nibble/prompt.h"
#include <inttypes.h>
#include <string.h>

_Static_assert(NIB_SCORE_HALF == 0 && NIB_SCORE_ALL == 1,
               "the table of flags lists the scores in this order");

#define DEFAULT_WINDOW 512

uint32_t eval_window(const struct options *options)
{
    return options->context.given ? (uint32_t)options->context.value : DEFAULT_WINDOW;
}

uint32_t eval_first_scored(const struct options *options)
{
    return options->score == NIB_SCORE_HALF ? eval_window(options) / 2 : 0;
}

uint32_t eval_scored_per_window(const struct options *options)
{
    return eval_window(options) - 1 - eval_first_scored(options);
}

enum nib_status eval_text_encode(const struct options *options, const struct nib_model *model,
                                 const char *path, struct nib_text text, struct eval_text *out_text,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_tokenizer *tokenizer;
    struct nib_tokenizer_info info;
    *out_text = (struct eval_text){.window = eval_window(options)};
    TRY(prompt_tokenizer(model, path, &tokenizer, err));
    TRY(nib_tokenizer_encode(tokenizer, text, nib_encode_params(.add_bos = true), &out_text->ids,
                             &out_text->n_ids, err));
    nib_tokenizer_get_info(tokenizer, &info);
    out_text->bos = info.add_bos ? info.bos : -1;
    if (out_text->n_ids < out_text->window)
        TRY(fail_with(err, NIB_ERROR_ARGUMENT,
                      "%s: %zu tokens are fewer than one window of %" PRIu32
                      "; give a longer text or a smaller --ctx",
                      options->file, out_text->n_ids, out_text->window));

fail:
    return status;
}

struct nib_evaluate_params eval_params(const struct options *options, const struct eval_text *text)
{
    return *nib_evaluate_params(.ids = text->ids, .n_ids = text->n_ids, .bos = text->bos,
                                .context = text->window,
                                .windows = (uint32_t)options->windows.value,
                                .score = (enum nib_score)options->score);
}

void eval_text_free(struct eval_text *text)
{
    nib_ids_free(text->ids);
    *text = (struct eval_text){0};
}

static bool is_logits_file(const char *path)
{
    static const char suffix[] = ".safetensors";
    size_t size = strlen(path);
    return size >= sizeof suffix && strcmp(path + size - (sizeof suffix - 1), suffix) == 0;
}

enum nib_status eval_reference_open(const struct options *options, struct setup *setup,
                                    struct eval_reference *out_reference, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_model_info info;
    *out_reference = (struct eval_reference){.path = options->reference};
    if (!out_reference->path)
        return NIB_OK;
    if (is_logits_file(out_reference->path))
        return nib_logits_reader_open(out_reference->path, &out_reference->reader,
                                      &out_reference->rows, &out_reference->vocabulary, err);
    TRY(model_open(out_reference->path, &out_reference->model, err));
    nib_model_get_info(out_reference->model, &info);
    out_reference->vocabulary = info.vocabulary;
    TRY(engine_create(out_reference->model, setup, eval_window(options), &out_reference->engine,
                      err));

fail:
    return status;
}

void eval_reference_close(struct eval_reference *reference)
{
    nib_logits_reader_destroy(&reference->reader);
    nib_engine_destroy(&reference->engine);
    nib_model_destroy(&reference->model);
}

static uint64_t n_windows(const struct options *options, const struct eval_text *text)
{
    uint64_t all = text->n_ids / text->window;
    const struct option_count *most = &options->windows;
    return most->given && most->value < all ? most->value : all;
}

enum nib_status eval_reference_check(const struct eval_reference *reference,
                                     const struct options *options, const struct eval_text *text,
                                     const char *path, uint32_t vocabulary, struct nib_error *err)
{
    const uint64_t per_window = eval_scored_per_window(options);
    const uint64_t needed = n_windows(options, text) * per_window;
    if (!reference->path)
        return NIB_OK;
    // Rows that are no whole windows come from windows of another size.
    if (reference->reader && (reference->rows < needed || reference->rows % per_window != 0))
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: has %" PRIu64 " rows, but %" PRIu64
                         " predictions are scored; make it with the same text, --ctx, --score and "
                         "--windows",
                         reference->path, reference->rows, needed);
    if (reference->vocabulary != vocabulary)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: has %" PRIu32 " logits a position, and %s has %" PRIu32
                         "; compare models of one vocabulary",
                         reference->path, reference->vocabulary, path, vocabulary);
    const struct nib_evaluate_params params = eval_params(options, text);
    return reference->reader ? nib_logits_reader_check_windows(reference->reader, &params, err)
                             : NIB_OK;
}

bool eval_reference_read(void *user, uint64_t row, float *logits, uint32_t vocabulary)
{
    (void)vocabulary;
    const struct eval_reference *reference = user;
    return nib_logits_reader_read(reference->reader, row, logits);
}
