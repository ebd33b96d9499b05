// 16-bit floats in integer code: packHalf2x16 leaves the rounding to the driver, and devices may
// flush denormals, which scales and caches hold.
#ifndef SHADERS_LIB_HALF_GLSL
#define SHADERS_LIB_HALF_GLSL

// Returns the value of the lower 16 bits, binary16; exact, denormals included.
float half_to_float(uint h)
{
    uint exponent = (h >> 10) & 31u, fraction = h & 1023u, sign = (h & 0x8000u) << 16;
    uint special = exponent == 31u ? 255u : exponent + 112u;
    float normal = uintBitsToFloat(sign | (special << 23) | (fraction << 13));
    float denormal = float(fraction) * 5.9604644775390625e-8; // 2^-24
    return exponent == 0u ? (sign != 0u ? -denormal : denormal) : normal;
}

// Rounds to binary16, to nearest, ties to even; overflow gives infinity.
uint half_from_float(float value)
{
    uint bits = floatBitsToUint(value);
    uint sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x47800000u)
        return sign | 0x7c00u;
    if (magnitude >= 0x38800000u) {
        uint rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
        return sign | (rounded >> 13);
    }
    uint exponent = magnitude >> 23;
    if (exponent < 102u)
        return sign;
    uint significand = (magnitude & 0x7fffffu) | 0x800000u;
    uint shift = 126u - exponent;
    uint odd = (significand >> shift) & 1u;
    return sign | ((significand + (1u << (shift - 1u)) - 1u + odd) >> shift);
}

#endif
