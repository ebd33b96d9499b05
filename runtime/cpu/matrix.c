#include "runtime/cpu/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"

/// Rows that are read at once from a reader: a panel's.
#define BLOCK_ROWS NIB_PANEL_ROWS
/// Bytes that a thread packs, and drops, at a time: enough that few of the pages that it reads are
/// shared with its neighbours, little enough that all threads have work.
#define PIECE_BYTES (512u << 10)

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

/// The first row that could not be packed, of those that a thread saw.
struct failure {
    enum nib_status status; ///< NIB_OK: there is none
    uint64_t row;
    struct nib_error error;
};

/// A loop over pieces of a matrix, each of `piece` rows.
struct packing {
    struct nib_cpu_matrix *matrix;
    const struct nib_row_reader *reader;
    nib_panel_store_fn *store_panel;
    struct record record; ///< of a row, where there are no panels
    uint64_t piece;       ///< rows, a multiple of BLOCK_ROWS
    size_t block_size;
    uint8_t *memory;          ///< [threads][block_size]
    struct failure *failures; ///< [threads]
};

static bool store_block(const struct packing *p, const struct nib_row_block *block, uint64_t first)
{
    struct nib_cpu_matrix *matrix = p->matrix;
    if (matrix->has_panels)
        return p->store_panel(&matrix->panels, &matrix->format, block,
                              matrix->packed + first / NIB_PANEL_ROWS * matrix->panels.bytes);
    bool is_exact = true;
    for (uint64_t i = 0; i < block->rows; i++)
        is_exact &= store_row(&matrix->format, &p->record, block, i,
                              matrix->packed + (first + i) * matrix->row_bytes);
    return is_exact;
}

static float find_norm(const struct nib_format *format, const struct nib_row_block *block)
{
    float largest = 0.0f;
    for (uint64_t i = 0; i < block->rows; i++)
        largest = fmaxf(largest, nib_row_norm(format, block, i));
    return largest;
}

/// Packs rows [begin, end); returns whether that worked, and writes why it did not.
static bool pack_piece(const struct packing *p, uint64_t begin, uint64_t end, uint32_t thread,
                       struct failure *failure)
{
    const struct nib_row_reader *reader = p->reader;
    for (uint64_t first = begin; first < end; first += BLOCK_ROWS) {
        struct nib_row_block block;
        uint64_t n = end - first < BLOCK_ROWS ? end - first : BLOCK_ROWS;
        nib_row_block_init(&block, &reader->format, n, reader->cols,
                           p->memory + thread * p->block_size);
        failure->row = first;
        failure->status = reader->read(reader, first, &block, &failure->error);
        if (failure->status == NIB_OK && !store_block(p, &block, first))
            failure->status =
                nib_fail(&failure->error, NIB_ERROR_FORMAT,
                         "tensor '%s': a scale of rows %llu and up is not of format %s's type",
                         reader->name, (unsigned long long)first, reader->format.name);
        if (failure->status != NIB_OK)
            return false;
        if (p->matrix->norms)
            p->matrix->norms[first / BLOCK_ROWS] = find_norm(&reader->format, &block);
    }
    if (reader->drop)
        reader->drop(reader, begin, end - begin);
    return true;
}

static void pack_pieces(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct packing *p = user;
    uint64_t rows = p->reader->rows;
    struct failure *lowest = &p->failures[thread], failure;
    for (uint64_t i = first; i < last; i++) {
        uint64_t begin = i * p->piece, end = rows - begin < p->piece ? rows : begin + p->piece;
        bool is_first = lowest->status == NIB_OK || begin < lowest->row;
        if (is_first && !pack_piece(p, begin, end, thread, &failure))
            *lowest = failure;
    }
}

/// Reports the failure of the lowest row.
static enum nib_status find_failure(const struct failure *failures, uint32_t n,
                                    struct nib_error *err)
{
    const struct failure *first = NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (failures[i].status != NIB_OK && (!first || failures[i].row < first->row))
            first = &failures[i];
    }
    if (!first)
        return NIB_OK;
    if (err)
        *err = first->error;
    return first->status;
}

/// Packs the rows into `matrix->packed`, which is there.
static enum nib_status copy_rows(struct nib_cpu_matrix *matrix,
                                 const struct nib_cpu_packing *packing,
                                 const struct nib_row_reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t n_threads = nib_thread_pool_size(packing->pool);
    struct packing p = {
        .matrix = matrix,
        .reader = reader,
        .store_panel = packing->store_panel,
        .record = record_of(&reader->format, reader->cols),
        .block_size = nib_row_block_size(&reader->format, BLOCK_ROWS, reader->cols),
    };
    uint64_t unit = matrix->has_panels ? matrix->panels.bytes : BLOCK_ROWS * matrix->row_bytes;
    p.piece = unit < PIECE_BYTES ? PIECE_BYTES / unit * BLOCK_ROWS : BLOCK_ROWS;
    p.memory = p.block_size ? calloc(n_threads, p.block_size) : NULL;
    p.failures = calloc(n_threads, sizeof *p.failures);
    if (!p.memory || !p.failures) {
        status = nib_fail_memory(err);
        goto fail;
    }
    nib_thread_pool_run(packing->pool, nib_ceil_div_u64(reader->rows, p.piece), 1, pack_pieces, &p);
    NIB_TRY(find_failure(p.failures, n_threads, err));
    if (reader->drop)
        reader->drop(reader, 0, reader->rows); // pages between pieces too
fail:
    free(p.memory);
    free(p.failures);
    return status;
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

/// Returns the bytes of a matrix in panels, whose layout is written to `*out_layout`, 0 where it
/// has none, UINT64_MAX where that overflows.
static uint64_t size_of_panels(const struct nib_cpu_packing *packing,
                               const struct nib_format *format, uint64_t rows, uint64_t cols,
                               struct nib_panel_layout *out_layout)
{
    uint64_t bytes;
    if (!packing->store_panel || !nib_panel_layout_init(out_layout, format, cols))
        return 0;
    bool fits = nib_mul_u64(nib_ceil_div_u64(rows, NIB_PANEL_ROWS), out_layout->bytes, &bytes);
    return fits && bytes <= SIZE_MAX ? bytes : UINT64_MAX;
}

static uint64_t size_of_rows(const struct nib_format *format, uint64_t rows, uint64_t cols)
{
    uint64_t bytes;
    bool fits = nib_mul_u64(rows, record_of(format, cols).end, &bytes);
    return fits && bytes <= SIZE_MAX ? bytes : UINT64_MAX;
}

uint64_t nib_cpu_matrix_size(const struct nib_cpu_packing *packing, const struct nib_format *format,
                             uint64_t rows, uint64_t cols)
{
    struct nib_panel_layout layout;
    uint64_t bytes = size_of_panels(packing, format, rows, cols, &layout);
    if (bytes == 0 && format->block_bytes == 0)
        bytes = size_of_rows(format, rows, cols);
    return bytes;
}

enum nib_status nib_cpu_matrix_pack(struct nib_cpu_matrix *matrix,
                                    const struct nib_cpu_packing *packing,
                                    const struct nib_row_reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint64_t rows = reader->rows, cols = reader->cols;
    begin_matrix(matrix, reader);
    matrix->bytes = size_of_panels(packing, &reader->format, rows, cols, &matrix->panels);
    matrix->has_panels = matrix->bytes != 0;
    if (!matrix->has_panels && reader->raw &&
        nib_format_row_bytes(&reader->format, cols, &matrix->row_bytes)) {
        matrix->raw = reader->raw;
        matrix->bytes = rows * matrix->row_bytes;
        matrix->rows = rows;
        return NIB_OK;
    }
    if (!matrix->has_panels) {
        matrix->row_bytes = record_of(&reader->format, cols).end;
        matrix->bytes = size_of_rows(&reader->format, rows, cols);
    }
    matrix->packed = packing->memory;
    if (!matrix->packed && matrix->bytes != UINT64_MAX) {
        matrix->packed = nib_pages_alloc_large((size_t)matrix->bytes);
        matrix->owns_packed = true;
    }
    bool has_norms = packing->wants_norms && matrix->has_panels;
    if (has_norms)
        matrix->norms = calloc(nib_ceil_div_u64(rows, NIB_PANEL_ROWS), sizeof *matrix->norms);
    if (!matrix->packed || (has_norms && !matrix->norms)) {
        status = nib_fail_memory(err);
        goto fail;
    }
    NIB_TRY(copy_rows(matrix, packing, reader, err));
    matrix->rows = rows;
    return NIB_OK;

fail:
    nib_cpu_matrix_free(matrix);
    return status;
}

enum nib_status nib_cpu_vector_pack(struct nib_cpu_matrix *matrix,
                                    const struct nib_row_reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t size = nib_row_block_size(&reader->format, 1, reader->cols);
    void *memory = malloc(size);
    begin_matrix(matrix, reader);
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
    matrix->rows = 1;
    free(memory);
    return NIB_OK;

fail:
    free(memory);
    nib_cpu_matrix_free(matrix);
    return status;
}

void nib_cpu_matrix_free(struct nib_cpu_matrix *matrix)
{
    free(matrix->vector);
    free(matrix->norms);
    if (matrix->owns_packed)
        nib_pages_free(matrix->packed, (size_t)matrix->bytes);
    *matrix = (struct nib_cpu_matrix){0};
}
