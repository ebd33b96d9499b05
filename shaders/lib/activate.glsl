// The functions of gated activations.
#ifndef SHADERS_LIB_ACTIVATE_GLSL
#define SHADERS_LIB_ACTIVATE_GLSL

#include "../shared/kernels.h"

// Some drivers' tanh is inf / inf at large magnitudes.
float tanh_bounded(float v)
{
    return tanh(clamp(v, -12.0, 12.0));
}

// Abramowitz and Stegun 1964, formula 7.1.26: error at most 1.5e-7.
float erf(float v)
{
    float a = abs(v), t = 1.0 / (1.0 + 0.3275911 * a);
    float series = t * (0.254829592 +
                        t * (-0.284496736 +
                             t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    float result = 1.0 - series * exp(-a * a);
    return v < 0.0 ? -result : result;
}

// `op` is NIB_ELEMENTWISE_SILU or one of the functions behind it.
float activate(uint op, float v)
{
    if (op == NIB_ELEMENTWISE_SILU)
        return v / (1.0 + exp(min(-v, 80.0)));
    if (op == NIB_ELEMENTWISE_GELU_TANH)
        return 0.5 * v * (1.0 + tanh_bounded(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
    return 0.5 * v * (1.0 + erf(v * 0.70710678118654752440));
}

#endif
