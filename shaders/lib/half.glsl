// 16-bit floats in integer code: packHalf2x16 leaves the rounding to the driver, and devices may
// flush denormals, which scales and caches hold.
#ifndef SHADERS_LIB_HALF_GLSL
#define SHADERS_LIB_HALF_GLSL

// All is computed and then selected: where branches stand, SwiftShader's compiler takes gigabytes
// for a few dozen of these.

// Returns the value of the lower 16 bits, binary16; exact, denormals included.
float half_to_float(uint h)
{
    uint exponent = (h >> 10) & 31u, fraction = h & 1023u, sign = (h & 0x8000u) << 16;
    uint special = exponent + 112u;
    special = exponent == 31u ? 255u : special;
    uint normal = (special << 23) | (fraction << 13);
    uint bits = floatBitsToUint(float(fraction) * 5.9604644775390625e-8); // a denormal: 2^-24
    bits = exponent == 0u ? bits : normal;
    return uintBitsToFloat(sign | bits);
}

// Rounds to binary16, to nearest, ties to even; overflow gives infinity.
uint half_from_float(float value)
{
    uint bits = floatBitsToUint(value);
    uint sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint rounded = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Of 2^-26 and less nothing is left.
    uint shift = 126u - clamp(magnitude >> 23, 101u, 112u);
    uint significand = (magnitude & 0x7fffffu) | 0x800000u;
    uint odd = (significand >> shift) & 1u;
    uint denormal = (significand + (1u << (shift - 1u)) - 1u + odd) >> shift;
    uint result = magnitude >= 0x38800000u ? rounded : denormal;
    result = magnitude >= 0x47800000u ? 0x7c00u : result;
    result = magnitude > 0x7f800000u ? 0x7e00u : result;
    return sign | result;
}

#endif
