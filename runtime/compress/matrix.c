#include "runtime/compress/nested.h"

#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

enum nib_status nib_quantized_matrix_create(const struct nib_compress_entry *entry,
                                            bool has_permutation,
                                            struct nib_quantized_matrix **out_matrix,
                                            struct nib_error *err)
{
    const struct nib_matrix_scheme *scheme = &entry->scheme;
    const size_t block_size = nib_row_block_size(&scheme->format, entry->rows, entry->cols);
    const bool has_absmax = scheme->activation == NIB_ACTIVATION_LLM_INT8;
    size_t n_codes = 0, n_scales = 0, permutation_size = 0, size = block_size;
    bool fits = block_size != 0;
    *out_matrix = NULL;
    if (has_permutation)
        fits &= nib_mul_size((size_t)entry->cols, sizeof(uint32_t), &permutation_size);
    if (scheme->double_quantized) {
        n_codes = (size_t)(entry->rows * nib_format_groups(&scheme->format, entry->cols));
        n_scales = (size_t)nib_ceil_div_u64(n_codes, NIB_NESTED_BLOCK);
    } else if (has_absmax) {
        n_scales = (size_t)entry->rows;
    }
    fits = fits && nib_add_size(size, permutation_size, &size) &&
           nib_add_size(size, n_scales * sizeof(float), &size) &&
           nib_add_size(size, n_codes, &size);
    struct nib_quantized_matrix *matrix = fits ? calloc(1, sizeof *matrix) : NULL;
    uint8_t *memory = matrix ? calloc(1, size) : NULL;
    if (!memory) {
        free(matrix);
        return nib_fail_memory(err);
    }
    *matrix = (struct nib_quantized_matrix){
        .role = entry->role,
        .layer = entry->layer,
        .format = scheme->format,
        .rows = entry->rows,
        .cols = entry->cols,
        .activation = scheme->activation,
        .outlier_threshold = scheme->outlier_threshold,
        .memory = memory,
    };
    nib_row_block_init(&matrix->block, &scheme->format, entry->rows, entry->cols, memory);
    memory += block_size;
    if (has_permutation)
        matrix->permutation = (const uint32_t *)(const void *)memory;
    memory += permutation_size;
    if (scheme->double_quantized) {
        matrix->scale_codes.scale = (float *)(void *)memory;
        matrix->scale_codes.codes = memory + n_scales * sizeof(float);
    } else if (has_absmax) {
        matrix->row_absmax = (float *)(void *)memory;
    }
    *out_matrix = matrix;
    return NIB_OK;
}

void nib_quantized_matrix_destroy(struct nib_quantized_matrix **matrix)
{
    struct nib_quantized_matrix *self = *matrix;
    *matrix = NULL;
    if (!self)
        return;
    free(self->memory);
    free(self);
}

/// Returns the bits of a group's scale, and of its zero point or minimum.
static uint64_t group_bits(const struct nib_quantized_matrix *matrix)
{
    const struct nib_format *format = &matrix->format;
    const bool is_half = format->scale == NIB_SCALE_F16 || format->scale == NIB_SCALE_BF16;
    const uint64_t scale = matrix->scale_codes.codes ? 8 : is_half ? 16 : 32;
    if (format->zero == NIB_ZERO_INTEGER)
        return scale + format->bits;
    return format->zero == NIB_ZERO_MINIMUM ? 2 * scale : scale;
}

uint64_t nib_quantized_matrix_bits(const struct nib_quantized_matrix *matrix)
{
    const struct nib_format *format = &matrix->format;
    const uint64_t n_groups = matrix->rows * nib_format_groups(format, matrix->cols);
    if (format->block_bytes)
        return 8 * nib_format_packed_bytes(format, matrix->rows, matrix->cols);
    uint64_t bits = matrix->rows * matrix->cols * format->bits + n_groups * group_bits(matrix);
    if (matrix->scale_codes.codes)
        bits += nib_ceil_div_u64(n_groups, NIB_NESTED_BLOCK) * 32;
    return bits;
}

void nib_quantized_matrix_row(const struct nib_quantized_matrix *matrix, uint64_t row, float *out,
                              float *scratch)
{
    if (!matrix->permutation) {
        nib_row_dequantize(&matrix->format, &matrix->block, row, out);
        return;
    }
    nib_row_dequantize(&matrix->format, &matrix->block, row, scratch);
    for (uint64_t j = 0; j < matrix->cols; j++)
        out[matrix->permutation[j]] = scratch[j];
}

float nib_scale_stored(enum nib_scale_type type, float scale)
{
    switch (type) {
    case NIB_SCALE_F16: {
        uint16_t half = nib_f16_from_f32(scale);
        return nib_f32_from_f16(half == 0 ? 1 : half);
    }
    case NIB_SCALE_BF16: {
        uint16_t half = nib_bf16_from_f32(scale);
        return nib_f32_from_bf16(half == 0 ? 1 : half);
    }
    case NIB_SCALE_NONE:
    case NIB_SCALE_F32:
    case NIB_SCALE_E8M0:
        break;
    }
    return scale > 0 ? scale : 0x1p-126f;
}
