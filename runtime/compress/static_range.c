#include "runtime/compress/static_range.h"

#include "runtime/base/half.h"
#include <math.h>

/// Ranges that the search tries: from the largest magnitude down, eight an octave.
#define N_RANGES 80
#define LAST_CODE 127.5f

/// Returns the middle of the magnitudes of a class.
static float class_value(uint32_t class)
{
    return nib_f32_from_bits((class << NIB_MAGNITUDE_SHIFT) | 1u << (NIB_MAGNITUDE_SHIFT - 1));
}

/// Returns Σ (x − Q(x))²: numbers below half a step become 0, those in the range have a uniform
/// error, and those beyond are cut off.
static double range_error(const uint64_t *magnitudes, float scale)
{
    const double noise = (double)scale * (double)scale / 12;
    double error = 0;
    for (uint32_t class = 0; class < NIB_MAGNITUDE_CLASSES; class ++) {
        if (magnitudes[class] == 0)
            continue;
        const double x = (double)class_value(class), beyond = x - (double)(LAST_CODE * scale);
        const double own = beyond > 0 ? beyond * beyond : x < (double)scale / 2 ? x * x : noise;
        error += (double)magnitudes[class] * own;
    }
    return error;
}

/// Returns the magnitude that `percentile` percent do not exceed.
static float magnitude_at(const uint64_t *magnitudes, float percentile)
{
    uint64_t total = 0, seen = 0;
    for (uint32_t class = 0; class < NIB_MAGNITUDE_CLASSES; class ++)
        total += magnitudes[class];
    for (uint32_t class = 0; class < NIB_MAGNITUDE_CLASSES; class ++) {
        seen += magnitudes[class];
        if ((double)seen >= (double)total * (double)percentile / 100)
            return class_value(class);
    }
    return 0;
}

float nib_static_scale(const struct nib_stats_sum *sum, enum nib_quantize_range range,
                       float percentile)
{
    float most = 0;
    for (uint64_t i = 0; i < sum->stats.cols; i++)
        most = fmaxf(most, sum->stats.max_abs[i]);
    if (range == NIB_QUANTIZE_RANGE_PERCENTILE)
        return fminf(most, magnitude_at(sum->magnitudes, percentile)) / LAST_CODE;
    float best = most / LAST_CODE;
    if (range == NIB_QUANTIZE_RANGE_MINMAX)
        return best;
    double least = INFINITY;
    for (int i = 0; i < N_RANGES; i++) {
        const float scale = most / LAST_CODE * exp2f(-(float)i / 8);
        const double error = range_error(sum->magnitudes, scale);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}
