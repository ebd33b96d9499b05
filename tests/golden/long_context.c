/// Sentences in a long context, attended to alike with caches of integers and of f16, and the
/// memory that such a context takes.
#include "tests/golden/golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <unistd.h>
#endif

#define SMOLLM2 "SmolLM2-135M-Instruct.Q4_1.gguf"

/// The kernel gives memory in huge pages and takes pages of files back as it likes.
#define RESIDENT_STEPS (8 << 20)

enum { CONTEXT = 8192, FILLED = 8100, BEGUN = 512, NEEDLES = 3, VOCABULARY = 49152 };

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

/// Returns the bytes of the process that are in memory; 0 where that cannot be told.
static uint64_t resident_bytes(void)
{
    unsigned long long pages = 0;
#ifdef __linux__
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*u %llu", &pages) == 1)
        pages *= (unsigned long long)sysconf(_SC_PAGESIZE);
    if (file)
        fclose(file);
#endif
    return pages;
}

/// What a cache of one format answers.
struct answers {
    float *logits[NEEDLES]; ///< after each question at the context's end
    uint64_t used;          ///< bytes that the engine says the session holds
    int64_t resident;       ///< by how many the process grew from token BEGUN to FILLED
};

static void forward(struct nib_session *session, const int32_t *ids, uint32_t n)
{
    struct nib_error error;
    cr_assert_eq(nib_session_append(session, ids, n, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_forward(session, 0, NULL, NULL, &error), NIB_OK, "%s", error.message);
}

/// Fills a context, and measures what it takes.
static void fill(const struct golden *golden, struct answers *out)
{
    static int32_t context[FILLED];
    struct nib_engine_info info;
    write_context(golden->model, context);
    forward(golden->session, context, BEGUN); // buffers of a step have been written then
    int64_t before = (int64_t)resident_bytes();
    forward(golden->session, context + BEGUN, FILLED - BEGUN);
    out->resident = (int64_t)resident_bytes() - before;
    nib_engine_get_info(golden->engine, &info);
    out->used = info.kv_used_bytes;
}

static void ask(enum nib_kv_format format, struct answers *out)
{
    char path[1024];
    struct golden golden;
    struct nib_error error;
    golden_model_path(SMOLLM2, path, sizeof path);
    golden_open(
        &golden, path,
        nib_engine_params(.context = CONTEXT, .key_format = format, .value_format = format));
    fill(&golden, out);
    for (int k = 0; k < NEEDLES; k++) {
        int32_t *question;
        uint32_t n = (uint32_t)encode(golden.model, needles[k].question, &question);
        out->logits[k] = malloc(golden.vocabulary * sizeof(float));
        cr_assert_not_null(out->logits[k]);
        cr_assert_eq(nib_session_append(golden.session, question, n, &error), NIB_OK);
        cr_assert_eq(
            nib_session_forward(golden.session, FILLED + n - 1, keep, out->logits[k], &error),
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

static void check_needles(const struct answers *half, const struct answers *integers,
                          const char *name, double limit)
{
    for (int k = 0; k < NEEDLES; k++) {
        uint32_t first = largest(half->logits[k], VOCABULARY);
        double rms = distance(half->logits[k], integers->logits[k], VOCABULARY);
        fprintf(stderr, "needle at %.0f %%: token %u, rms difference of logits: %s %g\n",
                100 * needles[k].place, first, name, rms);
        cr_expect_eq(largest(integers->logits[k], VOCABULARY), first);
        cr_expect_lt(rms, limit);
    }
}

static void check_memory(const struct answers *half, const struct answers *integers,
                         const char *name, double limit)
{
    double used = (double)integers->used / (double)half->used;
    fprintf(stderr, "memory of %d tokens: %s %.2f %% of f16, of what is resident %.2f %%\n", FILLED,
            name, 100 * used, 100 * (double)integers->resident / (double)half->resident);
    cr_expect_leq(used, limit);
#ifdef __linux__
    if (getenv("NIB_TEST_VULKAN") == NULL)
        cr_expect_leq((double)integers->resident, limit * (double)half->resident + RESIDENT_STEPS);
#endif
}

/// The limits of logits are two to three times what was measured.
Test(long_context, needles_are_found_alike)
{
    struct answers half, i8, i4;
    ask(NIB_KV_F16, &half);
    ask(NIB_KV_I8, &i8);
    ask(NIB_KV_I4, &i4);
    check_needles(&half, &i8, "i8", 0.4);
    check_needles(&half, &i4, "i4", 2.5);
    check_memory(&half, &i8, "i8", 0.54);
    check_memory(&half, &i4, "i4", 0.34);
    for (int k = 0; k < NEEDLES; k++) {
        free(half.logits[k]);
        free(i8.logits[k]);
        free(i4.logits[k]);
    }
}
