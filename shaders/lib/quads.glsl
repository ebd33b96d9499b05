// A row of a matmul's input, of which the 8 invocations of a subgroup take neighbouring quads, read
// through texel buffers. Needs SOURCE: what the row is computed from, NIB_PREPARE_SOURCE_*. Lanes
// are joined by shuffles, for drivers of the CPU reduce one invocation after the other.
#ifndef SHADERS_LIB_QUADS_GLSL
#define SHADERS_LIB_QUADS_GLSL
#extension GL_KHR_shader_subgroup_shuffle : require

#include "../shared/kernels.h"
#include "activate.glsl"

layout(set = 0, binding = NIB_BIND_IN_TEXELS) uniform utextureBuffer in_values;
layout(set = 0, binding = NIB_BIND_IN_2_TEXELS) uniform utextureBuffer in_2_values; // weight or up

// Where the row begins, in texels.
struct QuadRow {
    uint at;
    uint up_at;
    uint n_cols;
    float norm_factor;
};

vec4 fetch_floats(utextureBuffer from, uint texel)
{
    return uintBitsToFloat(texelFetch(from, int(texel)));
}

// Sets the factor of a norm, where the row is computed by one.
void find_norm_factor(inout QuadRow row, float epsilon)
{
    row.norm_factor = 1.0;
    if (SOURCE != NIB_PREPARE_SOURCE_NORM && SOURCE != NIB_PREPARE_SOURCE_NORM_TIMES)
        return;
    uint lane = gl_SubgroupInvocationID;
    float sum = 0.0;
    for (uint q = lane; q < row.n_cols / 4u; q += 8u) {
        vec4 v = fetch_floats(in_values, row.at + q);
        sum += dot(v, v);
    }
    sum += subgroupShuffle(sum, lane ^ 4u);
    sum += subgroupShuffle(sum, lane ^ 2u);
    sum += subgroupShuffle(sum, lane ^ 1u);
    row.norm_factor = 1.0 / sqrt(sum / float(row.n_cols) + epsilon);
}

vec4 load_quad(QuadRow row, uint q)
{
    vec4 v = fetch_floats(in_values, row.at + q);
    if (SOURCE >= NIB_PREPARE_SOURCE_GATE) {
        vec4 up = fetch_floats(in_2_values, row.up_at + q);
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            v[i] = activate(SOURCE - NIB_PREPARE_SOURCE_GATE, v[i]) * up[i];
    } else if (SOURCE != NIB_PREPARE_SOURCE_VALUES) {
        v *= row.norm_factor;
        if (SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES)
            v *= fetch_floats(in_2_values, q);
    }
    return q * 4u < row.n_cols ? v : vec4(0.0);
}

// The invocation's quad of a granule as codes, the granule's scale, and the sum of the codes of the
// half that the quad is in.
struct QuadCodes {
    ivec4 codes;
    float scale;
    float half_sum;
};

QuadCodes load_codes(QuadRow row, uint g)
{
    uint lane = gl_SubgroupInvocationID;
    vec4 v = load_quad(row, g * 8u + lane);
    float most = max(max(abs(v.x), abs(v.y)), max(abs(v.z), abs(v.w)));
    most = max(most, subgroupShuffle(most, lane ^ 4u));
    most = max(most, subgroupShuffle(most, lane ^ 2u));
    most = max(most, subgroupShuffle(most, lane ^ 1u));
    bool is_zero = most < NIB_PREPARE_LEAST;
    v = clamp(v * (is_zero ? 0.0 : 127.0 / most), -127.0, 127.0);
    // Rounds to even, and leaves the integer in the lowest bits: drivers of the CPU convert floats
    // to integers one after the other.
    const float MAGIC = 12582912.0;
    v += MAGIC;
    QuadCodes result;
    result.codes = ivec4(floatBitsToInt(v)) - floatBitsToInt(MAGIC);
    result.scale = is_zero ? 0.0 : most / 127.0;
    int sum = (result.codes.x + result.codes.y) + (result.codes.z + result.codes.w);
    sum += subgroupShuffle(sum, lane ^ 2u);
    sum += subgroupShuffle(sum, lane ^ 1u);
    result.half_sum = float(sum);
    return result;
}

#endif
