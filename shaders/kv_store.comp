#version 450
// Keys and values of each row into the cache, at the row's position, the keys turned by the row's
// angles, and queries with them, in place. An invocation turns a pair of a query, or writes a word
// of the cache: one number of 32 bits or two of 16.
#extension GL_GOOGLE_include_directive : require
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(constant_id = NIB_KV_STORE_KEY_IS_HALF) const bool KEY_IS_HALF = true;
layout(constant_id = NIB_KV_STORE_VALUE_IS_HALF) const bool VALUE_IS_HALF = true;
layout(constant_id = NIB_KV_STORE_INTERLEAVED) const bool INTERLEAVED = false;
#include "lib/rope.glsl"
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_kv_store_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer X {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) writeonly buffer Keys {
    uint keys[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Values {
    uint values[];
};

vec2 turn(uvec2 at, uint row, uint j)
{
    return turn_pair(x[at.x], x[at.y], p.angles_at, row, j, p.half_dims);
}

// Number `d` of a head of a key.
float key_number(uint row, uint head, uint d)
{
    if (d >= 2u * p.half_dims)
        return x[head + d];
    uint j = INTERLEAVED ? d / 2u : d % p.half_dims;
    bool is_first = INTERLEAVED ? d % 2u == 0u : d < p.half_dims;
    vec2 turned = turn(pair_place(head, j, p.half_dims), row, j);
    return is_first ? turned.x : turned.y;
}

// Where word `i` of a row goes in a plane.
uint place_of(nib_kv_store_part part, nib_step_row r, uint i)
{
    uint table = sequence_word(p.sequences_at, r.sequence, 1u) +
                 p.kv_class * step.header.page_table_stride;
    uint page = step.rest[p.tables_at + table + r.position / NIB_KV_PAGE_TOKENS];
    uint token = i / part.head_words * NIB_KV_PAGE_TOKENS + r.position % NIB_KV_PAGE_TOKENS;
    return page * part.page_words + token * part.head_words + i % part.head_words;
}

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint n_pairs = p.queries.n_heads * p.half_dims;
    if (i < n_pairs) {
        uint j = i % p.half_dims;
        uint head = row * p.queries.stride + p.queries.at + i / p.half_dims * p.head_dim;
        uvec2 at = pair_place(head, j, p.half_dims);
        vec2 turned = turn(at, row, j);
        x[at.x] = turned.x;
        x[at.y] = turned.y;
        return;
    }
    i -= n_pairs;
    nib_step_row r = step.rows[row];
    if (r.sequence == NIB_NONE)
        return;
    uint n_keys = p.n_heads * p.keys.head_words;
    if (i < n_keys) {
        uint head = row * p.keys.stride + p.keys.at + i / p.keys.head_words * p.head_dim;
        uint word = i % p.keys.head_words, to = place_of(p.keys, r, i);
        keys[to] = KEY_IS_HALF ? half_from_float(key_number(row, head, 2u * word)) |
                                     half_from_float(key_number(row, head, 2u * word + 1u)) << 16
                               : floatBitsToUint(key_number(row, head, word));
        return;
    }
    i -= n_keys;
    if (i >= p.n_heads * p.values.head_words)
        return;
    uint from = row * p.values.stride + p.values.at;
    values[place_of(p.values, r, i)] =
        VALUE_IS_HALF ? half_from_float(x[from + 2u * i]) |
                            half_from_float(x[from + 2u * i + 1u]) << 16
                      : floatBitsToUint(x[from + i]);
}
