#version 450
// Reads pieces of a buffer, one after the other: how fast the device's memory is read.
#extension GL_GOOGLE_include_directive : require
#include "shared/kernels.h"

#define THREADS 128u

layout(local_size_x = 128) in;

layout(push_constant) uniform Push {
    nib_measure_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    uvec4 words[]; // [piece][NIB_MEASURE_PIECE]
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    uint sums[];
};

void main()
{
    uvec4 sum = uvec4(0u);
    for (uint r = 0u; r < p.n_rounds; r++) {
        uint piece = (r * gl_NumWorkGroups.x + gl_WorkGroupID.x) % p.n_pieces;
        for (uint i = gl_LocalInvocationIndex; i < NIB_MEASURE_PIECE; i += THREADS)
            sum ^= words[piece * NIB_MEASURE_PIECE + i];
    }
    // Never, but compilers cannot know.
    if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == p.unlikely)
        sums[0] = sum.x;
}
