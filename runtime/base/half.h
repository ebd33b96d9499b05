/// 16-bit floats: IEEE 754 binary16 ("f16") and bfloat16 ("bf16") to and from fp32, in plain
/// integer code that gives the same bits on every host; NaN stays NaN, denormals are kept.
#ifndef RUNTIME_BASE_HALF_H
#define RUNTIME_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float nib_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t nib_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float nib_f32_from_bf16(uint16_t h)
{
    return nib_f32_from_bits((uint32_t)h << 16);
}

/// Exact. Normal numbers are moved to fp32's exponent range by a multiplication with 2^112, which
/// also turns binary16's denormals into fp32's normal numbers; the loop-free form vectorises.
static inline float nib_f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
    uint32_t finite = nib_f32_bits(nib_f32_from_bits(magnitude) * 0x1p112f);
    uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0; // infinity or NaN
    return nib_f32_from_bits(sign | finite | special);
}

/// Rounds to nearest, ties to even; overflow gives infinity.
uint16_t nib_f16_from_f32(float value);
/// Rounds to nearest, ties to even; overflow gives infinity.
uint16_t nib_bf16_from_f32(float value);

#endif
