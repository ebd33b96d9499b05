#include "runtime/import/reader_planes.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/// Longest tensor name that is looked for, with its end.
enum { NAME_SIZE = 256 };

const struct nib_tensor *nib_part_find(const struct nib_matrix_query *query, const char *part)
{
    char name[NAME_SIZE];
    const int size = snprintf(name, sizeof name, "%s.%s", query->module, part);
    return size > 0 && size < NAME_SIZE ? nib_tensor_find(query->directory, name) : NULL;
}

static bool is_float(enum nib_dtype dtype)
{
    return dtype == NIB_DTYPE_F16 || dtype == NIB_DTYPE_BF16 || dtype == NIB_DTYPE_F32;
}

enum nib_status nib_part_need(const struct nib_matrix_query *query, const char *part,
                              struct nib_part_type type, const struct nib_tensor **out_part,
                              struct nib_error *err)
{
    const uint32_t n_dims = type.dims[1] ? 2 : 1;
    const struct nib_tensor *tensor = nib_part_find(query, part);
    *out_part = NULL;
    if (!tensor)
        return nib_fail(err, NIB_ERROR_NOT_FOUND,
                        "tensor '%s.%s', a part of a quantized matrix, is missing", query->module,
                        part);
    if (tensor->n_dims != n_dims || tensor->dims[0] != type.dims[0] ||
        (n_dims == 2 && tensor->dims[1] != type.dims[1]))
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "tensor '%s' has %" PRIu32 " dimensions, [%" PRIu64 ", %" PRIu64
                        "], where the configuration makes it [%" PRIu64 ", %" PRIu64 "]",
                        tensor->name, tensor->n_dims, tensor->dims[0], tensor->dims[1],
                        type.dims[0], type.dims[1]);
    if (type.dtype == NIB_DTYPE_COUNT ? !is_float(tensor->dtype) : tensor->dtype != type.dtype)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "tensor '%s' has type %s, not %s", tensor->name,
                        nib_dtype_name(tensor->dtype),
                        type.dtype == NIB_DTYPE_COUNT ? "a float type"
                                                      : nib_dtype_name(type.dtype));
    query->quantization->n_tensors++;
    *out_part = tensor;
    return NIB_OK;
}

struct nib_code_plane nib_code_plane_words(const struct nib_tensor *tensor, uint32_t bits)
{
    return (struct nib_code_plane){.data = tensor->data, .word_bytes = 4, .bits = bits};
}

struct nib_code_plane nib_code_plane_bytes(const struct nib_tensor *tensor)
{
    return (struct nib_code_plane){.data = tensor->data, .word_bytes = 1, .bits = 8, .flip = 0x80};
}

static uint32_t load_word(const struct nib_code_plane *plane, uint64_t word)
{
    return plane->word_bytes == 4 ? nib_load_u32(plane->data + 4 * word) + plane->add
                                  : plane->data[word];
}

static uint8_t load_code(const struct nib_code_plane *plane, uint64_t index, uint64_t line)
{
    const uint32_t width = 8 * plane->word_bytes;
    const uint64_t place = plane->order ? index / 8 * 8 + plane->order[index % 8] : index;
    const uint64_t word = place * plane->bits / width;
    const uint32_t shift = (uint32_t)(place * plane->bits % width);
    const uint64_t first = word * plane->pack_stride + line * plane->line_stride;
    uint32_t value = load_word(plane, first) >> shift;
    if (shift + plane->bits > width)
        value |= load_word(plane, first + plane->pack_stride) << (width - shift);
    value = (value + plane->plus) & ((1u << plane->bits) - 1);
    return (uint8_t)((value ^ plane->flip) + plane->offset);
}

bool nib_code_plane_holds(const struct nib_code_plane *plane, uint64_t count, uint64_t lines,
                          uint8_t value)
{
    for (uint64_t line = 0; line < lines; line++) {
        for (uint64_t i = 0; i < count; i++) {
            if (load_code(plane, i, line) != value)
                return false;
        }
    }
    return true;
}

enum nib_format_id nib_code_format(uint32_t bits, bool symmetric)
{
    if (bits == 8)
        return symmetric ? NIB_FORMAT_INT8 : NIB_FORMAT_INT8_ZERO;
    return symmetric ? NIB_FORMAT_INT4 : NIB_FORMAT_INT4_ZERO;
}

uint8_t nib_code_offset(uint32_t bits)
{
    return bits < 4 ? (uint8_t)(8 - (1 << (bits - 1))) : 0;
}

/// Returns the eight 4-bit fields of `word` as bytes, lowest bits first.
static uint64_t spread_nibbles(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

/// Swaps byte j of x[k] with byte k of x[j].
static void transpose_bytes(uint64_t x[8])
{
    static const uint64_t masks[3] = {0x00ff00ff00ff00ffu, 0x0000ffff0000ffffu, 0xffffffffu};
    for (uint32_t step = 0; step < 3; step++) {
        const uint32_t near = 1u << step;
        for (uint32_t k = 0; k < 8; k++) {
            if (k & near)
                continue;
            const uint64_t swapped = (x[k] >> 8 * near ^ x[k + near]) & masks[step];
            x[k + near] ^= swapped;
            x[k] ^= swapped << 8 * near;
        }
    }
}

/// Rows of bytes.
static void read_bytes(const struct nib_code_plane *plane, uint64_t first,
                       struct nib_row_block *block)
{
    for (uint64_t row = 0; row < block->rows; row++) {
        const uint8_t *restrict from = plane->data + (first + row) * plane->line_stride;
        uint8_t *restrict to = block->codes + row * block->cols;
        for (uint64_t i = 0; i < block->cols; i++)
            to[i] = from[i] ^ plane->flip;
    }
}

/// The whole words of rows [begin, end), which are rows `first` + begin and so on of the matrix;
/// codes of 4 or 8 bits.
static void read_words(const struct nib_code_plane *plane, uint64_t first, uint64_t begin,
                       uint64_t end, struct nib_row_block *block)
{
    const uint64_t cols = block->cols;
    const uint32_t per_word = 32 / plane->bits;
    for (uint64_t k = 0; k < cols / per_word; k++) {
        for (uint64_t row = begin; row < end; row++) {
            const uint32_t word =
                load_word(plane, k * plane->pack_stride + (first + row) * plane->line_stride);
            uint8_t *to = block->codes + row * cols + k * per_word;
            if (plane->bits == 4)
                nib_store_u64(to, spread_nibbles(word));
            else
                nib_store_u32(to, word);
        }
    }
}

/// Codes packed along the row, lowest bits first. Where rows are neighbours in the file (GPTQ),
/// eight are read together: their words share a cache line, and what they write stays in the cache.
static void read_along_rows(const struct nib_code_plane *plane, uint64_t first,
                            struct nib_row_block *block)
{
    const uint64_t cols = block->cols;
    const uint64_t tile = plane->line_stride == 1 ? 8 : 1;
    const bool has_whole_words = plane->bits >= 4;
    const uint32_t per_word = 32 / plane->bits;
    for (uint64_t row = 0; has_whole_words && row < block->rows; row += tile) {
        const uint64_t rest = block->rows - row;
        read_words(plane, first, row, row + (rest < tile ? rest : tile), block);
    }
    for (uint64_t row = 0; row < block->rows; row++) {
        for (uint64_t i = has_whole_words ? cols / per_word * per_word : 0; i < cols; i++)
            block->codes[row * cols + i] = load_code(plane, i, first + row);
    }
}

/// 4-bit codes packed along the column: squares of eight by eight are transposed.
static void read_along_columns(const struct nib_code_plane *plane, uint64_t first,
                               struct nib_row_block *block)
{
    const uint64_t cols = block->cols;
    const uint64_t whole = cols / 8 * 8;
    const uint64_t end = first + block->rows;
    for (uint64_t k = first / 8; k < nib_ceil_div_u64(end, 8); k++) {
        for (uint64_t i = 0; i < whole; i += 8) {
            uint64_t square[8];
            for (uint64_t c = 0; c < 8; c++)
                square[c] = spread_nibbles(
                    load_word(plane, k * plane->pack_stride + (i + c) * plane->line_stride));
            transpose_bytes(square);
            for (uint64_t row = 8 * k < first ? first : 8 * k; row < end && row < 8 * k + 8; row++)
                nib_store_u64(block->codes + (row - first) * cols + i,
                              square[plane->order ? plane->order[row % 8] : row % 8]);
        }
    }
    for (uint64_t row = 0; row < block->rows; row++) {
        for (uint64_t i = whole; i < cols; i++)
            block->codes[row * cols + i] = load_code(plane, first + row, i);
    }
}

static enum nib_status permute_codes(const uint32_t *permutation, struct nib_row_block *block,
                                     struct nib_error *err)
{
    uint8_t *copy = malloc(block->cols);
    if (!copy)
        return nib_fail_memory(err);
    for (uint64_t row = 0; row < block->rows; row++) {
        uint8_t *codes = block->codes + row * block->cols;
        memcpy(copy, codes, block->cols);
        for (uint64_t j = 0; j < block->cols; j++)
            codes[j] = copy[permutation[j]];
    }
    free(copy);
    return NIB_OK;
}

static enum nib_status read_codes(const struct nib_plane_matrix *matrix, uint64_t first,
                                  struct nib_row_block *block, struct nib_error *err)
{
    const uint32_t *permutation = matrix->reader.permutation;
    if (!matrix->codes_by_row)
        read_along_columns(&matrix->codes, first, block);
    else if (matrix->codes.word_bytes == 1)
        read_bytes(&matrix->codes, first, block);
    else
        read_along_rows(&matrix->codes, first, block);
    return permutation ? permute_codes(permutation, block, err) : NIB_OK;
}

static float load_scale(const struct nib_scale_plane *plane, uint64_t index)
{
    const uint8_t *data = plane->tensor->data;
    switch (plane->tensor->dtype) {
    case NIB_DTYPE_F16:
        return nib_f32_from_f16(nib_load_u16(data + 2 * index));
    case NIB_DTYPE_BF16:
        return nib_f32_from_bf16(nib_load_u16(data + 2 * index));
    default:
        return nib_load_f32(data + 4 * index);
    }
}

static void read_groups(const struct nib_plane_matrix *matrix, uint64_t first,
                        struct nib_row_block *block)
{
    const struct nib_scale_plane *scales = &matrix->scales;
    const struct nib_code_plane *zeros = &matrix->zeros;
    const uint64_t n_groups = nib_format_groups(&matrix->reader.format, block->cols);
    for (uint64_t row = 0; row < block->rows; row++) {
        const uint64_t r = first + row;
        for (uint64_t g = 0; g < n_groups; g++)
            block->scale[row * n_groups + g] =
                load_scale(scales, r * scales->row_stride + g * scales->group_stride) /
                scales->divisor;
        for (uint64_t g = 0; block->zero && g < n_groups; g++)
            block->zero[row * n_groups + g] =
                matrix->zeros_by_row ? load_code(zeros, g, r) : load_code(zeros, r, g);
    }
}

static enum nib_status read_planes(const struct nib_row_reader *reader, uint64_t first,
                                   struct nib_row_block *block, struct nib_error *err)
{
    if (block->cols != reader->cols || first > reader->rows || block->rows > reader->rows - first)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "rows %" PRIu64 " to %" PRIu64 " of tensor '%s' were asked for, but it has "
                        "%" PRIu64,
                        first, first + block->rows, reader->name, reader->rows);
    read_groups(reader->source, first, block);
    return read_codes(reader->source, first, block, err);
}

/// Rows of codes that lie together are dropped as they come, everything else with the last row.
static void drop_planes(const struct nib_row_reader *reader, uint64_t first, uint64_t count)
{
    const struct nib_plane_matrix *matrix = reader->source;
    const struct nib_code_plane *codes = &matrix->codes;
    if (matrix->codes_by_row && codes->pack_stride == 1) {
        const uint64_t row_bytes = codes->line_stride * codes->word_bytes;
        nib_tensor_drop(matrix->directory, matrix->parts[0], first * row_bytes, count * row_bytes);
    }
    if (first + count < reader->rows)
        return;
    for (size_t i = 0; i < sizeof matrix->parts / sizeof matrix->parts[0]; i++) {
        if (matrix->parts[i])
            nib_tensor_drop(matrix->directory, matrix->parts[i], 0, matrix->parts[i]->size);
    }
}

enum nib_status nib_plane_matrix_make(const struct nib_matrix_query *query,
                                      const struct nib_tensor *codes, enum nib_format_id format,
                                      uint32_t group, struct nib_plane_matrix **out_matrix,
                                      struct nib_error *err)
{
    struct nib_plane_matrix *matrix = nib_arena_alloc(query->quantization->arena, sizeof *matrix);
    *out_matrix = matrix;
    if (!matrix)
        return nib_fail_memory(err);
    matrix->directory = query->directory;
    matrix->parts[0] = codes;
    matrix->reader = (struct nib_row_reader){
        .name = codes->name,
        .format = *nib_format_get(format),
        .rows = query->shape.rows,
        .cols = query->shape.cols,
        .activation = NIB_ACTIVATION_F32,
        .read = read_planes,
        .drop = drop_planes,
        .source = matrix,
    };
    matrix->reader.format.group = group;
    return NIB_OK;
}

void nib_plane_matrix_set_scales(struct nib_plane_matrix *matrix, const struct nib_tensor *tensor,
                                 uint64_t row_stride, uint64_t group_stride)
{
    matrix->scales = (struct nib_scale_plane){
        .tensor = tensor, .row_stride = row_stride, .group_stride = group_stride, .divisor = 1};
    matrix->parts[1] = tensor;
    matrix->reader.format.scale = tensor->dtype == NIB_DTYPE_F16    ? NIB_SCALE_F16
                                  : tensor->dtype == NIB_DTYPE_BF16 ? NIB_SCALE_BF16
                                                                    : NIB_SCALE_F32;
}

/// Sorts columns by group, in place of `order`; `start` becomes where each group ends.
static enum nib_status sort_columns(const struct nib_tensor *group_index, uint64_t cols,
                                    uint32_t group, uint32_t *order, uint32_t *start,
                                    struct nib_error *err)
{
    const uint64_t n_groups = nib_ceil_div_u64(cols, group);
    for (uint64_t i = 0; i < cols; i++) {
        const uint32_t g = nib_load_u32(group_index->data + 4 * i);
        if (g >= n_groups)
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "tensor '%s' puts column %" PRIu64 " in group %" PRId32
                            ", but there are %" PRIu64,
                            group_index->name, i, (int32_t)g, n_groups);
        start[g + 1]++;
    }
    for (uint64_t g = 0; g < n_groups; g++) {
        const uint64_t rest = cols - g * group;
        if (start[g + 1] != (rest < group ? rest : group))
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "tensor '%s' puts %" PRIu32 " columns in group %" PRIu64
                            ", which a group of %" PRIu32 " cannot hold",
                            group_index->name, start[g + 1], g, group);
        start[g + 1] += start[g];
    }
    for (uint64_t i = 0; i < cols; i++)
        order[start[nib_load_u32(group_index->data + 4 * i)]++] = (uint32_t)i;
    return NIB_OK;
}

/// Copies `order` to the arena, or takes the newest permutation where it is the same.
static enum nib_status keep_permutation(struct nib_quantization *quantization,
                                        const uint32_t *order, uint64_t cols, struct nib_error *err)
{
    if (quantization->permutation && quantization->permutation_size == cols &&
        memcmp(order, quantization->permutation, cols * sizeof *order) == 0)
        return NIB_OK;
    uint32_t *copy = nib_arena_array(quantization->arena, cols, sizeof *copy);
    if (!copy)
        return nib_fail_memory(err);
    memcpy(copy, order, cols * sizeof *copy);
    quantization->permutation = copy;
    quantization->permutation_size = cols;
    return NIB_OK;
}

enum nib_status nib_group_permutation(const struct nib_matrix_query *query,
                                      const struct nib_tensor *group_index, uint32_t group,
                                      const uint32_t **out_permutation, struct nib_error *err)
{
    enum nib_status status;
    const uint64_t cols = query->shape.cols;
    const uint32_t width = group && group < cols ? group : (uint32_t)cols;
    uint64_t i = 0;
    *out_permutation = NULL;
    if (cols > INT32_MAX)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "tensor '%s' is too large", group_index->name);
    while (i < cols && nib_load_u32(group_index->data + 4 * i) == i / width)
        i++;
    if (i == cols)
        return NIB_OK;

    uint32_t *order = calloc(cols, sizeof *order);
    uint32_t *start = calloc(nib_ceil_div_u64(cols, width) + 1, sizeof *start);
    if (!order || !start)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(sort_columns(group_index, cols, width, order, start, err));
    NIB_TRY(keep_permutation(query->quantization, order, cols, err));
    *out_permutation = query->quantization->permutation;
fail:
    free(order);
    free(start);
    return status;
}
