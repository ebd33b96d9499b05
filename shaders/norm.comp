#version 450
// Root-mean-square norm: a workgroup takes one group of one row.
#extension GL_GOOGLE_include_directive : require
#include "shared/kernels.h"
layout(constant_id = 0) const bool HAS_WEIGHT = true;
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_norm_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Weight {
    float weight[];
};

shared float sums[64];

void main()
{
    uint thread = gl_LocalInvocationIndex, row = gl_WorkGroupID.y;
    uint in_at = row * p.in_stride + p.in_at + gl_WorkGroupID.x * p.width;
    uint out_at = row * p.out_stride + p.out_at + gl_WorkGroupID.x * p.width;
    float sum = 0.0;
    for (uint i = thread; i < p.width; i += 64u)
        sum += x[in_at + i] * x[in_at + i];
    sums[thread] = sum;
    for (uint half_size = 32u; half_size > 0u; half_size /= 2u) {
        barrier();
        if (thread < half_size)
            sums[thread] += sums[thread + half_size];
    }
    barrier();
    float factor = 1.0 / sqrt(sums[0] / float(p.width) + p.epsilon);
    for (uint i = thread; i < p.width; i += 64u)
        y[out_at + i] = x[in_at + i] * factor * (HAS_WEIGHT ? weight[i] : 1.0);
}
