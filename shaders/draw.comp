#version 450
// The token of a line: the best one, or one drawn as runtime/ops/sampler.c does it. A workgroup
// each. Thresholds are found bit by bit, by sums over the tokens that there are to choose from.
#extension GL_GOOGLE_include_directive : require
#include "lib/draw.glsl"

layout(constant_id = NIB_DRAW_HAS_SAMPLING) const bool HAS_SAMPLING = true;

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Drawn {
    uint drawn[];
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) writeonly buffer Readback {
    uint readback[];
};

// The tokens that are looked at: entries of the list, or neighbours in the line.
bool has_list;
uint first_token;
uint n_tokens;
float most;
float inverse_temperature;
// What is kept of them: those with a larger key, and of those with this one the first.
uint keep_key;
uint keep_id;

// What is summed over the tokens that are kept: their number or their weights.
struct Sum {
    bool by_weight;
    uint least_key;
    uint most_key;
    uint end_id; // only of tokens before
    uint least_weight;
};

uvec2 sum_of(uint line, Sum what)
{
    uvec2 sum = uvec2(0u);
    for (uint i = gl_LocalInvocationIndex; i < n_tokens; i += THREADS) {
        uint id, key, weight;
        if (has_list) {
            uint at = list_at(line) + 1u + 3u * i;
            id = known[at];
            key = known[at + 1u];
            weight = known[at + 2u];
        } else {
            id = first_token + i;
            key = key_of(logits[line_at(line) + id]);
            weight = weight_of(key, most, inverse_temperature);
        }
        bool is_kept = key > keep_key || (key == keep_key && id <= keep_id);
        bool is_meant = key >= what.least_key && key <= what.most_key && id < what.end_id &&
                        weight >= what.least_weight;
        if (is_kept && is_meant)
            sum = add(sum, uvec2(what.by_weight ? weight : 1u, 0u));
    }
    clear_levels();
    if (sum != uvec2(0u))
        add_shared(0u, 0u, sum);
    barrier();
    sum = shared_sum(0u);
    barrier();
    return sum;
}

// Returns the last id so that what lies before it sums to less than `target`.
uint find_id(uint line, Sum what, uvec2 target)
{
    uint id = 0u;
    for (int bit = findMSB(p.vocabulary); bit >= 0; bit--) {
        what.end_id = id | 1u << bit;
        if (is_less(sum_of(line, what), target))
            id = what.end_id;
    }
    return id;
}

// Keeps of what is kept the fewest tokens, from the largest key down, that sum to `target`.
void keep_most(uint line, bool by_weight, uvec2 target)
{
    Sum what = Sum(by_weight, 0u, ~0u, NIB_NONE, 0u);
    uint key = 0u;
    for (int bit = 31; bit >= 0; bit--) {
        what.least_key = key | 1u << bit;
        if (!is_less(sum_of(line, what), target))
            key = what.least_key;
    }
    what.least_key = key + 1u;
    uvec2 rest = subtract(target, sum_of(line, what));
    what.least_key = key;
    what.most_key = key;
    uvec2 each = uvec2(by_weight ? weight_of(key, most, inverse_temperature) : 1u, 0u);
    bool needs_all = is_less(sum_of(line, what), add(rest, each));
    uint last = keep_key == key ? keep_id : NIB_NONE;
    keep_id = needs_all ? last : find_id(line, what, rest);
    keep_key = key;
}

// Makes the tokens of the part that the draw falls into those that are looked at. Returns where in
// it the draw falls.
uvec2 choose_part(uint line, uvec2 target)
{
    uint part = 0u;
    for (; part + 1u < p.n_parts; part++) {
        uint at = level_at(line, part, LEVEL_LEAST);
        uvec2 sum = uvec2(known[at + 1u], known[at + 2u]);
        if (is_less(target, sum))
            break;
        target = subtract(target, sum);
    }
    first_token = part * NIB_DRAW_PART;
    n_tokens = min(NIB_DRAW_PART, p.vocabulary - first_token);
    return target;
}

uint sample_token(uint line)
{
    inverse_temperature = uintBitsToFloat(draw_word(line, DRAW_INVERSE));
    most = logit_of(best_keys[0]);
    find_levels(line);
    Filter how = find_filter(line);
    uvec2 total = shared_sum(LEVEL_LEAST), all = shared_sum(LEVEL_ALL);
    barrier();
    bool is_filtered = how.by_rank || how.by_sum;
    has_list = how.has_list;
    first_token = 0u;
    n_tokens = has_list ? min(known[list_at(line)], NIB_DRAW_LIST) : p.vocabulary;
    keep_key = 0u;
    keep_id = NIB_NONE;
    Sum what = Sum(true, 0u, ~0u, NIB_NONE, least_of(line, LEVEL_LEAST));
    if (how.by_rank) {
        keep_most(line, false, uvec2(draw_word(line, DRAW_TOP_K), 0u));
        all = sum_of(line, Sum(true, 0u, ~0u, NIB_NONE, 0u));
    }
    if (how.by_sum)
        keep_most(line, true, share_of(all, draw_word(line, DRAW_TOP_SHARE)));
    if (is_filtered)
        total = sum_of(line, what);
    uint high, low;
    umulExtended(total.x, draw_word(line, DRAW_RANDOM), high, low);
    uvec2 target = uvec2(high, 0u);
    umulExtended(total.y, draw_word(line, DRAW_RANDOM), high, low);
    target = add(target, uvec2(low, high));
    if (!is_filtered)
        target = choose_part(line, target);
    // The token drawn is the first up to which weights sum to more.
    return find_id(line, what, add(target, uvec2(1u, 0u)));
}

void main()
{
    uint line = gl_WorkGroupID.y;
    find_best(line);
    uint id = best_ids[0];
    if (HAS_SAMPLING) {
        bool is_sampled = !is_greedy(line) && id != NIB_NONE && line < step.header.n_logits;
        if (is_sampled)
            id = sample_token(line);
    }
    if (gl_LocalInvocationIndex == 0u) {
        drawn[line] = id;
        readback[step.header.slot * p.max_lines + line] = id;
    }
}
