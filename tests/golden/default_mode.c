/// The default mode, int8 activations and an f16 cache, against our own precise one.
#include "tests/golden/golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SMOLLM2 "SmolLM2-135M-Instruct.Q4_1.gguf"

static size_t read_prose(char *out, size_t capacity)
{
    FILE *file = fopen(NIB_TEST_DATA "/golden/prose.txt", "rb");
    cr_assert_not_null(file);
    size_t size = fread(out, 1, capacity, file);
    fclose(file);
    cr_assert_lt(size, capacity);
    return size;
}

/// Perplexity of prose of the project's own. The limits are those that hold for SmolLM2 on a longer
/// text (mean divergence 3.2e-3, top-1 agreement 96 %, perplexity within 0.3 %), with room for what
/// two windows can be off by chance.
Test(default_mode, smollm2_stays_close_to_precise)
{
    static char text[16384];
    char path[1024];
    golden_model_path(SMOLLM2, path, sizeof path);
    struct golden precise;
    struct golden standard;
    golden_open_precise(&precise, path);
    golden_open(&standard, path, NULL);
    nib_session_destroy(&precise.session);
    nib_session_destroy(&standard.session);

    struct nib_error error;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    struct nib_text prose = {.ptr = text, .size = read_prose(text, sizeof text)};
    cr_assert_eq(nib_tokenizer_encode(nib_model_tokenizer(standard.model), prose, NULL, &ids,
                                      &n_ids, &error),
                 NIB_OK, "%s", error.message);
    struct nib_evaluation own;
    struct nib_evaluation result;
    cr_assert_eq(nib_evaluate(precise.engine,
                              nib_evaluate_params(.ids = ids, .n_ids = n_ids, .bos = -1,
                                                  .windows = 2, .score = NIB_SCORE_ALL),
                              &own, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_eq(nib_evaluate(standard.engine,
                              nib_evaluate_params(.ids = ids, .n_ids = n_ids, .bos = -1,
                                                  .windows = 2, .score = NIB_SCORE_ALL,
                                                  .reference_engine = precise.engine),
                              &result, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_eq(result.windows, 2);
    cr_assert_eq(result.scored, 2 * 511);
    cr_assert(result.compared);
    cr_log_info("perplexity %g, precise %g, divergence %g, top-1 %g", result.perplexity,
                own.perplexity, result.kl_mean, result.top1_agreement);
    cr_assert_leq(result.kl_mean, 4e-3);
    cr_assert_geq(result.top1_agreement, 0.95);
    cr_assert_leq(fabs(result.perplexity / own.perplexity - 1.0), 0.01);
    nib_ids_free(ids);
    golden_close(&standard);
    golden_close(&precise);
}

/// The root of the mean squared difference of two sets of rows.
static double rms_difference(const struct golden_rows *a, const struct golden_rows *b)
{
    double sum = 0.0;
    size_t count = (size_t)a->count * a->vocabulary;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)a->logits[i] - (double)b->logits[i];
        sum += difference * difference;
    }
    return sqrt(sum / (double)count);
}

/// Greedy tokens equal the fp32 reference's up to the first place where its margin is under four
/// times the error of the logits, measured over the whole continuation.
Test(default_mode, smollm2_greedy_follows_the_reference)
{
    enum { MAX_IDS = 256 };
    char path[1024];
    golden_model_path(SMOLLM2, path, sizeof path);
    json_t *prompts = golden_json("golden/smollm2.json");
    struct golden precise;
    struct golden standard;
    golden_open_precise(&precise, path);
    golden_open(&standard, path, NULL);
    uint32_t total = 0;
    for (size_t p = 0; p < json_array_size(prompts); p++) {
        const json_t *prompt = json_array_get(prompts, p);
        int32_t ids[MAX_IDS];
        int32_t greedy[MAX_IDS];
        uint32_t n_ids = golden_ids(json_object_get(prompt, "ids"), ids, MAX_IDS);
        uint32_t n_wanted =
            golden_ids(json_object_get(prompt, "greedy"), ids + n_ids, MAX_IDS - n_ids);
        struct golden_rows exact = golden_forward(&precise, ids, n_ids + n_wanted, 0, n_ids - 1);
        struct golden_rows rows = golden_forward(&standard, ids, n_ids + n_wanted, 0, n_ids - 1);
        double rms = rms_difference(&rows, &exact);
        uint32_t certain = golden_certain(json_object_get(prompt, "margin"), 4.0 * rms);
        cr_log_info("prompt %zu: rms error %g, %u certain tokens", p, rms, certain);
        if (certain > 0) // 0 tokens would mean no limit
            golden_greedy(&standard, ids, n_ids, certain, greedy);
        for (uint32_t i = 0; i < certain; i++)
            cr_assert_eq(greedy[i], ids[n_ids + i], "greedy token %u of prompt %zu", i, p);
        total += certain;
        golden_rows_free(&rows);
        golden_rows_free(&exact);
    }
    cr_assert_gt(total, 0);
    golden_close(&standard);
    golden_close(&precise);
    json_decref(prompts);
}
