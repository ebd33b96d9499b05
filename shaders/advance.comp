#version 450
// Brings the header and the rows of the next step into the step block: what the host wrote, and
// tokens that the run before has drawn.
#extension GL_GOOGLE_include_directive : require
#include "shared/kernels.h"
#include "shared/step.h"

layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_advance_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer Slot {
    uint slot[];
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer Drawn {
    uint drawn[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Block {
    uint block[];
};

void main()
{
    uint n = NIB_STEP_HEADER_WORDS + 4u * p.n_rows;
    for (uint i = gl_LocalInvocationIndex; i < n; i += gl_WorkGroupSize.x) {
        uint word = slot[i];
        bool is_token = i >= NIB_STEP_HEADER_WORDS && i % 4u == 0u;
        if (is_token && (word & NIB_STEP_DRAWN) != 0u)
            word = drawn[word & ~NIB_STEP_DRAWN];
        block[i] = word;
    }
}
