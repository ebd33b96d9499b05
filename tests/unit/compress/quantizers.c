// Quantizers on small matrices with correlated inputs, and grids.
#include "runtime/compress/quantizers.h"

#include "runtime/compress/grid.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 24, COLS = 160, TOKENS = 400 };

static struct nib_thread_pool *pool;
static struct nib_dense *dense;
static float weights[ROWS * COLS];
static float inputs[TOKENS][COLS];
static float hessian[COLS * COLS], mean_square[COLS];

static float number(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (1 << 23) - 1;
}

/// Inputs are few hidden causes seen through many columns, of unequal size.
static void set_up(void)
{
    enum { CAUSES = 12 };
    static float seen[CAUSES][COLS];
    uint32_t state = 5;
    cr_assert_eq(nib_thread_pool_create(2, false, &pool, NULL), NIB_OK);
    cr_assert_eq(nib_dense_create(pool, &dense, NULL), NIB_OK);
    for (int i = 0; i < ROWS * COLS; i++)
        weights[i] = number(&state) + 0.5f * number(&state);
    for (int c = 0; c < CAUSES; c++) {
        for (int i = 0; i < COLS; i++)
            seen[c][i] = number(&state) * (i % 16 == 3 ? 6.0f : 1.0f);
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < COLS; i++)
            inputs[t][i] = 0.2f * number(&state);
        for (int c = 0; c < CAUSES; c++) {
            const float strength = number(&state);
            for (int i = 0; i < COLS; i++)
                inputs[t][i] += strength * seen[c][i];
        }
    }
    for (int i = 0; i < COLS; i++) {
        for (int j = 0; j < COLS; j++) {
            double sum = 0;
            for (int t = 0; t < TOKENS; t++)
                sum += (double)inputs[t][i] * (double)inputs[t][j];
            hessian[i * COLS + j] = (float)(sum / TOKENS);
        }
        mean_square[i] = hessian[i * COLS + i];
    }
}

static void tear_down(void)
{
    nib_dense_destroy(&dense);
    nib_thread_pool_destroy(&pool);
}

TestSuite(quantizers, .init = set_up, .fini = tear_down);

static struct nib_compress_entry entry_of(enum nib_format_id id, uint32_t group)
{
    struct nib_compress_entry entry = {
        .role = NIB_ROLE_Q,
        .name = "q",
        .rows = ROWS,
        .cols = COLS,
        .scheme = {.format = *nib_format_get(id), .range = NIB_QUANTIZE_RANGE_MINMAX},
        .is_quantized = true,
    };
    entry.scheme.format.group = group;
    return entry;
}

/// Quantizes `w` and returns the mean squared error of the outputs; the matrix may be kept.
static double output_error(const struct nib_quantizer *quantizer,
                           const struct nib_compress_plan *plan,
                           const struct nib_compress_entry *entry, const float *w,
                           struct nib_quantized_matrix **out_matrix)
{
    static float line[COLS], scratch[COLS];
    struct nib_quantized_matrix *matrix;
    struct nib_error error;
    const struct nib_input_stats stats = {
        .n_rows = TOKENS, .cols = COLS, .hessian = hessian, .mean_square = mean_square};
    const struct nib_quantize_job job = {
        .plan = plan, .entry = entry, .weights = w, .stats = &stats, .pool = pool, .dense = dense};
    cr_assert_eq(quantizer->quantize(&job, &matrix, &error), NIB_OK, "%s", error.message);
    double sum = 0;
    for (uint64_t r = 0; r < ROWS; r++) {
        nib_quantized_matrix_row(matrix, r, line, scratch);
        for (int t = 0; t < TOKENS; t++) {
            double dot = 0;
            for (int i = 0; i < COLS; i++)
                dot += (double)(w[r * COLS + i] - line[i]) * (double)inputs[t][i];
            sum += dot * dot;
        }
    }
    if (out_matrix)
        *out_matrix = matrix;
    else
        nib_quantized_matrix_destroy(&matrix);
    return sum / (ROWS * TOKENS);
}

Test(quantizers, gptq_beats_rounding_in_every_order)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_INT4, NIB_FORMAT_INT4_ZERO};
    static const uint32_t groups[] = {0, 32, 48, 128};
    for (size_t f = 0; f < 2; f++) {
        for (size_t g = 0; g < 4; g++) {
            const struct nib_compress_entry entry = entry_of(ids[f], groups[g]);
            struct nib_compress_plan plan = {.params = {.damping = 0.01f}};
            const double plain = output_error(&nib_quantizer_rtn, &plan, &entry, weights, NULL);
            for (int order = 0; order < 3; order++) {
                plan.params.act_order = order > 0;
                plan.params.no_static_groups = order == 2;
                const double error =
                    output_error(&nib_quantizer_gptq, &plan, &entry, weights, NULL);
                cr_assert_lt(error, 0.5 * plain, "format %d, group %u, order %d", (int)f,
                             (unsigned)groups[g], order);
            }
        }
    }
}

/// Weights on a grid come out as they went in.
Test(quantizers, representable_weights_are_exact)
{
    static float w[ROWS * COLS];
    const struct nib_compress_entry entry = entry_of(NIB_FORMAT_INT4, 32);
    const struct nib_compress_plan plan = {.params = {.damping = 0.01f, .act_order = true}};
    uint32_t state = 9;
    for (int i = 0; i < ROWS * COLS; i++)
        w[i] = 0.25f * (float)((int)(7.49f * number(&state)));
    for (int i = 0; i < ROWS * COLS; i += 32)
        w[i] = -0.25f * 7.5f; // what makes the scale 0.25, half a step beyond the last code
    struct nib_quantized_matrix *matrix;
    output_error(&nib_quantizer_rtn, &plan, &entry, w, &matrix);
    for (int i = 0; i < ROWS * COLS; i++) {
        const float value = matrix->block.scale[i / 32] * (float)(matrix->block.codes[i] - 8);
        cr_assert_eq(matrix->block.scale[i / 32], 0.25f);
        cr_assert(i % 32 == 0 || value == w[i]);
    }
    nib_quantized_matrix_destroy(&matrix);
}

Test(quantizers, a_permutation_orders_inputs_by_size)
{
    const struct nib_compress_entry entry = entry_of(NIB_FORMAT_INT4, 32);
    const struct nib_compress_plan plan = {
        .params = {.damping = 0.01f, .act_order = true, .no_static_groups = true}};
    struct nib_quantized_matrix *matrix;
    output_error(&nib_quantizer_gptq, &plan, &entry, weights, &matrix);
    cr_assert_not_null(matrix->permutation);
    for (int j = 1; j < COLS; j++)
        cr_assert_geq(mean_square[matrix->permutation[j - 1]], mean_square[matrix->permutation[j]]);
    nib_quantized_matrix_destroy(&matrix);
}

Test(quantizers, searched_ranges_have_less_error)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_INT4, NIB_FORMAT_INT4_ZERO,
                                             NIB_FORMAT_Q4_1};
    for (size_t f = 0; f < 3; f++) {
        const struct nib_format *format = nib_format_get(ids[f]);
        double errors[2] = {0};
        for (int searched = 0; searched < 2; searched++) {
            const struct nib_grid_rule rule = {
                format, searched ? NIB_QUANTIZE_RANGE_MSE : NIB_QUANTIZE_RANGE_MINMAX, 0};
            for (int begin = 0; begin < ROWS * COLS; begin += 64) {
                struct nib_grid grid;
                nib_grid_find(&rule, weights + begin, mean_square + begin % COLS % 96, 64, &grid);
                for (int i = 0; i < 64; i++) {
                    const float w = weights[begin + i];
                    const float e =
                        w - nib_grid_value(format, &grid, nib_grid_code(format, &grid, w));
                    errors[searched] += (double)(mean_square[begin % COLS % 96 + i] * e * e);
                }
            }
        }
        cr_assert_lt(errors[1], 0.95 * errors[0], "format %d", (int)f);
    }
}

Test(quantizers, percentiles_cut_outliers_off)
{
    float w[200];
    for (int i = 0; i < 200; i++)
        w[i] = (float)(i % 10) * 0.1f;
    w[17] = 50;
    const struct nib_grid_rule rule = {nib_format_get(NIB_FORMAT_INT4),
                                       NIB_QUANTIZE_RANGE_PERCENTILE, 99};
    struct nib_grid grid;
    nib_grid_find(&rule, w, NULL, 200, &grid);
    cr_assert_float_eq(grid.scale, 0.9f / 7.5f, 1e-3f);
}
