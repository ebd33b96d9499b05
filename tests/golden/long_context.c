/// Sentences in a long context, attended to alike with caches of integers and of f16.
#include "tests/golden/golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMOLLM2 "SmolLM2-135M-Instruct.Q4_1.gguf"

enum { CONTEXT = 8192, FILLED = 8100, NEEDLES = 3 };

static const struct {
    const char *sentence, *question;
    double place; ///< share of the context before it
} needles[NEEDLES] = {
    {" The password of the lighthouse is Marigold.", " The password of the lighthouse is", 0.05},
    {" The password of the harbour is Quicksilver.", " The password of the harbour is", 0.50},
    {" The password of the windmill is Thunderbird.", " The password of the windmill is", 0.95},
};

static size_t encode(const struct nib_model *model, const char *text, int32_t **out_ids)
{
    struct nib_error error;
    size_t n = 0;
    struct nib_text slice = {.ptr = text, .size = strlen(text)};
    *out_ids = NULL;
    cr_assert_eq(nib_tokenizer_encode(nib_model_tokenizer(model), slice, NULL, out_ids, &n, &error),
                 NIB_OK, "%s", error.message);
    return n;
}

/// Fills `out` with prose of the project's own, over and over, and the needles at their places.
static void write_context(const struct nib_model *model, int32_t out[FILLED])
{
    static char text[16384];
    int32_t *prose, *sentence;
    FILE *file = fopen(NIB_TEST_DATA "/golden/prose.txt", "rb");
    cr_assert_not_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    size_t n_prose = encode(model, text, &prose);
    for (size_t i = 0; i < FILLED; i++)
        out[i] = prose[i % n_prose];
    nib_ids_free(prose);
    for (int k = 0; k < NEEDLES; k++) {
        size_t n = encode(model, needles[k].sentence, &sentence);
        memcpy(out + (size_t)(needles[k].place * (FILLED - 64)), sentence, n * sizeof *out);
        nib_ids_free(sentence);
    }
}

static bool keep(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    (void)position;
    memcpy(user, logits, vocabulary * sizeof *logits);
    return true;
}

/// Writes, for each needle, the logits after its question at the context's end.
static void ask(enum nib_kv_format format, float **out_logits)
{
    char path[1024];
    struct golden golden;
    struct nib_error error;
    static int32_t context[FILLED];
    golden_model_path(SMOLLM2, path, sizeof path);
    golden_open(
        &golden, path,
        nib_engine_params(.context = CONTEXT, .key_format = format, .value_format = format));
    write_context(golden.model, context);
    cr_assert_eq(nib_session_append(golden.session, context, FILLED, &error), NIB_OK);
    cr_assert_eq(nib_session_forward(golden.session, 0, NULL, NULL, &error), NIB_OK);
    for (int k = 0; k < NEEDLES; k++) {
        int32_t *question;
        uint32_t n = (uint32_t)encode(golden.model, needles[k].question, &question);
        out_logits[k] = malloc(golden.vocabulary * sizeof **out_logits);
        cr_assert_not_null(out_logits[k]);
        cr_assert_eq(nib_session_append(golden.session, question, n, &error), NIB_OK);
        cr_assert_eq(
            nib_session_forward(golden.session, FILLED + n - 1, keep, out_logits[k], &error),
            NIB_OK);
        cr_assert_eq(nib_session_truncate(golden.session, FILLED, &error), NIB_OK);
        nib_ids_free(question);
    }
    golden_close(&golden);
}

static uint32_t largest(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/// Returns the root mean square of the logits' differences, less what all have in common.
static double distance(const float *a, const float *b, uint32_t n)
{
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d;
        squares += d * d;
    }
    return sqrt(squares / n - sum / n * (sum / n));
}

/// The limits are some three times what was measured.
Test(long_context, needles_are_found_alike)
{
    enum { VOCABULARY = 49152 };
    float *half[NEEDLES], *i8[NEEDLES];
    ask(NIB_KV_F16, half);
    ask(NIB_KV_I8, i8);
    for (int k = 0; k < NEEDLES; k++) {
        uint32_t first = largest(half[k], VOCABULARY);
        double rms = distance(half[k], i8[k], VOCABULARY);
        fprintf(stderr, "needle at %.0f %%: token %u, rms difference of logits: i8 %g\n",
                100 * needles[k].place, first, rms);
        cr_expect_eq(largest(i8[k], VOCABULARY), first);
        cr_expect_lt(rms, 0.4);
        free(half[k]);
        free(i8[k]);
    }
}
