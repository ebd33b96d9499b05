#version 450
// As prepare.comp makes codes of groups of 32 columns, for drivers that run invocations side by
// side in a CPU's vectors: a subgroup of 8 takes a row.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "shared/kernels.h"

layout(constant_id = NIB_PREPARE_SOURCE) const uint SOURCE = NIB_PREPARE_SOURCE_VALUES;
#include "lib/quads.glsl"
layout(local_size_x = 8) in;

layout(push_constant) uniform Push {
    nib_prepare_args p;
};

layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Codes {
    uint codes[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) writeonly buffer Sums {
    float sums[]; // [row][granule][4]: the scale, the sums of both halves
};

void main()
{
    uint y = gl_WorkGroupID.y, lane = gl_SubgroupInvocationID;
    QuadRow row;
    row.at = (y * p.in_stride + p.in_at) / 4u;
    row.up_at = (y * p.up_stride + p.up_at) / 4u;
    row.n_cols = p.n_cols;
    find_norm_factor(row, p.epsilon);
    // Sums of 8 granules are written at once.
    vec3 own = vec3(0.0);
    for (uint g = 0u; g < p.n_granules; g++) {
        QuadCodes c = load_codes(row, g);
        uvec4 bytes = uvec4(c.codes) & 255u;
        uint place = y * p.n_granules + g;
        codes[place * 8u + lane] = bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
        vec3 all = vec3(c.scale, subgroupShuffle(c.half_sum, 0u), subgroupShuffle(c.half_sum, 4u));
        own = (g & 7u) == lane ? all : own;
        bool is_last = g + 1u == p.n_granules;
        if ((g & 7u) < 7u && !is_last)
            continue;
        uint at = (place - (g & 7u) + lane) * 4u;
        if (lane <= (g & 7u)) {
            sums[at] = own.x;
            sums[at + 1u] = own.y;
            sums[at + 2u] = own.z;
        }
    }
}
