// Blocks by least squares: never worse than rounding to nearest, and near the best there is.
#include "runtime/compress/block_quantize.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/compress/block_family.h"
#include "runtime/compress/preset.h"
#include "runtime/quant/pack.h"

enum { COLS = 512, ROWS = 8, MAX_ROW_BYTES = 4 * COLS };

static uint32_t state;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return ((float)(state >> 8) + 0.5f) / 16777216.0f;
}

static float normal(void)
{
    return sqrtf(-2.0f * logf(uniform())) * cosf(6.2831853f * uniform());
}

/// Weights, and inputs of which some are much stronger than others.
static void make_row(float *w, float *importance)
{
    for (int i = 0; i < COLS; i++) {
        w[i] = 0.02f * normal() * expf(0.3f * sinf((float)(i / 16)));
        importance[i] = expf(1.5f * normal());
    }
}

static void read_row(const struct nib_format *format, const uint8_t *raw, float *out)
{
    struct nib_row_block block;
    void *memory = malloc(nib_row_block_size(format, 1, COLS));
    nib_row_block_init(&block, format, 1, COLS, memory);
    nib_row_unpack(format, raw, 0, &block);
    nib_row_dequantize(format, &block, 0, out);
    free(memory);
}

/// Quantizes a row into the container's own blocks.
static bool quantize_row(const struct nib_format *format, const float *w, const float *importance,
                         uint64_t cols, uint8_t *raw)
{
    struct nib_row_block block;
    void *memory = calloc(1, nib_row_block_size(format, 1, cols));
    nib_row_block_init(&block, format, 1, cols, memory);
    const bool has_blocks = nib_block_quantize(format, w, importance, 0, &block);
    if (has_blocks)
        nib_row_store(format, &block, 0, raw);
    free(memory);
    return has_blocks;
}

static double weighted_error(const float *w, const float *out, const float *importance)
{
    double error = 0;
    for (int i = 0; i < COLS; i++)
        error += (double)importance[i] * (double)(w[i] - out[i]) * (double)(w[i] - out[i]);
    return error;
}

static bool has_codes(const struct nib_format *format)
{
    return format->block_bytes != 0 && format->code != NIB_CODE_FLOAT;
}

Test(blocks, error_is_below_that_of_rounding_to_nearest)
{
    // The share of rounding's error that is left: by format, what was measured and 4 % more.
    static const double limits[NIB_FORMAT_COUNT] = {
        [NIB_FORMAT_Q4_0] = 0.80,  [NIB_FORMAT_Q4_1] = 0.65,   [NIB_FORMAT_Q5_0] = 0.80,
        [NIB_FORMAT_Q5_1] = 0.67,  [NIB_FORMAT_Q8_0] = 0.75,   [NIB_FORMAT_Q2_K] = 0.50,
        [NIB_FORMAT_Q3_K] = 0.76,  [NIB_FORMAT_Q4_K] = 0.70,   [NIB_FORMAT_Q5_K] = 0.73,
        [NIB_FORMAT_Q6_K] = 0.72,  [NIB_FORMAT_IQ4_NL] = 0.75, [NIB_FORMAT_IQ4_XS] = 0.76,
        [NIB_FORMAT_MXFP4] = 0.95,
    };
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get(id);
        if (!has_codes(format))
            continue;
        double error = 0, plain = 0;
        state = 11;
        for (int row = 0; row < ROWS; row++) {
            float w[COLS], importance[COLS], out[COLS];
            uint8_t raw[MAX_ROW_BYTES];
            make_row(w, importance);
            cr_assert(quantize_row(format, w, importance, COLS, raw));
            read_row(format, raw, out);
            error += weighted_error(w, out, importance);
            cr_assert(nib_row_pack(format, w, COLS, raw));
            read_row(format, raw, out);
            plain += weighted_error(w, out, importance);
        }
        cr_expect(error < limits[id] * plain, "%s: %.3f of rounding's error", format->name,
                  error / plain);
    }
}

Test(blocks, a_scale_is_near_the_best_of_thousands)
{
    static const struct {
        enum nib_format_id format;
        double most; ///< times the best error, on average
    } cases[] = {{NIB_FORMAT_Q4_0, 1.01},
                 {NIB_FORMAT_IQ4_NL, 1.01},
                 {NIB_FORMAT_Q3_K, 1.01},
                 {NIB_FORMAT_Q5_0, 1.03}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const struct nib_levels levels = nib_levels_of(nib_format_get(cases[c].format));
        double found = 0, best_sum = 0;
        state = 5;
        for (int trial = 0; trial < 40; trial++) {
            float w[32], h[32], extreme = 0;
            for (int i = 0; i < 32; i++) {
                w[i] = normal();
                h[i] = expf(normal());
                extreme = fmaxf(extreme, fabsf(w[i]));
            }
            const struct nib_fit fit = {w, h, 32};
            float d = nib_fit_scale(&fit, &levels), best = INFINITY;
            found += (double)nib_fit_scale_error(&fit, &levels, d, NULL);
            for (int i = -2000; i <= 2000; i++) {
                float tried = 2.0f * extreme / -levels.low * (float)i / 2000.0f;
                best = fminf(best, nib_fit_scale_error(&fit, &levels, tried, NULL));
            }
            best_sum += (double)best;
        }
        cr_expect(found <= cases[c].most * best_sum, "%s: %.4f times the best",
                  nib_format_get(cases[c].format)->name, found / best_sum);
    }
}

Test(blocks, canonical_rows_are_what_the_container_stores)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get(id);
        if (!has_codes(format))
            continue;
        float w[COLS], importance[COLS], canonical[COLS], stored[COLS];
        uint8_t raw[MAX_ROW_BYTES];
        struct nib_row_block block;
        void *memory = calloc(1, nib_row_block_size(format, 2, COLS));
        nib_row_block_init(&block, format, 2, COLS, memory);
        state = 3;
        make_row(w, importance);
        cr_assert(nib_block_quantize(format, w, importance, 1, &block));
        nib_row_dequantize(format, &block, 1, canonical);
        nib_row_store(format, &block, 1, raw);
        read_row(format, raw, stored);
        cr_assert_arr_eq(canonical, stored, sizeof stored, "%s", format->name);
        free(memory);
    }
}

Test(blocks, weights_on_a_grid_stay_there)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_0, NIB_FORMAT_Q4_1, NIB_FORMAT_Q5_0,
                                             NIB_FORMAT_Q5_1, NIB_FORMAT_Q8_0};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        const struct nib_format *format = nib_format_get(ids[i]);
        float w[COLS], importance[COLS], once[COLS], twice[COLS];
        uint8_t raw[MAX_ROW_BYTES];
        state = 17;
        make_row(w, importance);
        cr_assert(nib_row_pack(format, w, COLS, raw));
        read_row(format, raw, once);
        cr_assert(quantize_row(format, once, importance, COLS, raw));
        read_row(format, raw, twice);
        double energy = weighted_error(once, (float[COLS]){0}, importance);
        cr_expect(weighted_error(once, twice, importance) <= 1e-6 * energy, "%s", format->name);
    }
}

/// Quantizes a row of any numbers, which must give finite ones.
static void expect_finite(const float *w, const float *importance, const char *what)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get(id);
        float out[COLS];
        uint8_t raw[MAX_ROW_BYTES];
        if (!has_codes(format))
            continue;
        cr_assert(quantize_row(format, w, importance, COLS, raw));
        read_row(format, raw, out);
        for (int i = 0; i < COLS; i++)
            cr_assert(isfinite(out[i]), "%s, %s, weight %d", format->name, what, i);
    }
}

Test(blocks, extreme_rows_give_finite_weights)
{
    float w[COLS], importance[COLS], silent[COLS] = {0};
    state = 23;
    make_row(w, importance);
    expect_finite(silent, importance, "zeros");
    expect_finite(w, silent, "silent inputs");
    for (int i = 0; i < COLS; i++)
        w[i] = i % 3 ? 3e38f : -3e38f;
    expect_finite(w, importance, "huge weights");
    for (int i = 0; i < COLS; i++)
        w[i] = i % 3 ? 1e-42f : 0.0f;
    expect_finite(w, importance, "denormal weights");
    for (int i = 0; i < COLS; i++)
        w[i] = i == 77 ? 1.0f : 0.0f;
    expect_finite(w, importance, "one weight");
    for (int i = 0; i < COLS; i++) {
        w[i] = 0.5f;
        importance[i] = i % 2 ? 1e30f : 0.0f;
    }
    expect_finite(w, importance, "one value, inputs of any size");
}

/// A family writes all of a block also where no error is finite.
Test(blocks, errors_beyond_all_numbers_leave_nothing_open)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_0, NIB_FORMAT_Q8_0, NIB_FORMAT_IQ4_NL,
                                             NIB_FORMAT_MXFP4};
    float w[32] = {0}, h[32];
    for (int i = 0; i < 32; i++)
        h[i] = 1.0f;
    w[7] = 1e20f;
    for (int is_loud = 0; is_loud < 2; is_loud++) {
        for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
            const struct nib_format *format = nib_format_get(ids[i]);
            struct nib_block_parts parts;
            memset(&parts, 0xff, sizeof parts);
            if (ids[i] == NIB_FORMAT_MXFP4)
                nib_block_power(format, w, h, &parts);
            else
                nib_block_scale(format, w, h, &parts);
            cr_expect(isfinite(parts.scale) && parts.scale != 0.0f, "%s", format->name);
            for (int k = 0; k < 32; k++)
                cr_expect_lt(parts.codes[k], 1 << format->bits, "%s", format->name);
        }
        h[7] = INFINITY;
    }
}

/// Nor do formats with minima or sub-scales turn to zeros what others bring to their largest
/// number.
Test(blocks, errors_beyond_all_numbers_keep_the_largest_weight)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_1, NIB_FORMAT_Q5_1, NIB_FORMAT_Q2_K,
                                             NIB_FORMAT_Q3_K, NIB_FORMAT_Q4_K, NIB_FORMAT_Q5_K,
                                             NIB_FORMAT_Q6_K};
    float w[COLS] = {0}, h[COLS];
    for (int i = 0; i < COLS; i++)
        h[i] = 1.0f;
    w[7] = 1e20f;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        float out[COLS];
        uint8_t raw[MAX_ROW_BYTES];
        const struct nib_format *format = nib_format_get(ids[i]);
        cr_assert(quantize_row(format, w, h, COLS, raw));
        read_row(format, raw, out);
        cr_expect(isfinite(out[7]) && out[7] > 6e4f, "%s: %g", format->name, (double)out[7]);
    }
}

Test(blocks, zeros_stay_zeros)
{
    float zeros[COLS] = {0}, out[COLS];
    uint8_t raw[MAX_ROW_BYTES];
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        if (!has_codes(nib_format_get(id)))
            continue;
        cr_assert(quantize_row(nib_format_get(id), zeros, NULL, COLS, raw));
        read_row(nib_format_get(id), raw, out);
        for (int i = 0; i < COLS; i++)
            cr_assert(out[i] == 0.0f, "%s", nib_format_get(id)->name);
    }
}

Test(blocks, refuses_what_is_no_block)
{
    float w[COLS] = {0};
    uint8_t raw[MAX_ROW_BYTES];
    cr_assert(!quantize_row(nib_format_get(NIB_FORMAT_INT4), w, NULL, COLS, raw));
    cr_assert(!quantize_row(nib_format_get(NIB_FORMAT_Q4_K), w, NULL, 288, raw));
    cr_assert(!quantize_row(nib_format_get(NIB_FORMAT_Q4_0), w, NULL, 33, raw));
}

Test(presets, formats_of_a_mix)
{
    const struct nib_preset *mix = nib_preset_find("q4_k_m");
    cr_assert_not_null(mix);
    cr_assert_null(nib_preset_find("q8_0"));
    const uint32_t n = 32;
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_Q, 0, n, true)->id, NIB_FORMAT_Q4_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_V, 0, n, true)->id, NIB_FORMAT_Q6_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_V, 4, n, true)->id, NIB_FORMAT_Q4_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_DOWN, 6, n, true)->id, NIB_FORMAT_Q6_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_DOWN, 31, n, true)->id, NIB_FORMAT_Q6_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_TOKEN_EMBEDDING, 0, n, true)->id, NIB_FORMAT_Q6_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_TOKEN_EMBEDDING, 0, n, false)->id,
                 NIB_FORMAT_Q4_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_OUTPUT, 0, n, false)->id, NIB_FORMAT_Q6_K);
}

Test(presets, later_rules_hold)
{
    const struct nib_preset *mix = nib_preset_find("q3_k_m");
    const uint32_t n = 32;
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_V, 1, n, true)->id, NIB_FORMAT_Q5_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_V, 2, n, true)->id, NIB_FORMAT_Q4_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_DOWN, 1, n, true)->id, NIB_FORMAT_Q5_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_DOWN, 2, n, true)->id, NIB_FORMAT_Q4_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_ATTENTION_OUT, 9, n, true)->id, NIB_FORMAT_Q4_K);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_UP, 0, n, true)->id, NIB_FORMAT_Q3_K);
    mix = nib_preset_find("q4_0");
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_DOWN, 3, n, true)->id, NIB_FORMAT_Q4_1);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_FFN_DOWN, 4, n, true)->id, NIB_FORMAT_Q4_0);
    cr_assert_eq(nib_preset_format(mix, NIB_ROLE_TOKEN_EMBEDDING, 0, n, true)->id, NIB_FORMAT_Q6_K);
}

Test(presets, formats_that_fit)
{
    static const struct {
        enum nib_format_id asked;
        uint64_t cols;
        enum nib_format_id given;
    } cases[] = {{NIB_FORMAT_Q4_K, 1536, NIB_FORMAT_Q4_K},  {NIB_FORMAT_Q4_K, 576, NIB_FORMAT_Q5_0},
                 {NIB_FORMAT_Q6_K, 576, NIB_FORMAT_Q8_0},   {NIB_FORMAT_Q5_K, 32, NIB_FORMAT_Q5_1},
                 {NIB_FORMAT_Q2_K, 576, NIB_FORMAT_IQ4_NL}, {NIB_FORMAT_Q4_0, 40, NIB_FORMAT_F16},
                 {NIB_FORMAT_Q4_K, 40, NIB_FORMAT_F16},     {NIB_FORMAT_F32, 40, NIB_FORMAT_F32}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct nib_format *given =
            nib_format_that_fits(nib_format_get(cases[i].asked), cases[i].cols);
        cr_expect_eq(given->id, cases[i].given, "case %d: %s", (int)i, given->name);
    }
}
