#version 450
// y = x · weight^T + bias. An invocation makes ROWS rows of the weight for COLS rows of x.
// 16 / ROWS neighbours make a tile; LANES of them, in y, share each row and take every LANES-th
// granule. Codes are multiplied with codes in integers, numbers with numbers in fp32. With
// HAS_SUBGROUPS, lanes add up by shuffles: four neighbours, which read 64 bytes of a plane, have
// rows of their own, the fours of a subgroup are its lanes. With IS_SINGLE each workgroup makes a
// single row of x for itself.
#ifdef HAS_SUBGROUPS
#extension GL_KHR_shader_subgroup_shuffle : require
#endif
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/weights.glsl"
#include "lib/dot.glsl"
#include "shared/kernels.h"

#define TILE_THREADS (TILE_ROWS / ROWS)

layout(constant_id = NIB_SPEC_LANES) const uint LANES = 8;
layout(constant_id = NIB_SPEC_HAS_CODES) const bool HAS_CODES = false;
layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_WIDTH) const uint WIDTH = 16;
layout(constant_id = NIB_SPEC_HAS_OUTLIERS) const bool HAS_OUTLIERS = false;
layout(constant_id = NIB_SPEC_HAS_ADD) const bool HAS_ADD = false;
#ifdef HAS_SUBGROUPS
#define FOUR 4u
layout(constant_id = NIB_SPEC_SUBGROUP) const uint SUBGROUP = 32;
layout(local_size_x_id = NIB_SPEC_THREADS) in; // WIDTH * LANES
const uint MOST = FOUR * LANES; // invocations with the same rows, and their neighbours
const uint TOGETHER = SUBGROUP < MOST ? SUBGROUP : MOST;
const uint PARTS = MOST / TOGETHER; // of a row's sum
#else
layout(local_size_x_id = NIB_SPEC_WIDTH, local_size_y_id = NIB_SPEC_LANES) in;
const uint PARTS = LANES;
#endif

const bool HAS_HALVES = HALVES == 2u;

layout(push_constant) uniform Push {
    nib_matmul_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer Outliers {
    vec4 outliers[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_OUT) buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer Input {
    vec4 x[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer Codes {
    uvec4 codes[]; // [row][granule][2]
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) readonly buffer Sums {
    vec4 sums[]; // [row][granule]: the scale, the sums of both halves, whether there are outliers
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Bias {
    float bias[];
};

#ifdef IS_SINGLE
#include "lib/single_row.glsl"
#endif

shared float partial[COLS][WIDTH * PARTS];

// Products of a granule's weights, of both halves apart, where they have groups of their own.
void multiply_floats(const Granule granule[ROWS], uint g, uint first, out vec2 products[ROWS][COLS])
{
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            products[k][c] = vec2(0.0);
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        vec4 input_quad[COLS];
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            input_quad[c] = x[((first + c) * p.matrix.n_granules + g) * 8u + q];
        [[unroll]] for (uint k = 0u; k < ROWS; k++) {
            vec4 w = input_weights(granule[k], q);
            [[unroll]] for (uint c = 0u; c < COLS; c++)
                [[unroll]] for (uint i = 0u; i < 4u; i++)
                    products[k][c][HAS_HALVES ? q / 4u : 0u] += w[i] * input_quad[c][i];
        }
    }
}

// What one column brings to a granule.
struct Column {
    float scale;
    vec2 sums; // of both halves
    bool has_outliers;
    ivec2 begin;    // what sums of products of codes begin with
    uvec4 codes[2]; // where the input is codes
};

Column load_column(uint c, uint g)
{
    Column column;
#ifdef IS_SINGLE
    vec4 s = vec4(row_scales[g], row_sums[g], 0.0);
#else
    uint at = c * p.matrix.n_granules + g;
    bool is_needed = HAS_MIN || ZERO_BITS > 0u || HAS_CODES;
    vec4 s = is_needed ? sums[at] : vec4(1.0, 0.0, 0.0, 0.0);
#endif
    column.scale = s.x;
    column.sums = s.yz;
    column.has_outliers = HAS_OUTLIERS && s.w != 0.0;
    // Bytes of the weight hold codes less BYTE_OFFSET.
    ivec2 offset = ivec2(float(BYTE_OFFSET - CENTER) * s.yz);
    column.begin = HAS_BOOK ? ivec2(0) : HAS_HALVES ? offset : ivec2(offset.x + offset.y, 0);
#ifdef IS_SINGLE
    column.codes = uvec4[2](row_codes[2u * g], row_codes[2u * g + 1u]);
#else
    if (HAS_CODES)
        column.codes = uvec4[2](codes[at * 2u], codes[at * 2u + 1u]);
#endif
    return column;
}

// Products of a granule's codes with a column's, of both halves apart.
vec2 multiply_codes(const uint bytes[8], Column column)
{
    ivec2 sum = column.begin;
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        uint part = HAS_HALVES ? q / 4u : 0u;
        sum[part] = dot_bytes(bytes[q], column.codes[q / 4u][q & 3u], sum[part]);
    }
    return vec2(sum);
}

// Returns the product with the columns of a granule that have outliers.
float multiply_outliers(Granule granule, uint g, uint c, Group low, Group high)
{
    float sum = 0.0;
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        Group group = q < 4u ? low : high;
        vec4 w = group.scale * (input_weights(granule, q) - group.zero) + group.min;
        sum += dot(w, outliers[(c * p.matrix.n_granules + g) * 8u + q]);
    }
    return sum;
}

// Returns what products of codes or numbers come to.
float apply_groups(vec2 products, Column column, Group low, Group high)
{
    if (ZERO_BITS > 0u && HAS_HALVES)
        products -= vec2(low.zero, high.zero) * column.sums;
    else if (ZERO_BITS > 0u)
        products.x -= low.zero * (column.sums.x + column.sums.y);
    float sum = low.scale * products.x;
    if (HAS_HALVES)
        sum += high.scale * products.y;
    if (HAS_MIN)
        sum += low.min * column.sums.x + high.min * column.sums.y;
    return HAS_CODES ? column.scale * sum : sum;
}

// Adds the products of one granule to the sums of each row and column.
void add_granule(uint tile, uint g, uint r, uint first, inout float total[ROWS][COLS])
{
    Granule granule[ROWS];
    Group low[ROWS], high[ROWS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = r + k * TILE_THREADS;
        granule[k] = load_granule(p.matrix, tile, g, row);
        low[k] = load_group(p.matrix, tile, group_of(p.matrix, g, 0u), row);
        high[k] = low[k];
        if (HAS_HALVES)
            high[k] = load_group(p.matrix, tile, group_of(p.matrix, g, 1u), row);
    }
    vec2 products[ROWS][COLS];
    uint bytes[ROWS][8];
    if (!HAS_CODES)
        multiply_floats(granule, g, first, products);
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint q = 0u; q < 8u; q++)
            bytes[k][q] = HAS_CODES ? quad_bytes(granule[k], q) : 0u;
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        Column column = load_column(first + c, g);
        [[unroll]] for (uint k = 0u; k < ROWS; k++) {
            vec2 part = HAS_CODES ? multiply_codes(bytes[k], column) : products[k][c];
            total[k][c] += apply_groups(part, column, low[k], high[k]);
            if (column.has_outliers)
                total[k][c] += multiply_outliers(granule[k], g, first + c, low[k], high[k]);
        }
    }
}

// Adds up what the lanes of the same subgroup have, so that each has the sum.
float add_lanes(float sum)
{
#ifdef HAS_SUBGROUPS
    [[unroll]] for (uint mask = FOUR; mask < TOGETHER; mask *= 2u)
        sum += subgroupShuffleXor(sum, mask);
#endif
    return sum;
}

void main()
{
#ifdef HAS_SUBGROUPS
    // Local indices need not be in the order of subgroups.
    uint thread = gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID;
    uint place = thread % FOUR + thread / MOST * FOUR, lane = thread / FOUR % LANES;
    uint own = lane / (TOGETHER / FOUR);
#else
    uint place = gl_LocalInvocationID.x, lane = gl_LocalInvocationID.y, own = lane;
#endif
    uint tile = gl_WorkGroupID.x * (WIDTH / TILE_THREADS) + place / TILE_THREADS;
    uint r = place % TILE_THREADS, first = gl_WorkGroupID.y * COLS;
    uint n_tiles = (p.n_rows + TILE_ROWS - 1u) / TILE_ROWS;
    bool is_used = tile < n_tiles;
    tile = min(tile, n_tiles - 1u);
    load_book(p.matrix, gl_LocalInvocationIndex, WIDTH * LANES);
    if (HAS_BOOK)
        barrier();
#ifdef IS_SINGLE
    prepare_row(thread, WIDTH * LANES, CODE_BITS == 4u);
#endif

    float total[ROWS][COLS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            total[k][c] = 0.0;
    for (uint g = lane; g < p.matrix.n_granules; g += LANES)
        add_granule(tile, g, r, first, total);

    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = tile * TILE_ROWS + r + k * TILE_THREADS;
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            total[k][c] = add_lanes(total[k][c]);
        if (PARTS > 1u) {
            if (k > 0u)
                barrier();
            [[unroll]] for (uint c = 0u; c < COLS; c++) {
                if (lane % (LANES / PARTS) == 0u)
                    partial[c][own * WIDTH + place] = total[k][c];
            }
            barrier();
        }
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            // The lanes write columns in turn.
            if (c % LANES != lane || !is_used || row >= p.n_rows)
                continue;
            float sum = PARTS > 1u ? 0.0 : total[k][c];
            for (uint i = 0u; PARTS > 1u && i < PARTS; i++)
                sum += partial[c][i * WIDTH + place];
            if (HAS_BIAS)
                sum += bias[p.bias_at + row];
            uint at = (first + c) * p.out_stride + p.out_at + row;
            y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
        }
    }
}
