#version 450
// Puts together what attention made of parts of the pages: of each part the largest score, the sum
// of the weights, and, where that is not 0, the weighted values. An invocation makes one number of a head of a row.
#extension GL_GOOGLE_include_directive : require
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(local_size_x = 64) in;

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
    float most = partials[first];
    for (uint k = 1u; k < parts; k++)
        most = max(most, partials[first + k * stride]);
    float sum = 0.0, value = 0.0;
    for (uint k = 0u; k < parts; k++) {
        uint at = first + k * stride;
        float shrink = exp(partials[at] - most), total = partials[at + 1u];
        sum += shrink * total;
        if (total > 0.0) // else the part had no pages, and left no values
            value += shrink * partials[at + 2u + d];
    }
    y[row * p.out_stride + p.out_at + i] = sum > 0.0 ? value / sum : 0.0;
}
