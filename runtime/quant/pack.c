// The inverse of unpack.c, whose layouts it follows. Offsets are bytes in a block.
#include "runtime/quant/pack.h"

#include <math.h>

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"

typedef void pack_fn(const struct nib_format *format, const float *in, uint8_t *b);

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

/// Stores the low nibbles of 2n codes: the first n in the low halves of n bytes, the others in the
/// high ones.
static void join_nibbles(const uint8_t *codes, int n, uint8_t *b)
{
    for (int i = 0; i < n; i++)
        b[i] = (uint8_t)((codes[i] & 15) | (codes[n + i] & 15) << 4);
}

static uint16_t store_f16(uint8_t *b, float v)
{
    uint16_t half = nib_f16_from_f32(v);
    nib_store_u16(b, half);
    return half;
}

/// q4_0 and q5_0: the extreme becomes code 0, that is −center.
static void pack_centered(const struct nib_format *format, const float *in, uint8_t *b)
{
    uint8_t codes[32];
    float d = extreme(in, 32) / (float)-format->center;
    float id = inverse(d);
    for (int i = 0; i < 32; i++) {
        float shift = (float)format->center + 0.5f;
        codes[i] = to_code(in[i] * id + shift, 2 * format->center - 1);
    }
    store_f16(b, d);
    if (format->bits == 4) {
        join_nibbles(codes, 16, b + 2);
        return;
    }
    uint32_t high = 0;
    for (int i = 0; i < 32; i++)
        high |= (uint32_t)(codes[i] >> 4) << i;
    nib_store_u32(b + 2, high);
    join_nibbles(codes, 16, b + 6);
}

/// q4_1 and q5_1: the smallest becomes code 0, the largest the last code.
static void pack_range(const struct nib_format *format, const float *in, uint8_t *b)
{
    uint8_t codes[32];
    int high_code = (1 << format->bits) - 1;
    float low, high;
    range(in, 32, &low, &high);
    float d = (high - low) / (float)high_code;
    float id = inverse(d);
    for (int i = 0; i < 32; i++)
        codes[i] = to_code((in[i] - low) * id + 0.5f, high_code);
    store_f16(b, d);
    store_f16(b + 2, low);
    if (format->bits == 4) {
        join_nibbles(codes, 16, b + 4);
        return;
    }
    uint32_t fifth = 0;
    for (int i = 0; i < 32; i++)
        fifth |= (uint32_t)(codes[i] >> 4) << i;
    nib_store_u32(b + 4, fifth);
    join_nibbles(codes, 16, b + 8);
}

static void pack_q8_0(const struct nib_format *format, const float *in, uint8_t *b)
{
    (void)format;
    float d = fabsf(extreme(in, 32)) / 127.0f;
    float id = inverse(d);
    store_f16(b, d);
    for (int i = 0; i < 32; i++) {
        // Halves are rounded away from zero.
        float v = in[i] * id;
        uint8_t magnitude = to_code(roundf(fabsf(v)), 127);
        b[2 + i] = (uint8_t)(v < 0.0f ? -magnitude : magnitude);
    }
}

static void pack_iq4_nl(const struct nib_format *format, const float *in, uint8_t *b)
{
    uint8_t codes[32];
    float d = nib_f32_from_f16(store_f16(b, extreme(in, 32) / format->book[0]));
    for (int i = 0; i < 32; i++)
        codes[i] = nearest_in_book(format->book, d, in[i]);
    join_nibbles(codes, 16, b + 2);
}

static void pack_mxfp4(const struct nib_format *format, const float *in, uint8_t *b)
{
    uint8_t codes[32];
    // The largest magnitude's exponent less E2M1's largest, 2, both with a bias of 127; the scale
    // is halved since the book's values are doubled.
    uint32_t exponent = nib_f32_bits(fabsf(extreme(in, 32))) >> 23;
    uint32_t e = exponent > 2 ? exponent - 2 : 0;
    float d = nib_f32_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    for (int i = 0; i < 32; i++)
        codes[i] = nearest_in_book(format->book, d, in[i]);
    b[0] = (uint8_t)e;
    join_nibbles(codes, 16, b + 1);
}

/// A super-block taken apart.
struct super {
    uint8_t codes[256];
    int8_t sub_scale[16];
    uint8_t sub_min[16];
    uint16_t d, dmin; ///< binary16
};

/// Formats with minima: group scales and minima in 0 .. max_sub.
static void quantize_range(const struct nib_format *format, const float *in, int max_sub,
                           struct super *to)
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
    to->d = nib_f16_from_f32(largest_scale / (float)max_sub);
    to->dmin = nib_f16_from_f32(largest_min / (float)max_sub);
    float d = nib_f32_from_f16(to->d), dmin = nib_f32_from_f16(to->dmin);
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
static void quantize_signed(const struct nib_format *format, const float *in, int max_sub,
                            struct super *to)
{
    int group = (int)format->group, n_groups = 256 / group, high_code = (1 << format->bits) - 1;
    float first = format->book ? format->book[0] : (float)-format->center;
    float scale[16] = {0};
    for (int g = 0; g < n_groups; g++)
        scale[g] = extreme(in + g * group, group) / first;
    to->d = nib_f16_from_f32(extreme(scale, n_groups) / (float)(-max_sub - 1));
    float d = nib_f32_from_f16(to->d);
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

/// Stores bits [from, from + bits) of 256 codes as `unpack` finds them: bytes 32 apart every
/// 8 / bits groups of 32.
static void store_bits(const uint8_t *codes, int from, int bits, uint8_t *b)
{
    int per_byte = 8 / bits;
    memset(b, 0, (size_t)(32 * bits));
    for (int i = 0; i < 256; i++) {
        int g = i / 32;
        int value = codes[i] >> from & ((1 << bits) - 1);
        b[g / per_byte * 32 + i % 32] |= (uint8_t)(value << g % per_byte * bits);
    }
}

static void pack_q2_k(const struct nib_format *format, const float *in, uint8_t *b)
{
    struct super s;
    quantize_range(format, in, 15, &s);
    for (int i = 0; i < 16; i++)
        b[i] = (uint8_t)(s.sub_scale[i] | s.sub_min[i] << 4);
    store_bits(s.codes, 0, 2, b + 16);
    nib_store_u16(b + 80, s.d);
    nib_store_u16(b + 82, s.dmin);
}

static void pack_q3_k(const struct nib_format *format, const float *in, uint8_t *b)
{
    struct super s;
    quantize_signed(format, in, 31, &s);
    store_bits(s.codes, 2, 1, b);
    store_bits(s.codes, 0, 2, b + 32);
    memset(b + 96, 0, 12);
    for (int i = 0; i < 16; i++) {
        int scale = s.sub_scale[i] + 32;
        b[96 + i % 8] |= (uint8_t)((scale & 15) << i / 8 * 4);
        b[104 + i % 4] |= (uint8_t)(scale >> 4 << i / 4 * 2);
    }
    nib_store_u16(b + 108, s.d);
}

/// q4_k and q5_k.
static void pack_q45_k(const struct nib_format *format, const float *in, uint8_t *b)
{
    struct super s;
    quantize_range(format, in, 63, &s);
    nib_store_u16(b, s.d);
    nib_store_u16(b + 2, s.dmin);
    for (int i = 0; i < 4; i++) {
        int scale = s.sub_scale[4 + i], min = s.sub_min[4 + i];
        b[4 + i] = (uint8_t)(s.sub_scale[i] | scale >> 4 << 6);
        b[8 + i] = (uint8_t)(s.sub_min[i] | min >> 4 << 6);
        b[12 + i] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
    uint8_t *low = b + 16;
    if (format->bits == 5) {
        store_bits(s.codes, 4, 1, low);
        low += 32;
    }
    for (int i = 0; i < 4; i++)
        join_nibbles(s.codes + 64 * i, 32, low + 32 * i);
}

static void pack_q6_k(const struct nib_format *format, const float *in, uint8_t *b)
{
    struct super s;
    quantize_signed(format, in, 127, &s);
    for (int i = 0; i < 2; i++)
        join_nibbles(s.codes + 128 * i, 64, b + 64 * i);
    store_bits(s.codes, 4, 2, b + 128);
    memcpy(b + 192, s.sub_scale, 16);
    nib_store_u16(b + 208, s.d);
}

static void pack_iq4_xs(const struct nib_format *format, const float *in, uint8_t *b)
{
    struct super s;
    quantize_signed(format, in, 31, &s);
    uint32_t high = 0;
    memset(b + 4, 0, 4);
    for (int i = 0; i < 8; i++) {
        int scale = s.sub_scale[i] + 32;
        b[4 + i / 2] |= (uint8_t)((scale & 15) << i % 2 * 4);
        high |= (uint32_t)(scale >> 4) << 2 * i;
        join_nibbles(s.codes + 32 * i, 16, b + 8 + 16 * i);
    }
    nib_store_u16(b, s.d);
    nib_store_u16(b + 2, (uint16_t)high);
}

static void pack_f32(const struct nib_format *format, const float *in, uint8_t *b)
{
    (void)format;
    nib_store_u32(b, nib_f32_bits(*in));
}

static void pack_f16(const struct nib_format *format, const float *in, uint8_t *b)
{
    (void)format;
    store_f16(b, *in);
}

static void pack_bf16(const struct nib_format *format, const float *in, uint8_t *b)
{
    (void)format;
    nib_store_u16(b, nib_bf16_from_f32(*in));
}

static pack_fn *const packers[NIB_FORMAT_COUNT] = {
    [NIB_FORMAT_F32] = pack_f32,       [NIB_FORMAT_F16] = pack_f16,
    [NIB_FORMAT_BF16] = pack_bf16,     [NIB_FORMAT_Q4_0] = pack_centered,
    [NIB_FORMAT_Q4_1] = pack_range,    [NIB_FORMAT_Q5_0] = pack_centered,
    [NIB_FORMAT_Q5_1] = pack_range,    [NIB_FORMAT_Q8_0] = pack_q8_0,
    [NIB_FORMAT_Q2_K] = pack_q2_k,     [NIB_FORMAT_Q3_K] = pack_q3_k,
    [NIB_FORMAT_Q4_K] = pack_q45_k,    [NIB_FORMAT_Q5_K] = pack_q45_k,
    [NIB_FORMAT_Q6_K] = pack_q6_k,     [NIB_FORMAT_IQ4_NL] = pack_iq4_nl,
    [NIB_FORMAT_IQ4_XS] = pack_iq4_xs, [NIB_FORMAT_MXFP4] = pack_mxfp4,
};

bool nib_row_pack(const struct nib_format *format, const float *in, uint64_t cols, uint8_t *raw)
{
    uint64_t row_bytes;
    if (!nib_format_row_bytes(format, cols, &row_bytes))
        return false;
    pack_fn *pack = packers[format->id];
    for (uint64_t i = 0; i < cols / format->block_weights; i++)
        pack(format, in + i * format->block_weights, raw + i * format->block_bytes);
    return true;
}
