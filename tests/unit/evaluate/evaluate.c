#include "runtime/base/bytes.h"
#include "tests/support/folder.h"
#include "tests/unit/api/checkpoint.h"
#include <criterion/criterion.h>
#include <math.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL NIB_TEST_DATA "/architectures/qwen2"
#define CONTEXT 32
#define N_IDS 110

/// A tiny model with an engine, and a text of arbitrary ids.
struct subject {
    struct nib_model *model;
    struct nib_engine *engine;
    int32_t ids[N_IDS];
    uint32_t vocabulary;
};

static void open_subject(struct subject *subject, const char *path, bool precise)
{
    struct nib_error error;
    struct nib_engine_info info;
    cr_assert_eq(nib_model_open(path, NULL, &subject->model, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(
        nib_engine_create(subject->model,
                          nib_engine_params(.context = 48, .precise = precise,
                                            .key_format = precise ? NIB_KV_F32 : NIB_KV_F16),
                          &subject->engine, &error),
        NIB_OK, "%s", error.message);
    nib_engine_get_info(subject->engine, &info);
    subject->vocabulary = info.vocabulary;
    for (uint32_t i = 0; i < N_IDS; i++)
        subject->ids[i] = (int32_t)(i * 7919u % info.vocabulary);
}

static void close_subject(struct subject *subject)
{
    nib_engine_destroy(&subject->engine);
    nib_model_destroy(&subject->model);
}

static struct nib_evaluate_params params_of(const struct subject *subject)
{
    return (struct nib_evaluate_params){.struct_size = sizeof(struct nib_evaluate_params),
                                        .ids = subject->ids,
                                        .n_ids = N_IDS,
                                        .bos = -1,
                                        .context = CONTEXT};
}

static struct nib_evaluation evaluate(struct subject *subject, struct nib_evaluate_params params)
{
    struct nib_evaluation evaluation;
    struct nib_error error;
    cr_assert_eq(nib_evaluate(subject->engine, &params, &evaluation, &error), NIB_OK, "%s",
                 error.message);
    return evaluation;
}

/// Sums of a window, worked out from its logits here.
struct sums {
    const int32_t *window;
    uint32_t first;
    double nll;
    uint32_t scored;
};

static bool add_row(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct sums *sums = user;
    if (position < sums->first || position + 1 >= CONTEXT)
        return true;
    double total = 0.0;
    for (uint32_t i = 0; i < vocabulary; i++)
        total += exp((double)logits[i]);
    sums->nll += log(total) - (double)logits[sums->window[position + 1]];
    sums->scored++;
    return true;
}

static struct sums score_by_hand(struct subject *subject, int32_t bos, uint32_t first)
{
    struct sums all = {0};
    struct nib_session *session = NULL;
    cr_assert_eq(nib_session_create(subject->engine, &session, NULL), NIB_OK);
    for (uint32_t w = 0; w < N_IDS / CONTEXT; w++) {
        int32_t window[CONTEXT];
        memcpy(window, subject->ids + (size_t)w * CONTEXT, sizeof window);
        if (bos >= 0)
            window[0] = bos;
        struct sums sums = {.window = window, .first = first};
        cr_assert_eq(nib_session_truncate(session, 0, NULL), NIB_OK);
        cr_assert_eq(nib_session_append(session, window, CONTEXT, NULL), NIB_OK);
        cr_assert_eq(nib_session_forward(session, 0, add_row, &sums, NULL), NIB_OK);
        all.nll += sums.nll;
        all.scored += sums.scored;
    }
    nib_session_destroy(&session);
    return all;
}

Test(evaluate, scores_the_second_half_or_all)
{
    struct subject subject;
    open_subject(&subject, MODEL, true);
    struct nib_evaluate_params params = params_of(&subject);
    struct nib_evaluation half = evaluate(&subject, params);
    struct sums by_hand = score_by_hand(&subject, -1, CONTEXT / 2);
    cr_assert_eq(half.windows, 3);
    cr_assert_eq(half.tokens, N_IDS);
    cr_assert_eq(half.scored, 3 * 15);
    cr_assert_eq(by_hand.scored, 3 * 15);
    cr_assert_float_eq(half.nll, by_hand.nll / by_hand.scored, 1e-6);
    cr_assert_float_eq(half.perplexity, exp(half.nll), 1e-9);
    cr_assert_not(half.compared);

    params.score = NIB_SCORE_ALL;
    params.bos = 5;
    struct nib_evaluation all = evaluate(&subject, params);
    by_hand = score_by_hand(&subject, 5, 0);
    cr_assert_eq(all.scored, 3 * 31);
    cr_assert_float_eq(all.nll, by_hand.nll / by_hand.scored, 1e-6);

    params.windows = 1;
    cr_assert_eq(evaluate(&subject, params).windows, 1);
    close_subject(&subject);
}

/// Logits of the scored rows, kept in memory.
struct store {
    float *rows;
    uint64_t count;
    uint64_t limit;
};

static bool keep_row(void *user, uint64_t row, const float *logits, uint32_t vocabulary)
{
    struct store *store = user;
    cr_assert_eq(row, store->count);
    if (store->count == store->limit)
        return false;
    memcpy(store->rows + store->count++ * vocabulary, logits, vocabulary * sizeof *logits);
    return true;
}

static bool give_row(void *user, uint64_t row, float *logits, uint32_t vocabulary)
{
    const struct store *store = user;
    if (row >= store->count)
        return false;
    memcpy(logits, store->rows + row * vocabulary, vocabulary * sizeof *logits);
    return true;
}

Test(evaluate, lockstep_and_stored_logits_agree)
{
    struct subject precise;
    struct subject standard;
    open_subject(&precise, MODEL, true);
    open_subject(&standard, MODEL, false);
    struct store store = {.rows = calloc((size_t)N_IDS * precise.vocabulary, sizeof(float)),
                          .limit = N_IDS};
    struct nib_evaluate_params params = params_of(&precise);
    params.on_logits = keep_row;
    params.user = &store;
    evaluate(&precise, params);

    params.on_logits = NULL;
    params.reference = give_row;
    struct nib_evaluation stored = evaluate(&standard, params);
    struct nib_evaluation itself = evaluate(&precise, params);
    params.reference = NULL;
    params.reference_engine = precise.engine;
    struct nib_evaluation lockstep = evaluate(&standard, params);
    cr_assert(stored.compared && lockstep.compared);
    cr_assert_eq(stored.kl_mean, lockstep.kl_mean);
    cr_assert_eq(stored.kl_p99, lockstep.kl_p99);
    cr_assert_eq(stored.top1_agreement, lockstep.top1_agreement);
    cr_assert_gt(stored.kl_mean, 0.0);
    cr_assert_geq(stored.kl_p99, stored.kl_mean);
    cr_assert_eq(itself.kl_mean, 0.0);
    cr_assert_eq(itself.top1_agreement, 1.0);

    params.reference_engine = NULL;
    params.reference = give_row;
    store.count = 20;
    struct nib_evaluation evaluation;
    struct nib_error error;
    cr_assert_eq(nib_evaluate(standard.engine, &params, &evaluation, &error), NIB_ERROR_IO);
    cr_assert_not_null(strstr(error.message, "20"), "%s", error.message);
    free(store.rows);
    close_subject(&precise);
    close_subject(&standard);
}

static bool refuse(void *user, const char *what, uint64_t done, uint64_t total)
{
    uint32_t *calls = user;
    (void)what;
    cr_assert_leq(done, total);
    ++*calls;
    return false;
}

Test(evaluate, errors)
{
    struct subject subject;
    struct nib_evaluation evaluation;
    struct nib_error error;
    open_subject(&subject, MODEL, true);
    struct nib_evaluate_params params = params_of(&subject);
    params.n_ids = CONTEXT - 1;
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_ARGUMENT);
    params = params_of(&subject);
    params.context = 3;
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_ARGUMENT);
    params.context = 49;
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_ARGUMENT);
    params = params_of(&subject);
    params.reference = give_row;
    params.reference_engine = subject.engine;
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_ARGUMENT);

    uint32_t calls = 0;
    params = params_of(&subject);
    params.progress = (struct nib_progress){.report = refuse, .user = &calls};
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_CANCELLED);
    cr_assert_eq(calls, 1);
    struct store store = {.limit = 0};
    params = params_of(&subject);
    params.on_logits = keep_row;
    params.user = &store;
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_CANCELLED);

    struct nib_session *session = NULL;
    cr_assert_eq(nib_session_create(subject.engine, &session, NULL), NIB_OK);
    params = params_of(&subject);
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_STATE);
    nib_session_destroy(&session);
    cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_OK);
    close_subject(&subject);
}

static bool give_nothing(void *user, uint64_t row, float *logits, uint32_t vocabulary)
{
    (void)user;
    (void)row;
    for (uint32_t i = 0; i < vocabulary; i++)
        logits[i] = 0;
    return true;
}

/// A window is scored chunk by chunk, and the last row of one predicts a token of the next.
Test(evaluate, ids_outside_the_vocabulary)
{
    struct subject subject;
    struct nib_evaluation evaluation;
    struct nib_error error;
    open_subject(&subject, MODEL, true);
    struct nib_evaluate_params params = params_of(&subject);
    params.score = NIB_SCORE_ALL;
    params.reference = give_nothing;
    for (uint32_t at = 0; at < CONTEXT; at++) {
        int32_t id = subject.ids[at];
        subject.ids[at] = at % 2 ? -1 : INT32_MAX;
        cr_assert_eq(nib_evaluate(subject.engine, &params, &evaluation, &error), NIB_ERROR_ARGUMENT,
                     "token %u", at);
        subject.ids[at] = id;
    }
    close_subject(&subject);
}

/// Makes the weights of the copied model's last norm NaN, and so all of its logits.
static void spoil_last_norm(void)
{
    static char bytes[1 << 20];
    const char *path = path_in_folder("model.safetensors");
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file);
    size_t size = fread(bytes, 1, sizeof bytes - 1, file);
    fclose(file);
    uint64_t header = nib_load_u64((const uint8_t *)bytes);
    const char *place = strstr(bytes + 8, "\"model.norm.weight\"");
    cr_assert_not_null(place);
    size_t first, end;
    place = strstr(place, "\"data_offsets\":[");
    cr_assert_not_null(place);
    cr_assert_eq(sscanf(place, "\"data_offsets\":[%zu,%zu", &first, &end), 2);
    cr_assert_leq(8 + header + end, size);
    memset(bytes + 8 + header + first, 0xff, end - first);
    put_file(path, bytes, size);
}

Test(evaluate, says_whose_logits_are_none, .init = make_folder, .fini = remove_folder)
{
    struct subject good, bad;
    struct nib_evaluation evaluation;
    struct nib_error error = {0};
    checkpoint_copy("architectures/qwen2", NULL);
    spoil_last_norm();
    open_subject(&good, MODEL, true);
    open_subject(&bad, path_in_folder(""), true);
    struct nib_evaluate_params params = params_of(&good);
    params.reference_engine = bad.engine;
    cr_assert_eq(nib_evaluate(good.engine, &params, &evaluation, &error), NIB_ERROR_UNSUPPORTED);
    cr_assert(strstr(error.message, "the reference's scored row 0 "), "%s", error.message);
    params.reference_engine = good.engine;
    cr_assert_eq(nib_evaluate(bad.engine, &params, &evaluation, &error), NIB_ERROR_UNSUPPORTED);
    cr_assert(strstr(error.message, "the model's scored row 0 "), "%s", error.message);
    close_subject(&good);
    close_subject(&bad);
}
