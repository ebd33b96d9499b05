#include "runtime/quant/pack.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

Test(pack, equals_gguf)
{
    int n_tested = 0;
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get(id);
        struct vectors v;
        if (!vectors_read(&v, "pack", format))
            continue;
        uint8_t *raw = malloc(v.row_bytes);
        cr_assert(nib_row_pack(format, v.weights, v.cols, raw));
        for (uint64_t i = 0; i < v.row_bytes; i++) {
            cr_assert(raw[i] == v.raw[i], "%s, block %d, byte %d: %02x, not %02x", format->name,
                      (int)(i / format->block_bytes), (int)(i % format->block_bytes), raw[i],
                      v.raw[i]);
        }
        free(raw);
        vectors_free(&v);
        n_tested++;
    }
    cr_assert_eq(n_tested, 8);
}

enum { COLS = 1024 };

/// Packs and unpacks a row.
static void round_trip(const struct nib_format *format, const float *in, float *out)
{
    uint64_t row_bytes;
    cr_assert(nib_format_row_bytes(format, COLS, &row_bytes));
    uint8_t *raw = malloc(row_bytes);
    struct nib_row_block block;
    void *memory = block_alloc(&block, format, 1, COLS);
    cr_assert(nib_row_pack(format, in, COLS, raw));
    nib_row_unpack(format, raw, 0, &block);
    nib_row_dequantize(format, &block, 0, out);
    free(memory);
    free(raw);
}

Test(pack, error_is_what_the_bits_allow)
{
    // Upper limits of the error's rms over that of weights uniform in [-1, 1), which a code of n
    // bits spread over the range makes 2^-n, and a little more for the scales' rounding.
    static const float limits[NIB_FORMAT_COUNT] = {
        [NIB_FORMAT_F32] = 0.0f,    [NIB_FORMAT_F16] = 3e-4f,     [NIB_FORMAT_BF16] = 2.5e-3f,
        [NIB_FORMAT_Q4_0] = 0.075f, [NIB_FORMAT_Q4_1] = 0.066f,   [NIB_FORMAT_Q5_0] = 0.036f,
        [NIB_FORMAT_Q5_1] = 0.032f, [NIB_FORMAT_Q8_0] = 0.004f,   [NIB_FORMAT_Q2_K] = 0.35f,
        [NIB_FORMAT_Q3_K] = 0.16f,  [NIB_FORMAT_Q4_K] = 0.07f,    [NIB_FORMAT_Q5_K] = 0.035f,
        [NIB_FORMAT_Q6_K] = 0.018f, [NIB_FORMAT_IQ4_NL] = 0.085f, [NIB_FORMAT_IQ4_XS] = 0.09f,
        [NIB_FORMAT_MXFP4] = 0.15f,
    };
    float in[COLS], out[COLS];
    uint32_t state = 7;
    for (int i = 0; i < COLS; i++)
        in[i] = random_float(&state);
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get(id);
        if (!format->block_bytes)
            continue;
        round_trip(format, in, out);
        double error = 0, energy = 0;
        for (int i = 0; i < COLS; i++) {
            error += (double)(out[i] - in[i]) * (double)(out[i] - in[i]);
            energy += (double)in[i] * (double)in[i];
        }
        float rms = (float)sqrt(error / energy);
        cr_expect(rms <= limits[id], "%s: %g", format->name, (double)rms);
    }
}

Test(pack, rows_of_one_value)
{
    static const float values[] = {0.0f, 1.0f, -1.0f};
    float in[COLS], out[COLS];
    for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
        for (int i = 0; i < COLS; i++)
            in[i] = values[k];
        for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
            const struct nib_format *format = nib_format_get(id);
            if (!format->block_bytes)
                continue;
            round_trip(format, in, out);
            for (int i = 0; i < COLS; i++)
                cr_assert(fabsf(out[i] - in[i]) <= 2e-3f, "%s: %g", format->name, (double)out[i]);
        }
    }
}

Test(pack, any_floats_are_safe)
{
    static const float odd[] = {NAN,    INFINITY, -INFINITY, 3e38f, -3e38f,
                                1e-45f, -1e-45f,  0.0f,      1.0f};
    float in[COLS], out[COLS];
    uint32_t state = 99;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < COLS; i++) {
            uint32_t pick = (uint32_t)((random_float(&state) + 1.0f) * 16.0f);
            in[i] = pick < sizeof odd / sizeof *odd ? odd[pick] : random_float(&state);
        }
        for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
            if (nib_format_get(id)->block_bytes)
                round_trip(nib_format_get(id), in, out);
        }
    }
}

Test(pack, refuses_what_has_no_blocks)
{
    float in[64] = {0};
    uint8_t raw[64] = {1};
    cr_assert(!nib_row_pack(nib_format_get(NIB_FORMAT_INT4), in, 64, raw));
    cr_assert(!nib_row_pack(nib_format_get(NIB_FORMAT_Q4_0), in, 33, raw));
    cr_assert(raw[0] == 1);
}
