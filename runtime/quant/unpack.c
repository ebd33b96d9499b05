// The container's own blocks, one function a format, after the gguf package's reference code.
// Offsets are bytes in a block; 16-bit fields are little-endian.
#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/quant/row_reader.h"

/// Where one block's parts go.
struct parts {
    uint8_t *codes;
    float *scale;
    float *min;
    int8_t *sub_scale;
    uint8_t *sub_min;
};

typedef void unpack_fn(const uint8_t *b, const struct parts *to);

static float load_f16(const uint8_t *b)
{
    return nib_f32_from_f16(nib_load_u16(b));
}

/// Splits n bytes into the numbers of their low and of their high nibbles.
static inline void split_nibbles(const uint8_t *restrict b, int n, uint8_t *restrict low,
                                 uint8_t *restrict high)
{
    for (int i = 0; i < n; i++) {
        low[i] = b[i] & 15;
        high[i] = b[i] >> 4;
    }
}

/// Adds bits [shift, shift + n) of 32 bytes to `codes`, moved left by `left`.
static inline void or_bits(const uint8_t *restrict b, int shift, int n, int left,
                           uint8_t *restrict codes)
{
    uint8_t mask = (uint8_t)((1 << n) - 1);
    for (int i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((b[i] >> shift & mask) << left);
}

/// Adds 16 to those of 32 codes whose bit in the 4 bytes at `b` is set.
static void or_fifth_bits(const uint8_t *b, uint8_t *codes)
{
    for (int i = 0; i < 4; i++) {
        // Byte k of `bits` keeps bit k alone; adding 127 carries it to the byte's bit 7.
        uint64_t bits = b[i] * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
        uint64_t ones = (bits + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
        nib_store_u64(codes + 8 * i, nib_load_u64(codes + 8 * i) | ones << 4);
    }
}

static void unpack_q4_0(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b);
    split_nibbles(b + 2, 16, to->codes, to->codes + 16);
}

static void unpack_q4_1(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b);
    *to->min = load_f16(b + 2);
    split_nibbles(b + 4, 16, to->codes, to->codes + 16);
}

static void unpack_q5_0(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b);
    split_nibbles(b + 6, 16, to->codes, to->codes + 16);
    or_fifth_bits(b + 2, to->codes);
}

static void unpack_q5_1(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b);
    *to->min = load_f16(b + 2);
    split_nibbles(b + 8, 16, to->codes, to->codes + 16);
    or_fifth_bits(b + 4, to->codes);
}

static void unpack_q8_0(const uint8_t *restrict b, const struct parts *to)
{
    uint8_t *restrict codes = to->codes;
    *to->scale = load_f16(b);
    for (int i = 0; i < 32; i++)
        codes[i] = b[2 + i] ^ 0x80; // int8 + 128
}

static void unpack_q2_k(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b + 80);
    *to->min = -load_f16(b + 82);
    for (int i = 0; i < 16; i++) {
        to->sub_scale[i] = (int8_t)(b[i] & 15);
        to->sub_min[i] = b[i] >> 4;
    }
    memset(to->codes, 0, 256);
    for (int g = 0; g < 8; g++)
        or_bits(b + 16 + g / 4 * 32, g % 4 * 2, 2, 0, to->codes + 32 * g);
}

static void unpack_q3_k(const uint8_t *b, const struct parts *to)
{
    const uint8_t *scales = b + 96;
    *to->scale = load_f16(b + 108);
    for (int i = 0; i < 16; i++) {
        int low = scales[i % 8] >> i / 8 * 4 & 15;
        int high = scales[8 + i % 4] >> i / 4 * 2 & 3;
        to->sub_scale[i] = (int8_t)((low | high << 4) - 32);
    }
    memset(to->codes, 0, 256);
    for (int g = 0; g < 8; g++) {
        or_bits(b + 32 + g / 4 * 32, g % 4 * 2, 2, 0, to->codes + 32 * g);
        or_bits(b, g, 1, 2, to->codes + 32 * g);
    }
}

/// The eight 6-bit scales and minima of q4_k and q5_k, in 12 bytes.
static void unpack_k_scales(const uint8_t *b, const struct parts *to)
{
    for (int i = 0; i < 4; i++) {
        to->sub_scale[i] = (int8_t)(b[i] & 63);
        to->sub_min[i] = b[4 + i] & 63;
        to->sub_scale[4 + i] = (int8_t)((b[8 + i] & 15) | (b[i] >> 6) << 4);
        to->sub_min[4 + i] = (uint8_t)(b[8 + i] >> 4 | (b[4 + i] >> 6) << 4);
    }
}

static void unpack_q4_k(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b);
    *to->min = -load_f16(b + 2);
    unpack_k_scales(b + 4, to);
    for (int i = 0; i < 4; i++)
        split_nibbles(b + 16 + 32 * i, 32, to->codes + 64 * i, to->codes + 64 * i + 32);
}

static void unpack_q5_k(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b);
    *to->min = -load_f16(b + 2);
    unpack_k_scales(b + 4, to);
    for (int i = 0; i < 4; i++)
        split_nibbles(b + 48 + 32 * i, 32, to->codes + 64 * i, to->codes + 64 * i + 32);
    for (int g = 0; g < 8; g++)
        or_bits(b + 16, g, 1, 4, to->codes + 32 * g);
}

static void unpack_q6_k(const uint8_t *b, const struct parts *to)
{
    *to->scale = load_f16(b + 208);
    memcpy(to->sub_scale, b + 192, 16);
    for (int i = 0; i < 2; i++)
        split_nibbles(b + 64 * i, 64, to->codes + 128 * i, to->codes + 128 * i + 64);
    for (int g = 0; g < 8; g++)
        or_bits(b + 128 + g / 4 * 32, g % 4 * 2, 2, 4, to->codes + 32 * g);
}

static void unpack_iq4_xs(const uint8_t *b, const struct parts *to)
{
    uint32_t high = nib_load_u16(b + 2);
    *to->scale = load_f16(b);
    for (int i = 0; i < 8; i++) {
        int low = b[4 + i / 2] >> i % 2 * 4 & 15;
        to->sub_scale[i] = (int8_t)((low | (int)(high >> 2 * i & 3) << 4) - 32);
        split_nibbles(b + 8 + 16 * i, 16, to->codes + 32 * i, to->codes + 32 * i + 16);
    }
}

static void unpack_mxfp4(const uint8_t *b, const struct parts *to)
{
    // 2^(e - 128), half of E8M0's value since the book holds doubled values. Below e = 2 that is a
    // denormal; 255, NaN by the specification, is 2^127 as in the gguf package.
    uint32_t e = b[0];
    *to->scale = nib_f32_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    split_nibbles(b + 1, 16, to->codes, to->codes + 16);
}

static unpack_fn *const unpackers[NIB_FORMAT_COUNT] = {
    [NIB_FORMAT_Q4_0] = unpack_q4_0,   [NIB_FORMAT_Q4_1] = unpack_q4_1,
    [NIB_FORMAT_Q5_0] = unpack_q5_0,   [NIB_FORMAT_Q5_1] = unpack_q5_1,
    [NIB_FORMAT_Q8_0] = unpack_q8_0,   [NIB_FORMAT_Q2_K] = unpack_q2_k,
    [NIB_FORMAT_Q3_K] = unpack_q3_k,   [NIB_FORMAT_Q4_K] = unpack_q4_k,
    [NIB_FORMAT_Q5_K] = unpack_q5_k,   [NIB_FORMAT_Q6_K] = unpack_q6_k,
    [NIB_FORMAT_IQ4_NL] = unpack_q4_0, [NIB_FORMAT_IQ4_XS] = unpack_iq4_xs,
    [NIB_FORMAT_MXFP4] = unpack_mxfp4,
};

static void unpack_floats(enum nib_format_id id, const uint8_t *restrict b, uint64_t n,
                          float *restrict out)
{
    if (id == NIB_FORMAT_F32) {
        for (uint64_t i = 0; i < n; i++)
            out[i] = nib_load_f32(b + 4 * i);
    } else if (id == NIB_FORMAT_F16) {
        for (uint64_t i = 0; i < n; i++)
            out[i] = load_f16(b + 2 * i);
    } else {
        for (uint64_t i = 0; i < n; i++)
            out[i] = nib_f32_from_bf16(nib_load_u16(b + 2 * i));
    }
}

/// Brings near what lies some rows on: the processor's own look-ahead ends with each small page of
/// a mapped file. The address need not be valid.
static inline void prefetch(const uint8_t *b)
{
#if defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)b + 2048));
#else
    (void)b;
#endif
}

void nib_row_unpack(const struct nib_format *format, const uint8_t *raw, uint64_t row,
                    struct nib_row_block *block)
{
    uint64_t cols = block->cols;
    if (cols == 0)
        return; // the block's pointers are NULL then
    if (format->code == NIB_CODE_FLOAT) {
        unpack_floats(format->id, raw, cols, block->values + row * cols);
        return;
    }
    // In each of these formats a block holds one scale: a group's, or a super-block's.
    unpack_fn *unpack = unpackers[format->id];
    uint64_t n_blocks = cols / format->block_weights;
    uint64_t subs = format->block_weights / format->group;
    struct parts to = {.codes = block->codes + row * cols, .scale = block->scale + row * n_blocks};
    if (block->min)
        to.min = block->min + row * n_blocks;
    if (block->sub_scale)
        to.sub_scale = block->sub_scale + row * n_blocks * subs;
    if (block->sub_min)
        to.sub_min = block->sub_min + row * n_blocks * subs;
    for (uint64_t i = 0; i < n_blocks; i++) {
        prefetch(raw + i * format->block_bytes);
        unpack(raw + i * format->block_bytes, &to);
        to.codes += format->block_weights;
        to.scale++;
        if (to.min)
            to.min++;
        if (to.sub_scale)
            to.sub_scale += subs;
        if (to.sub_min)
            to.sub_min += subs;
    }
}
