/// Weights into formats with blocks, by least squares weighted with the importance of each input.
///
/// Where nib_row_pack takes each scale from the largest weight, this searches: the error
/// E = Σ h_i (w_i − ŵ_i)² is made small over the codes, the scales and minima of groups, and both
/// levels of super-blocks, as they are stored. Method: weighted least squares for scales, and
/// nearest codes, in turn (Lloyd 1982) from several starts; integer sub-scales by trial of
/// neighbours; then the super-block's own scales by least squares again.
#ifndef RUNTIME_COMPRESS_BLOCK_QUANTIZE_H
#define RUNTIME_COMPRESS_BLOCK_QUANTIZE_H

#include "runtime/compress/compress.h"

/// Quantizes the row `w[0 .. cols)`, finite numbers, into row `row` of `block`, which is laid out
/// for `format`: one with blocks in a container (nib_format_row_bytes). `importance[0 .. cols)` is
/// the mean square of each input, finite and >= 0; NULL: all weigh the same. Scales are such that
/// the container stores them exactly. Takes no memory. Returns false, and writes nothing, where the
/// format has no blocks or block->cols is not a multiple of them. Thread-safety: safe.
bool nib_block_quantize(const struct nib_format *format, const float *w, const float *importance,
                        uint64_t row, struct nib_row_block *block);

/// Makes matrices whose format has blocks: method round to nearest as nib_row_pack does, but by the
/// search where the range is NIB_QUANTIZE_RANGE_MSE; the others by the search, weighted where
/// job->stats is there. Errors: argument (rows of no whole blocks), memory.
extern const struct nib_quantizer nib_quantizer_blocks;

#endif
