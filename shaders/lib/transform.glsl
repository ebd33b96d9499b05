// The Hadamard transform of a group of the cache, as shared/kv.h defines it.
#ifndef SHADERS_LIB_TRANSFORM_GLSL
#define SHADERS_LIB_TRANSFORM_GLSL

#include "shared/kv.h"

// Multiplies a group by the Hadamard matrix and `factor`, which is a power of 2.
void transform_group(inout vec4 x[NIB_KV_GROUP / 4], float factor)
{
    const uint n = uint(NIB_KV_GROUP) / 4u;
    [[unroll]] for (uint i = 0u; i < n; i++) {
        vec4 pairs = vec4(x[i].xz + x[i].yw, x[i].xz - x[i].yw).xzyw;
        x[i] = vec4(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
    }
    [[unroll]] for (uint s = 1u; s < n; s *= 2u) {
        [[unroll]] for (uint i = 0u; i < n; i++) {
            if ((i & s) == 0u) {
                vec4 sum = x[i] + x[i + s];
                x[i + s] = x[i] - x[i + s];
                x[i] = sum;
            }
        }
    }
    [[unroll]] for (uint i = 0u; i < n; i++)
        x[i] *= factor;
}

#endif
