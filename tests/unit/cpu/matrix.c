#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/cpu/matrix.h"

/// A reader of blocks made up from (row, column), that counts what is dropped.
struct made_up {
    struct nib_row_reader reader;
    float scale;
    uint64_t dropped;
    uint64_t fail_at; ///< row at which reading fails
};

static enum nib_status read_made_up(const struct nib_row_reader *reader, uint64_t first,
                                    struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    const struct made_up *made_up = reader->source;
    const struct nib_format *format = &reader->format;
    uint64_t groups = nib_format_groups(format, block->cols);
    uint64_t supers = format->super ? nib_format_supers(format, block->cols) : groups;
    uint32_t codes = format->bits <= 8 ? 1u << format->bits : 1;
    if (first + block->rows > made_up->fail_at)
        return NIB_ERROR_IO;
    for (uint64_t r = 0; r < block->rows; r++) {
        uint64_t seed = (first + r) * 31;
        for (uint64_t i = 0; i < block->cols; i++) {
            if (block->values)
                block->values[r * block->cols + i] = (float)((seed + i) % 128) * 0.5f;
            else
                block->codes[r * block->cols + i] = (uint8_t)((seed + i * 7) % codes);
        }
        for (uint64_t s = 0; s < supers; s++) {
            if (block->scale)
                block->scale[r * supers + s] = made_up->scale * (float)(1u << s % 8);
            if (block->min)
                block->min[r * supers + s] = -made_up->scale * (float)(seed % 5);
        }
        unsigned codes_of_scale = reader->format.bits == 2 ? 16 : 64;
        for (uint64_t g = 0; g < groups; g++) {
            if (block->sub_scale)
                block->sub_scale[r * groups + g] = (int8_t)((seed + g * 11) % codes_of_scale);
            if (block->sub_min)
                block->sub_min[r * groups + g] = (uint8_t)((seed + g) % codes_of_scale);
            if (block->zero)
                block->zero[r * groups + g] = (int16_t)((seed + g) % (codes + 1));
        }
    }
    return NIB_OK;
}

static void count_dropped(const struct nib_row_reader *reader, uint64_t first, uint64_t count)
{
    struct made_up *made_up = (struct made_up *)(uintptr_t)reader->source;
    cr_assert_eq(made_up->dropped, first);
    made_up->dropped += count;
}

static void init(struct made_up *made_up, const struct nib_format *format, uint64_t cols)
{
    *made_up = (struct made_up){.scale = 0.25f, .fail_at = UINT64_MAX};
    made_up->reader = (struct nib_row_reader){.name = "blk.0.attn_q.weight",
                                              .format = *format,
                                              .rows = 131,
                                              .cols = cols,
                                              .read = read_made_up,
                                              .drop = count_dropped,
                                              .source = made_up};
}

/// Dequantizes row `row` as the reader gives it and as the matrix does.
static void assert_row(const struct made_up *made_up, const struct nib_cpu_matrix *matrix,
                       uint64_t row)
{
    const struct nib_format *format = &made_up->reader.format;
    uint64_t cols = made_up->reader.cols;
    struct nib_row_block block;
    void *memory = malloc(nib_row_block_size(format, 2, cols));
    float *expected = malloc(cols * sizeof(float)), *actual = malloc(cols * sizeof(float));
    nib_row_block_init(&block, format, 1, cols, memory);
    made_up->reader.read(&made_up->reader, row, &block, NULL);
    nib_row_dequantize(format, &block, 0, expected);
    nib_row_block_init(&block, format, 2, cols, memory);
    nib_cpu_matrix_load(matrix, row, 1, &block);
    nib_row_dequantize(format, &block, 1, actual);
    cr_assert_eq(memcmp(expected, actual, cols * sizeof(float)), 0, "%s, row %u", format->name,
                 (unsigned)row);
    free(expected);
    free(actual);
    free(memory);
}

Test(cpu_matrix, packing_loses_nothing)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        struct nib_format format = *nib_format_get((enum nib_format_id)id);
        uint64_t cols = format.block_weights > 1 ? 2 * format.block_weights : 77;
        struct made_up made_up;
        struct nib_cpu_matrix matrix;
        struct nib_error error;
        init(&made_up, &format, cols);
        cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, false, &error), NIB_OK, "%s",
                     error.message);
        cr_assert_eq(made_up.dropped, made_up.reader.rows);
        cr_assert_eq(matrix.rows, made_up.reader.rows);
        for (uint64_t row = 0; row < matrix.rows; row += 13)
            assert_row(&made_up, &matrix, row);
        nib_cpu_matrix_free(&matrix);

        made_up.dropped = 0;
        cr_assert_eq(nib_cpu_matrix_pack_panels(&matrix, &made_up.reader, &error), NIB_OK, "%s",
                     error.message);
        cr_assert(matrix.has_panels);
        cr_assert_eq(made_up.dropped, made_up.reader.rows);
        for (uint64_t row = 0; row < matrix.rows; row += 13)
            assert_row(&made_up, &matrix, row);
        nib_cpu_matrix_free(&matrix);
    }
}

Test(cpu_matrix, four_bits_take_four_bits)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    init(&made_up, nib_format_get(NIB_FORMAT_INT4), 256);
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, false, NULL), NIB_OK);
    cr_assert_eq(matrix.bytes, 131u * (256 / 2 + 8 * 2));
    nib_cpu_matrix_free(&matrix);
    cr_assert_eq(matrix.rows, 0);
}

Test(cpu_matrix, a_vector_is_kept_in_fp32)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    init(&made_up, nib_format_get(NIB_FORMAT_F16), 9);
    made_up.reader.rows = 1;
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, true, NULL), NIB_OK);
    for (int i = 0; i < 9; i++)
        cr_assert_eq(matrix.vector[i], (float)i * 0.5f);
    cr_assert_eq(matrix.bytes, 36);
    nib_cpu_matrix_free(&matrix);
}

Test(cpu_matrix, refuses_scales_that_the_format_does_not_have)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    struct nib_error error;
    init(&made_up, nib_format_get(NIB_FORMAT_INT4), 64);
    made_up.scale = 0.1f;
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, false, &error), NIB_ERROR_FORMAT);
    cr_assert(strstr(error.message, "blk.0.attn_q.weight"), "%s", error.message);
    cr_assert_eq(matrix.rows, 0);
    cr_assert_null(matrix.packed);
    made_up.scale = nib_f32_from_f16(0x7e00); // NaN has no equal, but is of every type
    made_up.dropped = 0;
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, false, &error), NIB_OK);
    nib_cpu_matrix_free(&matrix);
}

Test(cpu_matrix, passes_on_the_readers_failure)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    init(&made_up, nib_format_get(NIB_FORMAT_INT8), 64);
    made_up.fail_at = 100;
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, false, NULL), NIB_ERROR_IO);
    cr_assert_null(matrix.packed);
    made_up.reader.rows = 1;
    made_up.fail_at = 0;
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &made_up.reader, true, NULL), NIB_ERROR_IO);
    cr_assert_null(matrix.vector);
}
