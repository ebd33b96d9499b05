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

// The high plane: 1 or 2 bits of each code above `low`.
uvec4 high_codes(nib_matrix_args m, uint cell, uint q, uint low)
{
    uint bits = CODE_BITS - low;
    uint n_words = bits;               // 32 codes of `bits` bits
    uint per_word = 8u / bits;         // quads of codes in a word
    uint w = words[m.high_at + cell * n_words + q / per_word];
    return low_codes(w, (q % per_word) * 4u * bits, bits) << low;
}

// Takes the 32 weights of granule `g` of row `r` of tile `tile` apart: codes as numbers, less the
// format's center, or looked up in the book; floats as they are.
void load_granule(nib_matrix_args m, uint tile, uint g, uint r, out vec4 w[8])
{
    uint block = tile * m.n_granules + g;
    uint cell = block * TILE_ROWS + r;
    if (CODE_BITS == NIB_CODE_F32) {
        for (uint q = 0u; q < 8u; q++)
            w[q] = uintBitsToFloat(quads[(block * 8u + q) * TILE_ROWS + r]);
    } else if (CODE_BITS == NIB_CODE_F16 || CODE_BITS == NIB_CODE_BF16) {
        for (uint i = 0u; i < 4u; i++) {
            uvec4 c = quads[(block * 4u + i) * TILE_ROWS + r];
            if (CODE_BITS == NIB_CODE_F16) {
                w[2u * i] = vec4(unpackHalf2x16(c.x), unpackHalf2x16(c.y));
                w[2u * i + 1u] = vec4(unpackHalf2x16(c.z), unpackHalf2x16(c.w));
            } else {
                uvec4 even = c << 16, odd = c & 0xffff0000u;
                w[2u * i] = uintBitsToFloat(uvec4(even.x, odd.x, even.y, odd.y));
                w[2u * i + 1u] = uintBitsToFloat(uvec4(even.z, odd.z, even.w, odd.w));
            }
        }
    } else if (CODE_BITS == 8u) {
        for (uint i = 0u; i < 2u; i++) {
            uvec4 c = quads[(block * 2u + i) * TILE_ROWS + r];
            for (uint k = 0u; k < 4u; k++)
                w[4u * i + k] = bytes_of(c[k]) - float(CENTER);
        }
    } else if (CODE_BITS >= 4u) {
        uvec4 c = quads[cell];
        for (uint q = 0u; q < 8u; q++) {
            uvec4 codes = low_codes(c[q / 2u], (q % 2u) * 16u, 4u);
            if (CODE_BITS > 4u)
                codes |= high_codes(m, cell, q, 4u);
            w[q] = values_of(codes);
        }
    } else {
        for (uint q = 0u; q < 8u; q++) {
            uvec4 codes = low_codes(words[cell * 2u + q / 4u], (q % 4u) * 8u, 2u);
            if (CODE_BITS > 2u)
                codes |= high_codes(m, cell, q, 2u);
            w[q] = values_of(codes);
        }
    }
}

float load_scale(uint at, uint entry)
{
    if (SCALE_TYPE == NIB_SCALES_F32)
        return uintBitsToFloat(words[at + entry]);
    uint h = (words[at + entry / 2u] >> ((entry & 1u) * 16u)) & 0xffffu;
    return SCALE_TYPE == NIB_SCALES_F16 ? half_to_float(h) : uintBitsToFloat(h << 16);
}

uint load_byte(uint at, uint entry)
{
    return (words[at + entry / 4u] >> ((entry & 3u) * 8u)) & 255u;
}

// What turns codes of a group into weights: scale · (value − zero) + min.
struct Group {
    float scale;
    float min;
    float zero;
};

Group load_group(nib_matrix_args m, uint tile, uint group, uint r)
{
    Group result = Group(1.0, 0.0, 0.0);
    if (CODE_BITS >= NIB_CODE_F16)
        return result;
    uint entry = (tile * m.n_groups + group) * TILE_ROWS + r;
    if (HAS_SUPER) {
        uint super = (tile * m.n_supers + group / m.groups_per_super) * TILE_ROWS + r;
        int sub = int(load_byte(m.sub_scale_at, entry) << 24) >> 24;
        result.scale = load_scale(m.scale_at, super) * float(sub);
        if (HAS_MIN)
            result.min = load_scale(m.min_at, super) * float(load_byte(m.sub_min_at, entry));
    } else {
        result.scale = load_scale(m.scale_at, entry);
        if (HAS_MIN)
            result.min = load_scale(m.min_at, entry);
    }
    if (ZERO_BITS == 8u)
        result.zero = float(load_byte(m.zero_at, entry));
    else if (ZERO_BITS == 16u)
        result.zero = float((words[m.zero_at + entry / 2u] >> ((entry & 1u) * 16u)) & 0xffffu);
    return result;
}

// Returns the group of half `h` of granule `g`.
uint group_of(nib_matrix_args m, uint g, uint h)
{
    return HALVES == 2u ? 2u * g + h : g / m.granules_per_group;
}

#endif
