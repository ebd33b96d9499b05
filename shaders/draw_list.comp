#version 450
// Puts the tokens of a part of a line that top-k and top-p choose among into the line's list, in
// any order: a workgroup for each part.
#extension GL_GOOGLE_include_directive : require
#include "lib/draw.glsl"

void main()
{
    uint part = gl_WorkGroupID.x, line = gl_WorkGroupID.y;
    bool is_drawn = line < step.header.n_logits && !is_greedy(line);
    float inverse_temperature = uintBitsToFloat(draw_word(line, DRAW_INVERSE));
    find_best(line);
    float most = logit_of(best_keys[0]);
    find_levels(line);
    Filter how = find_filter(line);
    uint least = least_of(line, how.level);
    uint end = is_drawn && how.has_list ? min((part + 1u) * NIB_DRAW_PART, p.vocabulary) : 0u;
    for (uint i = part * NIB_DRAW_PART + gl_LocalInvocationIndex; i < end; i += THREADS) {
        uint key = key_of(logits[line_at(line) + i]);
        uint weight = weight_of(key, most, inverse_temperature);
        if (weight < least)
            continue;
        uint place = atomicAdd(scratch[list_at(line)], 1u);
        uint at = list_at(line) + 1u + 3u * min(place, NIB_DRAW_LIST - 1u);
        scratch[at] = i;
        scratch[at + 1u] = key;
        scratch[at + 2u] = weight;
    }
}
