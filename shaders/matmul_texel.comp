#version 450
// As matmul.comp, of weights of 4 and 8 bits, for drivers that run invocations side by side in a
// CPU's vectors but read storage buffers one invocation after the other: everything is read through
// texel buffers, four words at once. An invocation makes 8 neighbouring rows of the weight for COLS
// rows of x. With IS_SINGLE there is one row of x, and every workgroup of 8 invocations, a
// subgroup, prepares it anew, which costs less than a dispatch of its own. With HAS_SUBGROUPS, for
// more rows, each of the 8 reads and takes apart a row of x and hands it to all.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef HAS_SUBGROUPS
#extension GL_KHR_shader_subgroup_shuffle : require
#endif
#include "lib/weights.glsl"
#include "shared/kernels.h"

#define ROWS 8u
#define TILE_THREADS (TILE_ROWS / ROWS)

layout(constant_id = NIB_SPEC_HAS_CODES) const bool HAS_CODES = true;
layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_WIDTH) const uint WIDTH = 8;
layout(constant_id = NIB_SPEC_HAS_ADD) const bool HAS_ADD = false;
layout(local_size_x_id = NIB_SPEC_WIDTH) in;

const bool HAS_HALVES = HALVES == 2u;
const uint N_HALVES = HAS_HALVES ? 2u : 1u;

layout(push_constant) uniform Push {
    nib_matmul_texel_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Bias {
    float bias[];
};
layout(set = 0, binding = NIB_BIND_MATRIX_TEXELS) uniform utextureBuffer matrix;
layout(set = 0, binding = NIB_BIND_OUT_TEXELS) uniform utextureBuffer y_texels;
#ifdef IS_SINGLE
layout(constant_id = NIB_SPEC_SOURCE) const uint SOURCE = NIB_PREPARE_SOURCE_VALUES;
#include "lib/quads.glsl"
#else
layout(set = 0, binding = NIB_BIND_INPUT_TEXELS) uniform utextureBuffer codes; // or floats
layout(set = 0, binding = NIB_BIND_SUMS_TEXELS) uniform utextureBuffer sums;
#endif

// What the workgroup works on.
nib_matmul_part part;
uint n_tiles; // of the part

// Returns texel `word` / 4 of a plane of the part.
uvec4 load_plane(uint at, uint word)
{
    return texelFetch(matrix, int(part.begin + (at * n_tiles + word) / 4u));
}

// A scale or minimum of each row.
void load_scales(uint at, uint entry, out float v[ROWS])
{
    if (SCALE_TYPE == NIB_SCALES_F32) {
        uvec4 a = load_plane(at, entry), b = load_plane(at, entry + 4u);
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            v[k] = uintBitsToFloat(a[k]);
            v[k + 4u] = uintBitsToFloat(b[k]);
        }
        return;
    }
    uvec4 w = load_plane(at, entry / 2u);
    [[unroll]] for (uint k = 0u; k < 4u; k++) {
        if (SCALE_TYPE == NIB_SCALES_F16) {
            // Exact on CPUs, which convert in hardware.
            vec2 pair = unpackHalf2x16(w[k]);
            v[2u * k] = pair.x;
            v[2u * k + 1u] = pair.y;
        } else {
            v[2u * k] = uintBitsToFloat(w[k] << 16);
            v[2u * k + 1u] = uintBitsToFloat(w[k] & 0xffff0000u);
        }
    }
}

// A byte of each row.
void load_bytes(uint at, uint entry, out uint v[ROWS])
{
    uvec4 w = load_plane(at, entry / 4u);
    uvec2 pair = (entry & 8u) == 0u ? w.xy : w.zw;
    [[unroll]] for (uint k = 0u; k < 4u; k++) {
        v[k] = (pair.x >> (8u * k)) & 255u;
        v[k + 4u] = (pair.y >> (8u * k)) & 255u;
    }
}

// What turns codes of a group into weights, of each row.
struct Groups {
    float scale[ROWS];
    float min[ROWS];
    float zero[ROWS];
};

Groups load_groups(uint tile, uint group, uint r)
{
    Groups result;
    uint entry = (tile * p.matrix.n_groups + group) * TILE_ROWS + r, super = entry;
    if (HAS_SUPER)
        super = (tile * p.matrix.n_supers + group / p.matrix.groups_per_super) * TILE_ROWS + r;
    load_scales(p.matrix.scale_at, super, result.scale);
    if (HAS_MIN)
        load_scales(p.matrix.min_at, super, result.min);
    uint v[ROWS];
    if (HAS_SUPER) {
        load_bytes(p.matrix.sub_scale_at, entry, v);
        [[unroll]] for (uint k = 0u; k < ROWS; k++)
            result.scale[k] *= float(int(v[k] << 24) >> 24);
    }
    if (HAS_SUPER && HAS_MIN) {
        load_bytes(p.matrix.sub_min_at, entry, v);
        [[unroll]] for (uint k = 0u; k < ROWS; k++)
            result.min[k] *= float(v[k]);
    }
    if (ZERO_BITS == 8u) {
        load_bytes(p.matrix.zero_at, entry, v);
        [[unroll]] for (uint k = 0u; k < ROWS; k++)
            result.zero[k] = float(v[k]);
    } else if (ZERO_BITS == 16u) {
        uvec4 w = load_plane(p.matrix.zero_at, entry / 2u);
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            result.zero[2u * k] = float(w[k] & 0xffffu);
            result.zero[2u * k + 1u] = float(w[k] >> 16);
        }
    }
    return result;
}

int signed_byte(uint w, uint i)
{
    return int(w << (24u - 8u * i)) >> 24;
}

// A granule of a row of x: the factors of multiply_nibbles or multiply_bytes, what the codes are
// multiplied with, and the sums of both halves.
struct InputGranule {
    uint pairs[16];
    int codes[32];
    float scale;
    vec2 half_sums;
};

#ifdef IS_SINGLE
QuadRow input_row;

InputGranule load_input(uint row, uint g)
{
    uint lane = gl_SubgroupInvocationID;
    QuadCodes own = load_codes(input_row, g);
    InputGranule result;
    result.scale = own.scale;
    result.half_sums =
        vec2(subgroupShuffle(own.half_sum, 0u), subgroupShuffle(own.half_sum, 4u));
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint pair = uint(subgroupShuffle(own.codes[i], lane ^ 1u)) + (uint(own.codes[i]) << 16);
        [[unroll]] for (uint q = 0u; q < 8u; q++) {
            if (CODE_BITS == 4u && (q & 1u) == 0u)
                result.pairs[q * 2u + i] = subgroupShuffle(pair, q);
            if (CODE_BITS == 8u)
                result.codes[q * 4u + i] = subgroupShuffle(own.codes[i], q);
        }
    }
    return result;
}
#else
InputGranule load_input(uint row, uint g)
{
    uint place = row * p.matrix.n_granules + g;
    uvec4 s = texelFetch(sums, int(place));
    InputGranule result;
    result.scale = uintBitsToFloat(s.x);
    result.half_sums = vec2(uintBitsToFloat(s.y), uintBitsToFloat(s.z));
    if (!HAS_CODES)
        return result;
    uvec4 a[2];
    [[unroll]] for (uint h = 0u; h < 2u; h++)
        a[h] = texelFetch(codes, int(2u * place + h));
    [[unroll]] for (uint k = 0u; k < 16u; k++) {
        if (CODE_BITS == 4u) {
            uvec4 from = a[k / 8u];
            uint word = k % 8u / 4u * 2u;
            result.pairs[k] = uint(signed_byte(from[word + 1u], k & 3u)) +
                              (uint(signed_byte(from[word], k & 3u)) << 16);
        } else {
            result.codes[k] = signed_byte(a[0][k / 4u], k & 3u);
            result.codes[16u + k] = signed_byte(a[1][k / 4u], k & 3u);
        }
    }
    return result;
}
#endif

// Products of a row's codes with each column's, both halves of the granule apart. A few weights are
// taken apart at a time, so that they stay in a CPU's registers for all columns.
//
// Of 4 bits: a factor holds code i of a word in its lower half and code i + 4 in its upper one, the
// other factor their inputs the other way round, so that the upper half of the product is the sum
// of both products; the lower halves, at most 8 · 15 · 128, are dropped.
void multiply_nibbles(uvec4 w, const InputGranule inputs[COLS], out ivec2 products[COLS])
{
    [[unroll]] for (uint h = 0u; h < 2u; h++) {
        uint factors[8];
        [[unroll]] for (uint k = 0u; k < 8u; k++)
            factors[k] = (w[2u * h + k / 4u] >> (4u * (k & 3u))) & 0x000f000fu;
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            uint sum = 0x8000u;
            [[unroll]] for (uint k = 0u; k < 8u; k++)
                sum += factors[k] * inputs[c].pairs[8u * h + k];
            products[c][h] = int(sum) >> 16;
        }
    }
}

void multiply_bytes(uvec4 low, uvec4 high, const InputGranule inputs[COLS],
                    out ivec2 products[COLS])
{
    [[unroll]] for (uint c = 0u; c < COLS; c++)
        products[c] = ivec2(0);
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        uint w = q < 4u ? low[q & 3u] : high[q & 3u];
        int factors[4];
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            factors[i] = int((w >> (8u * i)) & 255u);
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                products[c][q / 4u] += factors[i] * inputs[c].codes[4u * q + i];
    }
}

#ifdef HAS_SUBGROUPS
// Returns what invocation `from` has.
InputGranule take_input(InputGranule own, uint from)
{
    InputGranule result;
    result.scale = subgroupShuffle(own.scale, from);
    result.half_sums = vec2(subgroupShuffle(own.half_sums.x, from),
                            subgroupShuffle(own.half_sums.y, from));
    [[unroll]] for (uint k = 0u; k < 32u; k++) {
        if (CODE_BITS == 4u && k < 16u)
            result.pairs[k] = subgroupShuffle(own.pairs[k], from);
        if (CODE_BITS == 8u)
            result.codes[k] = subgroupShuffle(own.codes[k], from);
    }
    return result;
}
#endif

// The numbers of a granule of a row of x, where they are no codes.
void load_floats(uint row, uint g, out vec4 v[8])
{
#ifndef IS_SINGLE
    if (!HAS_CODES) {
        [[unroll]] for (uint q = 0u; q < 8u; q++)
            v[q] = uintBitsToFloat(
                texelFetch(codes, int((row * p.matrix.n_granules + g) * 8u + q)));
    }
#endif
}

// Weights 4 q to 4 q + 3 of a granule as numbers less the format's center.
vec4 float_weights(uvec4 low, uvec4 high, uint q)
{
    uint w = q < 4u ? low[q & 3u] : high[q & 3u];
    if (CODE_BITS == 4u)
        w = low[q / 2u] >> (16u * (q & 1u));
    uint mask = CODE_BITS == 4u ? 15u : 255u;
    vec4 v;
    [[unroll]] for (uint i = 0u; i < 4u; i++)
        v[i] = float(int((w >> (CODE_BITS * i)) & mask) - CENTER);
    return v;
}

void multiply_floats(uvec4 low, uvec4 high, const vec4 v[COLS][8], out vec2 products[COLS])
{
    [[unroll]] for (uint c = 0u; c < COLS; c++)
        products[c] = vec2(0.0);
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        vec4 w = float_weights(low, high, q);
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                products[c][q / 4u] += w[i] * v[c][q][i];
    }
}

// Adds the products of one granule to the sums of each row and column.
void add_granule(uint tile, uint g, uint r, uint first, inout float total[ROWS][COLS])
{
    InputGranule inputs[COLS];
    vec4 input_floats[COLS][8];
#ifdef HAS_SUBGROUPS
    // Each invocation reads another row and hands it to all.
    uint own_row = first + (gl_SubgroupInvocationID & (COLS - 1u));
    InputGranule own = load_input(own_row, g);
    vec4 own_floats[8];
    load_floats(own_row, g, own_floats);
#endif
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
#ifdef HAS_SUBGROUPS
        inputs[c] = take_input(own, c);
        [[unroll]] for (uint q = 0u; q < 8u; q++) {
            if (!HAS_CODES)
                input_floats[c][q] = subgroupShuffle(own_floats[q], c);
        }
#else
        inputs[c] = load_input(first + c, g);
        load_floats(first + c, g, input_floats[c]);
#endif
    }
    Groups low = load_groups(tile, group_of(p.matrix, g, 0u), r), high = low;
    if (HAS_HALVES)
        high = load_groups(tile, group_of(p.matrix, g, 1u), r);
    uint cell = part.begin + (tile * p.matrix.n_granules + g) * (CODE_BITS / 4u) * TILE_ROWS + r;
    // All loads before the first use, so that a CPU waits for memory once.
    uvec4 words[ROWS], high_words[ROWS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        words[k] = texelFetch(matrix, int(cell + k));
        high_words[k] = words[k];
        if (CODE_BITS == 8u)
            high_words[k] = texelFetch(matrix, int(cell + TILE_ROWS + k));
    }
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uvec4 w = words[k], w_high = high_words[k];
        ivec2 exact[COLS];
        vec2 numbers[COLS];
        if (!HAS_CODES)
            multiply_floats(w, w_high, input_floats, numbers);
        else if (CODE_BITS == 4u)
            multiply_nibbles(w, inputs, exact);
        else
            multiply_bytes(w, w_high, inputs, exact);
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec2 product = HAS_CODES ? vec2(exact[c]) : numbers[c];
            vec2 own_sums = inputs[c].half_sums;
            if (!HAS_HALVES) {
                product.x = HAS_CODES ? float(exact[c].x + exact[c].y) : product.x + product.y;
                own_sums.x += own_sums.y;
            }
            if (HAS_CODES && CENTER != 0)
                product -= float(CENTER) * own_sums;
            if (ZERO_BITS > 0u)
                product -= vec2(low.zero[k], high.zero[k]) * own_sums;
            float sum = low.scale[k] * product.x;
            if (HAS_HALVES)
                sum += high.scale[k] * product.y;
            if (HAS_MIN)
                sum += low.min[k] * own_sums.x + (HAS_HALVES ? high.min[k] * own_sums.y : 0.0);
            total[k][c] += inputs[c].scale * sum;
        }
    }
}

// Finds the part that the workgroup belongs to, and returns the workgroup's number in it.
uint choose_part()
{
    uint group = gl_WorkGroupID.x, rows = WIDTH * ROWS;
    for (uint i = 0u; i < uint(NIB_MATMUL_PARTS); i++) {
        part = p.parts[i];
        uint n_groups = (part.n_rows + rows - 1u) / rows;
        if (group < n_groups)
            break;
        group -= n_groups;
    }
    n_tiles = (part.n_rows + TILE_ROWS - 1u) / TILE_ROWS;
    return group;
}

void main()
{
    uint place = gl_LocalInvocationID.x;
    uint tile = choose_part() * (WIDTH / TILE_THREADS) + place / TILE_THREADS;
    uint r = place % TILE_THREADS * ROWS, first = gl_WorkGroupID.y * COLS;
    bool is_used = tile < n_tiles;
    tile = min(tile, n_tiles - 1u);
#ifdef IS_SINGLE
    input_row.at = p.source.in_at / 4u;
    input_row.up_at = p.source.up_at / 4u;
    input_row.n_cols = p.source.n_cols;
    find_norm_factor(input_row, p.source.epsilon);
#endif
    float total[ROWS][COLS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            total[k][c] = 0.0;
    for (uint g = 0u; g < p.matrix.n_granules; g++)
        add_granule(tile, g, r, first, total);
    if (!is_used)
        return;
    uint row = tile * TILE_ROWS + r;
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        uint at = (first + c) * part.out_stride + part.out_at + row;
        // Each texel belongs to one invocation, which writes it where it was.
        uvec4 before[ROWS / 4u];
        [[unroll]] for (uint i = 0u; i < ROWS / 4u; i++)
            before[i] = HAS_ADD ? texelFetch(y_texels, int(at / 4u + i)) : uvec4(0u);
        [[unroll]] for (uint k = 0u; k < ROWS; k++) {
            float sum = total[k][c];
            if (row + k >= part.n_rows)
                continue;
            if (HAS_BIAS)
                sum += bias[p.bias_at + row + k];
            if (HAS_ADD)
                sum = uintBitsToFloat(before[k / 4u][k & 3u]) + p.factor * sum;
            y[at + k] = sum;
        }
    }
}
