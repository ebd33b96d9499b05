// Rounding to nearest. Where bytes lie is left to nib_row_store.
#include "runtime/quant/pack.h"

#include <math.h>

#include "runtime/base/half.h"

/// One block taken apart.
struct block {
    uint8_t codes[256];
    float scale, min;
    int8_t sub_scale[16];
    uint8_t sub_min[16];
};

typedef void pack_fn(const struct nib_format *format, const float *in, struct block *to);

/// Returns v without its fraction, at least 0 and at most `high`; NaN gives 0.
static uint8_t to_code(float v, int high)
{
    if (!(v > 0.0f))
        return 0;
    return v >= (float)high ? (uint8_t)high : (uint8_t)v;
}

/// Returns 1 / v, or 0 for 0.
static float inverse(float v)
{
    return v == 0.0f ? 0.0f : 1.0f / v;
}

/// Returns the value of the largest magnitude, the first of several.
static float extreme(const float *in, int n)
{
    float value = in[0];
    for (int i = 1; i < n; i++) {
        if (fabsf(in[i]) > fabsf(value))
            value = in[i];
    }
    return value;
}

static void range(const float *in, int n, float *out_low, float *out_high)
{
    float low = in[0], high = in[0];
    for (int i = 1; i < n; i++) {
        low = in[i] < low ? in[i] : low;
        high = in[i] > high ? in[i] : high;
    }
    *out_low = low;
    *out_high = high;
}

/// Returns the index of the book's value nearest to v, the first of several.
static uint8_t nearest_in_book(const float *book, float scale, float v)
{
    uint8_t best = 0;
    float least = INFINITY;
    for (uint8_t i = 0; i < 16; i++) {
        float error = fabsf(scale * book[i] - v);
        if (error < least) {
            least = error;
            best = i;
        }
    }
    return best;
}

/// Returns v as binary16 stores it.
static float as_f16(float v)
{
    return nib_f32_from_f16(nib_f16_from_f32(v));
}

/// q4_0 and q5_0: the extreme becomes code 0, that is −center.
static void pack_centered(const struct nib_format *format, const float *in, struct block *to)
{
    float d = extreme(in, 32) / (float)-format->center;
    float id = inverse(d);
    for (int i = 0; i < 32; i++) {
        float shift = (float)format->center + 0.5f;
        to->codes[i] = to_code(in[i] * id + shift, 2 * format->center - 1);
    }
    to->scale = d;
}

/// q4_1 and q5_1: the smallest becomes code 0, the largest the last code.
static void pack_range(const struct nib_format *format, const float *in, struct block *to)
{
    int high_code = (1 << format->bits) - 1;
    float low, high;
    range(in, 32, &low, &high);
    float d = (high - low) / (float)high_code;
    float id = inverse(d);
    for (int i = 0; i < 32; i++)
        to->codes[i] = to_code((in[i] - low) * id + 0.5f, high_code);
    to->scale = d;
    to->min = low;
}

static void pack_q8_0(const struct nib_format *format, const float *in, struct block *to)
{
    float d = fabsf(extreme(in, 32)) / 127.0f;
    float id = inverse(d);
    for (int i = 0; i < 32; i++) {
        // Halves are rounded away from zero.
        float v = in[i] * id;
        int magnitude = to_code(roundf(fabsf(v)), 127);
        to->codes[i] = (uint8_t)(format->center + (v < 0.0f ? -magnitude : magnitude));
    }
    to->scale = d;
}

static void pack_iq4_nl(const struct nib_format *format, const float *in, struct block *to)
{
    to->scale = as_f16(extreme(in, 32) / format->book[0]);
    for (int i = 0; i < 32; i++)
        to->codes[i] = nearest_in_book(format->book, to->scale, in[i]);
}

static void pack_mxfp4(const struct nib_format *format, const float *in, struct block *to)
{
    // The largest magnitude's exponent less E2M1's largest, 2, both with a bias of 127; the scale
    // is halved since the book's values are doubled.
    uint32_t exponent = nib_f32_bits(fabsf(extreme(in, 32))) >> 23;
    uint32_t e = exponent > 2 ? exponent - 2 : 0;
    to->scale = nib_f32_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    for (int i = 0; i < 32; i++)
        to->codes[i] = nearest_in_book(format->book, to->scale, in[i]);
}

/// Formats with minima: group scales and minima in 0 .. max_sub.
static void pack_super_range(const struct nib_format *format, const float *in, int max_sub,
                             struct block *to)
{
    int group = (int)format->group, n_groups = 256 / group, high_code = (1 << format->bits) - 1;
    float scale[16], min[16], largest_scale = 0.0f, largest_min = 0.0f;
    for (int g = 0; g < n_groups; g++) {
        float low, high;
        range(in + g * group, group, &low, &high);
        low = low < 0.0f ? low : 0.0f;
        scale[g] = (high - low) / (float)high_code;
        min[g] = -low;
        largest_scale = scale[g] > largest_scale ? scale[g] : largest_scale;
        largest_min = min[g] > largest_min ? min[g] : largest_min;
    }
    float d = as_f16(largest_scale / (float)max_sub), dmin = as_f16(largest_min / (float)max_sub);
    to->scale = d;
    to->min = -dmin;
    for (int g = 0; g < n_groups; g++) {
        uint8_t sub_scale = to_code(scale[g] * inverse(d) + 0.5f, max_sub);
        to->sub_scale[g] = (int8_t)sub_scale;
        to->sub_min[g] = to_code(min[g] * inverse(dmin) + 0.5f, max_sub);
        float step = inverse(d * (float)sub_scale), low = dmin * (float)to->sub_min[g];
        for (int i = g * group; i < (g + 1) * group; i++)
            to->codes[i] = to_code((in[i] + low) * step + 0.5f, high_code);
    }
}

/// Formats without: group scales in −max_sub − 1 .. max_sub. A group's extreme becomes its first
/// code, which has the largest magnitude.
static void pack_super_signed(const struct nib_format *format, const float *in, int max_sub,
                              struct block *to)
{
    int group = (int)format->group, n_groups = 256 / group, high_code = (1 << format->bits) - 1;
    float first = format->book ? format->book[0] : (float)-format->center;
    float scale[16] = {0};
    for (int g = 0; g < n_groups; g++)
        scale[g] = extreme(in + g * group, group) / first;
    float d = as_f16(extreme(scale, n_groups) / (float)(-max_sub - 1));
    to->scale = d;
    for (int g = 0; g < n_groups; g++) {
        int above = max_sub + 1;
        float shifted = scale[g] * inverse(d) + (float)above + 0.5f;
        to->sub_scale[g] = (int8_t)(to_code(shifted, max_sub + above) - above);
        float step = d * (float)to->sub_scale[g];
        for (int i = g * group; i < (g + 1) * group; i++) {
            if (format->book)
                to->codes[i] = nearest_in_book(format->book, step, in[i]);
            else
                to->codes[i] = to_code(in[i] * inverse(step) + (0.5f - first), high_code);
        }
    }
}

static void pack_q2_k(const struct nib_format *format, const float *in, struct block *to)
{
    pack_super_range(format, in, 15, to);
}

static void pack_q3_k(const struct nib_format *format, const float *in, struct block *to)
{
    pack_super_signed(format, in, 31, to);
}

static void pack_q45_k(const struct nib_format *format, const float *in, struct block *to)
{
    pack_super_range(format, in, 63, to);
}

static void pack_q6_k(const struct nib_format *format, const float *in, struct block *to)
{
    pack_super_signed(format, in, 127, to);
}

static void pack_iq4_xs(const struct nib_format *format, const float *in, struct block *to)
{
    pack_super_signed(format, in, 31, to);
}

static pack_fn *const packers[NIB_FORMAT_COUNT] = {
    [NIB_FORMAT_Q4_0] = pack_centered, [NIB_FORMAT_Q4_1] = pack_range,
    [NIB_FORMAT_Q5_0] = pack_centered, [NIB_FORMAT_Q5_1] = pack_range,
    [NIB_FORMAT_Q8_0] = pack_q8_0,     [NIB_FORMAT_Q2_K] = pack_q2_k,
    [NIB_FORMAT_Q3_K] = pack_q3_k,     [NIB_FORMAT_Q4_K] = pack_q45_k,
    [NIB_FORMAT_Q5_K] = pack_q45_k,    [NIB_FORMAT_Q6_K] = pack_q6_k,
    [NIB_FORMAT_IQ4_NL] = pack_iq4_nl, [NIB_FORMAT_IQ4_XS] = pack_iq4_xs,
    [NIB_FORMAT_MXFP4] = pack_mxfp4,
};

bool nib_row_pack(const struct nib_format *format, const float *in, uint64_t cols, uint8_t *raw)
{
    uint64_t row_bytes;
    if (!nib_format_row_bytes(format, cols, &row_bytes))
        return false;
    if (format->code == NIB_CODE_FLOAT) {
        nib_floats_store(format, in, cols, raw);
        return true;
    }
    struct block to;
    const struct nib_row_block block = {
        .rows = 1,
        .cols = format->block_weights,
        .codes = to.codes,
        .scale = &to.scale,
        .min = &to.min,
        .sub_scale = to.sub_scale,
        .sub_min = to.sub_min,
    };
    for (uint64_t i = 0; i < cols / format->block_weights; i++) {
        packers[format->id](format, in + i * format->block_weights, &to);
        nib_row_store(format, &block, 0, raw + i * format->block_bytes);
    }
    return true;
}
