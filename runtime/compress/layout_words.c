// GPTQ, AWQ and compressed-tensors: codes and zero points in 32-bit words, or codes one a byte.
#include "runtime/compress/layout_write.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"

#include <inttypes.h>

/// The field of a word that holds each of eight outputs in AWQ's GEMM order.
static const uint8_t gemm_order[8] = {0, 4, 1, 5, 2, 6, 3, 7};

/// Integers in 32-bit words, a line of them being a stream of bits, lowest first: word w of line l
/// is number w · pack_stride + l · line_stride. Integers of 3 bits may lie in two words.
struct plane {
    uint8_t *data;
    uint32_t bits;
    uint32_t minus;       ///< from every integer, modulo 2^bits
    const uint8_t *order; ///< of each eight integers of 4 bits; NULL: in order
    uint64_t pack_stride;
    uint64_t line_stride;
};

static void put(const struct plane *plane, uint64_t index, uint64_t line, uint32_t integer)
{
    const uint64_t place = plane->order ? index / 8 * 8 + plane->order[index % 8] : index;
    const uint64_t bit = place * plane->bits;
    const uint32_t shift = (uint32_t)(bit % 32);
    const uint32_t value = (integer - plane->minus) & ((1u << plane->bits) - 1);
    uint8_t *word = plane->data + 4 * (bit / 32 * plane->pack_stride + line * plane->line_stride);
    nib_store_u32(word, nib_load_u32(word) | value << shift);
    if (shift + plane->bits > 32) {
        word += 4 * plane->pack_stride;
        nib_store_u32(word, nib_load_u32(word) | value >> (32 - shift));
    }
}

/// Codes of rows, packed along the row.
static void put_rows(const struct plane *plane, uint64_t first, const struct nib_row_block *block)
{
    for (uint64_t row = 0; row < block->rows; row++) {
        const uint8_t *codes = block->codes + row * block->cols;
        uint8_t *word = plane->data + 4 * (first + row) * plane->line_stride;
        uint64_t stream = 0;
        uint32_t n = 0; // bits of it
        for (uint64_t i = 0; i < block->cols; i++) {
            stream |= (uint64_t)codes[i] << n;
            n += plane->bits;
            if (n < 32 && i + 1 < block->cols)
                continue;
            nib_store_u32(word, (uint32_t)stream);
            word += 4 * plane->pack_stride;
            stream >>= 32;
            n = n > 32 ? n - 32 : 0;
        }
        if (n > 0)
            nib_store_u32(word, (uint32_t)stream);
    }
}

/// Codes of rows, packed along the column; `first` and the rows are multiples of a word's codes.
static void put_columns(const struct plane *plane, uint64_t first,
                        const struct nib_row_block *block)
{
    const uint32_t per_word = 32 / plane->bits;
    for (uint64_t row = 0; row < block->rows; row += per_word) {
        const uint8_t *codes = block->codes + row * block->cols;
        uint8_t *words = plane->data + 4 * ((first + row) / per_word) * plane->pack_stride;
        for (uint64_t i = 0; i < block->cols; i++) {
            uint32_t word = 0;
            for (uint32_t k = 0; k < per_word; k++)
                word |= (uint32_t)codes[k * block->cols + i] << plane->bits * plane->order[k];
            nib_store_u32(words + 4 * i * plane->line_stride, word);
        }
    }
}

static uint64_t n_groups(const struct nib_row_reader *matrix)
{
    return nib_format_groups(&matrix->format, matrix->cols);
}

static bool has_zeros(const struct nib_row_reader *matrix)
{
    return matrix->format.zero == NIB_ZERO_INTEGER;
}

static enum nib_dtype scale_dtype(const struct nib_row_reader *matrix)
{
    return matrix->format.scale == NIB_SCALE_F16    ? NIB_DTYPE_F16
           : matrix->format.scale == NIB_SCALE_BF16 ? NIB_DTYPE_BF16
                                                    : NIB_DTYPE_F32;
}

static void put_float(uint8_t *data, enum nib_dtype dtype, uint64_t index, float value)
{
    if (dtype == NIB_DTYPE_F16)
        nib_store_u16(data + 2 * index, nib_f16_from_f32(value));
    else if (dtype == NIB_DTYPE_BF16)
        nib_store_u16(data + 2 * index, nib_bf16_from_f32(value));
    else
        nib_store_u32(data + 4 * index, nib_f32_bits(value));
}

/// Where the scale of row r and group g lies: r · row_stride + g · group_stride.
struct strides {
    uint64_t row;
    uint64_t group;
};

static void put_scales(const struct nib_layout_job *job, const char *part, struct strides strides,
                       uint64_t first, const struct nib_row_block *block)
{
    const uint64_t groups = n_groups(job->matrix);
    const enum nib_dtype dtype = scale_dtype(job->matrix);
    uint8_t *data = nib_layout_data(job, part);
    for (uint64_t row = 0; row < block->rows; row++) {
        for (uint64_t g = 0; g < groups; g++)
            put_float(data, dtype, (first + row) * strides.row + g * strides.group,
                      block->scale[row * groups + g]);
    }
}

/// Writes zero points, or the middle of the codes where the format has none. `plane` is packed
/// along the outputs, or along the groups.
static enum nib_status put_zeros(const struct nib_layout_job *job, const struct plane *plane,
                                 bool along_groups, uint64_t first,
                                 const struct nib_row_block *block, struct nib_error *err)
{
    const struct nib_row_reader *matrix = job->matrix;
    const uint64_t groups = n_groups(matrix);
    for (uint64_t row = 0; row < block->rows; row++) {
        for (uint64_t g = 0; g < groups; g++) {
            const int32_t zero =
                block->zero ? block->zero[row * groups + g] : matrix->format.center;
            if (zero < 0 || zero >= 1 << plane->bits)
                return nib_fail(err, NIB_ERROR_ARGUMENT,
                                "matrix '%s': row %" PRIu64 " has a zero point of %" PRId32
                                ", which %" PRIu32 " bits cannot hold",
                                matrix->name, first + row, zero, plane->bits);
            if (along_groups)
                put(plane, g, first + row, (uint32_t)zero);
            else
                put(plane, first + row, g, (uint32_t)zero);
        }
    }
    return NIB_OK;
}

/// Whether the matrix is of what words of 32 bits hold: integers with or without zero points.
static bool is_integer(const struct nib_row_reader *matrix)
{
    return matrix->format.code == NIB_CODE_UNIFORM && !matrix->format.super &&
           matrix->format.zero != NIB_ZERO_MINIMUM &&
           (matrix->format.bits <= 4 || matrix->format.bits == 8);
}

/// Writes the group of each input feature.
static void put_group_index(const struct nib_layout_job *job, const char *part)
{
    const struct nib_row_reader *matrix = job->matrix;
    const uint64_t group = matrix->format.group ? matrix->format.group : matrix->cols;
    uint8_t *data = nib_layout_data(job, part);
    for (uint64_t j = 0; j < matrix->cols; j++) {
        const uint64_t i = matrix->permutation ? matrix->permutation[j] : j;
        nib_store_u32(data + 4 * i, (uint32_t)(j / group));
    }
}

// GPTQ: qweight [in · bits / 32, out] packed along the inputs, qzeros [groups, out · bits / 32]
// packed along the outputs, scales [groups, out], g_idx [in].

static enum nib_status describe_gptq(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_row_reader *matrix = job->matrix;
    const uint64_t rows = matrix->rows, cols = matrix->cols, groups = n_groups(matrix);
    if (!is_integer(matrix))
        return nib_layout_refuse(job, "codes must be integers of 2, 3, 4 or 8 bits", err);
    const uint32_t bits = matrix->format.bits;
    if (rows * bits % 32 != 0 || cols * bits % 32 != 0)
        return nib_layout_refuse(job, "inputs and outputs must fill whole words of 32 bits", err);
    NIB_TRY(nib_layout_add(job, "qweight", NIB_DTYPE_I32, cols * bits / 32, rows, err));
    NIB_TRY(nib_layout_add(job, "qzeros", NIB_DTYPE_I32, groups, rows * bits / 32, err));
    NIB_TRY(nib_layout_add(job, "scales", scale_dtype(matrix), groups, rows, err));
    NIB_TRY(nib_layout_add(job, "g_idx", NIB_DTYPE_I32, cols, 0, err));
fail:
    return status;
}

static enum nib_status pack_gptq(const struct nib_layout_job *job, uint64_t first,
                                 const struct nib_row_block *block, struct nib_error *err)
{
    const struct nib_row_reader *matrix = job->matrix;
    const uint32_t bits = matrix->format.bits;
    const struct plane codes = {.data = nib_layout_data(job, "qweight"),
                                .bits = bits,
                                .pack_stride = matrix->rows,
                                .line_stride = 1};
    const struct plane zeros = {.data = nib_layout_data(job, "qzeros"),
                                .bits = bits,
                                .minus = job->layout->zero_minus_one && bits == 3,
                                .pack_stride = 1,
                                .line_stride = matrix->rows * bits / 32};
    put_rows(&codes, first, block);
    put_scales(job, "scales", (struct strides){1, matrix->rows}, first, block);
    return put_zeros(job, &zeros, false, first, block, err);
}

static enum nib_status end_gptq(const struct nib_layout_job *job, struct nib_error *err)
{
    (void)err;
    put_group_index(job, "g_idx");
    const uint32_t bits = job->matrix->format.bits;
    if (!job->layout->zero_minus_one || bits == 3)
        return NIB_OK;
    // The tool adds ones to a whole word at once: a zero point of 0 borrows from the next field.
    // Only fields of 3 bits, which may lie in two words, are for themselves.
    uint8_t *zeros = nib_layout_data(job, "qzeros");
    const uint64_t words = n_groups(job->matrix) * job->matrix->rows * bits / 32;
    const uint32_t ones = UINT32_MAX / ((1u << bits) - 1);
    for (uint64_t i = 0; i < words; i++)
        nib_store_u32(zeros + 4 * i, nib_load_u32(zeros + 4 * i) - ones);
    return NIB_OK;
}

const struct nib_layout_functions nib_layout_gptq = {
    .describe = describe_gptq, .rows = pack_gptq, .end = end_gptq};

// AWQ. GEMM: qweight [in, out / 8] and qzeros [groups, out / 8] packed along the outputs in an
// order of their own, scales [groups, out]. GEMV: qweight [out, in / 8] and qzeros [out, width]
// packed along the inputs and groups, scales [out, 8 · width].

/// Words of zero points in a row of the GEMV order, whose kernels read several at once.
static uint64_t gemv_width(const struct nib_row_reader *matrix)
{
    const uint64_t group = matrix->format.group ? matrix->format.group : matrix->cols;
    const uint64_t unit = group >= 128 ? 1 : group >= 64 ? 2 : 4;
    return nib_ceil_div_u64(nib_ceil_div_u64(n_groups(matrix), 8), unit) * unit;
}

static enum nib_status describe_awq(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_row_reader *matrix = job->matrix;
    const uint64_t rows = matrix->rows, cols = matrix->cols, groups = n_groups(matrix);
    if (!is_integer(matrix) || matrix->format.bits != 4)
        return nib_layout_refuse(job, "codes must be integers of 4 bits", err);
    if (matrix->format.group && cols % matrix->format.group != 0)
        return nib_layout_refuse(job, "groups must divide the inputs; take another --group", err);
    if (rows % 8 != 0 || cols % 8 != 0)
        return nib_layout_refuse(job, "inputs and outputs must be multiples of 8", err);
    if (job->layout->gemv) {
        const uint64_t width = gemv_width(matrix);
        NIB_TRY(nib_layout_add(job, "qweight", NIB_DTYPE_I32, rows, cols / 8, err));
        NIB_TRY(nib_layout_add(job, "qzeros", NIB_DTYPE_I32, rows, width, err));
        NIB_TRY(nib_layout_add(job, "scales", scale_dtype(matrix), rows, 8 * width, err));
        return NIB_OK;
    }
    NIB_TRY(nib_layout_add(job, "qweight", NIB_DTYPE_I32, cols, rows / 8, err));
    NIB_TRY(nib_layout_add(job, "qzeros", NIB_DTYPE_I32, groups, rows / 8, err));
    NIB_TRY(nib_layout_add(job, "scales", scale_dtype(matrix), groups, rows, err));
fail:
    return status;
}

static enum nib_status pack_gemv(const struct nib_layout_job *job, uint64_t first,
                                 const struct nib_row_block *block, struct nib_error *err)
{
    const uint64_t width = gemv_width(job->matrix);
    const struct plane codes = {.data = nib_layout_data(job, "qweight"),
                                .bits = 4,
                                .pack_stride = 1,
                                .line_stride = block->cols / 8};
    const struct plane zeros = {
        .data = nib_layout_data(job, "qzeros"), .bits = 4, .pack_stride = 1, .line_stride = width};
    put_rows(&codes, first, block);
    put_scales(job, "scales", (struct strides){8 * width, 1}, first, block);
    return put_zeros(job, &zeros, true, first, block, err);
}

static enum nib_status pack_awq(const struct nib_layout_job *job, uint64_t first,
                                const struct nib_row_block *block, struct nib_error *err)
{
    const uint64_t words = job->matrix->rows / 8;
    struct plane plane = {.data = nib_layout_data(job, "qweight"),
                          .bits = 4,
                          .order = gemm_order,
                          .pack_stride = 1,
                          .line_stride = words};
    if (job->layout->gemv)
        return pack_gemv(job, first, block, err);
    put_columns(&plane, first, block);
    put_scales(job, "scales", (struct strides){1, job->matrix->rows}, first, block);
    plane.data = nib_layout_data(job, "qzeros");
    return put_zeros(job, &plane, false, first, block, err);
}

const struct nib_layout_functions nib_layout_awq = {.describe = describe_awq, .rows = pack_awq};

// compressed-tensors. Packed: weight_packed [out, in · bits / 32], weight_scale [out, groups],
// weight_shape [2], weight_zero_point [out · bits / 32, groups] packed along the outputs; signed
// codes and zero points are stored plus half the range. Int: weight [out, in] of signed bytes.
// input_scale [1] goes with static activations, weight_g_idx [in] with act-order.

static enum nib_status describe_compressed(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_row_reader *matrix = job->matrix;
    const enum nib_activation activation = matrix->activation;
    if (matrix->format.group && matrix->cols % matrix->format.group != 0)
        return nib_layout_refuse(job, "groups must divide the inputs; take another --group", err);
    if (activation != NIB_ACTIVATION_F32 && activation != NIB_ACTIVATION_INT8_TOKEN &&
        activation != NIB_ACTIVATION_INT8_STATIC)
        return nib_layout_refuse(job, "it has no such activations", err);
    NIB_TRY(nib_layout_add(job, "weight_scale", scale_dtype(matrix), matrix->rows, n_groups(matrix),
                           err));
    if (activation == NIB_ACTIVATION_INT8_STATIC)
        NIB_TRY(nib_layout_add(job, "input_scale", scale_dtype(matrix), 1, 0, err));
    if (job->layout->group_index)
        NIB_TRY(nib_layout_add(job, "weight_g_idx", NIB_DTYPE_I32, matrix->cols, 0, err));
fail:
    return status;
}

static enum nib_status end_compressed(const struct nib_layout_job *job, struct nib_error *err)
{
    (void)err;
    if (job->matrix->activation == NIB_ACTIVATION_INT8_STATIC)
        put_float(nib_layout_data(job, "input_scale"), scale_dtype(job->matrix), 0,
                  job->matrix->activation_scale);
    if (job->layout->group_index)
        put_group_index(job, "weight_g_idx");
    return NIB_OK;
}

static enum nib_status describe_packed(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_row_reader *matrix = job->matrix;
    if (!is_integer(matrix))
        return nib_layout_refuse(job, "codes must be integers of 2, 3, 4 or 8 bits", err);
    const uint32_t bits = matrix->format.bits;
    NIB_TRY(nib_layout_add(job, "weight_packed", NIB_DTYPE_I32, matrix->rows,
                           nib_ceil_div_u64(matrix->cols * bits, 32), err));
    NIB_TRY(nib_layout_add(job, "weight_shape", NIB_DTYPE_I64, 2, 0, err));
    if (has_zeros(matrix))
        NIB_TRY(nib_layout_add(job, "weight_zero_point", NIB_DTYPE_I32,
                               nib_ceil_div_u64(matrix->rows * bits, 32), n_groups(matrix), err));
    NIB_TRY(describe_compressed(job, err));
fail:
    return status;
}

static enum nib_status pack_packed(const struct nib_layout_job *job, uint64_t first,
                                   const struct nib_row_block *block, struct nib_error *err)
{
    const struct nib_row_reader *matrix = job->matrix;
    const uint32_t bits = matrix->format.bits;
    const uint64_t groups = n_groups(matrix);
    const struct plane codes = {.data = nib_layout_data(job, "weight_packed"),
                                .bits = bits,
                                .pack_stride = 1,
                                .line_stride = nib_ceil_div_u64(matrix->cols * bits, 32)};
    const struct plane zeros = {.data = nib_layout_data(job, "weight_zero_point"),
                                .bits = bits,
                                .pack_stride = groups,
                                .line_stride = 1};
    put_rows(&codes, first, block);
    put_scales(job, "weight_scale", (struct strides){groups, 1}, first, block);
    return has_zeros(matrix) ? put_zeros(job, &zeros, false, first, block, err) : NIB_OK;
}

static enum nib_status end_packed(const struct nib_layout_job *job, struct nib_error *err)
{
    uint8_t *shape = nib_layout_data(job, "weight_shape");
    nib_store_u64(shape, job->matrix->rows);
    nib_store_u64(shape + 8, job->matrix->cols);
    return end_compressed(job, err);
}

const struct nib_layout_functions nib_layout_compressed_packed = {
    .describe = describe_packed, .rows = pack_packed, .end = end_packed};

static enum nib_status describe_int(const struct nib_layout_job *job, struct nib_error *err)
{
    const struct nib_row_reader *matrix = job->matrix;
    if (!is_integer(matrix) || matrix->format.bits != 8 || has_zeros(matrix))
        return nib_layout_refuse(job, "codes must be signed integers of 8 bits", err);
    const enum nib_status status =
        nib_layout_add(job, "weight", NIB_DTYPE_I8, matrix->rows, matrix->cols, err);
    return status == NIB_OK ? describe_compressed(job, err) : status;
}

static enum nib_status pack_int(const struct nib_layout_job *job, uint64_t first,
                                const struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    uint8_t *codes = nib_layout_data(job, "weight") + first * block->cols;
    for (uint64_t i = 0; i < block->rows * block->cols; i++)
        codes[i] = block->codes[i] ^ 0x80;
    put_scales(job, "weight_scale", (struct strides){n_groups(job->matrix), 1}, first, block);
    return NIB_OK;
}

const struct nib_layout_functions nib_layout_compressed_int = {
    .describe = describe_int, .rows = pack_int, .end = end_compressed};
