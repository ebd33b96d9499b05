#version 450
// Keys or values of each row into a cache of codes, at the row's position, as shared/kv.h defines
// them. An invocation makes the groups of one word of scales. Dispatched once for keys and once for
// values.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"

#define GROUP uint(NIB_KV_GROUP)
#define HALF_MAX NIB_KV_HALF_MAX

layout(constant_id = NIB_KV_STORE_FORMAT) const uint FORMAT = NIB_KV_CODE_I8;
layout(constant_id = NIB_KV_STORE_IS_KEY) const bool IS_KEY = true;
layout(constant_id = NIB_KV_STORE_DIM) const uint DIM = 64;
layout(local_size_x = 64) in;

const bool IS_I8 = FORMAT == NIB_KV_CODE_I8;
const uint GROUPS = (DIM + GROUP - 1u) / GROUP;
const uint N_SCALES = IS_I8 ? (GROUPS + 1u) / 2u : GROUPS; // words of a head of a token
const uint N_WORDS = IS_I8 ? GROUP / 4u : GROUP / 8u;      // of a group

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

float load(uint from, uint d)
{
    float value = x[from + min(d, DIM - 1u)];
    bool is_nan = (floatBitsToUint(value) & 0x7fffffffu) > 0x7f800000u;
    return d >= DIM || is_nan ? 0.0 : value;
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
    uint page_at;   // word of the page
    uint scales_at; // word of the page among the scales
};

// Word `word` of a token of the place's head and page.
uint word_at(Place place, uint slot, uint word)
{
    uint n = GROUPS * N_WORDS;
    return place.page_at + (IS_KEY ? NIB_KV_BY_TOKEN(place.head, n, word, slot)
                                   : NIB_KV_BY_NUMBER(place.head, n, word, slot));
}

void write_word(Place place, uint word, uint codes)
{
    plane[word_at(place, place.slot, word)] = codes;
}

// The scale of a group of 8 bits of the row that begins at `from`.
uint scale_of(uint from, uint group)
{
    float most = 0.0;
    for (uint i = 0u; i < GROUP; i++)
        most = max(most, abs(load(from, group * GROUP + i)));
    return half_of(most / 127.0);
}

// The code of 8 bits of a number, less what stands for 0.
float centered_code(float x, float factor)
{
    return roundEven(clamp(x * factor, -127.0, 127.0));
}

// The key of a page's first token, as codes of 8 bits give it: made of its row's numbers, or in the
// page.
struct FirstKey {
    bool is_none; // the token is the first itself, or no key
    uint row;     // of this step, or NIB_NONE
    uint from;    // where its head begins
    uint scale;   // of the group
};

FirstKey find_first(Place place, uint row, uint group)
{
    FirstKey first = FirstKey(!IS_KEY || place.slot == 0u, row, 0u, 0u);
    if (first.is_none)
        return first;
    if (row != NIB_NONE) {
        first.from = row * p.in_stride + p.in_at + place.head * DIM;
        first.scale = scale_of(first.from, group);
    } else {
        uint w = scales[place.scales_at + NIB_KV_BY_TOKEN(place.head, N_SCALES, group / 2u, 0u)];
        first.scale = (group & 1u) == 0u ? w & 0xffffu : w >> 16;
    }
    return first;
}

// Number `d` of the row that begins at `from`, less that of the first token. Products of a scale
// and a code are exact.
float load_less(Place place, FirstKey first, uint from, uint d)
{
    float value = load(from, d), code;
    if (first.is_none || d >= DIM)
        return value;
    if (first.row != NIB_NONE)
        code = centered_code(load(first.from, d), inverse_of(first.scale));
    else
        code = float(plane[word_at(place, 0u, d / 4u)] >> (8u * (d % 4u)) & 255u) - 128.0;
    return value - half_to_float(first.scale) * code;
}

// Writes the codes of a group; returns its scale's bits.
uint store_i8(Place place, uint from, uint first_row, uint group)
{
    FirstKey first = find_first(place, first_row, group);
    float most = 0.0;
    for (uint i = 0u; i < GROUP; i++)
        most = max(most, abs(load_less(place, first, from, group * GROUP + i)));
    uint scale = half_of(most / 127.0);
    float factor = inverse_of(scale);
    for (uint w = 0u; w < N_WORDS; w++) {
        uint codes = 0u;
        for (uint j = 0u; j < 4u; j++) {
            float x = load_less(place, first, from, group * GROUP + 4u * w + j);
            codes |= uint(int(centered_code(x, factor)) + 128) << (8u * j);
        }
        write_word(place, group * N_WORDS + w, codes);
    }
    return scale;
}

// What the numbers of the invocation's group are relative to.
float bases[GROUP];

// Where the place's group has its base in a page, in words.
uint base_at(Place place, uint page_at, uint group)
{
    return page_at + p.n_heads * GROUPS * N_WORDS * NIB_KV_PAGE_TOKENS +
           (place.head * GROUPS + group) * (GROUP / 2u);
}

// Finds the bases of row `row`, whose sequence has its page table at `table`: in the page, or made
// of first tokens of this step and the base of the page before them.
void find_bases(Place place, nib_step_row r, uint row, uint table, uint group)
{
    uint here = row - sequence_word(p.sequences_at, r.sequence, 2u);
    uint index = r.position / NIB_KV_PAGE_TOKENS;
    uint most = index <= NIB_KV_BASE_BEGIN || p.window == 1u ? 1u : index;
    uint n = here < place.slot ? 0u : min((here - place.slot) / NIB_KV_PAGE_TOKENS + 1u, most);
    bool has_old = n < most;
    uint old_at = 0u;
    if (has_old)
        old_at = base_at(place, step.rest[p.tables_at + table + index - n] * p.page_words, group);
    for (uint i = 0u; i < GROUP; i++) {
        uint d = group * GROUP + i, base = 0u;
        if (has_old)
            base = plane[old_at + i / 2u] >> (16u * (i & 1u)) & 0xffffu;
        for (uint k = n; k > 0u; k--) {
            uint first = row - place.slot - (k - 1u) * NIB_KV_PAGE_TOKENS;
            float x = load(first * p.in_stride + p.in_at + place.head * DIM, d);
            float old = half_to_float(base);
            base = half_of(has_old || k < n ? old + (x - old) * NIB_KV_BASE_SHARE : x);
        }
        bases[i] = half_to_float(base);
    }
}

// Number `i` of a group, less its base.
float load_relative(uint from, uint group, uint i)
{
    float value = load(from, group * GROUP + i);
    return IS_KEY ? value - bases[i] : value;
}

// Writes the codes of a group; returns the bits of its scale and, above them, of its minimum.
uint store_i4(Place place, uint from, uint group)
{
    float least = load_relative(from, group, 0u), most = least;
    for (uint i = 1u; i < GROUP; i++) {
        float value = load_relative(from, group, i);
        least = min(least, value);
        most = max(most, value);
    }
    uint minimum = half_of(least), scale = half_of((most - least) / 15.0);
    float first = half_to_float(minimum), factor = inverse_of(scale);
    for (uint w = 0u; w < N_WORDS; w++) {
        uint codes = 0u;
        for (uint j = 0u; j < 8u; j++) {
            // Keys: numbers in order, 4 bits each. Values: four bytes, then their upper halves.
            uint i = IS_KEY ? 8u * w + j : 4u * w + j % 4u + 16u * (j / 4u);
            uint at = IS_KEY ? 4u * j : 8u * (j % 4u) + 4u * (j / 4u);
            float value = load_relative(from, group, i);
            codes |= uint(roundEven(clamp((value - first) * factor, 0.0, 15.0))) << at;
        }
        write_word(place, group * N_WORDS + w, codes);
    }
    if (IS_KEY && place.slot == 0u) {
        uint at = base_at(place, place.page_at, group);
        for (uint w = 0u; w < GROUP / 2u; w++)
            plane[at + w] = half_of(bases[2u * w]) | half_of(bases[2u * w + 1u]) << 16;
    }
    return scale | minimum << 16;
}

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    nib_step_row r = step.rows[row];
    if (i >= p.n_heads * N_SCALES || r.sequence == NIB_NONE)
        return;
    uint table = sequence_word(p.sequences_at, r.sequence, 1u) +
                 p.kv_class * step.header.page_table_stride;
    uint page = step.rest[p.tables_at + table + r.position / NIB_KV_PAGE_TOKENS];
    uint w = i % N_SCALES, slot = r.position % NIB_KV_PAGE_TOKENS;
    Place place = Place(i / N_SCALES, slot, page * p.page_words, page * p.scale_page_words);
    uint from = row * p.in_stride + p.in_at + place.head * DIM;
    bool is_here = row - sequence_word(p.sequences_at, r.sequence, 2u) >= slot;
    uint first_row = is_here ? row - slot : NIB_NONE, bits;
    if (IS_I8) {
        bits = store_i8(place, from, first_row, 2u * w);
        if (2u * w + 1u < GROUPS)
            bits |= store_i8(place, from, first_row, 2u * w + 1u) << 16;
    } else {
        if (IS_KEY)
            find_bases(place, r, row, table, w);
        bits = store_i4(place, from, w);
    }
    scales[place.scales_at + NIB_KV_BY_TOKEN(place.head, N_SCALES, w, slot)] = bits;
}
