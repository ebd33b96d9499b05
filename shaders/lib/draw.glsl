// What the kernels that draw tokens share: logits as the sampler takes them (runtime/ops/logits.h),
// weights, the parts of a line of logits and what is known of them. Numbers of 64 bits are pairs,
// the low half first. All arithmetic is exact or rounded as on the CPU.
#ifndef SHADERS_LIB_DRAW_GLSL
#define SHADERS_LIB_DRAW_GLSL

#include "step.glsl"

#define THREADS 64u
#define KEY_NOTHING 0x007fffffu // of minus infinity
#define LEVELS 6u
#define LEVEL_LEAST 4u // weighs as much as min-p wants
#define LEVEL_ALL 5u   // weighs something

layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_draw_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer Logits {
    uint logits[];
};
// For each line: the best token of each part as key and id; number and weight of the tokens of each
// part that reach each level, as three words; the number of tokens in the list; the list, as id,
// key and weight.
layout(std430, set = 0, binding = NIB_BIND_TABLE) buffer Scratch {
    uint scratch[];
};
// The same, for reading what an earlier kernel has written.
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer Known {
    uint known[];
};

shared uint counts[LEVELS];
shared uint sums_low[LEVELS];
shared uint sums_high[LEVELS];
shared uint best_keys[THREADS];
shared uint best_ids[THREADS];

// Returns an unsigned number that orders logits as their values do. NaN counts as minus infinity,
// plus infinity as the largest number, -0 as 0.
uint key_of(uint bits)
{
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return KEY_NOTHING;
    bits = bits == 0x7f800000u ? 0x7f7fffffu : bits == 0x80000000u ? 0u : bits;
    return (bits >> 31) != 0u ? ~bits : bits | 0x80000000u;
}

float logit_of(uint key)
{
    return uintBitsToFloat((key >> 31) != 0u ? key & 0x7fffffffu : ~key);
}

// nib_exp_negative.
float exp_negative(float x)
{
    if (!(x >= -87.0))
        return 0.0;
    precise float rounding = 12582912.0;
    precise float shifted = x * 1.44269504 + rounding;
    precise float k = shifted - rounding;
    precise float r = (x - k * 0.693359375) + k * 2.12194440e-4;
    precise float q = 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    q = q * r + 1.0;
    q = q * r + 1.0;
    precise float result = q * uintBitsToFloat(uint(int(k) + 127) << 23);
    return result;
}

// Word `word` of a line's nib_step_draw.
uint draw_word(uint line, uint word)
{
    return step.rest[p.draws_at + line * NIB_STEP_DRAW_WORDS + word];
}
#define DRAW_INVERSE 0u
#define DRAW_TOP_K 1u
#define DRAW_TOP_SHARE 2u
#define DRAW_LEAST 3u
#define DRAW_RANDOM 4u

bool is_greedy(uint line)
{
    return draw_word(line, DRAW_INVERSE) == 0u;
}

// Returns the weight of a token where the best one has logit `most`.
uint weight_of(uint key, float most, float inverse_temperature)
{
    if (key == KEY_NOTHING)
        return 0u;
    precise float x = (logit_of(key) - most) * inverse_temperature;
    precise float units = exp_negative(x) * 1073741824.0 + 0.5;
    return uint(int(units));
}

uint best_at(uint line, uint part)
{
    return line * p.scratch_stride + part * 2u;
}

uint level_at(uint line, uint part, uint level)
{
    return line * p.scratch_stride + p.levels_at + (part * LEVELS + level) * 3u;
}

uint list_at(uint line)
{
    return line * p.scratch_stride + p.list_at;
}

uint line_at(uint line)
{
    return line * p.logits_stride + p.logits_at;
}

bool is_better(uint key, uint id, uint other_key, uint other_id)
{
    return key > other_key || (key == other_key && id < other_id);
}

// Puts the best of what the invocations bring to the first place of best_keys and best_ids, for all
// to see.
void reduce_best(uint key, uint id)
{
    uint thread = gl_LocalInvocationIndex;
    best_keys[thread] = key;
    best_ids[thread] = id;
    for (uint half_size = THREADS / 2u; half_size > 0u; half_size /= 2u) {
        barrier();
        uint other = thread + half_size;
        if (thread < half_size &&
            is_better(best_keys[other], best_ids[other], best_keys[thread], best_ids[thread])) {
            best_keys[thread] = best_keys[other];
            best_ids[thread] = best_ids[other];
        }
    }
    barrier();
}

// The same for a whole line, from its parts.
void find_best(uint line)
{
    uint key = KEY_NOTHING, id = NIB_NONE;
    for (uint part = gl_LocalInvocationIndex; part < p.n_parts; part += THREADS) {
        uint other_key = known[best_at(line, part)], other_id = known[best_at(line, part) + 1u];
        if (is_better(other_key, other_id, key, id)) {
            key = other_key;
            id = other_id;
        }
    }
    reduce_best(key, id);
}

// Returns the least weight of a level.
uint least_of(uint line, uint level)
{
    if (level == LEVEL_LEAST)
        return max(draw_word(line, DRAW_LEAST), 1u);
    return level == LEVEL_ALL ? 1u : (1u << 26) >> (8u * level);
}

uvec2 add(uvec2 a, uvec2 b)
{
    uint low = a.x + b.x;
    return uvec2(low, a.y + b.y + (low < a.x ? 1u : 0u));
}

uvec2 subtract(uvec2 a, uvec2 b)
{
    return uvec2(a.x - b.x, a.y - b.y - (a.x < b.x ? 1u : 0u));
}

bool is_less(uvec2 a, uvec2 b)
{
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// Empties the sums that are shared.
void clear_levels()
{
    if (gl_LocalInvocationIndex < LEVELS) {
        counts[gl_LocalInvocationIndex] = 0u;
        sums_low[gl_LocalInvocationIndex] = 0u;
        sums_high[gl_LocalInvocationIndex] = 0u;
    }
    barrier();
}

void add_shared(uint level, uint count, uvec2 sum)
{
    atomicAdd(counts[level], count);
    uint low = atomicAdd(sums_low[level], sum.x);
    atomicAdd(sums_high[level], sum.y + (low + sum.x < low ? 1u : 0u));
}

uvec2 shared_sum(uint level)
{
    return uvec2(sums_low[level], sums_high[level]);
}

// Sums up the levels of a whole line, for all to see.
void find_levels(uint line)
{
    clear_levels();
    for (uint level = 0u; level < LEVELS; level++) {
        uint count = 0u;
        uvec2 sum = uvec2(0u);
        for (uint part = gl_LocalInvocationIndex; part < p.n_parts; part += THREADS) {
            uint at = level_at(line, part, level);
            count += known[at];
            sum = add(sum, uvec2(known[at + 1u], known[at + 2u]));
        }
        if (count > 0u)
            add_shared(level, count, sum);
    }
    barrier();
}

// Returns ceil(total · share / 2^32).
uvec2 share_of(uvec2 total, uint share)
{
    uint high, low;
    umulExtended(total.x, share, high, low);
    uvec2 sum = uvec2(high + (low != 0u ? 1u : 0u), 0u);
    umulExtended(total.y, share, high, low);
    return add(sum, uvec2(low, high));
}

// How a line is drawn.
struct Filter {
    bool by_rank;
    bool by_sum;
    bool has_list; // the tokens to look at are in the list
    uint level;    // that the tokens to look at reach
};

// Decides it from the levels, which are shared.
Filter find_filter(uint line)
{
    uint top_k = draw_word(line, DRAW_TOP_K), share = draw_word(line, DRAW_TOP_SHARE);
    uvec2 target = share_of(shared_sum(LEVEL_ALL), share);
    Filter f;
    f.by_rank = top_k > 0u && top_k < counts[LEVEL_ALL];
    // What min-p keeps is less than top-p keeps: then that is all.
    f.by_sum = share > 0u && (f.by_rank || !is_less(shared_sum(LEVEL_LEAST), target));
    f.level = LEVEL_LEAST;
    if (f.by_rank || f.by_sum) {
        f.level = LEVEL_ALL;
        for (uint i = LEVEL_LEAST; i-- > 0u;) {
            bool has_all =
                f.by_rank ? counts[i] >= top_k : !is_less(shared_sum(i), target);
            f.level = has_all ? i : f.level;
        }
    }
    f.has_list = (f.by_rank || f.by_sum) && counts[f.level] <= NIB_DRAW_LIST;
    return f;
}

#endif
