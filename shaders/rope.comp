#version 450
// Rotary embedding in place, by the cosines and sines that come with the step: devices' own are
// not exact at large angles. An invocation turns one pair.
#extension GL_GOOGLE_include_directive : require
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(constant_id = 0) const bool INTERLEAVED = false;
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
    uint angle_at = p.angles_at + row * 2u * p.half_dims + j;
    float cosine = uintBitsToFloat(step.rest[angle_at]);
    float sine = uintBitsToFloat(step.rest[angle_at + p.half_dims]);
    uint first = row * part.stride + part.at + head * p.head_dim + (INTERLEAVED ? 2u * j : j);
    uint second = first + (INTERLEAVED ? 1u : p.half_dims);
    float u = x[first], v = x[second];
    x[first] = u * cosine - v * sine;
    x[second] = u * sine + v * cosine;
}
