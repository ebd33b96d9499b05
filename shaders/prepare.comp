#version 450
// The input of a matmul in the order of the weight's granules, 32 numbers each, the last ones zero:
// floats, or int8 codes as floats, with each granule's scale and sums. Codes are those of
// runtime/quant/activation.h. A workgroup takes a row.
#extension GL_GOOGLE_include_directive : require
#include "shared/kernels.h"

layout(constant_id = NIB_PREPARE_MODE) const uint MODE = NIB_PREPARE_F32;
// Codes become the numbers that they stand for.
layout(constant_id = NIB_PREPARE_AS_VALUES) const bool AS_VALUES = false;
// Granules may be shorter than 32 columns.
layout(constant_id = NIB_PREPARE_HAS_SPANS) const bool HAS_SPANS = false;
layout(constant_id = NIB_PREPARE_HAS_PERMUTATION) const bool HAS_PERMUTATION = false;
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_prepare_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float values[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Out {
    vec4 x[];
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) writeonly buffer Sums {
    vec4 sums[];
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Tables {
    uint table[]; // first column and number of columns of each granule, then the permutation
};

shared float maxima[64];

float load(uint row, uint column)
{
    uint at = HAS_PERMUTATION ? table[p.permutation_at + column] : column;
    return values[row * p.in_stride + p.in_at + at];
}

float row_maximum(uint row)
{
    uint thread = gl_LocalInvocationIndex;
    float most = 0.0;
    for (uint c = thread; c < p.n_cols; c += 64u)
        most = max(most, abs(load(row, c)));
    maxima[thread] = most;
    for (uint half_size = 32u; half_size > 0u; half_size /= 2u) {
        barrier();
        if (thread < half_size)
            maxima[thread] = max(maxima[thread], maxima[thread + half_size]);
    }
    barrier();
    return maxima[0];
}

// Returns the scale in x and what a number is multiplied with in y, for the group of 32 columns
// that begins at `begin`.
vec2 group_scale(uint row, uint begin)
{
    float most = 0.0;
    for (uint c = begin; c < min(begin + 32u, p.n_cols); c++)
        most = max(most, abs(load(row, c)));
    // Below 2^-100 a group counts as zero, so that no inverse is denormal.
    return most < 7.888609052210118e-31 ? vec2(0.0) : vec2(most / 127.0, 127.0 / most);
}

void main()
{
    uint row = gl_WorkGroupID.y;
    float scale = MODE == NIB_PREPARE_TOKEN ? row_maximum(row) / 127.5 : p.scale;
    for (uint g = gl_LocalInvocationIndex; g < p.n_granules; g += 64u) {
        uint begin = HAS_SPANS ? table[2u * g] : 32u * g;
        uint count = HAS_SPANS ? table[2u * g + 1u] : min(32u, p.n_cols - begin);
        vec2 group = vec2(1.0);
        if (MODE == NIB_PREPARE_GROUP)
            group = group_scale(row, begin / 32u * 32u);
        float granule_scale = MODE == NIB_PREPARE_F32 ? 1.0 : scale;
        if (MODE == NIB_PREPARE_GROUP)
            granule_scale = group.x;
        float half_sums[2] = float[2](0.0, 0.0);
        for (uint q = 0u; q < 8u; q++) {
            vec4 v = vec4(0.0);
            for (uint i = 0u; i < 4u; i++) {
                if (4u * q + i >= count)
                    break;
                float value = load(row, begin + 4u * q + i);
                if (MODE == NIB_PREPARE_GROUP)
                    value = roundEven(clamp(value * group.y, -127.0, 127.0));
                else if (MODE != NIB_PREPARE_F32)
                    value = scale > 0.0 ? roundEven(clamp(value / scale, -128.0, 127.0)) : 0.0;
                v[i] = MODE != NIB_PREPARE_F32 && AS_VALUES ? granule_scale * value : value;
            }
            x[(row * p.n_granules + g) * 8u + q] = v;
            half_sums[q / 4u] += (v.x + v.y) + (v.z + v.w);
        }
        sums[row * p.n_granules + g] =
            vec4(AS_VALUES ? 1.0 : granule_scale, half_sums[0], half_sums[1], 0.0);
    }
}
