/// Matrices in the kernels' layout: one for GEMV and GEMM.
///
/// A row is cut into granules of 32 weights, rows into tiles of 16. A granule's weights share their
/// scale, or have two of 16 weights each, and share the scale of an int8 activation; the last one
/// of a row, and where groups are odd any one, is filled up with weights that meet zeros. A matrix
/// is one plane after the other, each [tile][granule or group][row of the tile]:
/// - codes: 4 bits a weight for formats of 4 to 6 bits, 2 bits below, 8 bits above; floats as they
///   are. Weight i of a granule lies in word i / (32 / bits), lowest bits first. Codes of 8 bits
///   and floats take several runs of 16 bytes, each [16 rows], so that neighbours read neighbours;
/// - high: the 1 or 2 upper bits of codes of 3, 5 and 6 bits;
/// - scale and minimum (of super-blocks, where the format has them, else of groups) in the format's
///   own type, e8m0 as bfloat16; then the groups' own scale and minimum, a byte each;
/// - zero points, a byte or 16 bits;
/// - the unit of each row, a power of two that brings its weights into the range of fp16; then the
///   code book.
/// A matrix that is larger than a storage binding is cut into slices of whole tiles.
#ifndef RUNTIME_VULKAN_MATRIX_H
#define RUNTIME_VULKAN_MATRIX_H

#include "runtime/ops/plan.h"
#include "runtime/quant/row_reader.h"
#include "runtime/vulkan/memory.h"
#include "shaders/shared/kernels.h"

#define NIB_VK_MAX_SLICES 64

/// Where the planes of a slice lie, and what kernels must know of the format.
struct nib_vk_layout {
    struct nib_format format;
    uint64_t rows;
    uint64_t cols;
    bool has_spans; ///< granules end where groups end: their columns are in a table
    uint32_t n_granules;
    uint32_t n_entries; ///< groups as stored: one a granule where it has spans
    uint32_t low_bits;  ///< of a weight in the plane of codes
    uint32_t high_bits;
    uint32_t slice_rows; ///< a multiple of 16
    uint32_t n_slices;
};

/// A packed matrix or vector.
struct nib_vk_matrix {
    struct nib_vk_layout layout;
    bool is_packed;
    bool is_vector;
    bool has_permutation;
    float activation_scale;
    float outlier_threshold;
    struct nib_vk_range slices[NIB_VK_MAX_SLICES];
    struct nib_vk_range table; ///< spans of granules and permutation; size 0: neither
    uint64_t bytes;
};

/// Works out the layout of a matrix in a binding of at most `max_range` bytes. Errors: unsupported
/// (a shape or format that has none), memory (too large).
enum nib_status nib_vk_layout_make(const struct nib_format *format, uint64_t rows, uint64_t cols,
                                   uint64_t max_range, struct nib_vk_layout *out_layout,
                                   struct nib_error *err);
/// Returns the rows of slice `slice`, and the bytes that it takes.
uint32_t nib_vk_layout_slice_rows(const struct nib_vk_layout *layout, uint32_t slice);
uint64_t nib_vk_layout_slice_bytes(const struct nib_vk_layout *layout, uint32_t slice);
/// Fills what a kernel gets of slice `slice`.
void nib_vk_layout_args(const struct nib_vk_layout *layout, uint32_t slice,
                        struct nib_matrix_args *out_args);
/// The same of a slice of one tile; in one of n tiles, planes lie n times as far in.
void nib_vk_layout_tile_args(const struct nib_vk_layout *layout, struct nib_matrix_args *out_args);
/// Fills the specialization constants that describe the format.
void nib_vk_layout_specs(const struct nib_vk_layout *layout, uint32_t specs[NIB_SPECS]);
/// Writes first column and number of columns of each granule to out_spans[2 · n_granules].
void nib_vk_layout_spans(const struct nib_vk_layout *layout, uint32_t *out_spans);

/// Reserves memory for a weight of the plan: a matrix, or a vector of fp32 numbers.
enum nib_status nib_vk_matrix_reserve(struct nib_vk_matrix *matrix, struct nib_vk_pool *pool,
                                      const struct nib_weight *weight, struct nib_error *err);
/// Reads, packs and writes what was reserved. Errors: those of the reader, unsupported, memory,
/// format (a scale that is not of the format's type).
enum nib_status nib_vk_matrix_pack(struct nib_vk_matrix *matrix, struct nib_vk_transfer *transfer,
                                   const struct nib_row_reader *reader, struct nib_error *err);

#endif
