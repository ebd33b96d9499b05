#version 450
// Rotary embedding in place, by the cosines and sines that come with the step: devices' own are
// not exact at large angles. An invocation turns one pair.
#extension GL_GOOGLE_include_directive : require
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(constant_id = 0) const bool INTERLEAVED = false;
#include "lib/rope.glsl"
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_rope_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer X {
    float x[];
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint head = i / p.half_dims, j = i % p.half_dims;
    nib_rope_part part = p.parts[0];
    if (head >= part.n_heads) {
        head -= part.n_heads;
        part = p.parts[1];
    }
    if (head >= part.n_heads)
        return;
    uvec2 at = pair_place(row * part.stride + part.at + head * p.head_dim, j, p.half_dims);
    vec2 turned = turn_pair(x[at.x], x[at.y], p.angles_at, row, j, p.half_dims);
    x[at.x] = turned.x;
    x[at.y] = turned.y;
}
