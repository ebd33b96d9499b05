// compressed-tensors. Pack-quantized: weight_packed [out, in · bits / 32], lowest bits first, each
// code plus half the range, and weight_zero_point packed along the outputs in the same way.
// Int-quantized: weight [out, in] and weight_zero_point [out, groups] of signed bytes. Both have
// weight_scale [out, groups]; input_scale [1] belongs to static activations.
#include "runtime/import/reader_planes.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"

#include <inttypes.h>
#include <math.h>

/// Checks the shape that a packed matrix comes with.
static enum nib_status check_shape(const struct nib_matrix_query *query, struct nib_error *err)
{
    const struct nib_tensor *shape;
    const enum nib_status status = nib_part_need(
        query, "weight_shape", (struct nib_part_type){NIB_DTYPE_I64, {2, 0}}, &shape, err);
    if (status != NIB_OK)
        return status;
    if (nib_load_u64(shape->data) != query->shape.rows ||
        nib_load_u64(shape->data + 8) != query->shape.cols)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "tensor '%s' is not [%" PRIu64 ", %" PRIu64 "], as the configuration says",
                        shape->name, query->shape.rows, query->shape.cols);
    return NIB_OK;
}

static enum nib_status find_codes(const struct nib_matrix_query *query,
                                  const struct nib_quantization_scheme *scheme,
                                  struct nib_plane_matrix **out_matrix, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_shape shape = query->shape;
    const enum nib_format_id format =
        nib_code_format(scheme->packed ? scheme->bits : 8, scheme->symmetric);
    const struct nib_tensor *codes;
    *out_matrix = NULL;
    if (!scheme->packed) {
        NIB_TRY(nib_part_need(query, "weight",
                              (struct nib_part_type){NIB_DTYPE_I8, {shape.rows, shape.cols}},
                              &codes, err));
        NIB_TRY(nib_plane_matrix_make(query, codes, format, scheme->group, out_matrix, err));
        (*out_matrix)->codes = nib_code_plane_bytes(codes);
        (*out_matrix)->codes.line_stride = shape.cols;
    } else {
        const uint64_t words = nib_ceil_div_u64(shape.cols * scheme->bits, 32);
        NIB_TRY(check_shape(query, err));
        NIB_TRY(nib_part_need(query, "weight_packed",
                              (struct nib_part_type){NIB_DTYPE_I32, {shape.rows, words}}, &codes,
                              err));
        NIB_TRY(nib_plane_matrix_make(query, codes, format, scheme->group, out_matrix, err));
        (*out_matrix)->codes = nib_code_plane_words(codes, scheme->bits);
        (*out_matrix)->codes.line_stride = words;
        (*out_matrix)->codes.offset = scheme->symmetric ? nib_code_offset(scheme->bits) : 0;
    }
    (*out_matrix)->codes.pack_stride = 1;
    (*out_matrix)->codes_by_row = true;
fail:
    return status;
}

static enum nib_status find_scales(const struct nib_matrix_query *query,
                                   const struct nib_quantization_scheme *scheme,
                                   struct nib_plane_matrix *matrix, struct nib_error *err)
{
    enum nib_status status;
    const uint64_t rows = query->shape.rows;
    const uint64_t n_groups = nib_format_groups(&matrix->reader.format, query->shape.cols);
    const struct nib_tensor *scales, *zeros;
    const struct nib_part_type type = {
        NIB_DTYPE_COUNT, {scheme->per_tensor ? 1 : rows, scheme->per_tensor ? 0 : n_groups}};
    NIB_TRY(nib_part_need(query, "weight_scale", type, &scales, err));
    nib_plane_matrix_set_scales(matrix, scales, scheme->per_tensor ? 0 : n_groups,
                                scheme->per_tensor ? 0 : 1);
    if (scheme->symmetric)
        return NIB_OK;
    if (scheme->packed) {
        const uint64_t words = nib_ceil_div_u64(rows * scheme->bits, 32);
        NIB_TRY(nib_part_need(query, "weight_zero_point",
                              (struct nib_part_type){NIB_DTYPE_I32, {words, n_groups}}, &zeros,
                              err));
        matrix->zeros = nib_code_plane_words(zeros, scheme->bits);
        matrix->zeros.pack_stride = n_groups;
        matrix->zeros.line_stride = 1;
    } else {
        NIB_TRY(nib_part_need(query, "weight_zero_point",
                              (struct nib_part_type){NIB_DTYPE_I8, {rows, n_groups}}, &zeros, err));
        matrix->zeros = nib_code_plane_bytes(zeros);
        matrix->zeros.pack_stride = n_groups;
        matrix->zeros.line_stride = 1;
    }
    matrix->parts[2] = zeros;
fail:
    return status;
}

/// Reads the scale of static activations.
static enum nib_status find_input_scale(const struct nib_matrix_query *query, float *out_scale,
                                        struct nib_error *err)
{
    const struct nib_tensor *tensor;
    const enum nib_status status = nib_part_need(
        query, "input_scale", (struct nib_part_type){NIB_DTYPE_COUNT, {1, 0}}, &tensor, err);
    if (status != NIB_OK)
        return status;
    *out_scale = tensor->dtype == NIB_DTYPE_F32   ? nib_load_f32(tensor->data)
                 : tensor->dtype == NIB_DTYPE_F16 ? nib_f32_from_f16(nib_load_u16(tensor->data))
                                                  : nib_f32_from_bf16(nib_load_u16(tensor->data));
    if (!(*out_scale > 0 && *out_scale < INFINITY))
        return nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' holds no scale above 0", tensor->name);
    return NIB_OK;
}

enum nib_status nib_reader_compressed(const struct nib_matrix_query *query,
                                      const struct nib_row_reader **out_reader,
                                      struct nib_error *err)
{
    enum nib_status status;
    const struct nib_quantization_scheme *scheme;
    const struct nib_tensor *group_index;
    struct nib_plane_matrix *matrix;
    *out_reader = NULL;
    const struct nib_tensor *plain = nib_part_find(query, "weight");
    if (!nib_part_find(query, "weight_packed") && !(plain && plain->dtype == NIB_DTYPE_I8))
        return NIB_OK;
    NIB_TRY(nib_quantization_match(query->quantization, query->module, &scheme, err));
    if (!scheme)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "matrix '%s' is quantized, but no 'targets' of 'config_groups' is for it",
                         query->module));
    NIB_TRY(find_codes(query, scheme, &matrix, err));
    NIB_TRY(find_scales(query, scheme, matrix, err));
    if (nib_part_find(query, "weight_g_idx")) {
        NIB_TRY(nib_part_need(query, "weight_g_idx",
                              (struct nib_part_type){NIB_DTYPE_I32, {query->shape.cols, 0}},
                              &group_index, err));
        NIB_TRY(nib_group_permutation(query, group_index, scheme->group,
                                      &matrix->reader.permutation, err));
    }
    matrix->reader.activation = scheme->activation;
    if (scheme->activation == NIB_ACTIVATION_INT8_STATIC)
        NIB_TRY(find_input_scale(query, &matrix->reader.activation_scale, err));
    *out_reader = &matrix->reader;
fail:
    return status;
}
