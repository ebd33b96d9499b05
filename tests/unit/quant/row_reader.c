#include <criterion/criterion.h>
#include <stdlib.h>

#include "runtime/quant/pack.h"
#include "vectors.h"

enum { ROWS = 5, COLS = 96 };

static struct nib_row_reader make_reader(enum nib_format_id id, const uint8_t *raw)
{
    return (struct nib_row_reader){.name = "blk.0.w",
                                   .format = *nib_format_get(id),
                                   .rows = ROWS,
                                   .cols = COLS,
                                   .raw = raw,
                                   .read = nib_row_reader_read_raw};
}

Test(row_reader, reads_the_rows_asked_for)
{
    float weights[ROWS * COLS];
    uint8_t raw[2 * ROWS * COLS];
    const struct nib_format *format = nib_format_get(NIB_FORMAT_Q8_0);
    uint64_t row_bytes;
    cr_assert(nib_format_row_bytes(format, COLS, &row_bytes));
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < COLS; i++)
            weights[row * COLS + i] = (float)(row + 1) * 127.0f * (i % 2 ? 1.0f : -1.0f);
        cr_assert(nib_row_pack(format, weights + row * COLS, COLS, raw + row * row_bytes));
    }
    struct nib_row_reader reader = make_reader(NIB_FORMAT_Q8_0, raw);
    struct nib_row_block block;
    void *memory = block_alloc(&block, format, 2, COLS);
    cr_assert(reader.read(&reader, 3, &block, NULL) == NIB_OK);
    float out[COLS];
    for (uint64_t row = 0; row < 2; row++) {
        nib_row_dequantize(format, &block, row, out);
        for (int i = 0; i < COLS; i++)
            cr_assert_eq(out[i], weights[(3 + row) * COLS + (uint64_t)i]);
    }
    free(memory);
}

Test(row_reader, refuses_rows_beyond_the_end)
{
    uint8_t raw[ROWS * COLS] = {0};
    struct nib_row_reader reader = make_reader(NIB_FORMAT_Q4_0, raw);
    struct nib_row_block block;
    struct nib_error err = {0};
    void *memory = block_alloc(&block, &reader.format, 2, COLS);
    cr_assert(reader.read(&reader, 3, &block, &err) == NIB_OK);
    cr_assert(reader.read(&reader, 4, &block, &err) == NIB_ERROR_ARGUMENT);
    cr_assert_str_eq(err.message, "rows 4 to 6 of tensor 'blk.0.w' were asked for, but it has 5");
    cr_assert(reader.read(&reader, UINT64_MAX, &block, &err) == NIB_ERROR_ARGUMENT);
    block.cols = 64;
    cr_assert(reader.read(&reader, 0, &block, &err) == NIB_ERROR_ARGUMENT);
    free(memory);
}

Test(row_reader, refuses_rows_that_are_no_blocks)
{
    uint8_t raw[ROWS * COLS] = {0};
    struct nib_row_reader reader = make_reader(NIB_FORMAT_Q4_K, raw);
    struct nib_row_block block = {.rows = 1, .cols = COLS};
    struct nib_error err = {0};
    cr_assert(reader.read(&reader, 0, &block, &err) == NIB_ERROR_STATE);
    cr_assert_not_null(strstr(err.message, "q4_k"));
    reader = make_reader(NIB_FORMAT_Q4_0, NULL);
    cr_assert(reader.read(&reader, 0, &block, &err) == NIB_ERROR_STATE);
}
