// The likeliest tokens, found without all logits, beside the largest of all of them.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/kernels.h"
#include "runtime/ops/logits.h"
#include "runtime/quant/pack.h"

enum {
    COLS = 256,
    LARGE = 32,        ///< from one column whose inputs are large to the next
    VOCABULARY = 1003, ///< no multiple of what is multiplied at once
    MAX_LINES = NIB_STEP_MAX_LOGITS
};

/// A model that is a head alone.
struct head {
    struct nib_op ops[2];
    struct nib_weight weight;
    struct nib_segment segments[3];
    struct nib_plan plan;
    struct nib_row_reader reader;
    uint8_t *raw;
    uint64_t row_bytes;
    uint64_t random;
    const char *level; ///< of kernels; NULL: the highest
};

static float random_float(struct head *h, float size)
{
    h->random = h->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((float)(h->random >> 33) / 1073741824.0f - 1.0f) * size;
}

static void make_rows(struct head *h)
{
    enum { N_KINDS = 8 };
    float kinds[N_KINDS][COLS], row[COLS];
    h->raw = calloc(VOCABULARY, h->row_bytes);
    cr_assert_not_null(h->raw);
    for (int i = 0; i < N_KINDS * COLS; i++)
        kinds[i / COLS][i % COLS] = random_float(h, 0.25f);
    for (int r = 0; r < VOCABULARY; r++) {
        // Rows of a kind differ by what lower halves make; some are much longer.
        float size = r % 97 == 0 ? 1.0f : 0.25f;
        for (int i = 0; i < COLS; i++)
            row[i] = kinds[r % N_KINDS][i] + (i % LARGE == 0 ? 0.0f : random_float(h, size));
        cr_assert(nib_row_pack(&h->reader.format, row, COLS, h->raw + r * h->row_bytes));
    }
    h->reader.raw = h->raw;
}

static void make_head(struct head *h, enum nib_format_id id, enum nib_activation activation)
{
    const struct nib_format *format = nib_format_get(id);
    struct nib_error error;
    *h = (struct head){.random = (uint64_t)id};
    cr_assert(nib_format_row_bytes(format, COLS, &h->row_bytes));
    h->reader = (struct nib_row_reader){.name = "head",
                                        .format = *format,
                                        .rows = VOCABULARY,
                                        .cols = COLS,
                                        .read = nib_row_reader_read_raw};
    make_rows(h);
    h->weight = (struct nib_weight){.role = NIB_ROLE_OUTPUT,
                                    .segment = 2,
                                    .shared_with = NIB_NO_WEIGHT,
                                    .rows = VOCABULARY,
                                    .cols = COLS,
                                    .format = *format};
    h->ops[0] = (struct nib_op){.kind = NIB_OP_GATHER,
                                .segment = 2,
                                .gather = {.in = {.width = COLS}, .out = {1, 0, COLS}}};
    h->ops[1] = (struct nib_op){.kind = NIB_OP_MATMUL,
                                .segment = 2,
                                .matmul = {.in = {1, 0, COLS},
                                           .out = {2, 0, VOCABULARY},
                                           .bias = NIB_NO_WEIGHT,
                                           .activation = activation,
                                           .experts = NIB_NO_WEIGHT,
                                           .tap = NIB_NO_WEIGHT}};
    h->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    h->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER};
    h->segments[2] = (struct nib_segment){.kind = NIB_SEGMENT_HEAD, .n_ops = 2};
    h->plan =
        (struct nib_plan){.values = {{"hidden", COLS}, {"normed", COLS}, {"logits", VOCABULARY}},
                          .n_values = 3,
                          .ops = h->ops,
                          .n_ops = 2,
                          .segments = h->segments,
                          .n_segments = 3,
                          .weights = &h->weight,
                          .n_weights = 1,
                          .logits_value = 2,
                          .hidden_size = COLS,
                          .vocabulary = VOCABULARY,
                          .context = 32,
                          .max_rows = MAX_LINES,
                          .key_format = NIB_KV_F16,
                          .value_format = NIB_KV_F16};
    cr_assert_eq(nib_plan_validate(&h->plan, &error), NIB_OK, "%s", error.message);
}

/// A line's logits and the token drawn from it.
struct lines {
    float logits[MAX_LINES * VOCABULARY];
    uint32_t drawn[MAX_LINES];
};

/// Runs the head over n rows, with draws or without.
static void run_head(const struct head *h, uint32_t threads, uint32_t n, const float *hidden,
                     bool draws, struct lines *out)
{
    const struct nib_backend *cpu = &nib_cpu_backend;
    static const struct nib_step_draw likeliest[MAX_LINES];
    struct nib_error error;
    void *device, *self;
    struct nib_step_row rows[MAX_LINES];
    for (uint32_t r = 0; r < n; r++)
        rows[r] = (struct nib_step_row){.sequence = r, .logit_row = r};
    const struct nib_step step = {.header = {.n_rows = n, .n_used_rows = n, .n_logits = n},
                                  .rows = rows,
                                  .logits = out->logits,
                                  .draws = draws ? likeliest : NULL,
                                  .drawn = out->drawn};
    const struct nib_instance_params params = {
        .plan = &h->plan, .first_segment = 2, .n_segments = 1, .max_logits = MAX_LINES};
    cr_assert_eq(cpu->device_open(nib_device_params(.threads = threads, .cpu_mask = h->level),
                                  &device, &error),
                 NIB_OK);
    struct nib_instance_params on = params;
    on.device = device;
    cr_assert_eq(cpu->create(&on, &self, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(cpu->pack(self, 0, &h->reader, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(cpu->run(self, 2, 2, &step, hidden, NULL, &error), NIB_OK, "%s", error.message);
    cpu->destroy(self);
    cpu->device_close(device);
}

/// Compares the tokens of n rows with the largest of all their logits.
static void assert_likeliest(const struct head *h, uint32_t threads, uint32_t n,
                             const float *hidden)
{
    struct lines *all = calloc(1, sizeof *all), *some = calloc(1, sizeof *some);
    cr_assert(all && some);
    run_head(h, threads, n, hidden, false, all);
    run_head(h, threads, n, hidden, true, some);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t expected = nib_logits_argmax(all->logits + r * VOCABULARY, VOCABULARY);
        expected = expected < VOCABULARY ? expected : NIB_NONE;
        cr_assert_eq(some->drawn[r], expected, "%s, %u threads, row %u of %u: %u, not %u",
                     h->reader.format.name, threads, r, n, some->drawn[r], expected);
    }
    free(all);
    free(some);
}

/// Each group has one large number, beside which the others have lower halves alone.
static void make_hidden(struct head *h, float *hidden)
{
    for (int i = 0; i < MAX_LINES * COLS; i++)
        hidden[i] = random_float(h, i % LARGE == 0 ? 40.0f : 0.15f);
}

static const enum nib_format_id formats[] = {NIB_FORMAT_Q8_0,   NIB_FORMAT_Q6_K, NIB_FORMAT_Q4_K,
                                             NIB_FORMAT_Q4_1,   NIB_FORMAT_Q2_K, NIB_FORMAT_Q3_K,
                                             NIB_FORMAT_IQ4_NL, NIB_FORMAT_F16};

Test(cpu_draw, likeliest)
{
    static const uint32_t counts[] = {1, 3, 4, 15, 16, 17, MAX_LINES};
    float hidden[MAX_LINES * COLS];
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct head h;
        make_head(&h, formats[f], NIB_ACTIVATION_INT16_GROUP);
        make_hidden(&h, hidden);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            assert_likeliest(&h, 1 + (uint32_t)i % 3, counts[i], hidden);
        free(h.raw);
    }
}

Test(cpu_draw, row_along_lower_halves)
{
    // All that the bound allows: one row lies along what upper halves leave, and has nothing else.
    enum { WINNER = 901, STRETCH = NIB_CPU_LARGEST_ROWS };
    float hidden[MAX_LINES * COLS], along[COLS], others[COLS] = {0}, zeros[COLS] = {0};
    struct head h;
    make_head(&h, NIB_FORMAT_Q8_0, NIB_ACTIVATION_INT16_GROUP);
    make_hidden(&h, hidden);
    float sum = 0;
    for (int i = 0; i < COLS; i++) {
        hidden[i] = i % LARGE == 0 ? 40.0f : hidden[i];
        along[i] = i % LARGE == 0 ? 0.0f : hidden[i];
        sum += along[i] * along[i];
    }
    for (int i = 0; i < COLS; i += LARGE)
        others[i] = 0.97f * sum / (40.0f * (COLS / LARGE));
    for (int r = 1; r < MAX_LINES; r++)
        memcpy(hidden + r * COLS, hidden, COLS * sizeof *hidden);
    for (int r = 0; r < VOCABULARY; r++) {
        bool is_near = r / STRETCH == WINNER / STRETCH; // zeros, so that it is alone there
        const float *row = r == WINNER ? along : is_near ? zeros : others;
        cr_assert(nib_row_pack(&h.reader.format, row, COLS, h.raw + r * h.row_bytes));
    }
    assert_likeliest(&h, 2, 16, hidden);
    struct lines *lines = calloc(1, sizeof *lines);
    cr_assert_not_null(lines);
    run_head(&h, 1, 16, hidden, true, lines);
    cr_assert_eq(lines->drawn[0], WINNER);
    free(lines);
    free(h.raw);
}

Test(cpu_draw, levels)
{
    static const char *const levels[] = {
#define X(id, name) name,
        NIB_CPU_LEVELS(X)
#undef X
    };
    float hidden[MAX_LINES * COLS];
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        void *device;
        struct head h;
        if (nib_cpu_backend.device_open(nib_device_params(.cpu_mask = levels[i]), &device, NULL) !=
            NIB_OK)
            continue; // this machine has none
        nib_cpu_backend.device_close(device);
        make_head(&h, NIB_FORMAT_Q4_1, NIB_ACTIVATION_INT16_GROUP);
        h.level = levels[i];
        make_hidden(&h, hidden);
        assert_likeliest(&h, 2, 16, hidden);
        free(h.raw);
    }
}

Test(cpu_draw, equal_ones_and_none)
{
    float hidden[MAX_LINES * COLS];
    struct head h;
    make_head(&h, NIB_FORMAT_Q8_0, NIB_ACTIVATION_INT16_GROUP);
    make_hidden(&h, hidden);
    // The first of equal rows wins, whichever stretch it is in.
    for (int r = 500; r < VOCABULARY; r++)
        memcpy(h.raw + r * h.row_bytes, h.raw + (r - 500) * h.row_bytes, h.row_bytes);
    memset(hidden, 0, COLS * sizeof *hidden);
    hidden[COLS] = NAN;
    hidden[2 * COLS + 40] = INFINITY;
    hidden[3 * COLS + 7] = 3e38f;
    assert_likeliest(&h, 2, 8, hidden);
    free(h.raw);
}

Test(cpu_draw, scales_that_are_no_numbers)
{
    float hidden[MAX_LINES * COLS];
    struct head h;
    make_head(&h, NIB_FORMAT_Q8_0, NIB_ACTIVATION_INT16_GROUP);
    make_hidden(&h, hidden);
    nib_store_u16(h.raw + 700 * h.row_bytes, 0x7e00); // NaN
    nib_store_u16(h.raw + 40 * h.row_bytes, 0x7c00);  // infinity
    nib_store_u16(h.raw + 41 * h.row_bytes, 0x7bff);
    assert_likeliest(&h, 2, 8, hidden);
    free(h.raw);
}

Test(cpu_draw, float_activations)
{
    float hidden[MAX_LINES * COLS];
    struct head h;
    make_head(&h, NIB_FORMAT_Q8_0, NIB_ACTIVATION_F32);
    make_hidden(&h, hidden);
    assert_likeliest(&h, 2, 9, hidden);
    free(h.raw);
}
