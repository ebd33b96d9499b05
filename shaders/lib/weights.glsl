// Matrices in tiles of 16 rows by granules of 32 weights; runtime/vulkan/matrix.h describes them.
#ifndef SHADERS_LIB_WEIGHTS_GLSL
#define SHADERS_LIB_WEIGHTS_GLSL

#include "../shared/kernels.h"
#include "half.glsl"

#define TILE_ROWS uint(NIB_TILE_ROWS)

layout(constant_id = NIB_SPEC_CODE_BITS) const uint CODE_BITS = 4;
layout(constant_id = NIB_SPEC_HAS_BOOK) const bool HAS_BOOK = false;
layout(constant_id = NIB_SPEC_SCALE_TYPE) const uint SCALE_TYPE = NIB_SCALES_F16;
layout(constant_id = NIB_SPEC_HAS_SUPER) const bool HAS_SUPER = false;
layout(constant_id = NIB_SPEC_HAS_MIN) const bool HAS_MIN = false;
layout(constant_id = NIB_SPEC_ZERO_BITS) const uint ZERO_BITS = 0; // 0, 8 or 16
layout(constant_id = NIB_SPEC_HALVES) const uint HALVES = 1;
layout(constant_id = NIB_SPEC_CENTER) const int CENTER = 0;
layout(constant_id = NIB_SPEC_IS_GROUP) const bool IS_GROUP = false;

layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer Words {
    uint words[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer Quads {
    uvec4 quads[];
};

shared float book[16];

// Fills the code book; a barrier must follow before the first look-up.
void load_book(nib_matrix_args m, uint thread, uint n_threads)
{
    if (HAS_BOOK) {
        for (uint i = thread; i < 16u; i += n_threads)
            book[i] = uintBitsToFloat(words[m.book_at + i]);
    }
}

vec4 bytes_of(uint w)
{
    return vec4(w & 255u, (w >> 8) & 255u, (w >> 16) & 255u, w >> 24);
}

// Four codes of `low` bits from bit `at` of `w` on, as integers.
uvec4 low_codes(uint w, uint at, uint bits)
{
    uint mask = (1u << bits) - 1u;
    return (uvec4(w) >> (at + bits * uvec4(0u, 1u, 2u, 3u))) & mask;
}

vec4 values_of(uvec4 codes)
{
    if (HAS_BOOK)
        return vec4(book[codes.x], book[codes.y], book[codes.z], book[codes.w]);
    return vec4(ivec4(codes) - CENTER);
}

// The 32 weights of a granule of one row, as they are stored.
struct Granule {
    uvec4 low[8]; // as many as the format takes
    uvec2 high;   // 1 or 2 bits of each code
};

Granule load_granule(nib_matrix_args m, uint tile, uint g, uint r)
{
    Granule granule;
    uint block = tile * m.n_granules + g;
    uint cell = block * TILE_ROWS + r;
    if (CODE_BITS < 4u) {
        granule.low[0] = uvec4(words[cell * 2u], words[cell * 2u + 1u], 0u, 0u);
        if (CODE_BITS == 3u)
            granule.high.x = words[m.high_at + cell];
        return granule;
    }
    uint n = CODE_BITS < 8u ? 1u : CODE_BITS == 8u ? 2u : CODE_BITS == NIB_CODE_F32 ? 8u : 4u;
    [[unroll]] for (uint i = 0u; i < 8u; i++) {
        if (i < n)
            granule.low[i] = quads[(block * n + i) * TILE_ROWS + r];
    }
    if (CODE_BITS == 5u)
        granule.high.x = words[m.high_at + cell];
    if (CODE_BITS == 6u)
        granule.high = uvec2(words[m.high_at + 2u * cell], words[m.high_at + 2u * cell + 1u]);
    return granule;
}

vec4 float_quad(Granule granule, uint q)
{
    if (CODE_BITS == NIB_CODE_F32)
        return uintBitsToFloat(granule.low[q]);
    uvec4 c = granule.low[q / 2u];
    uvec2 pair = (q & 1u) == 0u ? c.xy : c.zw;
    if (CODE_BITS == NIB_CODE_F16)
        return vec4(unpackHalf2x16(pair.x), unpackHalf2x16(pair.y));
    uvec2 even = pair << 16, odd = pair & 0xffff0000u;
    return uintBitsToFloat(uvec4(even.x, odd.x, even.y, odd.y));
}

// Returns the codes 4 q to 4 q + 3 of a granule, of fewer than 8 bits.
uvec4 code_quad(Granule granule, uint q)
{
    uint low_bits = CODE_BITS < 4u ? 2u : 4u, per_word = 8u / low_bits;
    uvec4 codes = low_codes(granule.low[0][q / per_word], q % per_word * 4u * low_bits, low_bits);
    if (CODE_BITS > low_bits) {
        uint high_bits = CODE_BITS - low_bits, quads_a_word = 8u / high_bits;
        uint w = granule.high[q / quads_a_word];
        codes |= low_codes(w, q % quads_a_word * 4u * high_bits, high_bits) << low_bits;
    }
    return codes;
}

// Returns weights 4 q to 4 q + 3 of a granule: codes as numbers, less the format's center, or
// looked up in the book; floats as they are.
vec4 weight_quad(Granule granule, uint q)
{
    if (CODE_BITS >= NIB_CODE_F16)
        return float_quad(granule, q);
    if (CODE_BITS == 8u)
        return bytes_of(granule.low[q / 4u][q & 3u]) - float(CENTER);
    return values_of(code_quad(granule, q));
}

// Codes of 4 bits, four of a word of eight in the order of their inputs (quad_column): the even
// ones, a byte each, where q is even, else the odd ones.
uint split_nibbles(uint w, uint q)
{
    return ((q & 1u) == 0u ? w : w >> 4) & 0x0f0f0f0fu;
}

// Returns the weights that meet quad q of the input, as weight_quad does.
vec4 input_weights(Granule granule, uint q)
{
    if (CODE_BITS != 4u)
        return weight_quad(granule, q);
    uint w = split_nibbles(granule.low[0][q / 2u], q);
    if (HAS_BOOK)
        return values_of(uvec4(w & 255u, (w >> 8) & 255u, (w >> 16) & 255u, w >> 24));
    return bytes_of(w) - float(CENTER);
}

// What turns codes of a group into weights: scale · (value − zero) + min.
struct Group {
    float scale;
    float min;
    float zero;
};

// The words that hold them. Entries of neighbouring rows lie side by side, so that the row says
// where in a word.
struct GroupWords {
    uint scale;
    uint min;
    uint sub_scale;
    uint sub_min;
    uint zero;
};

uint load_scale_word(uint at, uint entry)
{
    return words[at + (SCALE_TYPE == NIB_SCALES_F32 ? entry : entry / 2u)];
}

GroupWords load_group_words(nib_matrix_args m, uint tile, uint group, uint r)
{
    GroupWords result = GroupWords(0u, 0u, 0u, 0u, 0u);
    uint entry = (tile * m.n_groups + group) * TILE_ROWS + r, scale = entry;
    if (HAS_SUPER) {
        scale = (tile * m.n_supers + group / m.groups_per_super) * TILE_ROWS + r;
        result.sub_scale = words[m.sub_scale_at + entry / 4u];
        if (HAS_MIN)
            result.sub_min = words[m.sub_min_at + entry / 4u];
    }
    result.scale = load_scale_word(m.scale_at, scale);
    if (HAS_MIN)
        result.min = load_scale_word(m.min_at, scale);
    if (ZERO_BITS == 8u)
        result.zero = words[m.zero_at + entry / 4u];
    else if (ZERO_BITS == 16u)
        result.zero = words[m.zero_at + entry / 2u];
    return result;
}

float scale_of(uint word, uint r)
{
    if (SCALE_TYPE == NIB_SCALES_F32)
        return uintBitsToFloat(word);
    uint h = (word >> ((r & 1u) * 16u)) & 0xffffu;
    return SCALE_TYPE == NIB_SCALES_F16 ? half_to_float(h) : uintBitsToFloat(h << 16);
}

uint byte_of(uint word, uint r)
{
    return (word >> ((r & 3u) * 8u)) & 255u;
}

Group group_from(GroupWords w, uint r)
{
    Group result = Group(scale_of(w.scale, r), 0.0, 0.0);
    if (HAS_MIN)
        result.min = scale_of(w.min, r);
    if (HAS_SUPER) {
        result.scale *= float(int(byte_of(w.sub_scale, r) << 24) >> 24);
        if (HAS_MIN)
            result.min *= float(byte_of(w.sub_min, r));
    }
    if (ZERO_BITS == 8u)
        result.zero = float(byte_of(w.zero, r));
    else if (ZERO_BITS == 16u)
        result.zero = float((w.zero >> ((r & 1u) * 16u)) & 0xffffu);
    return result;
}

Group load_group(nib_matrix_args m, uint tile, uint group, uint r)
{
    if (CODE_BITS >= NIB_CODE_F16)
        return Group(1.0, 0.0, 0.0);
    return group_from(load_group_words(m, tile, group, r), r);
}

// Returns the group of half `h` of granule `g`.
uint group_of(nib_matrix_args m, uint g, uint h)
{
    return HALVES == 2u ? 2u * g + h : IS_GROUP ? g : g / m.granules_per_group;
}

#endif
