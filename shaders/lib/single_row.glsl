// A single row of a matmul's input, which each workgroup makes for itself as prepare.comp does:
// int8 codes of groups of 32 columns, with their scales and sums, in shared memory. Neighbours of 8
// invocations of a subgroup take a granule, a quad each.
#ifndef SHADERS_LIB_SINGLE_ROW_GLSL
#define SHADERS_LIB_SINGLE_ROW_GLSL

#include "activate.glsl"

layout(constant_id = NIB_SPEC_SOURCE) const uint SOURCE = NIB_PREPARE_SOURCE_VALUES;
layout(constant_id = NIB_SPEC_GRANULES) const uint GRANULES = 1; // of a row

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer InQuads {
    vec4 in_quads[];
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer In2Quads {
    vec4 in_2_quads[]; // the norm's weight, or `up`
};

shared uvec4 row_codes[2u * GRANULES];
shared float row_scales[GRANULES];
shared vec2 row_sums[GRANULES]; // of the codes of both halves

vec4 norm_quad(uint q)
{
    return in_quads[p.source.in_at / 4u + q];
}
#include "row_norm.glsl"

vec4 load_quad(uint q, float norm_factor)
{
    if (4u * q >= p.source.n_cols)
        return vec4(0.0);
    vec4 v = in_quads[p.source.in_at / 4u + q];
    if (SOURCE >= NIB_PREPARE_SOURCE_GATE) {
        vec4 up = in_2_quads[p.source.up_at / 4u + q];
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            v[i] = activate(SOURCE - NIB_PREPARE_SOURCE_GATE, v[i]) * up[i];
    } else if (SOURCE != NIB_PREPARE_SOURCE_VALUES) {
        v *= norm_factor;
        if (SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES)
            v *= in_2_quads[q];
    }
    return v;
}

// Of the codes of 8 neighbours, the even or the odd ones, as nibbles are taken apart.
uint split_codes(uint own, uint other, uint q)
{
    uint first = (q & 1u) == 0u ? own : other >> 8, second = (q & 1u) == 0u ? other : own >> 8;
    return (first & 255u) | (first >> 8 & 0xff00u) | (second & 255u) << 16 |
           (second & 0xff0000u) << 8;
}

void prepare_granule(uint g, uint q, bool is_split, float norm_factor)
{
    vec4 v = load_quad(8u * g + q, norm_factor);
    float most = max(max(abs(v.x), abs(v.y)), max(abs(v.z), abs(v.w)));
    [[unroll]] for (uint mask = 1u; mask < 8u; mask *= 2u)
        most = max(most, subgroupShuffleXor(most, mask));
    bool is_zero = most < NIB_PREPARE_LEAST;
    ivec4 c = ivec4(roundEven(clamp(v * (is_zero ? 0.0 : 127.0 / most), -127.0, 127.0)));
    uvec4 bytes = uvec4(c) & 255u;
    uint word = bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
    uint other = subgroupShuffleXor(word, 1u);
    int sum = (c.x + c.y) + (c.z + c.w);
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    int other_sum = subgroupShuffleXor(sum, 4u);
    row_codes[2u * g + q / 4u][q & 3u] = is_split ? split_codes(word, other, q) : word;
    if (q == 0u) {
        row_scales[g] = is_zero ? 0.0 : most / 127.0;
        row_sums[g] = vec2(sum, other_sum);
    }
}

// Makes the row. `thread` is the number in the order of subgroups.
void prepare_row(uint thread, uint n_threads, bool is_split)
{
    float norm_factor = 1.0;
    if (SOURCE == NIB_PREPARE_SOURCE_NORM || SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES)
        norm_factor = find_norm_factor(thread, n_threads, p.source.n_cols, p.source.epsilon);
    // Invocations beyond the row make its last granule once more.
    for (uint first = 0u; first < GRANULES; first += n_threads / 8u)
        prepare_granule(min(first + thread / 8u, GRANULES - 1u), thread % 8u, is_split,
                        norm_factor);
    barrier();
}

#endif
