#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "vectors.h"

Test(row_block, arrays_fit_and_are_aligned)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get(id);
        for (uint64_t cols = 1; cols < 600; cols += 37) {
            struct nib_row_block b;
            void *memory = block_alloc(&b, format, 3, cols);
            uint8_t *end = (uint8_t *)memory + nib_row_block_size(format, 3, cols);
            uint64_t groups = nib_format_groups(format, cols);
            uint64_t supers = format->super ? nib_format_supers(format, cols) : groups;
            cr_assert(b.rows == 3 && b.cols == cols);
            cr_assert((b.values != NULL) == (format->code == NIB_CODE_FLOAT));
            cr_assert((b.codes != NULL) == (format->code != NIB_CODE_FLOAT));
            cr_assert((b.min != NULL) == (format->zero == NIB_ZERO_MINIMUM));
            cr_assert((b.zero != NULL) == (format->zero == NIB_ZERO_INTEGER));
            cr_assert((b.sub_scale != NULL) == (format->super != 0));
            cr_assert(!b.values || (uint8_t *)(b.values + 3 * cols) <= end);
            cr_assert(!b.codes || b.codes + 3 * cols <= end);
            cr_assert(!b.scale || (uint8_t *)(b.scale + 3 * supers) <= end);
            cr_assert(!b.min || (uint8_t *)(b.min + 3 * supers) <= end);
            cr_assert(!b.zero || (uint8_t *)(b.zero + 3 * groups) <= end);
            cr_assert(!b.zero || (uintptr_t)b.zero % sizeof *b.zero == 0);
            cr_assert(!b.sub_scale || (uint8_t *)b.sub_scale + 3 * groups <= end);
            cr_assert(!b.sub_min || b.sub_min + 3 * groups <= end);
            free(memory);
        }
    }
}

Test(row_block, size_overflow)
{
    const struct nib_format *q4_k = nib_format_get(NIB_FORMAT_Q4_K);
    cr_assert(nib_row_block_size(q4_k, UINT64_MAX, 256) == 0);
    cr_assert(nib_row_block_size(q4_k, 1, UINT64_MAX) == 0);
    cr_assert(nib_row_block_size(nib_format_get(NIB_FORMAT_F32), 1, 1ull << 62) == 0);
    cr_assert(nib_row_block_size(q4_k, 0, 256) > 0);
    cr_assert(nib_row_block_size(q4_k, 1, 0) > 0);
}

/// Dequantizes one row of 70 weights whose codes count up, and compares each with
/// scale · (value(code) − zero).
static void check_planes(const struct nib_format *format)
{
    enum { COLS = 70 };
    struct nib_row_block b;
    void *memory = block_alloc(&b, format, 1, COLS);
    uint64_t groups = nib_format_groups(format, COLS);
    for (uint64_t g = 0; g < groups; g++) {
        b.scale[g] = 0.125f * (float)(g + 1);
        if (b.zero)
            b.zero[g] = (int16_t)(g % 2 ? 256 : 3);
    }
    for (int i = 0; i < COLS; i++)
        b.codes[i] = (uint8_t)(i & ((1 << format->bits) - 1));
    float out[COLS];
    double squares = 0.0;
    nib_row_dequantize(format, &b, 0, out);
    for (int i = 0; i < COLS; i++) {
        uint64_t g = format->group ? (uint64_t)i / format->group : 0;
        float value = format->book ? format->book[b.codes[i]] : (float)b.codes[i];
        float zero = (float)format->center + (b.zero ? (float)b.zero[g] : 0.0f);
        cr_assert_eq(out[i], b.scale[g] * (value - zero), "%s, weight %d", format->name, i);
        squares += (double)out[i] * (double)out[i];
    }
    float norm = nib_row_norm(format, &b, 0);
    if (format->book)
        cr_assert(isinf(norm));
    else
        cr_assert((double)norm >= sqrt(squares) && (double)norm < sqrt(squares) * 1.0001);
    float scale[COLS], min[COLS];
    nib_row_group_scales(format, &b, 0, scale, min);
    for (uint64_t g = 0; g < groups; g++)
        cr_assert(scale[g] == b.scale[g] && min[g] == 0.0f);
    free(memory);
}

Test(row_block, formats_in_planes)
{
    for (int id = NIB_FORMAT_INT4; id < NIB_FORMAT_COUNT; id++) {
        struct nib_format format = *nib_format_get(id);
        check_planes(&format);
        format.group = 0;
        check_planes(&format);
        format.group = 7;
        check_planes(&format);
    }
}
