#version 450
// The largest logit of a part of a line, the first of equal ones: a workgroup each.
#extension GL_GOOGLE_include_directive : require
#include "lib/draw.glsl"

void main()
{
    uint part = gl_WorkGroupID.x, line = gl_WorkGroupID.y;
    uint n = line < step.header.n_logits ? p.vocabulary : 0u;
    uint end = min((part + 1u) * NIB_DRAW_PART, n);
    uint key = KEY_NOTHING, id = NIB_NONE;
    for (uint i = part * NIB_DRAW_PART + gl_LocalInvocationIndex; i < end; i += THREADS) {
        uint other = key_of(logits[line_at(line) + i]);
        if (other > key) {
            key = other;
            id = i;
        }
    }
    reduce_best(key, id);
    if (gl_LocalInvocationIndex != 0u)
        return;
    scratch[best_at(line, part)] = best_keys[0];
    scratch[best_at(line, part) + 1u] = best_ids[0];
    if (part == 0u)
        scratch[list_at(line)] = 0u;
}
