// GPTQ as GPTQModel and AutoGPTQ write it: qweight [in · bits / 32, out] packed along the inputs,
// qzeros [groups, out · bits / 32] packed along the outputs, scales [groups, out], and g_idx [in],
// the group of each input.
#include "runtime/import/reader_planes.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"

/// Returns the plane of zero points, in lines of a group's.
static struct nib_code_plane zero_plane(const struct nib_tensor *zeros, uint32_t bits,
                                        bool minus_one)
{
    struct nib_code_plane plane = nib_code_plane_words(zeros, bits);
    plane.pack_stride = 1;
    plane.line_stride = zeros->dims[1];
    // A stored zero of 0 - 1 has borrowed from the next field: the whole word is mended at once.
    // Fields of 3 bits, which may lie in two words, are stored one by one.
    if (minus_one && bits == 3)
        plane.plus = 1;
    else if (minus_one)
        plane.add = UINT32_MAX / ((1u << bits) - 1);
    return plane;
}

enum nib_status nib_reader_gptq(const struct nib_matrix_query *query,
                                const struct nib_row_reader **out_reader, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_quantization *quantization = query->quantization;
    const struct nib_quantization_scheme *scheme = quantization->schemes;
    const uint64_t rows = query->shape.rows;
    const uint64_t cols = query->shape.cols;
    const uint64_t n_groups = scheme->group ? nib_ceil_div_u64(cols, scheme->group) : 1;
    const uint64_t zero_words = nib_ceil_div_u64(rows * scheme->bits, 32);
    const struct nib_tensor *codes, *scales, *zeros, *group_index;
    struct nib_plane_matrix *matrix;
    *out_reader = NULL;
    if (!nib_part_find(query, "qweight"))
        return NIB_OK;

    NIB_TRY(nib_part_need(
        query, "qweight",
        (struct nib_part_type){NIB_DTYPE_I32, {nib_ceil_div_u64(cols * scheme->bits, 32), rows}},
        &codes, err));
    NIB_TRY(nib_part_need(query, "qzeros",
                          (struct nib_part_type){NIB_DTYPE_I32, {n_groups, zero_words}}, &zeros,
                          err));
    NIB_TRY(nib_part_need(query, "scales",
                          (struct nib_part_type){NIB_DTYPE_COUNT, {n_groups, rows}}, &scales, err));

    const struct nib_code_plane plane =
        zero_plane(zeros, scheme->bits, quantization->zero_minus_one);
    const bool symmetric =
        scheme->symmetric &&
        nib_code_plane_holds(&plane, rows, n_groups, (uint8_t)(1 << (scheme->bits - 1)));
    NIB_TRY(nib_plane_matrix_make(query, codes, nib_code_format(scheme->bits, symmetric),
                                  scheme->group, &matrix, err));
    nib_plane_matrix_set_scales(matrix, scales, 1, rows);
    matrix->codes = nib_code_plane_words(codes, scheme->bits);
    matrix->codes.pack_stride = rows;
    matrix->codes.line_stride = 1;
    matrix->codes.offset = symmetric ? nib_code_offset(scheme->bits) : 0;
    matrix->codes_by_row = true;
    matrix->zeros = plane;
    matrix->parts[2] = zeros;
    if (nib_part_find(query, "g_idx")) {
        NIB_TRY(nib_part_need(query, "g_idx", (struct nib_part_type){NIB_DTYPE_I32, {cols, 0}},
                              &group_index, err));
        NIB_TRY(nib_group_permutation(query, group_index, scheme->group,
                                      &matrix->reader.permutation, err));
    }
    *out_reader = &matrix->reader;
fail:
    return status;
}
