#version 450
// How many tokens of a part of a line weigh how much: a workgroup each.
#extension GL_GOOGLE_include_directive : require
#include "lib/draw.glsl"

void main()
{
    uint part = gl_WorkGroupID.x, line = gl_WorkGroupID.y;
    uint n = line < step.header.n_logits && !is_greedy(line) ? p.vocabulary : 0u;
    uint end = min((part + 1u) * NIB_DRAW_PART, n);
    float inverse_temperature = uintBitsToFloat(draw_word(line, DRAW_INVERSE));
    uint least[LEVELS], n_reached[LEVELS];
    uvec2 sums[LEVELS];
    for (uint level = 0u; level < LEVELS; level++) {
        least[level] = least_of(line, level);
        n_reached[level] = 0u;
        sums[level] = uvec2(0u);
    }
    find_best(line);
    float most = logit_of(best_keys[0]);
    for (uint i = part * NIB_DRAW_PART + gl_LocalInvocationIndex; i < end; i += THREADS) {
        uint weight = weight_of(key_of(logits[line_at(line) + i]), most, inverse_temperature);
        for (uint level = 0u; level < LEVELS; level++) {
            bool is_reached = weight >= least[level];
            n_reached[level] += is_reached ? 1u : 0u;
            sums[level] = add(sums[level], uvec2(is_reached ? weight : 0u, 0u));
        }
    }
    clear_levels();
    for (uint level = 0u; level < LEVELS; level++) {
        if (n_reached[level] > 0u)
            add_shared(level, n_reached[level], sums[level]);
    }
    barrier();
    uint level = gl_LocalInvocationIndex;
    if (level < LEVELS) {
        scratch[level_at(line, part, level)] = counts[level];
        scratch[level_at(line, part, level) + 1u] = sums_low[level];
        scratch[level_at(line, part, level) + 2u] = sums_high[level];
    }
}
