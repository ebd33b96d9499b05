#version 450
// Rows that want logits in this run of the head, put side by side.
#extension GL_GOOGLE_include_directive : require
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_gather_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint line = step.rows[row].logit_row - step.header.first_logit;
    bool is_wanted = step.rows[row].logit_row != NIB_NONE && line < step.header.n_logits;
    if (i < p.width && is_wanted)
        y[line * p.out_stride + p.out_at + i] = x[row * p.in_stride + p.in_at + i];
}
