// Blocks of one group: q4_0, q5_0, q8_0, iq4_nl, and mxfp4. Where no error is finite (huge weights)
// the last scale that was tried holds, which reaches the largest weight.
#include "runtime/compress/block_family.h"

#include <math.h>
#include <string.h>

#include "runtime/base/half.h"

enum { GROUP = 32 };

float nib_block_f16(float v)
{
    const float greatest = 65504.0f;
    v = v < greatest ? v : greatest;
    v = v > -greatest ? v : -greatest;
    return nib_f32_from_f16(nib_f16_from_f32(v));
}

/// Returns the weight of the largest magnitude.
static float extreme(const float *w)
{
    float value = w[0];
    for (int i = 1; i < GROUP; i++)
        value = fabsf(w[i]) > fabsf(value) ? w[i] : value;
    return value;
}

void nib_block_scale(const struct nib_format *format, const float *w, const float *h,
                     struct nib_block_parts *out)
{
    const struct nib_fit fit = {w, h, GROUP};
    const struct nib_levels levels = nib_levels_of(format);
    // With many levels the sums of the search are less exact than the differences it looks for;
    // the scales that rounding to nearest has are tried as well.
    const float edge = extreme(w);
    const float tries[] = {nib_fit_scale(&fit, &levels), edge / levels.low, edge / levels.high,
                           -edge / levels.high};
    float least = INFINITY;
    for (int i = 0; i < (int)(sizeof tries / sizeof tries[0]); i++) {
        float d = nib_block_f16(tries[i]);
        float error = nib_fit_scale_error(&fit, &levels, d, NULL);
        if (error < least || !(least < INFINITY)) {
            least = error;
            out->scale = d;
        }
    }
    nib_fit_scale_codes(&fit, &levels, out->scale, out->codes);
}

/// Writes the codes nearest to w / d, and returns the error.
static float power_codes(const struct nib_format *format, const float *w, const float *h, float d,
                         uint8_t *codes)
{
    float error = 0.0f;
    for (int i = 0; i < GROUP; i++) {
        float least = INFINITY;
        for (int code = 0; code < 16; code++) {
            float off = fabsf(d * format->book[code] - w[i]);
            if (off < least) {
                least = off;
                codes[i] = (uint8_t)code;
            }
        }
        error += h[i] * least * least;
    }
    return error;
}

void nib_block_power(const struct nib_format *format, const float *w, const float *h,
                     struct nib_block_parts *out)
{
    // The book's largest level is 12: with scales from a quarter to twice the one that reaches the
    // largest weight, all that can be best are tried.
    int exponent;
    frexpf(fabsf(extreme(w)) / 12.0f, &exponent);
    float least = INFINITY;
    for (int e = exponent - 2; e <= exponent + 1; e++) {
        uint8_t codes[GROUP];
        float d = ldexpf(1.0f, e < -128 ? -128 : e > 126 ? 126 : e);
        float error = power_codes(format, w, h, d, codes);
        if (error < least || !(least < INFINITY)) {
            least = error;
            out->scale = d;
            memcpy(out->codes, codes, GROUP);
        }
    }
}
