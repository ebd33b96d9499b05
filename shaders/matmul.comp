#version 450
// y = x · weight^T + bias. An invocation makes ROWS rows of the weight for COLS rows of x.
// 16 / ROWS neighbours make a tile; LANES of them, in y, share each row and take every LANES-th
// granule. Codes are multiplied with codes in integers, numbers with numbers in fp32.
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
layout(local_size_x_id = NIB_SPEC_WIDTH, local_size_y_id = NIB_SPEC_LANES) in;

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

shared float partial[ROWS * COLS][WIDTH * LANES];

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
            vec4 w = weight_quad(granule[k], q);
            [[unroll]] for (uint c = 0u; c < COLS; c++)
                products[k][c][HAS_HALVES ? q / 4u : 0u] += dot(w, input_quad[c]);
        }
    }
}

// The same of codes; `sums` are those of the codes of x.
void multiply_codes(const Granule granule[ROWS], uint g, uint first, const vec2 half_sums[COLS],
                    out vec2 products[ROWS][COLS])
{
    ivec2 exact[ROWS][COLS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            exact[k][c] = ivec2(0);
    [[unroll]] for (uint h = 0u; h < 2u; h++) {
        uvec4 input_codes[COLS];
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            input_codes[c] = codes[((first + c) * p.matrix.n_granules + g) * 2u + h];
        [[unroll]] for (uint q = 0u; q < 4u; q++)
            [[unroll]] for (uint k = 0u; k < ROWS; k++) {
                uint w = weight_bytes(granule[k], 4u * h + q);
                [[unroll]] for (uint c = 0u; c < COLS; c++) {
                    uint part = HAS_HALVES ? h : 0u;
                    exact[k][c][part] = dot_bytes(w, input_codes[c][q], exact[k][c][part]);
                }
            }
    }
    // Bytes of the weight hold codes less BYTE_OFFSET.
    float offset = float(BYTE_OFFSET - CENTER);
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec2 sum = HAS_HALVES ? half_sums[c] : vec2(half_sums[c].x + half_sums[c].y, 0.0);
            products[k][c] = vec2(exact[k][c]) + (HAS_BOOK ? vec2(0.0) : offset * sum);
        }
}

// Returns the product with the columns of a granule that have outliers.
float multiply_outliers(Granule granule, uint g, uint c, Group low, Group high)
{
    float sum = 0.0;
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        Group group = q < 4u ? low : high;
        vec4 w = group.scale * (weight_quad(granule, q) - group.zero) + group.min;
        sum += dot(w, outliers[(c * p.matrix.n_granules + g) * 8u + q]);
    }
    return sum;
}

// Adds the products of one granule to the sums of each row and column.
void add_granule(uint tile, uint g, uint r, uint first, inout float total[ROWS][COLS])
{
    Granule granule[ROWS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        granule[k] = load_granule(p.matrix, tile, g, r + k * TILE_THREADS);
    float input_scale[COLS];
    vec2 half_sums[COLS];
    bool has_outliers[COLS];
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        bool is_needed = HAS_MIN || ZERO_BITS > 0u || HAS_CODES;
        vec4 s = is_needed ? sums[(first + c) * p.matrix.n_granules + g] : vec4(1.0, 0.0, 0.0, 0.0);
        input_scale[c] = s.x;
        half_sums[c] = s.yz;
        has_outliers[c] = HAS_OUTLIERS && s.w != 0.0;
    }
    vec2 products[ROWS][COLS];
    if (HAS_CODES)
        multiply_codes(granule, g, first, half_sums, products);
    else
        multiply_floats(granule, g, first, products);

    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = r + k * TILE_THREADS;
        Group low = load_group(p.matrix, tile, group_of(p.matrix, g, 0u), row);
        Group high = low;
        if (HAS_HALVES)
            high = load_group(p.matrix, tile, group_of(p.matrix, g, 1u), row);
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec2 part = products[k][c];
            if (ZERO_BITS > 0u && HAS_HALVES)
                part -= vec2(low.zero, high.zero) * half_sums[c];
            else if (ZERO_BITS > 0u)
                part.x -= low.zero * (half_sums[c].x + half_sums[c].y);
            float sum = low.scale * part.x;
            if (HAS_HALVES)
                sum += high.scale * part.y;
            if (HAS_MIN)
                sum += low.min * half_sums[c].x + high.min * half_sums[c].y;
            total[k][c] += HAS_CODES ? input_scale[c] * sum : sum;
            if (has_outliers[c])
                total[k][c] += multiply_outliers(granule[k], g, first + c, low, high);
        }
    }
}

void main()
{
    uint place = gl_LocalInvocationID.x, lane = gl_LocalInvocationID.y;
    uint tile = gl_WorkGroupID.x * (WIDTH / TILE_THREADS) + place / TILE_THREADS;
    uint r = place % TILE_THREADS, first = gl_WorkGroupID.y * COLS;
    uint n_tiles = (p.n_rows + TILE_ROWS - 1u) / TILE_ROWS;
    bool is_used = tile < n_tiles;
    tile = min(tile, n_tiles - 1u);
    load_book(p.matrix, gl_LocalInvocationIndex, WIDTH * LANES);
    if (HAS_BOOK)
        barrier();

    float total[ROWS][COLS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            total[k][c] = 0.0;
    for (uint g = lane; g < p.matrix.n_granules; g += LANES)
        add_granule(tile, g, r, first, total);

    if (LANES > 1u) {
        [[unroll]] for (uint k = 0u; k < ROWS; k++)
            [[unroll]] for (uint c = 0u; c < COLS; c++)
                partial[k * COLS + c][lane * WIDTH + place] = total[k][c];
        barrier();
    }
    if (lane != 0u || !is_used)
        return;
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = tile * TILE_ROWS + r + k * TILE_THREADS;
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            float sum = total[k][c];
            for (uint i = 1u; i < LANES; i++)
                sum += partial[k * COLS + c][i * WIDTH + place];
            if (row >= p.n_rows)
                continue;
            if (HAS_BIAS)
                sum += bias[p.bias_at + row];
            uint at = (first + c) * p.out_stride + p.out_at + row;
            y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
        }
    }
}
