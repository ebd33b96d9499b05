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
