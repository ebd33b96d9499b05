#version 450
// Ops on numbers one by one: gated activations, scaled sums, scaling, soft caps.
#extension GL_GOOGLE_include_directive : require
#include "shared/kernels.h"

layout(constant_id = 0) const uint OP = NIB_ELEMENTWISE_SILU;
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_elementwise_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer Up {
    float up[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) buffer Out {
    float y[];
};

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

float activate(float v)
{
    if (OP == NIB_ELEMENTWISE_SILU)
        return v / (1.0 + exp(min(-v, 80.0)));
    if (OP == NIB_ELEMENTWISE_GELU_TANH)
        return 0.5 * v * (1.0 + tanh_bounded(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
    return 0.5 * v * (1.0 + erf(v * 0.70710678118654752440));
}

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (i >= p.width)
        return;
    uint out_at = row * p.out_stride + p.out_at + i;
    uint in_at = row * p.in_stride + p.in_at + i;
    if (OP <= NIB_ELEMENTWISE_GELU)
        y[out_at] = activate(x[in_at]) * up[row * p.up_stride + p.up_at + i];
    else if (OP == NIB_ELEMENTWISE_ADD)
        y[out_at] += p.factor * x[in_at];
    else if (OP == NIB_ELEMENTWISE_SCALE)
        y[out_at] *= p.factor;
    else
        y[out_at] = p.factor * tanh_bounded(y[out_at] / p.factor);
}
