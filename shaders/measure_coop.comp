#version 450
// As measure_macs.comp by cooperative matrices: products of tiles and nothing else.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
#include "shared/kernels.h"

layout(constant_id = NIB_SPEC_TILE_M) const uint TILE_M = 16;
layout(constant_id = NIB_SPEC_TILE_N) const uint TILE_N = 16;
layout(constant_id = NIB_SPEC_TILE_K) const uint TILE_K = 16;
layout(constant_id = NIB_SPEC_SUBGROUP) const uint SUBGROUP = 32;
layout(local_size_x = 128) in;

layout(push_constant) uniform Push {
    nib_measure_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    uint sums[];
};

#ifdef HAS_BYTES
#define ELEMENT int8_t
#define EXACT int
#else
#define ELEMENT float16_t
#define EXACT float
#endif
#define EXACT_SUMS coopmat<EXACT, gl_ScopeSubgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>
#define LEFT coopmat<ELEMENT, gl_ScopeSubgroup, TILE_M, TILE_K, gl_MatrixUseA>
#define RIGHT coopmat<ELEMENT, gl_ScopeSubgroup, TILE_K, TILE_N, gl_MatrixUseB>

shared EXACT results[128u / SUBGROUP * TILE_M * TILE_N];

void main()
{
    LEFT left = LEFT(ELEMENT(int(p.factor & 1u)));
    RIGHT right = RIGHT(ELEMENT(int(p.factor & 1u)));
    EXACT_SUMS s[NIB_MEASURE_TILES];
    [[unroll]] for (uint i = 0u; i < NIB_MEASURE_TILES; i++)
        s[i] = EXACT_SUMS(EXACT(gl_SubgroupID + i));
    for (uint r = 0u; r < p.n_rounds; r++) {
        [[unroll]] for (uint i = 0u; i < NIB_MEASURE_TILES; i++)
            s[i] = coopMatMulAdd(left, right, s[i]);
    }
    uint at = gl_SubgroupID * TILE_M * TILE_N;
    [[unroll]] for (uint i = 0u; i < NIB_MEASURE_TILES; i++) {
        coopMatStore(s[i], results, at, TILE_N, gl_CooperativeMatrixLayoutRowMajor);
        barrier();
        // Hardly ever, but compilers cannot know.
        if (uint(results[at]) == p.unlikely)
            sums[0] = i;
        barrier();
    }
}
