#version 450
// Queries, or outputs of attention, multiplied by the Hadamard matrix in place (shared/kv.h).
// An invocation transforms a group. Attention does not do it itself: lavapipe takes a minute to
// compile it between barriers.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/step.glsl"
#include "lib/transform.glsl"
#include "shared/kernels.h"

layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_kv_transform_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer X {
    float x[];
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (i >= p.n_heads * p.n_groups || step.rows[row].sequence == NIB_NONE)
        return;
    uint at = row * p.stride + p.at + i / p.n_groups * p.head_dim +
              i % p.n_groups * uint(NIB_KV_GROUP);
    vec4 group[NIB_KV_GROUP / 4];
    [[unroll]] for (uint k = 0u; k < uint(NIB_KV_GROUP); k++)
        group[k / 4u][k % 4u] = x[at + k];
    transform_group(group, NIB_KV_READ_FACTOR);
    [[unroll]] for (uint k = 0u; k < uint(NIB_KV_GROUP); k++)
        x[at + k] = group[k / 4u][k % 4u];
}
