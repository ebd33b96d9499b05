#include "runtime/cpu/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"

/// Rows that are read at once from a reader.
#define READ_ROWS 64

/// Where the parts of a packed row lie, in bytes: scales, minima, zero points, the two levels of a
/// super-block, codes. Rows have no alignment.
struct record {
    uint64_t n_supers, n_groups;
    uint32_t scale_size; ///< 2 where the format's scales are 16-bit floats, else 4
    uint32_t zero_size;  ///< zero points reach 2^bits, which is one too many for a byte of 8 bits
    bool has_nibbles;
    uint64_t min, zero, sub_scale, sub_min, codes, end;
};

static bool has_half_scales(const struct nib_format *format)
{
    return format->scale == NIB_SCALE_F16 || format->scale == NIB_SCALE_BF16;
}

static struct record record_of(const struct nib_format *format, uint64_t cols)
{
    struct record r = {.n_groups = nib_format_groups(format, cols)};
    bool has_min = format->zero == NIB_ZERO_MINIMUM;
    r.n_supers = format->super ? nib_format_supers(format, cols) : r.n_groups;
    r.scale_size = has_half_scales(format) ? 2 : 4;
    r.zero_size = format->bits <= 4 ? 1 : 2;
    r.has_nibbles = format->bits <= 4;
    r.min = r.n_supers * r.scale_size;
    r.zero = r.min + (has_min ? r.n_supers * r.scale_size : 0);
    r.sub_scale = r.zero + (format->zero == NIB_ZERO_INTEGER ? r.n_groups * r.zero_size : 0);
    r.sub_min = r.sub_scale + (format->super ? r.n_groups : 0);
    r.codes = r.sub_min + (format->super && has_min ? r.n_groups : 0);
    r.end = r.codes + (r.has_nibbles ? nib_ceil_div_u64(cols, 2) : cols);
    if (format->code == NIB_CODE_FLOAT)
        r.end = cols * sizeof(float);
    return r;
}

/// Writes scales in the format's scale type; returns false where one is not of that type.
static bool store_scales(const struct nib_format *format, const float *scale, uint64_t n,
                         uint8_t *to)
{
    if (!has_half_scales(format)) {
        memcpy(to, scale, n * sizeof *scale);
        return true;
    }
    bool is_bf16 = format->scale == NIB_SCALE_BF16;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h = is_bf16 ? nib_bf16_from_f32(scale[i]) : nib_f16_from_f32(scale[i]);
        float back = is_bf16 ? nib_f32_from_bf16(h) : nib_f32_from_f16(h);
        if (back != scale[i] && !isnan(scale[i]))
            return false;
        nib_store_u16(to + 2 * i, h);
    }
    return true;
}

static void load_scales(const struct nib_format *format, const uint8_t *from, uint64_t n,
                        float *scale)
{
    if (!has_half_scales(format)) {
        memcpy(scale, from, n * sizeof *scale);
        return;
    }
    bool is_bf16 = format->scale == NIB_SCALE_BF16;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h = nib_load_u16(from + 2 * i);
        scale[i] = is_bf16 ? nib_f32_from_bf16(h) : nib_f32_from_f16(h);
    }
}

static bool store_row(const struct nib_format *format, const struct record *r,
                      const struct nib_row_block *block, uint64_t row, uint8_t *to)
{
    uint64_t cols = block->cols;
    if (format->code == NIB_CODE_FLOAT) {
        memcpy(to, block->values + row * cols, cols * sizeof(float));
        return true;
    }
    if (!store_scales(format, block->scale + row * r->n_supers, r->n_supers, to) ||
        (block->min &&
         !store_scales(format, block->min + row * r->n_supers, r->n_supers, to + r->min)))
        return false;
    for (uint64_t g = 0; block->zero && g < r->n_groups; g++) {
        uint16_t zero = (uint16_t)block->zero[row * r->n_groups + g];
        if (r->zero_size == 1)
            to[r->zero + g] = (uint8_t)zero;
        else
            nib_store_u16(to + r->zero + 2 * g, zero);
    }
    if (block->sub_scale)
        memcpy(to + r->sub_scale, block->sub_scale + row * r->n_groups, r->n_groups);
    if (block->sub_min)
        memcpy(to + r->sub_min, block->sub_min + row * r->n_groups, r->n_groups);

    const uint8_t *codes = block->codes + row * cols;
    if (!r->has_nibbles) {
        memcpy(to + r->codes, codes, cols);
        return true;
    }
    // Low nibbles hold the row's first half, high ones its second, so that unpacking is two copies.
    uint64_t half = nib_ceil_div_u64(cols, 2);
    for (uint64_t i = 0; i < half; i++) {
        uint8_t high = half + i < cols ? codes[half + i] : 0;
        to[r->codes + i] = (uint8_t)((codes[i] & 15) | high << 4);
    }
    return true;
}

static void load_nibbles(const uint8_t *restrict from, uint64_t cols, uint8_t *restrict codes)
{
    uint64_t half = nib_ceil_div_u64(cols, 2);
    for (uint64_t i = 0; i < half; i++)
        codes[i] = from[i] & 15;
    for (uint64_t i = half; i < cols; i++)
        codes[i] = from[i - half] >> 4;
}

void nib_cpu_matrix_load(const struct nib_cpu_matrix *matrix, uint64_t row, uint64_t block_row,
                         struct nib_row_block *block)
{
    const struct nib_format *format = &matrix->format;
    if (matrix->has_panels) {
        const uint8_t *panel = matrix->packed + row / NIB_PANEL_ROWS * matrix->panels.bytes;
        nib_panel_load(&matrix->panels, format, panel, row % NIB_PANEL_ROWS, block_row, block);
        return;
    }
    if (matrix->raw) {
        nib_row_unpack(format, matrix->raw + row * matrix->row_bytes, block_row, block);
        return;
    }
    uint64_t cols = matrix->cols;
    const uint8_t *from = matrix->packed + row * matrix->row_bytes;
    if (format->code == NIB_CODE_FLOAT) {
        memcpy(block->values + block_row * cols, from, cols * sizeof(float));
        return;
    }
    struct record r = record_of(format, cols);
    load_scales(format, from, r.n_supers, block->scale + block_row * r.n_supers);
    if (block->min)
        load_scales(format, from + r.min, r.n_supers, block->min + block_row * r.n_supers);
    for (uint64_t g = 0; block->zero && g < r.n_groups; g++) {
        const uint8_t *zero = from + r.zero + g * r.zero_size;
        block->zero[block_row * r.n_groups + g] =
            (int16_t)(r.zero_size == 1 ? *zero : nib_load_u16(zero));
    }
    if (block->sub_scale)
        memcpy(block->sub_scale + block_row * r.n_groups, from + r.sub_scale, r.n_groups);
    if (block->sub_min)
        memcpy(block->sub_min + block_row * r.n_groups, from + r.sub_min, r.n_groups);
    if (r.has_nibbles)
        load_nibbles(from + r.codes, cols, block->codes + block_row * cols);
    else
        memcpy(block->codes + block_row * cols, from + r.codes, cols);
}

static enum nib_status pack_vector(struct nib_cpu_matrix *matrix,
                                   const struct nib_row_reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t size = nib_row_block_size(&reader->format, 1, reader->cols);
    void *memory = malloc(size);
    matrix->vector = calloc(reader->cols, sizeof(float));
    if (size == 0 || !memory || !matrix->vector) {
        status = nib_fail_memory(err);
        goto fail;
    }
    struct nib_row_block block;
    nib_row_block_init(&block, &reader->format, 1, reader->cols, memory);
    NIB_TRY(reader->read(reader, 0, &block, err));
    nib_row_dequantize(&reader->format, &block, 0, matrix->vector);
    matrix->bytes = reader->cols * sizeof(float);
fail:
    free(memory);
    return status;
}

static enum nib_status copy_rows(struct nib_cpu_matrix *matrix, const struct record *r,
                                 const struct nib_row_reader *reader, void *memory,
                                 struct nib_error *err)
{
    for (uint64_t first = 0; first < reader->rows; first += READ_ROWS) {
        uint64_t n = reader->rows - first < READ_ROWS ? reader->rows - first : READ_ROWS;
        struct nib_row_block block;
        nib_row_block_init(&block, &reader->format, n, reader->cols, memory);
        enum nib_status status = reader->read(reader, first, &block, err);
        if (status != NIB_OK)
            return status;
        for (uint64_t i = 0; i < n; i++) {
            uint8_t *to = matrix->packed + (first + i) * matrix->row_bytes;
            if (!store_row(&reader->format, r, &block, i, to)) {
                return nib_fail(err, NIB_ERROR_FORMAT,
                                "tensor '%s': a scale of row %llu is not of format %s's type",
                                reader->name, (unsigned long long)(first + i), reader->format.name);
            }
        }
        if (reader->drop)
            reader->drop(reader, first, n);
    }
    return NIB_OK;
}

static enum nib_status pack_rows(struct nib_cpu_matrix *matrix, const struct nib_row_reader *reader,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct record r = record_of(&reader->format, reader->cols);
    size_t block_size = nib_row_block_size(&reader->format, READ_ROWS, reader->cols);
    void *memory = NULL;
    matrix->row_bytes = r.end;
    if (block_size == 0 || !nib_mul_u64(reader->rows, r.end, &matrix->bytes) ||
        matrix->bytes > SIZE_MAX)
        return nib_fail_memory(err);
    memory = malloc(block_size);
    matrix->packed = nib_pages_alloc(matrix->bytes);
    if (!memory || !matrix->packed) {
        status = nib_fail_memory(err);
        goto fail;
    }
    NIB_TRY(copy_rows(matrix, &r, reader, memory, err));
fail:
    free(memory);
    return status;
}

static enum nib_status copy_panels(struct nib_cpu_matrix *matrix,
                                   const struct nib_row_reader *reader, void *memory,
                                   struct nib_error *err)
{
    for (uint64_t first = 0; first < reader->rows; first += READ_ROWS) {
        uint64_t n = reader->rows - first < READ_ROWS ? reader->rows - first : READ_ROWS;
        for (uint64_t i = 0; i < n; i += NIB_PANEL_ROWS) {
            uint64_t rows = n - i < NIB_PANEL_ROWS ? n - i : NIB_PANEL_ROWS;
            uint8_t *panel = matrix->packed + (first + i) / NIB_PANEL_ROWS * matrix->panels.bytes;
            struct nib_row_block block;
            nib_row_block_init(&block, &reader->format, rows, reader->cols, memory);
            enum nib_status status = reader->read(reader, first + i, &block, err);
            if (status != NIB_OK)
                return status;
            if (!nib_panel_store(&matrix->panels, &reader->format, &block, panel)) {
                return nib_fail(
                    err, NIB_ERROR_FORMAT,
                    "tensor '%s': a scale of rows %llu and up is not of format %s's type",
                    reader->name, (unsigned long long)(first + i), reader->format.name);
            }
        }
        if (reader->drop)
            reader->drop(reader, first, n);
    }
    return NIB_OK;
}

static void begin_matrix(struct nib_cpu_matrix *matrix, const struct nib_row_reader *reader)
{
    *matrix = (struct nib_cpu_matrix){
        .format = reader->format,
        .cols = reader->cols,
        .permutation = reader->permutation,
        .activation_scale = reader->activation_scale,
        .outlier_threshold = reader->outlier_threshold,
    };
}

enum nib_status nib_cpu_matrix_pack_panels(struct nib_cpu_matrix *matrix,
                                           const struct nib_row_reader *reader,
                                           struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    begin_matrix(matrix, reader);
    if (!nib_panel_layout_init(&matrix->panels, &reader->format, reader->cols))
        return nib_cpu_matrix_pack(matrix, reader, false, err);
    size_t block_size = nib_row_block_size(&reader->format, NIB_PANEL_ROWS, reader->cols);
    uint64_t n_panels = nib_ceil_div_u64(reader->rows, NIB_PANEL_ROWS);
    if (block_size == 0 || !nib_mul_u64(n_panels, matrix->panels.bytes, &matrix->bytes) ||
        matrix->bytes > SIZE_MAX)
        return nib_fail_memory(err);
    void *memory = malloc(block_size);
    matrix->packed = nib_pages_alloc((size_t)matrix->bytes);
    if (!memory || !matrix->packed) {
        status = nib_fail_memory(err);
        goto fail;
    }
    NIB_TRY(copy_panels(matrix, reader, memory, err));
    free(memory);
    matrix->has_panels = true;
    matrix->rows = reader->rows;
    return NIB_OK;

fail:
    free(memory);
    nib_cpu_matrix_free(matrix);
    return status;
}

enum nib_status nib_cpu_matrix_pack(struct nib_cpu_matrix *matrix,
                                    const struct nib_row_reader *reader, bool is_vector,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint64_t row_bytes;
    begin_matrix(matrix, reader);
    if (is_vector) {
        NIB_TRY(pack_vector(matrix, reader, err));
    } else if (reader->raw && nib_format_row_bytes(&reader->format, reader->cols, &row_bytes)) {
        matrix->raw = reader->raw;
        matrix->row_bytes = row_bytes;
        matrix->bytes = reader->rows * row_bytes;
    } else {
        NIB_TRY(pack_rows(matrix, reader, err));
    }
    matrix->rows = reader->rows;
    return NIB_OK;

fail:
    nib_cpu_matrix_free(matrix);
    return status;
}

void nib_cpu_matrix_free(struct nib_cpu_matrix *matrix)
{
    free(matrix->vector);
    if (matrix->packed)
        nib_pages_free(matrix->packed, matrix->bytes);
    *matrix = (struct nib_cpu_matrix){0};
}
