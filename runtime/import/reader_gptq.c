// GPTQ as GPTQModel and AutoGPTQ write it: qweight [in · bits / 32, out] packed along the inputs,
// qzeros [groups, out · bits / 32] packed along the outputs, scales [groups, out], and g_idx [in],
// the group of each input.
#include "runtime/import/reader_planes.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/status.h"

/// Returns whether all zero points are the middle of the codes.
static bool is_symmetric(const struct nib_tensor *zeros, uint32_t bits, bool minus_one)
{
    const uint32_t middle = bits == 4 ? 0x88888888u : 0x80808080u;
    const uint32_t ones = bits == 4 ? 0x11111111u : 0x01010101u;
    for (uint64_t i = 0; i < zeros->size; i += 4) {
        if (nib_load_u32(zeros->data + i) != (minus_one ? middle - ones : middle))
            return false;
    }
    return true;
}

enum nib_status nib_reader_gptq(const struct nib_matrix_query *query,
                                const struct nib_row_reader **out_reader, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_quantization *quantization = query->quantization;
    const struct nib_quantization_scheme *scheme = quantization->schemes;
    const uint64_t rows = query->shape.rows;
    const uint64_t cols = query->shape.cols;
    const uint32_t per_word = 32 / scheme->bits;
    const uint64_t n_groups = scheme->group ? nib_ceil_div_u64(cols, scheme->group) : 1;
    const uint64_t zero_words = nib_ceil_div_u64(rows, per_word);
    const struct nib_tensor *codes, *scales, *zeros, *group_index;
    struct nib_plane_matrix *matrix;
    *out_reader = NULL;
    if (!nib_part_find(query, "qweight"))
        return NIB_OK;

    NIB_TRY(nib_part_need(
        query, "qweight",
        (struct nib_part_type){NIB_DTYPE_I32, {nib_ceil_div_u64(cols, per_word), rows}}, &codes,
        err));
    NIB_TRY(nib_part_need(query, "qzeros",
                          (struct nib_part_type){NIB_DTYPE_I32, {n_groups, zero_words}}, &zeros,
                          err));
    NIB_TRY(nib_part_need(query, "scales",
                          (struct nib_part_type){NIB_DTYPE_COUNT, {n_groups, rows}}, &scales, err));

    const bool minus_one = quantization->zero_minus_one;
    const bool symmetric = scheme->symmetric && is_symmetric(zeros, scheme->bits, minus_one);
    const enum nib_format_id format = scheme->bits == 4
                                          ? (symmetric ? NIB_FORMAT_INT4 : NIB_FORMAT_INT4_ZERO)
                                          : (symmetric ? NIB_FORMAT_INT8 : NIB_FORMAT_INT8_ZERO);
    NIB_TRY(nib_plane_matrix_make(query, codes, format, scheme->group, &matrix, err));
    nib_plane_matrix_set_scales(matrix, scales, 1, rows);
    matrix->codes = nib_code_plane_words(codes, scheme->bits);
    matrix->codes.pack_stride = rows;
    matrix->codes.line_stride = 1;
    matrix->codes_by_row = true;
    matrix->zeros = nib_code_plane_words(zeros, scheme->bits);
    matrix->zeros.pack_stride = 1;
    matrix->zeros.line_stride = zero_words;
    // A stored zero of 0 - 1 has borrowed from the next field: the whole word is mended at once.
    if (minus_one)
        matrix->zeros.add = scheme->bits == 4 ? 0x11111111u : 0x01010101u;
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
