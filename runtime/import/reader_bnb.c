// bitsandbytes. LLM.int8: weight [out, in] of signed bytes and SCB [out], the largest magnitude of
// each row. Four bits (NF4, FP4): the matrix's codes in one run, high nibble first, in blocks that
// know no rows; weight.absmax holds a scale for each block, which double quantization has made one
// byte: an index into weight.nested_quant_map, times a scale for each nested block, plus an offset.
#include "runtime/import/reader_planes.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/formats/json.h"

#include <inttypes.h>

enum nib_status nib_reader_bnb_int8(const struct nib_matrix_query *query,
                                    const struct nib_row_reader **out_reader, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_shape shape = query->shape;
    const struct nib_tensor *codes, *scales, *order;
    struct nib_plane_matrix *matrix;
    *out_reader = NULL;
    codes = nib_part_find(query, "weight");
    if (!codes || (codes->dtype != NIB_DTYPE_I8 && !nib_part_find(query, "SCB")))
        return NIB_OK;
    NIB_TRY(nib_part_need(query, "weight",
                          (struct nib_part_type){NIB_DTYPE_I8, {shape.rows, shape.cols}}, &codes,
                          err));
    NIB_TRY(nib_part_need(query, "SCB", (struct nib_part_type){NIB_DTYPE_F32, {shape.rows, 0}},
                          &scales, err));
    order = nib_part_find(query, "weight_format");
    if (order) {
        if (order->dtype != NIB_DTYPE_U8 || order->n_dims > 1 || order->size != 1 ||
            order->data[0] != 0)
            NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED,
                             "tensor '%s' tells of an order of codes that is not row by row",
                             order->name));
        query->quantization->n_tensors++;
    }

    NIB_TRY(nib_plane_matrix_make(query, codes, NIB_FORMAT_INT8, 0, &matrix, err));
    nib_plane_matrix_set_scales(matrix, scales, 1, 0);
    matrix->scales.divisor = 127;
    matrix->codes = nib_code_plane_bytes(codes);
    matrix->codes.pack_stride = 1;
    matrix->codes.line_stride = shape.cols;
    matrix->codes_by_row = true;
    matrix->reader.activation = NIB_ACTIVATION_LLM_INT8;
    matrix->reader.outlier_threshold = query->quantization->outlier_threshold;
    *out_reader = &matrix->reader;
fail:
    return status;
}

struct block_matrix {
    const struct nib_tensor *codes;
    const struct nib_tensor *absmax; ///< f32, or u8 where quantized
    const uint8_t *nested_map;       ///< 256 f32, or NULL
    const uint8_t *nested_absmax;    ///< f32
    float nested_offset;
    uint32_t block;
    uint32_t nested_block;
    float book[16];
    const struct nib_tensor_directory *directory;
    struct nib_row_reader reader;
};

static float load_absmax(const struct block_matrix *matrix, uint64_t block)
{
    const uint8_t *absmax = matrix->absmax->data;
    if (!matrix->nested_map)
        return nib_load_f32(absmax + 4 * block);
    const float value = nib_load_f32(matrix->nested_map + 4 * (size_t)absmax[block]);
    return value * nib_load_f32(matrix->nested_absmax + 4 * (block / matrix->nested_block)) +
           matrix->nested_offset;
}

static enum nib_status read_blocks(const struct nib_row_reader *reader, uint64_t first,
                                   struct nib_row_block *block, struct nib_error *err)
{
    const struct block_matrix *matrix = reader->source;
    const uint64_t cols = reader->cols;
    const uint64_t n_groups = nib_format_groups(&reader->format, cols);
    if (block->cols != cols || first > reader->rows || block->rows > reader->rows - first)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "rows %" PRIu64 " to %" PRIu64 " of tensor '%s' were asked for, but it has "
                        "%" PRIu64,
                        first, first + block->rows, reader->name, reader->rows);
    for (uint64_t row = 0; row < block->rows; row++) {
        const uint64_t begin = (first + row) * cols;
        const uint8_t *restrict from = matrix->codes->data + begin / 2;
        uint8_t *restrict to = block->codes + row * cols;
        for (uint64_t i = 0; i < cols / 2; i++) {
            to[2 * i] = from[i] >> 4;
            to[2 * i + 1] = from[i] & 15;
        }
        for (uint64_t g = 0; g < n_groups; g++)
            block->scale[row * n_groups + g] =
                load_absmax(matrix, (begin + g * reader->format.group) / matrix->block);
    }
    return NIB_OK;
}

static void drop_blocks(const struct nib_row_reader *reader, uint64_t first, uint64_t count)
{
    const struct block_matrix *matrix = reader->source;
    const uint64_t row_bytes = reader->cols / 2;
    nib_tensor_drop(matrix->directory, matrix->codes, first * row_bytes, count * row_bytes);
    if (first + count >= reader->rows)
        nib_tensor_drop(matrix->directory, matrix->absmax, 0, matrix->absmax->size);
}

/// What the JSON text beside a matrix says.
struct quant_state {
    uint32_t block;
    uint32_t nested_block;
    float nested_offset;
};

/// Reads the state of a matrix that has one; `*out_id` tells which.
static enum nib_status read_state(const struct nib_matrix_query *query,
                                  const struct nib_tensor *tensor, struct quant_state *out_state,
                                  struct nib_error *err)
{
    enum nib_status status;
    json_t *json = NULL;
    *out_state = (struct quant_state){0};
    if (tensor->dtype != NIB_DTYPE_U8)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' is no text", tensor->name));
    NIB_TRY(
        nib_json_parse((const char *)tensor->data, (size_t)tensor->size, tensor->name, &json, err));
    const json_t *shape = json_object_get(json, "shape");
    const json_t *rows = json_array_get(shape, 0);
    const json_t *cols = json_array_get(shape, 1);
    if (json_array_size(shape) != 2 || json_number_value(rows) != (double)query->shape.rows ||
        json_number_value(cols) != (double)query->shape.cols)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "tensor '%s': key 'shape' is not [%" PRIu64 ", %" PRIu64 "]", tensor->name,
                         query->shape.rows, query->shape.cols));
    if (!nib_json_get_u32(json, "blocksize", &out_state->block) || out_state->block == 0)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s': key 'blocksize' is no size",
                         tensor->name));
    nib_json_get_u32(json, "nested_blocksize", &out_state->nested_block);
    nib_json_get_f32(json, "nested_offset", &out_state->nested_offset);
fail:
    json_decref(json);
    return status;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/// Finds the scales of a matrix's `n_blocks` blocks.
static enum nib_status find_absmax(const struct nib_matrix_query *query,
                                   const struct quant_state *state, uint64_t n_blocks,
                                   struct block_matrix *matrix, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_tensor *absmax = nib_part_find(query, "weight.absmax");
    const struct nib_tensor *map, *nested;
    const bool is_nested = absmax && absmax->dtype == NIB_DTYPE_U8;
    const enum nib_dtype dtype = is_nested ? NIB_DTYPE_U8 : NIB_DTYPE_F32;
    NIB_TRY(nib_part_need(query, "weight.absmax", (struct nib_part_type){dtype, {n_blocks, 0}},
                          &matrix->absmax, err));
    if (!is_nested)
        return NIB_OK;
    if (state->nested_block == 0)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "tensor '%s' is quantized, but its 'nested_blocksize' is not known",
                         matrix->absmax->name));
    const uint64_t n_nested = nib_ceil_div_u64(n_blocks, state->nested_block);
    NIB_TRY(nib_part_need(query, "weight.nested_quant_map",
                          (struct nib_part_type){NIB_DTYPE_F32, {256, 0}}, &map, err));
    NIB_TRY(nib_part_need(query, "weight.nested_absmax",
                          (struct nib_part_type){NIB_DTYPE_F32, {n_nested, 0}}, &nested, err));
    matrix->nested_map = map->data;
    matrix->nested_absmax = nested->data;
    matrix->nested_offset = state->nested_offset;
    matrix->nested_block = state->nested_block;
fail:
    return status;
}

/// Finds the codes and their book.
static enum nib_status find_codes(const struct nib_matrix_query *query, uint64_t n_weights,
                                  struct block_matrix *matrix, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_tensor *codes = nib_part_find(query, "weight");
    const struct nib_tensor *map;
    // Another 'bnb_4bit_quant_storage' than uint8 gives the same bytes another element type.
    if (!codes || codes->size != n_weights / 2)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "tensor '%s.weight' does not hold %" PRIu64 " codes of 4 bits",
                         query->module, n_weights));
    query->quantization->n_tensors++;
    matrix->codes = codes;
    NIB_TRY(nib_part_need(query, "weight.quant_map", (struct nib_part_type){NIB_DTYPE_F32, {16, 0}},
                          &map, err));
    for (size_t i = 0; i < 16; i++)
        matrix->book[i] = nib_load_f32(map->data + 4 * i);
fail:
    return status;
}

enum nib_status nib_reader_bnb_4bit(const struct nib_matrix_query *query,
                                    const struct nib_row_reader **out_reader, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_shape shape = query->shape;
    struct quant_state state;
    uint64_t n_weights;
    enum nib_format_id id = NIB_FORMAT_NF4;
    *out_reader = NULL;
    const struct nib_tensor *text = nib_part_find(query, "weight.quant_state.bitsandbytes__nf4");
    if (!text) {
        text = nib_part_find(query, "weight.quant_state.bitsandbytes__fp4");
        id = NIB_FORMAT_FP4;
    }
    if (!text)
        return NIB_OK;
    query->quantization->n_tensors++;
    struct block_matrix *matrix = nib_arena_alloc(query->quantization->arena, sizeof *matrix);
    if (!matrix)
        return nib_fail_memory(err);
    NIB_TRY(read_state(query, text, &state, err));
    // Rows share blocks where these do not divide them: groups are then the largest pieces that lie
    // in one row and one block.
    const uint32_t group = (uint32_t)common_divisor(state.block, shape.cols);
    if (group % 2 != 0)
        NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED,
                         "matrix '%s' has rows of %" PRIu64 " weights, which blocks of %" PRIu32
                         " cut within a byte",
                         query->module, shape.cols, state.block));
    if (!nib_mul_u64(shape.rows, shape.cols, &n_weights))
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "matrix '%s' is too large", query->module));
    NIB_TRY(find_codes(query, n_weights, matrix, err));
    NIB_TRY(find_absmax(query, &state, nib_ceil_div_u64(n_weights, state.block), matrix, err));

    matrix->block = state.block;
    matrix->directory = query->directory;
    matrix->reader = (struct nib_row_reader){
        .name = matrix->codes->name,
        .format = *nib_format_get(id),
        .rows = shape.rows,
        .cols = shape.cols,
        .activation = NIB_ACTIVATION_F32,
        .read = read_blocks,
        .drop = drop_blocks,
        .source = matrix,
    };
    matrix->reader.format.group = group;
    if (memcmp(matrix->book, matrix->reader.format.book, sizeof matrix->book) != 0)
        matrix->reader.format.book = matrix->book;
    *out_reader = &matrix->reader;
fail:
    return status;
}
