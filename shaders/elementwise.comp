#version 450
// Ops on numbers one by one: gated activations, scaled sums, scaling, soft caps.
#extension GL_GOOGLE_include_directive : require
#include "lib/activate.glsl"
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

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (i >= p.width)
        return;
    uint out_at = row * p.out_stride + p.out_at + i;
    uint in_at = row * p.in_stride + p.in_at + i;
    if (OP <= NIB_ELEMENTWISE_GELU)
        y[out_at] = activate(OP, x[in_at]) * up[row * p.up_stride + p.up_at + i];
    else if (OP == NIB_ELEMENTWISE_ADD)
        y[out_at] += p.factor * x[in_at];
    else if (OP == NIB_ELEMENTWISE_SCALE)
        y[out_at] *= p.factor;
    else
        y[out_at] = p.factor * tanh_bounded(y[out_at] / p.factor);
}
