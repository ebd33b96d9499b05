// AWQ as AutoAWQ writes it. GEMM: qweight [in, out / 8], qzeros [groups, out / 8], scales
// [groups, out], packed along the outputs in an order of its own. GEMV: qweight [out, in / 8],
// qzeros [out, width], scales [out, 8 · width], packed along the inputs, lowest bits first.
#include "runtime/import/reader_planes.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"

/// The field of a word that holds each of eight outputs: fields hold 0, 2, 4, 6, 1, 3, 5, 7.
static const uint8_t gemm_order[8] = {0, 4, 1, 5, 2, 6, 3, 7};

enum { PER_WORD = 8 };

/// Words of zero points in a row of the GEMV order: its kernels read as many groups at once as make
/// 128 inputs of 8 words.
static uint64_t gemv_width(uint64_t n_groups, uint32_t group)
{
    const uint64_t unit = group >= 128 ? 1 : group >= 64 ? 2 : 4;
    return nib_ceil_div_u64(nib_ceil_div_u64(n_groups, PER_WORD), unit) * unit;
}

static enum nib_status make_gemm(const struct nib_matrix_query *query, uint64_t n_groups,
                                 struct nib_plane_matrix **out_matrix, struct nib_error *err)
{
    enum nib_status status;
    const uint64_t rows = query->shape.rows;
    const uint64_t words = nib_ceil_div_u64(rows, PER_WORD);
    const struct nib_tensor *codes, *scales, *zeros;
    NIB_TRY(nib_part_need(query, "qweight",
                          (struct nib_part_type){NIB_DTYPE_I32, {query->shape.cols, words}}, &codes,
                          err));
    NIB_TRY(nib_part_need(query, "qzeros", (struct nib_part_type){NIB_DTYPE_I32, {n_groups, words}},
                          &zeros, err));
    NIB_TRY(nib_part_need(query, "scales",
                          (struct nib_part_type){NIB_DTYPE_COUNT, {n_groups, rows}}, &scales, err));

    NIB_TRY(nib_plane_matrix_make(query, codes, NIB_FORMAT_INT4_ZERO,
                                  query->quantization->schemes->group, out_matrix, err));
    struct nib_plane_matrix *matrix = *out_matrix;
    nib_plane_matrix_set_scales(matrix, scales, 1, rows);
    matrix->codes = nib_code_plane_words(codes, 4);
    matrix->codes.pack_stride = 1;
    matrix->codes.line_stride = words;
    matrix->codes.order = gemm_order;
    matrix->zeros = nib_code_plane_words(zeros, 4);
    matrix->zeros.pack_stride = 1;
    matrix->zeros.line_stride = words;
    matrix->zeros.order = gemm_order;
    matrix->parts[2] = zeros;
fail:
    return status;
}

static enum nib_status make_gemv(const struct nib_matrix_query *query, uint64_t n_groups,
                                 struct nib_plane_matrix **out_matrix, struct nib_error *err)
{
    enum nib_status status;
    const uint32_t group = query->quantization->schemes->group;
    const uint64_t rows = query->shape.rows;
    const uint64_t words = nib_ceil_div_u64(query->shape.cols, PER_WORD);
    const uint64_t width = gemv_width(n_groups, group ? group : UINT32_MAX);
    const struct nib_tensor *codes, *scales, *zeros;
    NIB_TRY(nib_part_need(query, "qweight", (struct nib_part_type){NIB_DTYPE_I32, {rows, words}},
                          &codes, err));
    NIB_TRY(nib_part_need(query, "qzeros", (struct nib_part_type){NIB_DTYPE_I32, {rows, width}},
                          &zeros, err));
    NIB_TRY(nib_part_need(query, "scales",
                          (struct nib_part_type){NIB_DTYPE_COUNT, {rows, width * PER_WORD}},
                          &scales, err));

    NIB_TRY(nib_plane_matrix_make(query, codes, NIB_FORMAT_INT4_ZERO, group, out_matrix, err));
    struct nib_plane_matrix *matrix = *out_matrix;
    nib_plane_matrix_set_scales(matrix, scales, width * PER_WORD, 1);
    matrix->codes = nib_code_plane_words(codes, 4);
    matrix->codes.pack_stride = 1;
    matrix->codes.line_stride = words;
    matrix->codes_by_row = true;
    matrix->zeros = nib_code_plane_words(zeros, 4);
    matrix->zeros.pack_stride = 1;
    matrix->zeros.line_stride = width;
    matrix->zeros_by_row = true;
    matrix->parts[2] = zeros;
fail:
    return status;
}

enum nib_status nib_reader_awq(const struct nib_matrix_query *query,
                               const struct nib_row_reader **out_reader, struct nib_error *err)
{
    const uint32_t group = query->quantization->schemes->group;
    const uint64_t n_groups = group ? nib_ceil_div_u64(query->shape.cols, group) : 1;
    struct nib_plane_matrix *matrix;
    *out_reader = NULL;
    if (!nib_part_find(query, "qweight"))
        return NIB_OK;
    const enum nib_status status = query->quantization->gemv
                                       ? make_gemv(query, n_groups, &matrix, err)
                                       : make_gemm(query, n_groups, &matrix, err);
    if (status == NIB_OK)
        *out_reader = &matrix->reader;
    return status;
}
