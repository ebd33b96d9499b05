#include "runtime/base/half.h"

uint16_t nib_f16_from_f32(float value)
{
    uint32_t bits = nib_f32_bits(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u)
        return (uint16_t)(sign | 0x7c00u); // 2^16

    if (magnitude >= 0x38800000u) { // 2^-14, binary16's least normal number
        // The exponent's bias falls by 112; a carry out of the significand raises the exponent, up
        // to infinity's.
        uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
        return (uint16_t)(sign | rounded >> 13);
    }

    // Denormal: a multiple of 2^-24; the value is significand * 2^(exponent - 150).
    uint32_t exponent = magnitude >> 23;
    if (exponent < 102)
        return (uint16_t)sign; // below half of 2^-24
    uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    uint32_t shift = 126 - exponent;
    uint32_t odd = significand >> shift & 1u;
    uint32_t rounded = (significand + (1u << (shift - 1)) - 1u + odd) >> shift;
    return (uint16_t)(sign | rounded);
}

uint16_t nib_bf16_from_f32(float value)
{
    uint32_t bits = nib_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
