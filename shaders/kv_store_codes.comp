#version 450
// Keys or values of each row into a cache of codes, at the row's position, as shared/kv.h defines
// them. An invocation makes two groups, whose base has its scales in one word. Dispatched once for
// keys and once for values.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "lib/transform.glsl"
#include "shared/kernels.h"

#define GROUP uint(NIB_KV_GROUP)
#define HALF_MAX NIB_KV_HALF_MAX

layout(constant_id = NIB_KV_STORE_FORMAT) const uint FORMAT = NIB_KV_CODE_I8;
layout(constant_id = NIB_KV_STORE_IS_KEY) const bool IS_KEY = true;
layout(constant_id = NIB_KV_STORE_DIM) const uint DIM = 64;
layout(constant_id = NIB_KV_STORE_HAS_RECENT) const bool HAS_RECENT = false;
layout(constant_id = NIB_KV_STORE_TRANSFORMS) const bool TRANSFORMS = true;
layout(constant_id = NIB_KV_STORE_FIRST_ALONE) const uint FIRST_ALONE = 0;
layout(local_size_x = 64) in;

const bool IS_I8 = FORMAT == NIB_KV_CODE_I8;
// Stored in f16 alone: kv_pack makes the codes.
const bool IS_CHANNEL = FORMAT == NIB_KV_CODE_I4_CHANNEL;
const uint GROUPS = (DIM + GROUP - 1u) / GROUP;
const uint PAIRS = (GROUPS + 1u) / 2u;
const uint N_SCALES = IS_I8 ? PAIRS : GROUPS; // words of a head of a token
const uint N_WORDS = IS_I8 ? GROUP / 4u : GROUP / 8u; // of a group

layout(push_constant) uniform Push {
    nib_kv_store_codes_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) buffer Plane {
    uint plane[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) buffer Scales {
    uint scales[];
};

// A number as it is to be stored: never NaN nor infinite.
float load(uint from, uint d)
{
    float value = x[from + min(d, DIM - 1u)];
    bool is_nan = (floatBitsToUint(value) & 0x7fffffffu) > 0x7f800000u;
    value = is_nan ? 0.0 : value;
    value = clamp(value, -HALF_MAX, HALF_MAX);
    return d >= DIM ? 0.0 : value;
}

uint half_of(float value)
{
    return half_from_float(clamp(value, -HALF_MAX, HALF_MAX));
}

float inverse_of(uint scale)
{
    float value = half_to_float(scale);
    return value > 0.0 ? 1.0 / value : 0.0;
}

// Where the row's token lies in a page, and that page in the planes.
struct Place {
    uint head;
    uint slot;
    uint page;
    uint recent; // its page among those in f16, or NIB_NONE
};

// Four neighbours of a group of numbers are a vector.
#define QUADS (NIB_KV_GROUP / 4)

// Group `group` of the head that begins at `from`, as it is to be stored.
void load_group(uint from, uint group, out vec4 numbers[QUADS])
{
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        [[unroll]] for (uint j = 0u; j < 4u; j++)
            numbers[i][j] = load(from, group * GROUP + 4u * i + j);
    }
    if (TRANSFORMS && (group + 1u) * GROUP <= DIM)
        transform_group(numbers, NIB_KV_STORE_FACTOR);
}

// The bits of the scale of 8 bits of a group.
uint scale_of(vec4 numbers[QUADS])
{
    vec4 most = vec4(0.0);
    [[unroll]] for (uint i = 0u; i < QUADS; i++)
        most = max(most, abs(numbers[i]));
    return half_of(max(max(most.x, most.y), max(most.z, most.w)) / 127.0);
}

// Four codes of 8 bits.
uvec4 codes_of(vec4 numbers, float factor)
{
    return uvec4(ivec4(roundEven(clamp(numbers * factor, -127.0, 127.0))) + 128);
}

uint pack_bytes(uvec4 codes)
{
    return codes.x | codes.y << 8 | codes.z << 16 | codes.w << 24;
}

// The numbers of four codes of 8 bits. The products are exact.
vec4 numbers_of(uvec4 codes, float scale)
{
    return scale * (vec4(codes) - 128.0);
}

// The scale of a group, of 8 bits, from the word that holds it.
float scale_in(uint word, uint group)
{
    return half_to_float((group & 1u) == 0u ? word & 0xffffu : word >> 16);
}

void write_word(Place place, uint word, uint codes)
{
    const uint n = GROUPS * N_WORDS;
    uint at = IS_KEY ? NIB_KV_BY_TOKEN(place.head, n, word, place.slot)
                     : NIB_KV_BY_NUMBER(place.head, n, word, place.slot);
    plane[place.page * p.page_words + at] = codes;
}

// Where the place's group has its base in a page, and the scale of that.
uint base_at(Place place, uint page, uint group)
{
    return page * p.page_words + p.n_heads * GROUPS * N_WORDS * NIB_KV_PAGE_TOKENS +
           (place.head * GROUPS + group) * QUADS;
}

uint base_scale_at(Place place, uint page, uint group)
{
    return page * p.scale_page_words + p.n_heads * N_SCALES * NIB_KV_PAGE_TOKENS +
           place.head * PAIRS + group / 2u;
}

// What the numbers of the invocation's group are relative to, and its codes and scale where the
// row's page gets it from this step.
vec4 base[QUADS];
uint base_codes[QUADS];
uint base_scale;

void load_base(Place place, uint page, uint group)
{
    float scale = scale_in(scales[base_scale_at(place, page, group)], group);
    uint at = base_at(place, page, group);
    [[unroll]] for (uint i = 0u; i < QUADS; i++)
        base[i] = numbers_of((uvec4(plane[at + i]) >> uvec4(0u, 8u, 16u, 24u)) & 255u, scale);
}

// Moves the base to the page whose first token is the row that begins at `from`.
void move_base(uint from, uint group, bool has_old)
{
    vec4 numbers[QUADS];
    load_group(from, group, numbers);
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        if (has_old)
            numbers[i] = base[i] + (numbers[i] - base[i]) * NIB_KV_BASE_SHARE;
    }
    base_scale = scale_of(numbers);
    float factor = inverse_of(base_scale), scale = half_to_float(base_scale);
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        uvec4 codes = codes_of(numbers[i], factor);
        base_codes[i] = pack_bytes(codes);
        base[i] = numbers_of(codes, scale);
    }
}

// Finds the base of row `row`, whose sequence has its page table at `table`: in the page, or made
// of first tokens of this step and the base of the page before them.
void find_base(Place place, nib_step_row r, uint row, uint table, uint group)
{
    uint here = row - sequence_word(p.sequences_at, r.sequence, 2u);
    uint index = r.position / NIB_KV_PAGE_TOKENS;
    uint most = index <= NIB_KV_BASE_BEGIN || p.window == 1u ? 1u : index;
    uint n = here < place.slot ? 0u : min((here - place.slot) / NIB_KV_PAGE_TOKENS + 1u, most);
    bool has_old = n < most;
    if (has_old)
        load_base(place, step.rest[p.tables_at + table + index - n], group);
    else if (n == 0u)
        load_base(place, place.page, group);
    for (uint k = n; k > 0u; k--) {
        uint first = row - place.slot - (k - 1u) * NIB_KV_PAGE_TOKENS;
        move_base(first * p.in_stride + p.in_at + place.head * DIM, group, has_old || k < n);
    }
}

// Leaves the base of group `group` in the page. Scales of two groups share a word.
void store_base(Place place, uint group)
{
    uint at = base_at(place, place.page, group), to = base_scale_at(place, place.page, group);
    [[unroll]] for (uint i = 0u; i < QUADS; i++)
        plane[at + i] = base_codes[i];
    scales[to] = (group & 1u) == 0u ? base_scale : scales[to] | base_scale << 16;
}

// Writes a group in f16, two numbers a word.
void store_recent(Place place, uint group, vec4 numbers[QUADS])
{
    const uint n = DIM / 2u;
    uint token = (place.recent * p.n_heads + place.head) * NIB_KV_PAGE_TOKENS + place.slot;
    uint at = p.recent.at + token * n;
    [[unroll]] for (uint i = 0u; i < GROUP / 2u; i++) {
        uint w = group * (GROUP / 2u) + i;
        vec4 quad = numbers[i / 2u];
        vec2 pair = i % 2u == 0u ? quad.xy : quad.zw;
        if (w < n)
            plane[at + w] = half_of(pair.x) | half_of(pair.y) << 16;
    }
}

// Loads a group of the row less its base.
void load_relative(Place place, uint from, uint group, out vec4 numbers[QUADS])
{
    load_group(from, group, numbers);
    if (HAS_RECENT && (FIRST_ALONE == 0u || place.recent != NIB_NONE))
        store_recent(place, group, numbers);
    [[unroll]] for (uint i = 0u; i < QUADS; i++) {
        if (IS_KEY)
            numbers[i] -= base[i];
    }
}

// Writes the codes of a group; returns its scale's bits.
uint store_i8(Place place, uint from, uint group)
{
    vec4 numbers[QUADS];
    load_relative(place, from, group, numbers);
    uint scale = scale_of(numbers);
    float factor = inverse_of(scale);
    [[unroll]] for (uint w = 0u; w < QUADS; w++)
        write_word(place, group * N_WORDS + w, pack_bytes(codes_of(numbers[w], factor)));
    return scale;
}

// Writes the codes of a group; returns the bits of its scale and, above them, of its minimum.
uint store_i4(Place place, uint from, uint group)
{
    vec4 numbers[QUADS];
    load_relative(place, from, group, numbers);
    vec4 low = numbers[0], high = numbers[0];
    [[unroll]] for (uint i = 1u; i < QUADS; i++) {
        low = min(low, numbers[i]);
        high = max(high, numbers[i]);
    }
    float least = min(min(low.x, low.y), min(low.z, low.w));
    float most = max(max(high.x, high.y), max(high.z, high.w));
    uint minimum = half_of(least), scale = half_of((most - least) / 15.0);
    float first = half_to_float(minimum), factor = inverse_of(scale);
    uvec4 codes[QUADS];
    [[unroll]] for (uint i = 0u; i < QUADS; i++)
        codes[i] = uvec4(roundEven(clamp((numbers[i] - first) * factor, 0.0, 15.0)));
    [[unroll]] for (uint w = 0u; w < QUADS / 2u; w++) {
        // Keys: numbers in order, 4 bits each. Values: four bytes, then their upper halves.
        uvec4 a = codes[IS_KEY ? 2u * w : w], b = codes[IS_KEY ? 2u * w + 1u : w + QUADS / 2u];
        uvec4 pairs = IS_KEY ? uvec4(a.xz | a.yw << 4, b.xz | b.yw << 4) : a | b << 4;
        write_word(place, group * N_WORDS + w, pack_bytes(pairs));
    }
    return scale | minimum << 16;
}

// Stores a group of the row; returns what its scales' word holds of it.
uint store_group(Place place, nib_step_row r, uint row, uint table, uint group)
{
    uint from = row * p.in_stride + p.in_at + place.head * DIM;
    if (IS_CHANNEL) {
        vec4 numbers[QUADS];
        load_group(from, group, numbers);
        store_recent(place, group, numbers);
        return 0u;
    }
    if (IS_KEY)
        find_base(place, r, row, table, group);
    if (IS_KEY && place.slot == 0u)
        store_base(place, group);
    return IS_I8 ? store_i8(place, from, group) : store_i4(place, from, group);
}

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    nib_step_row r = step.rows[row];
    if (i >= p.n_heads * PAIRS || r.sequence == NIB_NONE)
        return;
    uint table = sequence_word(p.sequences_at, r.sequence, 1u) +
                 p.kv_class * step.header.page_table_stride;
    uint index = p.tables_at + table + r.position / NIB_KV_PAGE_TOKENS, recent = 0u;
    uint page = step.rest[index];
    uint apart = (p.recent.kv_class - p.kv_class) * step.header.page_table_stride;
    if (HAS_RECENT)
        recent = step.rest[index + apart];
    if (FIRST_ALONE > 0u && r.position / NIB_KV_PAGE_TOKENS >= FIRST_ALONE)
        recent = NIB_NONE;
    uint pair = i % PAIRS, slot = r.position % NIB_KV_PAGE_TOKENS, bits = 0u;
    Place place = Place(i / PAIRS, slot, page, recent);
    for (uint k = 0u; k < 2u && 2u * pair + k < GROUPS; k++) {
        uint word = store_group(place, r, row, table, 2u * pair + k);
        bits = IS_I8 ? bits | word << (16u * k) : word;
        uint w = IS_I8 ? pair : 2u * pair + k;
        uint at = place.page * p.scale_page_words + NIB_KV_BY_TOKEN(place.head, N_SCALES, w, slot);
        if (!IS_CHANNEL)
            scales[at] = bits;
    }
}
