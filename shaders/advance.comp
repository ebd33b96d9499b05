#version 450
// Brings the next step into the step block: what the host wrote, and tokens that the run before has
// drawn.
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
    uint n_invocations = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    for (uint i = gl_GlobalInvocationID.x; i < p.n_words; i += n_invocations) {
        uint word = slot[p.at + i];
        // Only tokens have this bit, besides NIB_NONE, which is never one.
        uint field = i - NIB_STEP_HEADER_WORDS;
        bool is_token = field < 4u * p.n_rows && field % 4u == 0u;
        if (is_token && (word & NIB_STEP_DRAWN) != 0u)
            word = drawn[word & ~NIB_STEP_DRAWN];
        block[p.at + i] = word;
    }
}
