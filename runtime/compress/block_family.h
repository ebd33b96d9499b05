/// The families of block formats: one block each, its scales as the container stores them.
#ifndef RUNTIME_COMPRESS_BLOCK_FAMILY_H
#define RUNTIME_COMPRESS_BLOCK_FAMILY_H

#include "runtime/compress/block_fit.h"

/// One block, or one super-block, taken apart.
struct nib_block_parts {
    uint8_t codes[256];
    float scale, min;
    int8_t sub_scale[16];
    uint8_t sub_min[16];
};

/// Quantizes the format's block_weights weights `w` of importance `h` > 0.
/// Thread-safety: safe.
typedef void nib_block_fn(const struct nib_format *format, const float *w, const float *h,
                          struct nib_block_parts *out);

/// q4_0, q5_0, q8_0, iq4_nl: a scale.
nib_block_fn nib_block_scale;
/// q4_1, q5_1: a scale and a minimum.
nib_block_fn nib_block_range;
/// mxfp4: a power of two.
nib_block_fn nib_block_power;
/// q3_k, q6_k, iq4_xs: groups with scales of their own in a super-block with one.
nib_block_fn nib_block_super_scale;
/// q2_k, q4_k, q5_k: the same with minima.
nib_block_fn nib_block_super_range;

/// Returns v as binary16 stores it, infinity made the greatest number.
float nib_block_f16(float v);

#endif
