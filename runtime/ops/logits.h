/// Arithmetic on one row of logits. NaN counts as minus infinity, plus infinity as FLT_MAX.
/// Everything is plain IEEE arithmetic in a fixed order, so that results are the same everywhere.
/// Thread-safety: safe.
#ifndef RUNTIME_OPS_LOGITS_H
#define RUNTIME_OPS_LOGITS_H

#include "runtime/base/half.h"
#include <nibble/session.h>

/// Returns e^x for x <= 0, within 2 ulp; 0 below -87. x = k ln 2 + r with ln 2 in two parts (Cody
/// and Waite 1980), then Taylor's series to r^7, whose remainder is below 2^-27, |r| <= 0.35.
/// Comparisons are made on bits, which leaves no branch, so loops over it vectorise.
static inline float nib_exp_negative(float x)
{
    // Below zero, floats are ordered as their bits are: smaller ones have larger bits.
    const uint32_t least = 0xc2ae0000u; // -87
    uint32_t bits = nib_f32_bits(x);
    uint32_t below = 0u - (uint32_t)(bits > least);
    float bounded = nib_f32_from_bits((bits & ~below) | (least & below));
    // Adding and taking away 1.5 · 2^23 rounds to the nearest integer.
    const float round = 12582912.0f;
    float k = (bounded * 1.44269504f + round) - round;
    float r = (bounded - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t power = (uint32_t)((int32_t)k + 127) << 23;
    return nib_f32_from_bits(nib_f32_bits(p * nib_f32_from_bits(power)) & ~below);
}

/// Returns `x` with NaN and the infinities replaced as said above, and -0 by 0. Without a branch,
/// too.
static inline float nib_logit_clean(float x)
{
    const uint32_t infinity = 0x7f800000u;
    uint32_t bits = nib_f32_bits(x);
    uint32_t nan = 0u - (uint32_t)((bits & 0x7fffffffu) > infinity);
    uint32_t minus_zero = 0u - (uint32_t)(bits == 0x80000000u);
    // The float below infinity is FLT_MAX.
    uint32_t finite = (bits - (uint32_t)(bits == infinity)) & ~minus_zero;
    return nib_f32_from_bits((finite & ~nan) | (0xff800000u & nan));
}

/// Returns an integer that orders cleaned logits as their values do.
static inline int32_t nib_logit_order(float x)
{
    uint32_t bits = nib_f32_bits(x);
    return (int32_t)(bits ^ ((0u - (bits >> 31)) & 0x7fffffffu));
}

/// Returns the position of the largest of `n` logits, the first of equal ones; n where all are
/// minus infinity.
uint32_t nib_logits_argmax(const float *logits, uint32_t n);

/// Returns ln Σ e^logit over `n` logits, of which `argmax` < n is a largest. Summed in double.
double nib_logits_log_sum(const float *logits, uint32_t n, uint32_t argmax);

/// Writes the `n_top` <= n most probable tokens, the largest first and equal ones by id, with
/// log-probability logit - log_sum.
void nib_logits_top(const float *logits, uint32_t n, double log_sum,
                    struct nib_token_logprob *out_top, uint32_t n_top);

#endif
