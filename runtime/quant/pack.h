/// Weights and canonical rows into the container's own blocks.
#ifndef RUNTIME_QUANT_PACK_H
#define RUNTIME_QUANT_PACK_H

#include "runtime/quant/row_reader.h"

/// Quantizes the row `in[0 .. cols)` by rounding to nearest into `raw`, nib_format_row_bytes bytes.
/// Returns false, and writes nothing, where that function does.
///
/// f16, bf16, q4_0, q4_1, q5_0, q5_1 and q8_0 give the bytes of the gguf package's `quantize`,
/// mxfp4 as well where the package's logarithm is exact. The others are plain: each group's scale
/// is made of its largest weight (with minima: of its range, 0 included), the super-block's scale
/// of its groups' largest, and codes are the nearest to the weights under the scales as stored.
///
/// Weights should be finite and their scales within binary16's range; others give some blocks
/// without further meaning. Thread-safety: safe.
bool nib_row_pack(const struct nib_format *format, const float *in, uint64_t cols, uint8_t *raw);

/// Writes row `row` of `block` to `raw` in the container's own blocks, nib_format_row_bytes bytes:
/// the inverse of nib_row_unpack. Scales are rounded to the type that the format stores; bits of
/// codes, sub_scale and sub_min beyond the format's are dropped. The format has blocks, and
/// block->cols is a multiple of them. Thread-safety: safe.
void nib_row_store(const struct nib_format *format, const struct nib_row_block *block, uint64_t row,
                   uint8_t *raw);
/// Writes n numbers to `raw` as `format` stores them: f32, f16 or bf16.
void nib_floats_store(const struct nib_format *format, const float *in, uint64_t n, uint8_t *raw);

#endif
