#version 450
// Keys or values of each row into the cache, at the row's position. An invocation writes a word:
// one number of 32 bits or two of 16. Dispatched once for each plane.
#extension GL_GOOGLE_include_directive : require
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(constant_id = 0) const bool IS_HALF = true;
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_kv_store_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) writeonly buffer Plane {
    uint plane[];
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    nib_step_row r = step.rows[row];
    if (i >= p.n_heads * p.head_words || r.sequence == NIB_NONE)
        return;
    uint head = i / p.head_words, word = i % p.head_words;
    uint table = sequence_word(p.sequences_at, r.sequence, 1u) +
                 p.kv_class * step.header.page_table_stride;
    uint page = step.rest[p.tables_at + table + r.position / NIB_KV_PAGE_TOKENS];
    uint slot = r.position % NIB_KV_PAGE_TOKENS;
    uint to = page * p.page_words + (head * NIB_KV_PAGE_TOKENS + slot) * p.head_words + word;
    uint from = row * p.in_stride + p.in_at;
    if (IS_HALF) {
        uint pair = from + 2u * i;
        plane[to] = half_from_float(x[pair]) | (half_from_float(x[pair + 1u]) << 16);
    } else {
        plane[to] = floatBitsToUint(x[from + i]);
    }
}
