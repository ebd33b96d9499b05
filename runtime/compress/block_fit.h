/// Scales of one group of weights by least squares: what the quantizers of block formats share.
///
/// The error of a group is E = Σ h_i (w_i − ŵ_i)², where h_i, the importance, is the mean square of
/// the input that weight i is multiplied with: to first order, with inputs uncorrelated, E is what
/// the matmul's output loses. For given codes E is a quadratic form in the scale (and minimum), so
/// the best ones solve a linear equation; for given scales the best code is the nearest. The
/// searches below go from some starting scales back and forth between the two, and keep the best
/// end. Sums are made in lanes, so that compilers vectorise them and results are the same
/// everywhere.
///
/// Thread-safety: safe.
#ifndef RUNTIME_COMPRESS_BLOCK_FIT_H
#define RUNTIME_COMPRESS_BLOCK_FIT_H

#include "runtime/quant/format.h"

enum { NIB_FIT_LANES = 8, NIB_FIT_MAX_WEIGHTS = 32 };

/// A group: n weights, a multiple of NIB_FIT_LANES, at most NIB_FIT_MAX_WEIGHTS.
struct nib_fit {
    const float *w;
    const float *h; ///< importance, >= 0, not all 0
    int n;
};

/// What codes stand for before they are scaled: the integers from `low` to `high`, or a book.
struct nib_levels {
    float low, high;
    int32_t center;     ///< code = level + center
    const float *book;  ///< 16 ascending levels, or NULL
    float middle[15];   ///< between two levels of the book
    float distance[15]; ///< from one level of the book to the next
};
/// Describes the levels of a format without minima, all but mxfp4.
struct nib_levels nib_levels_of(const struct nib_format *format);

/// Finds the scale d, of either sign, with which ŵ = d · level(code) has the least error. 0 where
/// all weights are 0.
float nib_fit_scale(const struct nib_fit *fit, const struct nib_levels *levels);
/// Returns the error with scale d and the nearest codes, and adds the sums Σ h w l and Σ h l² to
/// `sums` (may be NULL), of which the best scale for these codes is the quotient.
float nib_fit_scale_error(const struct nib_fit *fit, const struct nib_levels *levels, float d,
                          double sums[2]);
/// Writes the codes nearest to the weights.
void nib_fit_scale_codes(const struct nib_fit *fit, const struct nib_levels *levels, float d,
                         uint8_t *codes);

/// ŵ = scale · code + min with codes 0 .. high.
struct nib_range {
    float scale;
    float min;
};
/// Finds the range with the least error among those with min <= `highest_min`; scale >= 0.
struct nib_range nib_fit_range(const struct nib_fit *fit, int high, float highest_min);
/// Finds the best minimum for the range's scale, from the range's own on.
float nib_fit_range_min(const struct nib_fit *fit, int high, struct nib_range range);
/// Returns the error with the nearest codes.
float nib_fit_range_error(const struct nib_fit *fit, int high, struct nib_range range);
/// The same, and gives what the best range for these codes follows from.
struct nib_range_sums {
    float h, w, q, qq, wq; ///< Σ h, Σ h w, Σ h q, Σ h q², Σ h w q
};
void nib_fit_range_sums(const struct nib_fit *fit, int high, struct nib_range range,
                        struct nib_range_sums *out_sums);
/// Writes the codes nearest to the weights.
void nib_fit_range_codes(const struct nib_fit *fit, int high, struct nib_range range,
                         uint8_t *codes);

#endif
