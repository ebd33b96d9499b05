#version 450
// Puts together what attention made of parts of the pages: of each part the largest score, the sum
// of the weights, and, where that is not 0, the weighted values. An invocation makes one number of
// a head of a row.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(local_size_x = 64) in;

#define TOGETHER 8u

layout(push_constant) uniform Push {
    nib_attention_merge_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer Partials {
    float partials[];
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint n_rows = step.header.n_rows, parts = p.parts / n_rows;
    if (i >= p.n_heads * p.value_dim || step.rows[row].sequence == NIB_NONE)
        return;
    uint head = i / p.value_dim, d = i % p.value_dim;
    uint size = p.value_dim + 2u, stride = n_rows * p.n_heads * size;
    uint first = (row * p.n_heads + head) * size;
    float most = NIB_ATTENTION_LEAST, sum = 0.0, value = 0.0;
    // Nothing is read under a condition, so that loads need not wait for one another.
    for (uint k = 0u; k < parts; k += TOGETHER) {
        float score[TOGETHER], total[TOGETHER], part[TOGETHER], before = most;
        [[unroll]] for (uint j = 0u; j < TOGETHER; j++) {
            uint at = first + min(k + j, parts - 1u) * stride;
            score[j] = partials[at];
            total[j] = k + j < parts ? partials[at + 1u] : 0.0;
            part[j] = partials[at + 2u + d];
            most = max(most, score[j]);
        }
        float shrink = exp(before - most);
        sum *= shrink;
        value *= shrink;
        [[unroll]] for (uint j = 0u; j < TOGETHER; j++) {
            float weight = exp(score[j] - most);
            sum += weight * total[j];
            // A part without pages has left no values.
            value += total[j] > 0.0 ? weight * part[j] : 0.0;
        }
    }
    y[row * p.out_stride + p.out_at + i] = sum > 0.0 ? value / sum : 0.0;
}
