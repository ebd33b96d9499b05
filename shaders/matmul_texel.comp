#version 450
// As matmul.comp, of codes of 4 and 8 bits, for drivers that run invocations side by side in a
// CPU's vectors but read storage buffers one invocation after the other: everything is read through
// texel buffers, four words at once. An invocation makes 8 neighbouring rows of the weight for COLS
// rows of x.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/weights.glsl"
#include "shared/kernels.h"

#define ROWS 8u
#define TILE_THREADS (TILE_ROWS / ROWS)

layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_WIDTH) const uint WIDTH = 8;
layout(constant_id = NIB_SPEC_HAS_ADD) const bool HAS_ADD = false;
layout(local_size_x_id = NIB_SPEC_WIDTH) in;

const bool HAS_HALVES = HALVES == 2u;
const uint N_HALVES = HAS_HALVES ? 2u : 1u;

layout(push_constant) uniform Push {
    nib_matmul_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Bias {
    float bias[];
};
layout(set = 0, binding = NIB_BIND_MATRIX_TEXELS) uniform utextureBuffer matrix;
layout(set = 0, binding = NIB_BIND_INPUT_TEXELS) uniform utextureBuffer codes;
layout(set = 0, binding = NIB_BIND_SUMS_TEXELS) uniform utextureBuffer sums;

// A scale or minimum of each row.
void load_scales(uint at, uint entry, out float v[ROWS])
{
    if (SCALE_TYPE == NIB_SCALES_F32) {
        uvec4 a = texelFetch(matrix, int((at + entry) / 4u));
        uvec4 b = texelFetch(matrix, int((at + entry) / 4u + 1u));
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            v[k] = uintBitsToFloat(a[k]);
            v[k + 4u] = uintBitsToFloat(b[k]);
        }
        return;
    }
    uvec4 w = texelFetch(matrix, int((at + entry / 2u) / 4u));
    [[unroll]] for (uint k = 0u; k < 4u; k++) {
        if (SCALE_TYPE == NIB_SCALES_F16) {
            v[2u * k] = half_to_float(w[k] & 0xffffu);
            v[2u * k + 1u] = half_to_float(w[k] >> 16);
        } else {
            v[2u * k] = uintBitsToFloat(w[k] << 16);
            v[2u * k + 1u] = uintBitsToFloat(w[k] & 0xffff0000u);
        }
    }
}

// A byte of each row.
void load_bytes(uint at, uint entry, out uint v[ROWS])
{
    uvec4 w = texelFetch(matrix, int((at + entry / 4u) / 4u));
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
        uvec4 w = texelFetch(matrix, int((p.matrix.zero_at + entry / 2u) / 4u));
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

// Products of 16 codes of 4 bits. A factor holds code i of a word in its lower half and code i + 4
// in its upper one, the other factor their inputs the other way round, so that the upper half of
// the product is the sum of both products; the lower halves, at most 8 · 15 · 128, are dropped.
ivec2 multiply_nibbles(uvec4 w, const uint pairs[16])
{
    ivec2 result;
    [[unroll]] for (uint h = 0u; h < 2u; h++) {
        uint sum = 0x8000u;
        [[unroll]] for (uint k = 0u; k < 8u; k++)
            sum += ((w[2u * h + k / 4u] >> (4u * (k & 3u))) & 0x000f000fu) * pairs[8u * h + k];
        result[h] = int(sum) >> 16;
    }
    return result;
}

ivec2 multiply_bytes(uvec4 low, uvec4 high, const int input_codes[32])
{
    ivec2 result = ivec2(0);
    [[unroll]] for (uint k = 0u; k < 16u; k++) {
        result.x += int((low[k / 4u] >> (8u * (k & 3u))) & 255u) * input_codes[k];
        result.y += int((high[k / 4u] >> (8u * (k & 3u))) & 255u) * input_codes[16u + k];
    }
    return result;
}

// Adds the products of one granule to the sums of each row and column.
void add_granule(uint tile, uint g, uint r, uint first, inout float total[ROWS][COLS])
{
    uint pairs[COLS][16];
    int input_codes[COLS][32];
    float input_scale[COLS];
    vec2 half_sums[COLS];
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        uint place = (first + c) * p.matrix.n_granules + g;
        uvec4 s = texelFetch(sums, int(place));
        input_scale[c] = uintBitsToFloat(s.x);
        half_sums[c] = vec2(uintBitsToFloat(s.y), uintBitsToFloat(s.z));
        uvec4 a[2];
        a[0] = texelFetch(codes, int(2u * place));
        a[1] = texelFetch(codes, int(2u * place + 1u));
        [[unroll]] for (uint k = 0u; k < 16u; k++) {
            if (CODE_BITS == 4u) {
                uvec4 from = a[k / 8u];
                uint word = k % 8u / 4u * 2u;
                pairs[c][k] = uint(signed_byte(from[word + 1u], k & 3u)) +
                              (uint(signed_byte(from[word], k & 3u)) << 16);
            } else {
                input_codes[c][k] = signed_byte(a[0][k / 4u], k & 3u);
                input_codes[c][16u + k] = signed_byte(a[1][k / 4u], k & 3u);
            }
        }
    }
    Groups low = load_groups(tile, group_of(p.matrix, g, 0u), r), high = low;
    if (HAS_HALVES)
        high = load_groups(tile, group_of(p.matrix, g, 1u), r);
    uint cell = (tile * p.matrix.n_granules + g) * (CODE_BITS / 4u) * TILE_ROWS + r;
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uvec4 w = texelFetch(matrix, int(cell + k)), w_high = w;
        if (CODE_BITS == 8u)
            w_high = texelFetch(matrix, int(cell + TILE_ROWS + k));
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            ivec2 exact = CODE_BITS == 4u ? multiply_nibbles(w, pairs[c])
                                          : multiply_bytes(w, w_high, input_codes[c]);
            vec2 part = HAS_HALVES ? vec2(exact) : vec2(float(exact.x + exact.y), 0.0);
            vec2 part_sums = HAS_HALVES ? half_sums[c] : vec2(half_sums[c].x + half_sums[c].y, 0.0);
            if (CENTER != 0)
                part -= float(CENTER) * part_sums;
            if (ZERO_BITS > 0u)
                part -= vec2(low.zero[k], high.zero[k]) * part_sums;
            float sum = low.scale[k] * part.x;
            if (HAS_HALVES)
                sum += high.scale[k] * part.y;
            if (HAS_MIN)
                sum += low.min[k] * part_sums.x + (HAS_HALVES ? high.min[k] * part_sums.y : 0.0);
            total[k][c] += input_scale[c] * sum;
        }
    }
}

void main()
{
    uint place = gl_LocalInvocationID.x;
    uint tile = gl_WorkGroupID.x * (WIDTH / TILE_THREADS) + place / TILE_THREADS;
    uint r = place % TILE_THREADS * ROWS, first = gl_WorkGroupID.y * COLS;
    uint n_tiles = (p.n_rows + TILE_ROWS - 1u) / TILE_ROWS;
    bool is_used = tile < n_tiles;
    tile = min(tile, n_tiles - 1u);
    float total[ROWS][COLS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            total[k][c] = 0.0;
    for (uint g = 0u; g < p.matrix.n_granules; g++)
        add_granule(tile, g, r, first, total);
    if (!is_used)
        return;
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = tile * TILE_ROWS + r + k;
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            if (row >= p.n_rows)
                continue;
            float sum = total[k][c];
            if (HAS_BIAS)
                sum += bias[p.bias_at + row];
            uint at = (first + c) * p.out_stride + p.out_at + row;
            y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
        }
    }
}
