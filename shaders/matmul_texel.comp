#version 450
// As matmul.comp, of weights of 4 and 8 bits, for drivers that run invocations side by side in a
// CPU's vectors but read storage buffers one invocation after the other: everything is read through
// texel buffers, four words at once. An invocation makes 8 neighbouring rows of the weight for COLS
// rows of x. With IS_SINGLE there is one row of x, and every workgroup of 8 invocations, a
// subgroup, prepares it anew, which costs less than a dispatch of its own.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef IS_SINGLE
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#include "lib/activate.glsl"
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
#ifdef IS_SINGLE
layout(constant_id = NIB_SPEC_SOURCE) const uint SOURCE = NIB_PREPARE_SOURCE_VALUES;
layout(set = 0, binding = NIB_BIND_IN_TEXELS) uniform utextureBuffer in_values;
layout(set = 0, binding = NIB_BIND_IN_2_TEXELS) uniform utextureBuffer in_2_values; // weight or up
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

// The codes of a granule of a row of x, with their scale and the sums of both halves.
struct InputGranule {
    uvec4 low;
    uvec4 high;
    float scale;
    vec2 half_sums;
};

#ifdef IS_SINGLE
float norm_factor = 1.0;

// The sum of 16 signed bytes: those of all words side by side, then the halves of pairs.
float sum_bytes(uvec4 w)
{
    uvec4 even = (w & 0x00ff00ffu) ^ 0x00800080u, odd = ((w >> 8) & 0x00ff00ffu) ^ 0x00800080u;
    uvec4 both = even + odd;
    uint sum = (both.x + both.y) + (both.z + both.w);
    return float(int((sum & 0xffffu) + (sum >> 16)) - 16 * 128);
}

vec4 float_texel(uvec4 texel)
{
    return uintBitsToFloat(texel);
}

// Quad `q` of the row.
vec4 load_quad(uint q)
{
    vec4 v = float_texel(texelFetch(in_values, int(p.in_at / 4u + q)));
    if (SOURCE >= NIB_PREPARE_SOURCE_GATE) {
        vec4 up = float_texel(texelFetch(in_2_values, int(p.up_at / 4u + q)));
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            v[i] = activate(SOURCE - NIB_PREPARE_SOURCE_GATE, v[i]) * up[i];
    } else if (SOURCE != NIB_PREPARE_SOURCE_VALUES) {
        v *= norm_factor;
        if (SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES)
            v *= float_texel(texelFetch(in_2_values, int(q)));
    }
    return q * 4u < p.n_cols ? v : vec4(0.0);
}

void find_norm_factor()
{
    float sum = 0.0;
    for (uint q = gl_SubgroupInvocationID; q < p.n_cols / 4u; q += 8u) {
        vec4 v = float_texel(texelFetch(in_values, int(p.in_at / 4u + q)));
        sum += dot(v, v);
    }
    norm_factor = 1.0 / sqrt(subgroupAdd(sum) / float(p.n_cols) + p.epsilon);
}

InputGranule load_input(uint row, uint g)
{
    vec4 v = load_quad(g * 8u + gl_SubgroupInvocationID);
    float most = subgroupMax(max(max(abs(v.x), abs(v.y)), max(abs(v.z), abs(v.w))));
    bool is_zero = most < 7.888609052210118e-31; // as prepare.comp has it
    v = clamp(v * (is_zero ? 0.0 : 127.0 / most), -127.0, 127.0);
    // Rounds to even, and leaves the integer in the lowest bits: drivers of the CPU convert floats
    // to integers one after the other.
    uvec4 c = floatBitsToUint(v + 12582912.0) & 255u;
    uint w = c.x | (c.y << 8) | (c.z << 16) | (c.w << 24);
    InputGranule result;
    result.low = uvec4(subgroupBroadcast(w, 0u), subgroupBroadcast(w, 1u),
                       subgroupBroadcast(w, 2u), subgroupBroadcast(w, 3u));
    result.high = uvec4(subgroupBroadcast(w, 4u), subgroupBroadcast(w, 5u),
                        subgroupBroadcast(w, 6u), subgroupBroadcast(w, 7u));
    result.scale = is_zero ? 0.0 : most / 127.0;
    result.half_sums = vec2(sum_bytes(result.low), sum_bytes(result.high));
    return result;
}
#else
InputGranule load_input(uint row, uint g)
{
    uint place = row * p.matrix.n_granules + g;
    uvec4 s = texelFetch(sums, int(place));
    InputGranule result = InputGranule(uvec4(0u), uvec4(0u), uintBitsToFloat(s.x),
                                       vec2(uintBitsToFloat(s.y), uintBitsToFloat(s.z)));
    if (HAS_CODES) {
        result.low = texelFetch(codes, int(2u * place));
        result.high = texelFetch(codes, int(2u * place + 1u));
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

vec2 multiply_floats(uvec4 low, uvec4 high, const vec4 v[8])
{
    vec2 result = vec2(0.0);
    [[unroll]] for (uint q = 0u; q < 8u; q++)
        result[q / 4u] += dot(float_weights(low, high, q), v[q]);
    return result;
}

// Adds the products of one granule to the sums of each row and column.
void add_granule(uint tile, uint g, uint r, uint first, inout float total[ROWS][COLS])
{
    uint pairs[COLS][16];
    int input_codes[COLS][32];
    vec4 input_floats[COLS][8];
    float input_scale[COLS];
    vec2 half_sums[COLS];
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        InputGranule granule = load_input(first + c, g);
        input_scale[c] = granule.scale;
        half_sums[c] = granule.half_sums;
        load_floats(first + c, g, input_floats[c]);
        uvec4 a[2] = uvec4[2](granule.low, granule.high);
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
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec2 product;
            if (!HAS_CODES)
                product = multiply_floats(w, w_high, input_floats[c]);
            else if (CODE_BITS == 4u)
                product = vec2(multiply_nibbles(w, pairs[c]));
            else
                product = vec2(multiply_bytes(w, w_high, input_codes[c]));
            vec2 own_sums = half_sums[c];
            if (!HAS_HALVES) {
                product = vec2(product.x + product.y, 0.0);
                own_sums = vec2(own_sums.x + own_sums.y, 0.0);
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
            total[k][c] += input_scale[c] * sum;
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
    if (SOURCE == NIB_PREPARE_SOURCE_NORM || SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES)
        find_norm_factor();
#endif
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
            if (row >= part.n_rows)
                continue;
            float sum = total[k][c];
            if (HAS_BIAS)
                sum += bias[p.bias_at + row];
            uint at = (first + c) * part.out_stride + part.out_at + row;
            y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
        }
    }
}
