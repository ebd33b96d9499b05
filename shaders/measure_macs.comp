#version 450
// Multiply-adds in registers and nothing else: of fp32 numbers, or dot products of packed bytes.
// Each result needs the one before it, so that none can be left out or computed ahead.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef HAS_DOT
#include "lib/dot.glsl"
#endif
#include "shared/kernels.h"

#ifdef HAS_DOT
#define NUMBER int
#define STEP(s) s = dot_bytes(p.factor, uint(s), s)
#define CHANGED(s) uint(s)
#else
#define NUMBER float
#define STEP(s) s = s * uintBitsToFloat(p.factor) + addend
#define CHANGED(s) floatBitsToUint(s)
#endif

layout(local_size_x = 128) in;

layout(push_constant) uniform Push {
    nib_measure_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    uint sums[];
};

void main()
{
    NUMBER s[NIB_MEASURE_SUMS];
    [[unroll]] for (uint i = 0u; i < NIB_MEASURE_SUMS; i++)
        s[i] = NUMBER(gl_GlobalInvocationID.x + i);
#ifndef HAS_DOT
    float addend = float(gl_LocalInvocationIndex);
#endif
    for (uint r = 0u; r < p.n_rounds; r++) {
        [[unroll]] for (uint k = 0u; k < NIB_MEASURE_STEPS; k++) {
            [[unroll]] for (uint i = 0u; i < NIB_MEASURE_SUMS; i++)
                STEP(s[i]);
        }
    }
    uint all = 0u;
    [[unroll]] for (uint i = 0u; i < NIB_MEASURE_SUMS; i++)
        all ^= CHANGED(s[i]);
    // Hardly ever, but compilers cannot know.
    if (all == p.unlikely)
        sums[0] = all;
}
