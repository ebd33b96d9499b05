// The inverse of unpack.c, whose layouts it follows. Offsets are bytes in a block.
#include "runtime/quant/pack.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"

/// One block's parts.
struct parts {
    const uint8_t *codes;
    float scale;
    float min;
    const int8_t *sub_scale;
    const uint8_t *sub_min;
};

typedef void store_fn(const struct parts *from, uint8_t *b);

static void store_f16(uint8_t *b, float v)
{
    nib_store_u16(b, nib_f16_from_f32(v));
}

/// Stores the low nibbles of 2n codes: the first n in the low halves of n bytes, the others in the
/// high ones.
static void join_nibbles(const uint8_t *codes, int n, uint8_t *b)
{
    for (int i = 0; i < n; i++)
        b[i] = (uint8_t)((codes[i] & 15) | (codes[n + i] & 15) << 4);
}

static void store_fifth_bits(const uint8_t *codes, uint8_t *b)
{
    uint32_t high = 0;
    for (int i = 0; i < 32; i++)
        high |= (uint32_t)(codes[i] >> 4 & 1) << i;
    nib_store_u32(b, high);
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

/// q4_0 and iq4_nl.
static void store_q4_0(const struct parts *from, uint8_t *b)
{
    store_f16(b, from->scale);
    join_nibbles(from->codes, 16, b + 2);
}

static void store_q4_1(const struct parts *from, uint8_t *b)
{
    store_f16(b, from->scale);
    store_f16(b + 2, from->min);
    join_nibbles(from->codes, 16, b + 4);
}

static void store_q5_0(const struct parts *from, uint8_t *b)
{
    store_f16(b, from->scale);
    store_fifth_bits(from->codes, b + 2);
    join_nibbles(from->codes, 16, b + 6);
}

static void store_q5_1(const struct parts *from, uint8_t *b)
{
    store_f16(b, from->scale);
    store_f16(b + 2, from->min);
    store_fifth_bits(from->codes, b + 4);
    join_nibbles(from->codes, 16, b + 8);
}

static void store_q8_0(const struct parts *from, uint8_t *b)
{
    store_f16(b, from->scale);
    for (int i = 0; i < 32; i++)
        b[2 + i] = from->codes[i] ^ 0x80; // code − 128 as int8
}

static void store_q2_k(const struct parts *from, uint8_t *b)
{
    for (int i = 0; i < 16; i++)
        b[i] = (uint8_t)((from->sub_scale[i] & 15) | (from->sub_min[i] & 15) << 4);
    store_bits(from->codes, 0, 2, b + 16);
    store_f16(b + 80, from->scale);
    store_f16(b + 82, -from->min);
}

static void store_q3_k(const struct parts *from, uint8_t *b)
{
    store_bits(from->codes, 2, 1, b);
    store_bits(from->codes, 0, 2, b + 32);
    memset(b + 96, 0, 12);
    for (int i = 0; i < 16; i++) {
        int scale = from->sub_scale[i] + 32;
        b[96 + i % 8] |= (uint8_t)((scale & 15) << i / 8 * 4);
        b[104 + i % 4] |= (uint8_t)((scale >> 4 & 3) << i / 4 * 2);
    }
    store_f16(b + 108, from->scale);
}

/// What q4_k and q5_k begin with: 16 bytes.
static void store_k_scales(const struct parts *from, uint8_t *b)
{
    store_f16(b, from->scale);
    store_f16(b + 2, -from->min);
    for (int i = 0; i < 4; i++) {
        int scale = from->sub_scale[4 + i], min = from->sub_min[4 + i];
        b[4 + i] = (uint8_t)((from->sub_scale[i] & 63) | (scale >> 4 & 3) << 6);
        b[8 + i] = (uint8_t)((from->sub_min[i] & 63) | (min >> 4 & 3) << 6);
        b[12 + i] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}

static void store_q4_k(const struct parts *from, uint8_t *b)
{
    store_k_scales(from, b);
    for (int i = 0; i < 4; i++)
        join_nibbles(from->codes + 64 * i, 32, b + 16 + 32 * i);
}

static void store_q5_k(const struct parts *from, uint8_t *b)
{
    store_k_scales(from, b);
    store_bits(from->codes, 4, 1, b + 16);
    for (int i = 0; i < 4; i++)
        join_nibbles(from->codes + 64 * i, 32, b + 48 + 32 * i);
}

static void store_q6_k(const struct parts *from, uint8_t *b)
{
    for (int i = 0; i < 2; i++)
        join_nibbles(from->codes + 128 * i, 64, b + 64 * i);
    store_bits(from->codes, 4, 2, b + 128);
    memcpy(b + 192, from->sub_scale, 16);
    store_f16(b + 208, from->scale);
}

static void store_iq4_xs(const struct parts *from, uint8_t *b)
{
    uint32_t high = 0;
    memset(b + 4, 0, 4);
    for (int i = 0; i < 8; i++) {
        int scale = from->sub_scale[i] + 32;
        b[4 + i / 2] |= (uint8_t)((scale & 15) << i % 2 * 4);
        high |= (uint32_t)(scale >> 4 & 3) << 2 * i;
        join_nibbles(from->codes + 32 * i, 16, b + 8 + 16 * i);
    }
    store_f16(b, from->scale);
    nib_store_u16(b + 2, (uint16_t)high);
}

static void store_mxfp4(const struct parts *from, uint8_t *b)
{
    // The scale is 2^(e − 128): a denormal below e = 2.
    uint32_t bits = nib_f32_bits(from->scale);
    uint32_t exponent = bits >> 23 & 255;
    b[0] = (uint8_t)(exponent > 0 ? exponent + 1 : bits >> 22 & 1);
    join_nibbles(from->codes, 16, b + 1);
}

static store_fn *const stores[NIB_FORMAT_COUNT] = {
    [NIB_FORMAT_Q4_0] = store_q4_0,   [NIB_FORMAT_Q4_1] = store_q4_1,
    [NIB_FORMAT_Q5_0] = store_q5_0,   [NIB_FORMAT_Q5_1] = store_q5_1,
    [NIB_FORMAT_Q8_0] = store_q8_0,   [NIB_FORMAT_Q2_K] = store_q2_k,
    [NIB_FORMAT_Q3_K] = store_q3_k,   [NIB_FORMAT_Q4_K] = store_q4_k,
    [NIB_FORMAT_Q5_K] = store_q5_k,   [NIB_FORMAT_Q6_K] = store_q6_k,
    [NIB_FORMAT_IQ4_NL] = store_q4_0, [NIB_FORMAT_IQ4_XS] = store_iq4_xs,
    [NIB_FORMAT_MXFP4] = store_mxfp4,
};

void nib_floats_store(const struct nib_format *format, const float *in, uint64_t n, uint8_t *raw)
{
    switch (format->id) {
    case NIB_FORMAT_F32:
        for (uint64_t i = 0; i < n; i++)
            nib_store_u32(raw + 4 * i, nib_f32_bits(in[i]));
        break;
    case NIB_FORMAT_F16:
        for (uint64_t i = 0; i < n; i++)
            store_f16(raw + 2 * i, in[i]);
        break;
    default:
        for (uint64_t i = 0; i < n; i++)
            nib_store_u16(raw + 2 * i, nib_bf16_from_f32(in[i]));
        break;
    }
}

void nib_row_store(const struct nib_format *format, const struct nib_row_block *block, uint64_t row,
                   uint8_t *raw)
{
    uint64_t cols = block->cols;
    if (format->code == NIB_CODE_FLOAT) {
        if (cols > 0)
            nib_floats_store(format, block->values + row * cols, cols, raw);
        return;
    }
    uint64_t n_blocks = cols / format->block_weights;
    uint64_t subs = format->block_weights / format->group;
    for (uint64_t i = 0; i < n_blocks; i++) {
        uint64_t at = row * n_blocks + i;
        const struct parts from = {
            .codes = block->codes + row * cols + i * format->block_weights,
            .scale = block->scale[at],
            .min = block->min ? block->min[at] : 0.0f,
            .sub_scale = block->sub_scale ? block->sub_scale + at * subs : NULL,
            .sub_min = block->sub_min ? block->sub_min + at * subs : NULL,
        };
        stores[format->id](&from, raw + i * format->block_bytes);
    }
}
