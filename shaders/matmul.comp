#version 450
// y = x · weight^T + bias. An invocation makes ROWS rows of the weight for COLS rows of x.
// 16 / ROWS neighbours make a tile; LANES of them, in y, share each row and take every LANES-th
// granule. The sum over a granule of int8 codes is exact in fp32, since 32 · 255 · 127 < 2^24.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/weights.glsl"
#include "shared/kernels.h"

#define TILE_THREADS (TILE_ROWS / ROWS)

layout(constant_id = NIB_SPEC_LANES) const uint LANES = 8;
layout(constant_id = NIB_SPEC_HAS_INPUT_SCALES) const bool HAS_INPUT_SCALES = false;
layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_WIDTH) const uint WIDTH = 16;
layout(local_size_x_id = NIB_SPEC_WIDTH, local_size_y_id = NIB_SPEC_LANES) in;

const bool HAS_HALVES = HALVES == 2u;

layout(push_constant) uniform Push {
    nib_matmul_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer Input {
    vec4 x[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) readonly buffer Sums {
    vec4 sums[]; // [row][granule]: the scale, the sums of both halves
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Bias {
    float bias[];
};

shared float partial[ROWS * COLS][WIDTH * LANES];

// Adds the products of one granule to the sums of each row and column.
void add_granule(uint tile, uint g, uint r, uint first, inout float total[ROWS][COLS])
{
    Granule granule[ROWS];
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        granule[k] = load_granule(p.matrix, tile, g, r + k * TILE_THREADS);
    float products[ROWS][COLS][2]; // of both halves, where they have groups of their own
    [[unroll]] for (uint k = 0u; k < ROWS; k++)
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            products[k][c] = float[2](0.0, 0.0);
    [[unroll]] for (uint q = 0u; q < 8u; q++) {
        uint h = HAS_HALVES ? q / 4u : 0u;
        vec4 input_quad[COLS];
        [[unroll]] for (uint c = 0u; c < COLS; c++)
            input_quad[c] = x[((first + c) * p.matrix.n_granules + g) * 8u + q];
        [[unroll]] for (uint k = 0u; k < ROWS; k++) {
            vec4 w = weight_quad(granule[k], q);
            [[unroll]] for (uint c = 0u; c < COLS; c++)
                products[k][c][h] += dot(w, input_quad[c]);
        }
    }

    vec3 scale_and_sums[COLS];
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        bool is_needed = HAS_MIN || ZERO_BITS > 0u || HAS_INPUT_SCALES;
        scale_and_sums[c] =
            is_needed ? sums[(first + c) * p.matrix.n_granules + g].xyz : vec3(1.0, 0.0, 0.0);
    }
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = r + k * TILE_THREADS;
        Group low = load_group(p.matrix, tile, group_of(p.matrix, g, 0u), row);
        Group high = low;
        if (HAS_HALVES)
            high = load_group(p.matrix, tile, group_of(p.matrix, g, 1u), row);
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec2 half_sums = scale_and_sums[c].yz;
            float sum;
            if (HAS_HALVES) {
                vec2 part = vec2(products[k][c][0], products[k][c][1]);
                if (ZERO_BITS > 0u)
                    part -= vec2(low.zero, high.zero) * half_sums;
                sum = low.scale * part.x + high.scale * part.y;
            } else {
                float part = products[k][c][0];
                if (ZERO_BITS > 0u)
                    part -= low.zero * (half_sums.x + half_sums.y);
                sum = low.scale * part;
            }
            if (HAS_MIN)
                sum += low.min * half_sums.x + high.min * half_sums.y;
            total[k][c] += HAS_INPUT_SCALES ? scale_and_sums[c].x * sum : sum;
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
            if (row < p.n_rows)
                y[(first + c) * p.out_stride + p.out_at + row] =
                    HAS_BIAS ? sum + bias[p.bias_at + row] : sum;
        }
    }
}
