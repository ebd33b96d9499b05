// Division rounded as IEEE 754 has it; the operator may be off by 2.5 units in the last place,
// which moves codes that lie between two integers.
#ifndef SHADERS_LIB_DIVIDE_GLSL
#define SHADERS_LIB_DIVIDE_GLSL

// Returns a / b, rounded to nearest where the quotient is not within 2^-40 of the middle of two
// numbers, for finite numbers between 2^-80 and 2^80, else within what the operator allows.
float divide(float a, float b)
{
    float quotient = a / b;
    float size = max(abs(a), abs(b));
    if (!(size < 1.2e24 && min(abs(a), abs(b)) > 8.3e-25))
        return quotient;
    // The exact product of quotient and divisor, in two parts (Dekker 1971).
    precise float q = quotient * 4097.0, d = b * 4097.0;
    precise float q_high = q - (q - quotient), d_high = d - (d - b);
    precise float q_low = quotient - q_high, d_low = b - d_high;
    precise float product = quotient * b;
    precise float rest = ((q_high * d_high - product) + q_high * d_low + q_low * d_high) +
                         q_low * d_low;
    precise float remainder = (a - product) - rest;
    precise float result = quotient + remainder / b;
    return result;
}

#endif
