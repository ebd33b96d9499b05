#version 450
// As kv_store.comp, of halves and heads that are turned as a whole, through texel buffers: an
// invocation turns four neighbouring pairs of a query or key, or stores eight numbers of a value.
// Every texel of the queries belongs to one invocation, which writes it where it was.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"
layout(constant_id = NIB_KV_STORE_INTERLEAVED) const bool INTERLEAVED = false;
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_kv_store_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer X {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) writeonly buffer Keys {
    uint keys[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Values {
    uint values[];
};
layout(set = 0, binding = NIB_BIND_IN_TEXELS) uniform utextureBuffer x_texels;
layout(set = 0, binding = NIB_BIND_IN_2_TEXELS) uniform utextureBuffer step_texels;

// Words of the step block before its angles and tables.
const uint REST = uint(NIB_STEP_HEADER_WORDS + 4 * NIB_STEP_MAX_ROWS);

vec4 load_x(uint at)
{
    return uintBitsToFloat(texelFetch(x_texels, int(at / 4u)));
}

// Where pairs j to j + 3 of a head lie: two quads.
uvec2 quads_of(uint j)
{
    return INTERLEAVED ? uvec2(2u * j, 2u * j + 4u) : uvec2(j, p.half_dims + j);
}

// The two quads of the head at `at`, turned.
void turn(uint at, uint row, uint j, out vec4 low, out vec4 high)
{
    uint angles = REST + p.angles_at + row * 2u * p.half_dims + j;
    vec4 cosine = uintBitsToFloat(texelFetch(step_texels, int(angles / 4u)));
    vec4 sine = uintBitsToFloat(texelFetch(step_texels, int((angles + p.half_dims) / 4u)));
    uvec2 place = quads_of(j);
    vec4 a = load_x(at + place.x), b = load_x(at + place.y), u = a, v = b;
    if (INTERLEAVED) {
        u = vec4(a.xz, b.xz);
        v = vec4(a.yw, b.yw);
    }
    vec4 first = u * cosine - v * sine, second = u * sine + v * cosine;
    low = INTERLEAVED ? vec4(first.x, second.x, first.y, second.y) : first;
    high = INTERLEAVED ? vec4(first.z, second.z, first.w, second.w) : second;
}

uvec2 halves(vec4 v)
{
    return uvec2(half_from_float(v.x) | half_from_float(v.y) << 16,
                 half_from_float(v.z) | half_from_float(v.w) << 16);
}

// Where a head of a row begins in a plane.
uint place_of(nib_kv_store_part part, nib_step_row r, uint head)
{
    uint table = sequence_word(p.sequences_at, r.sequence, 1u) +
                 p.kv_class * step.header.page_table_stride;
    uint page = step.rest[p.tables_at + table + r.position / NIB_KV_PAGE_TOKENS];
    uint token = head * NIB_KV_PAGE_TOKENS + r.position % NIB_KV_PAGE_TOKENS;
    return page * part.page_words + token * part.head_words;
}

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y, quads = p.half_dims / 4u;
    vec4 low, high;
    if (i < p.queries.n_heads * quads) {
        uint at = row * p.queries.stride + p.queries.at + i / quads * p.head_dim;
        uint j = i % quads * 4u;
        turn(at, row, j, low, high);
        uvec2 to = at + quads_of(j);
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            x[to.x + k] = low[k];
            x[to.y + k] = high[k];
        }
        return;
    }
    i -= p.queries.n_heads * quads;
    nib_step_row r = step.rows[row];
    if (r.sequence == NIB_NONE)
        return;
    if (i < p.n_heads * quads) {
        uint head = i / quads, j = i % quads * 4u;
        turn(row * p.keys.stride + p.keys.at + head * p.head_dim, row, j, low, high);
        uvec2 to = place_of(p.keys, r, head) + quads_of(j) / 2u;
        uvec2 first = halves(low), second = halves(high);
        keys[to.x] = first.x;
        keys[to.x + 1u] = first.y;
        keys[to.y] = second.x;
        keys[to.y + 1u] = second.y;
        return;
    }
    i -= p.n_heads * quads;
    uint parts = p.values.head_words / 4u;
    if (i >= p.n_heads * parts)
        return;
    uint at = row * p.values.stride + p.values.at + i * 8u;
    uint to = place_of(p.values, r, i / parts) + i % parts * 4u;
    uvec2 first = halves(load_x(at)), second = halves(load_x(at + 4u));
    values[to] = first.x;
    values[to + 1u] = first.y;
    values[to + 2u] = second.x;
    values[to + 3u] = second.y;
}
