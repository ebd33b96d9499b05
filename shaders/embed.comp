#version 450
// Rows of the embedding: an invocation takes a granule of a row's token, if the token lies in the
// slice of the matrix that is bound.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/step.glsl"
#include "lib/weights.glsl"
#include "shared/kernels.h"

layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_embed_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};

void main()
{
    load_book(p.matrix, gl_LocalInvocationIndex, 64u);
    barrier();
    uint g = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint line = step.rows[row].token - p.first_row;
    if (g >= p.matrix.n_granules || line >= p.n_rows)
        return;
    uint tile = line / TILE_ROWS, r = line % TILE_ROWS;
    Granule granule = load_granule(p.matrix, tile, g, r);
    for (uint i = 0u; i < 32u && g * 32u + i < p.n_cols; i++) {
        Group group = load_group(p.matrix, tile, group_of(p.matrix, g, i / 16u), r);
        float value = weight_quad(granule, i / 4u)[i % 4u];
        if (CODE_BITS < NIB_CODE_F16)
            value = group.scale * (value - group.zero) + group.min;
        y[row * p.out_stride + p.out_at + g * 32u + i] = p.scale * value;
    }
}
