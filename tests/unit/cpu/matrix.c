#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include <stdatomic.h>
#include <stdio.h>

#include "runtime/base/half.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/cpu/kernels.h"

enum { MAX_ROWS = 4096 };

/// A reader of blocks made up from (row, column), that notes what is dropped.
struct made_up {
    struct nib_row_reader reader;
    float scale;
    atomic_bool is_dropped[MAX_ROWS];
    uint64_t fail_at;    ///< row at which reading begins to fail
    uint64_t inexact_at; ///< row at which scales begin to be of no 16-bit type
};

static const struct nib_cpu_packing in_rows;
static const struct nib_cpu_packing in_panels = {.store_panel = nib_panel_store};

static enum nib_status read_made_up(const struct nib_row_reader *reader, uint64_t first,
                                    struct nib_row_block *block, struct nib_error *err)
{
    const struct made_up *made_up = reader->source;
    const struct nib_format *format = &reader->format;
    uint64_t groups = nib_format_groups(format, block->cols);
    uint64_t supers = format->super ? nib_format_supers(format, block->cols) : groups;
    uint32_t codes = format->bits <= 8 ? 1u << format->bits : 1;
    if (first + block->rows > made_up->fail_at)
        return nib_fail(err, NIB_ERROR_IO, "row %u", (unsigned)first);
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
                block->scale[r * supers + s] =
                    first + r < made_up->inexact_at ? made_up->scale * (float)(1u << s % 8) : 0.1f;
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

static void note_dropped(const struct nib_row_reader *reader, uint64_t first, uint64_t count)
{
    struct made_up *made_up = (struct made_up *)(uintptr_t)reader->source;
    cr_assert_leq(first + count, reader->rows);
    for (uint64_t i = first; i < first + count; i++)
        atomic_store(&made_up->is_dropped[i], true);
}

static void assert_all_dropped(const struct made_up *made_up)
{
    for (uint64_t i = 0; i < made_up->reader.rows; i++)
        cr_assert(atomic_load(&made_up->is_dropped[i]), "row %u", (unsigned)i);
}

static void init(struct made_up *made_up, const struct nib_format *format, uint64_t cols)
{
    *made_up = (struct made_up){.scale = 0.25f, .fail_at = UINT64_MAX, .inexact_at = UINT64_MAX};
    made_up->reader = (struct nib_row_reader){.name = "blk.0.attn_q.weight",
                                              .format = *format,
                                              .rows = 131,
                                              .cols = cols,
                                              .read = read_made_up,
                                              .drop = note_dropped,
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

static void assert_kept(const struct nib_format *format, uint64_t cols,
                        const struct nib_cpu_packing *packing)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    struct nib_error error;
    init(&made_up, format, cols);
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, packing, &made_up.reader, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(matrix.has_panels, packing->store_panel != NULL);
    cr_assert_eq(matrix.rows, made_up.reader.rows);
    assert_all_dropped(&made_up);
    for (uint64_t row = 0; row < matrix.rows; row += 13)
        assert_row(&made_up, &matrix, row);
    nib_cpu_matrix_free(&matrix);
}

Test(cpu_matrix, packing_loses_nothing)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get((enum nib_format_id)id);
        uint64_t cols = format->block_weights > 1 ? 2 * format->block_weights : 77;
        assert_kept(format, cols, &in_rows);
        assert_kept(format, cols, &in_panels);
    }
}

/// On several threads, into memory that is not zeroed, the bytes are those of one thread.
Test(cpu_matrix, threads_pack_the_same)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_K, NIB_FORMAT_INT4_ZERO, NIB_FORMAT_F32};
    struct nib_thread_pool *pool;
    cr_assert_eq(nib_thread_pool_create(3, false, &pool, NULL), NIB_OK);
    for (int i = 0; i < 6; i++) {
        const struct nib_format *format = nib_format_get(ids[i / 2]);
        struct nib_cpu_packing packing = i % 2 ? in_panels : in_rows;
        struct made_up made_up;
        struct nib_cpu_matrix one, other;
        init(&made_up, format, 1024);
        made_up.reader.rows = 3003;
        cr_assert_eq(nib_cpu_matrix_pack(&one, &packing, &made_up.reader, NULL), NIB_OK);
        size_t size = (size_t)one.bytes;
        packing.pool = pool;
        packing.memory = nib_pages_alloc(size);
        cr_assert_not_null(packing.memory);
        memset(packing.memory, 0xa5, size);
        cr_assert_eq(nib_cpu_matrix_pack(&other, &packing, &made_up.reader, NULL), NIB_OK);
        assert_all_dropped(&made_up);
        cr_assert_eq(other.packed, packing.memory);
        cr_assert_eq(one.bytes, other.bytes);
        cr_assert_eq(memcmp(one.packed, other.packed, size), 0, "%s", format->name);
        nib_cpu_matrix_free(&one);
        nib_cpu_matrix_free(&other);
        nib_pages_free(packing.memory, size);
    }
    nib_thread_pool_destroy(&pool);
}

/// Whatever thread meets which failure first, that of the lowest row is told.
Test(cpu_matrix, the_lowest_rows_failure_is_told)
{
    struct nib_cpu_packing packing = in_panels;
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    struct nib_error error;
    init(&made_up, nib_format_get(NIB_FORMAT_Q8_0), 4096);
    made_up.reader.rows = 4000;
    made_up.fail_at = 2005;
    cr_assert_eq(nib_thread_pool_create(4, false, &packing.pool, NULL), NIB_OK);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(nib_cpu_matrix_pack(&matrix, &packing, &made_up.reader, &error), NIB_ERROR_IO);
        cr_assert_str_eq(error.message, "row 2000");
        cr_assert_null(matrix.packed);
    }
    made_up.inexact_at = 1600;
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(nib_cpu_matrix_pack(&matrix, &packing, &made_up.reader, &error),
                     NIB_ERROR_FORMAT);
        cr_assert(strstr(error.message, "rows 1600 and up"), "%s", error.message);
    }
    nib_thread_pool_destroy(&packing.pool);
}

Test(cpu_matrix, four_bits_take_four_bits)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    init(&made_up, nib_format_get(NIB_FORMAT_INT4), 256);
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &in_rows, &made_up.reader, NULL), NIB_OK);
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
    cr_assert_eq(nib_cpu_vector_pack(&matrix, &made_up.reader, NULL), NIB_OK);
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
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &in_rows, &made_up.reader, &error), NIB_ERROR_FORMAT);
    cr_assert(strstr(error.message, "blk.0.attn_q.weight"), "%s", error.message);
    cr_assert_eq(matrix.rows, 0);
    cr_assert_null(matrix.packed);
    made_up.scale = nib_f32_from_f16(0x7e00); // NaN has no equal, but is of every type
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &in_rows, &made_up.reader, &error), NIB_OK);
    nib_cpu_matrix_free(&matrix);
}

Test(cpu_matrix, passes_on_the_readers_failure)
{
    struct made_up made_up;
    struct nib_cpu_matrix matrix;
    init(&made_up, nib_format_get(NIB_FORMAT_INT8), 64);
    made_up.fail_at = 100;
    cr_assert_eq(nib_cpu_matrix_pack(&matrix, &in_rows, &made_up.reader, NULL), NIB_ERROR_IO);
    cr_assert_null(matrix.packed);
    made_up.reader.rows = 1;
    made_up.fail_at = 0;
    cr_assert_eq(nib_cpu_vector_pack(&matrix, &made_up.reader, NULL), NIB_ERROR_IO);
    cr_assert_null(matrix.vector);
}
