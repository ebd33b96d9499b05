/// Weights as the vector kernels like them: panels of 16 rows, a row a lane.
///
/// Columns come in blocks of 32; the last block is filled up with code 0, the last panel with rows
/// of zeros. A block's column 4 q + j of a row lies in byte j of the row's lane of quad q, so that
/// one 64-byte load brings four columns of all 16 rows. A panel's planes, one after the other:
/// - scales and minima, [group or super-block][row] in the format's scale type; zero points,
///   [group][row], as bytes, or as binary16 where codes have more than four bits;
/// - the second level of super-blocks, [group][row], a byte each; q2_k's two share one. Where there
///   are minima of more than four bits, both have six, and those of two groups lie in three planes
///   [row]: the first group's scale, its minimum, and the second's scale, whose bits 6 and 7 are
///   bits 0 to 5 of the second's minimum;
/// - from a multiple of 64 bytes on, codes, per block: four vectors of their low nibbles (quads 0–3
///   in the bytes' low halves, 4–7 in their high halves), or two of their low 2 bits (quad z + 2 i
///   in bits 2 i of vector z); then bit 4 (or 2) of the codes as one vector (quad q in bit q), or
///   bits 4 and 5 as two vectors like those of two bits; codes of eight bits as eight vectors;
///   floats as [column][row].
/// So a matrix is one stream, of which nothing is read twice.
#ifndef RUNTIME_CPU_PANEL_H
#define RUNTIME_CPU_PANEL_H

#include "runtime/quant/row_reader.h"

#define NIB_PANEL_ROWS 16
#define NIB_PANEL_BLOCK 32

/// Where the planes of a panel lie, in bytes from its begin, and how long they are.
struct nib_panel_layout {
    uint32_t n_blocks;
    uint32_t block_bytes; ///< codes of a block, or floats
    uint32_t n_groups;    ///< of a row
    uint32_t n_scales;    ///< of a row: super-blocks where there are any, else groups
    uint32_t scale_size;  ///< bytes of a scale
    uint32_t zero_size;   ///< bytes of a zero point
    uint64_t min;         ///< or zero points
    uint64_t sub_scale;   ///< and what goes with minima
    uint64_t codes;
    uint64_t bytes; ///< of a panel, a multiple of 64
    /// Groups are multiples of 32 (or 16 in super-blocks), so that a block has one or two scales.
    bool has_even_groups;
};

/// Bytes of the sub-scales and sub-minima of two groups, where both have six bits.
#define NIB_PANEL_SIXES (3 * NIB_PANEL_ROWS)

static inline bool nib_panel_has_sixes(const struct nib_format *format)
{
    return format->super && format->zero == NIB_ZERO_MINIMUM && format->bits != 2;
}

/// Lays out panels of matrices of `cols` columns. Returns false where codes have an unusual number
/// of bits, or sizes overflow.
bool nib_panel_layout_init(struct nib_panel_layout *out_layout, const struct nib_format *format,
                           uint64_t cols);

/// Writes a panel, all its bytes, from the rows of `block`, at most 16; `panel` is aligned to 64.
/// Returns false where a scale is not of the format's scale type. nib_panel_store is the
/// specification of the levels' own.
typedef bool nib_panel_store_fn(const struct nib_panel_layout *layout,
                                const struct nib_format *format, const struct nib_row_block *block,
                                uint8_t *panel);
nib_panel_store_fn nib_panel_store;
/// Writes what lies before the codes.
nib_panel_store_fn nib_panel_store_scales;

/// Takes row `row` < 16 of a panel apart into row `block_row` of `block`.
void nib_panel_load(const struct nib_panel_layout *layout, const struct nib_format *format,
                    const uint8_t *panel, uint64_t row, uint64_t block_row,
                    struct nib_row_block *block);

#endif
