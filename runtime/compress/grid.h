/// Grids: the values that the codes of a group stand for, and finding the best one.
///
/// value(code) = scale · (code − center − zero) + min, codes from 0 to 2^bits − 1; zero is 0 but
/// for integer zero points, min is 0 but for minima.
#ifndef RUNTIME_COMPRESS_GRID_H
#define RUNTIME_COMPRESS_GRID_H

#include "runtime/quant/row_reader.h"
#include <nibble/quantize.h>

struct nib_grid {
    float scale; ///< as the format's scale type stores it
    float min;   ///< likewise
    int32_t zero;
};

/// How a grid is found.
struct nib_grid_rule {
    const struct nib_format *format; ///< uniform codes without super-blocks
    enum nib_quantize_range range;   ///< DEFAULT: min-max
    float percentile;
};

/// Finds the grid for the weights w[0 .. n).
/// - min-max: the range is that of the weights (symmetric: ± the largest magnitude, which lies
///   half a step beyond the last positive code), 0 always in it;
/// - percentile: magnitudes above the share `percentile` are cut off;
/// - MSE: of shrunken ranges, and zero points beside, the one with the least Σ importance · error²,
///   then its scale by least squares; `importance` NULL: all 1.
/// Thread-safety: safe.
void nib_grid_find(const struct nib_grid_rule *rule, const float *w, const float *importance,
                   uint64_t n, struct nib_grid *out_grid);

/// 1.5 · 2^23: adding it leaves no bit for a fraction.
#define NIB_ROUNDING_SHIFT 12582912.0f

/// Rounds to the nearest integer, ties to even; |x| < 2^22.
static inline float nib_round(float x)
{
    return (x + NIB_ROUNDING_SHIFT) - NIB_ROUNDING_SHIFT;
}

/// Returns the code nearest to `w`.
static inline uint8_t nib_grid_code(const struct nib_format *format, const struct nib_grid *grid,
                                    float w)
{
    const float high = (float)((1u << format->bits) - 1);
    float code = (w - grid->min) / grid->scale + (float)(format->center + grid->zero);
    code = code > 0 ? code : 0;
    return (uint8_t)nib_round(code < high ? code : high);
}

/// Returns what `code` stands for, the same bits as nib_row_dequantize.
static inline float nib_grid_value(const struct nib_format *format, const struct nib_grid *grid,
                                   uint8_t code)
{
    float value = grid->scale * (float)((int32_t)code - format->center - grid->zero);
    return format->zero == NIB_ZERO_MINIMUM ? value + grid->min : value;
}

/// Stores the grid of group `group` of row `row`.
void nib_grid_store(const struct nib_format *format, const struct nib_grid *grid, uint64_t row,
                    uint64_t group, struct nib_row_block *block);

#endif
