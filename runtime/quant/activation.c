#include "runtime/quant/activation.h"

#include <math.h>

#include "runtime/base/half.h"
#include "runtime/quant/format.h"

/// Below this maximum a group counts as zero: its scale and the scale's inverse stay normal numbers
/// above it, which devices that flush denormals need.
#define LEAST_MAXIMUM 0x1p-100f

/// Rounds to the nearest integer, ties to even, after clamping to [low, high] within ±2^21; NaN
/// gives 0. The sum's last place is 1, so the addition rounds, and its low bits hold the integer.
static inline int16_t round_wide_code(float v, float low, float high)
{
    v = isnan(v) ? 0.0f : v;
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (int16_t)(nib_f32_bits(v + 0x1.8p23f) - nib_f32_bits(0x1.8p23f));
}

static inline int8_t round_code(float v, float low, float high)
{
    return (int8_t)round_wide_code(v, low, high);
}

/// Returns max|x|, NaN left out.
static float largest_magnitude(const float *x, uint64_t n)
{
    float largest = 0.0f;
    for (uint64_t i = 0; i < n; i++) {
        float magnitude = fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

/// The scale of a group of n values and its inverse.
struct group_scale {
    float scale;
    float inverse;
};

static struct group_scale find_scale(const float *x, uint64_t n, float most)
{
    float largest = largest_magnitude(x, n);
    bool zero = largest < LEAST_MAXIMUM;
    return (struct group_scale){
        .scale = zero ? 0.0f : largest / most,
        .inverse = zero ? 0.0f : most / largest,
    };
}

void nib_activation_quantize_groups(const float *x, uint64_t cols, int8_t *codes, float *scale,
                                    int32_t *sum)
{
    for (uint64_t first = 0; first < cols; first += NIB_ACTIVATION_GROUP) {
        uint64_t n = cols - first < NIB_ACTIVATION_GROUP ? cols - first : NIB_ACTIVATION_GROUP;
        uint64_t group = first / NIB_ACTIVATION_GROUP;
        struct group_scale s = find_scale(x + first, n, 127.0f);
        int32_t total = 0;
        for (uint64_t i = first; i < first + n; i++) {
            codes[i] = round_code(x[i] * s.inverse, -127.0f, 127.0f);
            total += codes[i];
        }
        scale[group] = s.scale;
        sum[group] = total;
    }
}

void nib_activation_quantize_groups_16(const float *x, uint64_t cols, int16_t *codes, float *scale,
                                       int32_t *sum)
{
    const float most = NIB_ACTIVATION_MAX_16;
    for (uint64_t first = 0; first < cols; first += NIB_ACTIVATION_GROUP) {
        uint64_t n = cols - first < NIB_ACTIVATION_GROUP ? cols - first : NIB_ACTIVATION_GROUP;
        uint64_t group = first / NIB_ACTIVATION_GROUP;
        struct group_scale s = find_scale(x + first, n, most);
        int32_t total = 0;
        for (uint64_t i = first; i < first + n; i++) {
            codes[i] = round_wide_code(x[i] * s.inverse, -most, most);
            total += codes[i];
        }
        scale[group] = s.scale;
        sum[group] = total;
    }
}

void nib_activation_quantize_static(const float *x, uint64_t cols, float scale, int8_t *codes)
{
    for (uint64_t i = 0; i < cols; i++)
        codes[i] = round_code(x[i] / scale, -128.0f, 127.0f);
}

float nib_activation_quantize_token(const float *x, uint64_t cols, int8_t *codes)
{
    float scale = largest_magnitude(x, cols) / 127.5f;
    nib_activation_quantize_static(x, cols, scale, codes);
    return scale;
}

float nib_activation_quantize_regular(const float *x, uint64_t cols, float threshold, int8_t *codes,
                                      uint8_t *outlier)
{
    float limit = threshold > 0.0f ? threshold : INFINITY;
    float largest = 0.0f;
    for (uint64_t i = 0; i < cols; i++) {
        float magnitude = fabsf(x[i]);
        if (magnitude >= limit)
            outlier[i] = 1;
        else if (magnitude > largest)
            largest = magnitude;
    }
    float scale = largest / 127.0f;
    for (uint64_t i = 0; i < cols; i++) {
        float regular = fabsf(x[i]) < limit ? x[i] : 0.0f;
        codes[i] = round_code(regular / scale, -127.0f, 127.0f);
    }
    return scale;
}
