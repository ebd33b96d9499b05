#version 450
// y = x · weight^T + bias. A workgroup makes 16 rows of the weight for COLS rows of x; each of its
// LANES invocations of one weight row takes every LANES-th granule. The sum over a granule of int8
// codes is exact in fp32, since 32 · 255 · 127 < 2^24.
#extension GL_GOOGLE_include_directive : require
#include "lib/weights.glsl"
#include "shared/kernels.h"

layout(constant_id = NIB_SPEC_LANES) const uint LANES = 8;
layout(constant_id = NIB_SPEC_HAS_INPUT_SCALES) const bool HAS_INPUT_SCALES = false;
layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(local_size_x = 16, local_size_y_id = NIB_SPEC_LANES) in;

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

shared float partial[COLS][16 * LANES];

void main()
{
    uint r = gl_LocalInvocationID.x, lane = gl_LocalInvocationID.y;
    uint tile = gl_WorkGroupID.x, first = gl_WorkGroupID.y * COLS;
    load_book(p.matrix, gl_LocalInvocationIndex, 16u * LANES);
    if (HAS_BOOK)
        barrier();

    float total[COLS];
    for (uint c = 0u; c < COLS; c++)
        total[c] = 0.0;
    for (uint g = lane; g < p.matrix.n_granules; g += LANES) {
        vec4 w[8];
        load_granule(p.matrix, tile, g, r, w);
        Group low = load_group(p.matrix, tile, group_of(p.matrix, g, 0u), r);
        Group high = low;
        if (HALVES == 2u)
            high = load_group(p.matrix, tile, group_of(p.matrix, g, 1u), r);
        for (uint c = 0u; c < COLS; c++) {
            uint at = (first + c) * p.matrix.n_granules + g;
            vec4 a = vec4(0.0), b = vec4(0.0);
            for (uint q = 0u; q < 4u; q++) {
                a += w[q] * x[at * 8u + q];
                b += w[q + 4u] * x[at * 8u + q + 4u];
            }
            float part;
            if (HALVES == 2u) {
                part = low.scale * dot(a, vec4(1.0)) + high.scale * dot(b, vec4(1.0));
            } else {
                float products = dot(a + b, vec4(1.0));
                if (ZERO_BITS > 0u)
                    products -= low.zero * (sums[at].y + sums[at].z);
                part = CODE_BITS >= NIB_CODE_F16 ? products : low.scale * products;
            }
            if (HAS_MIN)
                part += low.min * sums[at].y + high.min * sums[at].z;
            total[c] += HAS_INPUT_SCALES ? sums[at].x * part : part;
        }
    }

    if (LANES > 1u) {
        for (uint c = 0u; c < COLS; c++)
            partial[c][lane * 16u + r] = total[c];
        barrier();
    }
    uint row = tile * 16u + r;
    if (lane == 0u && row < p.n_rows) {
        for (uint c = 0u; c < COLS; c++) {
            for (uint i = 1u; i < LANES; i++)
                total[c] += partial[c][i * 16u + r];
            if (HAS_BIAS)
                total[c] += bias[p.bias_at + row];
            y[(first + c) * p.out_stride + p.out_at + row] = total[c];
        }
    }
}
