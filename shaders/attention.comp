#version 450
// Attention over the paged cache, a page at a time, with the running maximum and sum of Milakov and
// Gimelshein 2018. A workgroup takes a tile of query rows that share a KV head: heads of its group,
// of one row or of neighbours in the same sequence. LANES invocations share a token of the cache
// and split its head's numbers; each set of them keeps maximum, sum and output of its own tokens,
// and they are put together at the end. With several workgroups in z, each takes a part of the
// pages and leaves these three to attention_merge. Where keys are transformed, queries come so, and
// where values are, outputs go so (kv_transform). With HAS_OWN the step has one row, and the
// kernel does what kv_store does for more: it turns queries and key, and stores key and value.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef TEXELS
#extension GL_KHR_shader_subgroup_shuffle : require
#endif
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"

#define PAGE uint(NIB_KV_PAGE_TOKENS)
// A part of the pages is at least so many: less is not worth a workgroup.
#define LEAST_PAGES 2u

layout(constant_id = NIB_ATTENTION_KEY_FORMAT) const uint KEY_FORMAT = NIB_KV_CODE_F16;
layout(constant_id = NIB_ATTENTION_VALUE_FORMAT) const uint VALUE_FORMAT = NIB_KV_CODE_F16;
layout(constant_id = NIB_ATTENTION_KEY_DIM) const uint KEY_DIM = 64;
layout(constant_id = NIB_ATTENTION_VALUE_DIM) const uint VALUE_DIM = 64;
layout(constant_id = NIB_ATTENTION_ROWS) const uint ROWS = 1;   // of a tile
layout(constant_id = NIB_ATTENTION_HEADS) const uint HEADS = 1; // that a tile has of each row
layout(constant_id = NIB_ATTENTION_LANES) const uint LANES = 8;
layout(constant_id = NIB_ATTENTION_THREADS) const uint THREADS = 128;
layout(constant_id = NIB_ATTENTION_TILE) const uint TILE = NIB_ATTENTION_TILE_ROW;
layout(constant_id = NIB_ATTENTION_RECENT) const uint RECENT = 0;
layout(constant_id = NIB_ATTENTION_FIRST) const uint FIRST = 0;
layout(local_size_x_id = NIB_ATTENTION_THREADS) in;

const uint WIDTH = THREADS / LANES; // sets of invocations
const uint TOKENS = PAGE / WIDTH;   // neighbours that each takes of a page
// A head's numbers go to the LANES invocations in turn, a unit to each. Codes come by groups.
const bool KEYS_ARE_CODES = KEY_FORMAT >= NIB_KV_CODE_I8;
const bool KEYS_HAVE_CHANNELS = KEY_FORMAT == NIB_KV_CODE_I4_CHANNEL; // with scales of their own
const bool VALUES_ARE_CODES = VALUE_FORMAT >= NIB_KV_CODE_I8;
const uint GROUP = uint(NIB_KV_GROUP);
const uint KEY_UNIT = KEYS_ARE_CODES ? GROUP : 8u;
const uint VALUE_UNIT = VALUES_ARE_CODES ? GROUP : 8u;
const uint KEY_UNITS = (KEY_DIM + KEY_UNIT - 1u) / KEY_UNIT;
const uint VALUE_UNITS = (VALUE_DIM + VALUE_UNIT - 1u) / VALUE_UNIT;
const uint KEY_SHARE = (KEY_UNITS + LANES - 1u) / LANES; // units of an invocation
const uint VALUE_SHARE = (VALUE_UNITS + LANES - 1u) / LANES;
const uint KEY_QUADS = KEY_SHARE * KEY_UNIT / 4u;
const uint VALUE_QUADS = VALUE_SHARE * VALUE_UNIT / 4u;
// Quads of an invocation's output that are added up at once: a divisor of VALUE_QUADS.
layout(constant_id = NIB_ATTENTION_CHUNK) const uint CHUNK = 2;
const uint N_CHUNKS = VALUE_QUADS / CHUNK;
// Queries lie at multiples of 16 bytes.
layout(constant_id = NIB_ATTENTION_IS_ALIGNED) const bool IS_ALIGNED = false;

layout(push_constant) uniform Push {
    nib_attention_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer Query {
    float query[];
};
layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer QueryQuads {
    vec4 query_quads[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer KeyWords {
    uint key_words[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer KeyQuads {
    uvec4 key_quads[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer ValueWords {
    uint value_words[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer ValueQuads {
    uvec4 value_quads[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer KeyPairs {
    uvec2 key_pairs[];
};
// Where TEXELS is defined, keys, values and queries are read as texels: lavapipe gathers these at
// once. It also takes long to reach shared memory, so that subgroups of 8 add up what they can.
#ifdef TEXELS
layout(set = 0, binding = NIB_BIND_MATRIX_TEXELS) uniform usamplerBuffer key_texels;
layout(set = 0, binding = NIB_BIND_INPUT_TEXELS) uniform usamplerBuffer value_texels;
#define KEY_QUAD(i) texelFetch(key_texels, int(i))
#define KEY_PAIR(i) pair_of(KEY_QUAD((i) / 2u), i)
#define VALUE_QUAD(i) texelFetch(value_texels, int(i))
layout(set = 0, binding = NIB_BIND_IN_TEXELS) uniform usamplerBuffer query_texels;
#define QUERY_QUAD(i) uintBitsToFloat(texelFetch(query_texels, int(i)))
const bool IS_ALONE = LANES == 1u && THREADS == 8u; // the subgroup
#else
#define KEY_QUAD(i) key_quads[i]
#define KEY_PAIR(i) key_pairs[i]
#define VALUE_QUAD(i) value_quads[i]
#define QUERY_QUAD(i) query_quads[i]
#endif
layout(std430, set = 0, binding = NIB_BIND_SUMS) readonly buffer KeyScales {
    uint key_scales[];
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer ValueScales {
    uint value_scales[];
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) writeonly buffer Partials {
    float partials[];
};
#ifdef HAS_OWN
// Where the row's own key and value go: a slot that nothing here reads.
layout(std430, set = 0, binding = NIB_BIND_MATRIX) writeonly buffer KeyStore {
    uint key_store[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer ValueStore {
    uint value_store[];
};
layout(constant_id = NIB_ATTENTION_OWN) const uint OWN = 1;
layout(constant_id = NIB_ATTENTION_INTERLEAVED) const bool INTERLEAVED = false;
shared vec4 own[OWN]; // queries and key of the row, turned, and its value
#define OWN_TOKENS 1u // that are not in the cache yet
#else
#define OWN_TOKENS 0u
#endif

shared float parts[ROWS * TOKENS * THREADS];
shared float totals[ROWS * PAGE];
shared vec4 pool[CHUNK * THREADS];

// Arrays whose size is specialized stay out of parameters: glslang 12 takes wrong ones silently.
vec4 q[ROWS * KEY_QUADS];
float q_sum[ROWS * KEY_SHARE]; // of each unit, where codes have a minimum
float score[ROWS * TOKENS];    // of each row with each of the invocation's tokens of a page
float most[ROWS], sum[ROWS];
vec4 acc[ROWS * VALUE_QUADS];    // each row's weighted values of the invocation's tokens
float acc_min[ROWS * VALUE_SHARE]; // and weighted minima

uvec2 pair_of(uvec4 quad, uint i)
{
    return (i & 1u) == 0u ? quad.xy : quad.zw;
}

struct KvUnit {
    vec4 low;
    vec4 high;
};

#define UNIT_LOAD load_key
#define UNIT_FORMAT KEY_FORMAT
#define UNIT_DIM KEY_DIM
#define UNIT_WORDS key_words
#define UNIT_QUADS KEY_QUAD
#include "lib/kv_unit.glsl"
#define UNIT_LOAD load_value
#define UNIT_FORMAT VALUE_FORMAT
#define UNIT_DIM VALUE_DIM
#define UNIT_WORDS value_words
#define UNIT_QUADS VALUE_QUAD
#include "lib/kv_unit.glsl"
// Newest and first tokens, which are read beside codes.
#define UNIT_LOAD load_recent_key
#define UNIT_FORMAT uint(NIB_KV_CODE_F16)
#define UNIT_DIM KEY_DIM
#define UNIT_WORDS key_words
#define UNIT_QUADS KEY_QUAD
#include "lib/kv_unit.glsl"
#define UNIT_LOAD load_recent_value
#define UNIT_FORMAT uint(NIB_KV_CODE_F16)
#define UNIT_DIM VALUE_DIM
#define UNIT_WORDS value_words
#define UNIT_QUADS VALUE_QUAD
#include "lib/kv_unit.glsl"

// Four codes of 8 bits, less what stands for 0.
vec4 centered_bytes(uint w)
{
    return vec4(w & 255u, (w >> 8) & 255u, (w >> 16) & 255u, w >> 24) - 128.0;
}

// Four codes of 4 bits, `apart` bits apart from bit `at` on.
vec4 nibbles(uint w, uint at, uint apart)
{
    return vec4((uvec4(w) >> (at + apart * uvec4(0u, 1u, 2u, 3u))) & 15u);
}

vec2 half_pair(uint w)
{
    return vec2(half_to_float(w & 0xffffu), half_to_float(w >> 16));
}

// Scale and minimum of group `group` of a token, from the word that holds them.
vec2 scale_of(uint format, uint w, uint group)
{
    if (format == NIB_KV_CODE_I8)
        return vec2(half_to_float((group & 1u) == 0u ? w & 0xffffu : w >> 16), 0.0);
    return half_pair(w);
}

// Rows [first, first + n) of the step, of one sequence, the first at `position`.
struct Tile {
    uint sequence;
    uint first;
    uint n; // 0: nothing to do
    uint position;
};

Tile find_tile()
{
    const uint most = ROWS / HEADS;
    uint left = gl_WorkGroupID.y, n_sequences = step.header.n_sequences;
    Tile tile = Tile(0u, 0u, 0u, 0u);
    if (TILE == NIB_ATTENTION_TILE_ROW) {
        uint sequence = step.rows[left].sequence;
        tile.sequence = sequence != NIB_NONE ? sequence : 0u;
        tile.n = sequence != NIB_NONE ? 1u : 0u;
        tile.first = left;
    } else if (TILE == NIB_ATTENTION_TILE_SINGLE) {
        tile.sequence = left < n_sequences ? left : 0u;
        uint n = sequence_word(p.sequences_at, tile.sequence, 3u);
        tile.n = left < n_sequences && n == 1u ? 1u : 0u;
        tile.first = sequence_word(p.sequences_at, tile.sequence, 2u);
    } else if (step.header.n_used_rows > n_sequences) {
        for (uint s = 0u; s < n_sequences; s++) {
            uint n = sequence_word(p.sequences_at, s, 3u);
            uint n_tiles = n > 1u ? (n + most - 1u) / most : 0u;
            if (left < n_tiles) {
                tile.sequence = s;
                tile.first = sequence_word(p.sequences_at, s, 2u) + left * most;
                tile.n = min(n - left * most, most);
                break;
            }
            left -= n_tiles;
        }
    }
    tile.position = step.rows[tile.first].position;
    return tile;
}

float tanh_bounded(float x)
{
    return tanh(clamp(x, -12.0, 12.0));
}

// Adds up what the LANES invocations of each token have of its products.
void add_lanes(uint thread)
{
    uint lane = thread % LANES, place = thread / LANES;
    [[unroll]] for (uint i = 0u; i < ROWS * TOKENS; i++)
        parts[i * THREADS + thread] = score[i];
    barrier();
    for (uint i = lane; i < ROWS * TOKENS; i += LANES) {
        float sum = 0.0;
        for (uint k = 0u; k < LANES; k++)
            sum += parts[i * THREADS + place * LANES + k];
        totals[i * WIDTH + place] = sum;
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < ROWS * TOKENS; i++)
        score[i] = totals[i * WIDTH + place];
}

#include "lib/attention_output.glsl"

#ifdef HAS_OWN
// Returns cosines, or, `behind` half the turned numbers, sines of pairs j to j + 3 of the row.
vec4 angles(uint j, uint behind)
{
    uint at = p.angles_at + behind + j;
    return uintBitsToFloat(
        uvec4(step.rest[at], step.rest[at + 1u], step.rest[at + 2u], step.rest[at + 3u]));
}

// Returns numbers d to d + 3 of the query or key at `from`, turned.
vec4 turned_quad(uint from, uint d)
{
    vec4 x = QUERY_QUAD((from + d) / 4u);
    uint n = p.half_dims;
    if (d >= 2u * n)
        return x;
    if (INTERLEAVED) {
        // The last two of the four pairs, where behind the quad's own two there are no others.
        uint j = min(d / 2u, n - 4u);
        vec4 c = angles(j, 0u), s = angles(j, n);
        vec2 cosine = j == d / 2u ? c.xy : c.zw, sine = j == d / 2u ? s.xy : s.zw;
        return vec4(x.xz * cosine - x.yw * sine, x.xz * sine + x.yw * cosine).xzyw;
    }
    bool is_first = d < n;
    uint j = is_first ? d : d - n;
    vec4 other = QUERY_QUAD((from + (is_first ? d + n : j)) / 4u);
    return x * angles(j, 0u) + (is_first ? -other : other) * angles(j, n);
}

// Makes what the row brings along, a quad an invocation, and, if `is_stored`, stores key and value.
void make_own(uint thread, uint kv_head, uint first_head, uint end_head, uint page, uint slot,
              bool is_stored)
{
    const uint n = KEY_DIM / 4u, value = (HEADS + 1u) * n;
    for (uint i = thread; i < OWN; i += THREADS) {
        uint h = i / n, d = i < value ? i % n * 4u : (i - value) * 4u;
        bool is_key = h == HEADS, is_half = is_key ? KEY_FORMAT == NIB_KV_CODE_F16
                                                   : VALUE_FORMAT == NIB_KV_CODE_F16;
        uint from = h < HEADS ? p.query_at + min(first_head + h, end_head - 1u) * KEY_DIM
                              : p.key_at + kv_head * KEY_DIM;
        vec4 x = i < value ? turned_quad(from, d)
                           : QUERY_QUAD((p.value_at + kv_head * VALUE_DIM + d) / 4u);
        uvec4 words = floatBitsToUint(x);
        if (h >= HEADS && is_half) {
            words.x = half_from_float(x.x) | half_from_float(x.y) << 16;
            words.y = half_from_float(x.z) | half_from_float(x.w) << 16;
            x = vec4(half_pair(words.x), half_pair(words.y));
        }
        own[i] = x;
        uint at = is_key ? page * p.key_page_words + (kv_head * PAGE + slot) * p.key_words
                         : page * p.value_page_words + (kv_head * PAGE + slot) * p.value_words;
        at += is_half ? d / 2u : d;
        uint n_words = !is_stored || h < HEADS ? 0u : is_half ? 2u : 4u;
        for (uint k = 0u; k < n_words; k++) {
            if (is_key)
                key_store[at + k] = words[k];
            else
                value_store[at + k] = words[k];
        }
    }
    barrier();
}
#endif

// Returns numbers d to d + 3 of row r's query, which begins at `from`; behind its end anything.
vec4 load_query(uint r, uint from, uint d)
{
#ifdef HAS_OWN
    return own[min(r * KEY_DIM + d, HEADS * KEY_DIM - 1u) / 4u];
#else
    if (IS_ALIGNED)
        return QUERY_QUAD((from + min(d, KEY_DIM - 4u)) / 4u);
    vec4 x;
    [[unroll]] for (uint j = 0u; j < 4u; j++) {
        float number = query[from + min(d + j, KEY_DIM - 1u)];
        x[j] = d + j < KEY_DIM ? number : 0.0;
    }
    return x;
#endif
}

// Loads the tile's queries, the invocation's share of each; rows and heads behind the end stand
// in for what the tile lacks.
void load_queries(Tile tile, uint lane, uint first_head, uint end_head)
{
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uint row = tile.first + min(r / HEADS, max(tile.n, 1u) - 1u);
        uint head = min(first_head + r % HEADS, end_head - 1u);
        uint from = row * p.query_stride + p.query_at + head * KEY_DIM;
#ifdef TEXELS
        vec4 x;
#endif
        [[unroll]] for (uint i = 0u; i < KEY_QUADS; i++) {
            uint d = (4u * i / KEY_UNIT * LANES + lane) * KEY_UNIT + 4u * i % KEY_UNIT;
#ifdef TEXELS
            // Where all have the same query, each reads another part of it.
            if (!IS_ALONE || i % 8u == 0u)
                x = load_query(r, from, IS_ALONE ? d + 4u * gl_SubgroupInvocationID : d);
            vec4 quad = IS_ALONE ? subgroupShuffle(x, i % 8u) : x;
#else
            vec4 quad = load_query(r, from, d);
#endif
            q[r * KEY_QUADS + i] = d < KEY_DIM ? quad * p.scale : vec4(0.0);
        }
        [[unroll]] for (uint i = 0u; i < KEY_SHARE; i++) {
            vec4 total = vec4(0.0);
            [[unroll]] for (uint j = 0u; j < KEY_UNIT / 4u; j++)
                total += q[r * KEY_QUADS + i * KEY_UNIT / 4u + j];
            q_sum[r * KEY_SHARE + i] = (total.x + total.y) + (total.z + total.w);
        }
    }
}

#include "lib/attention_scores.glsl"
#include "lib/attention_values.glsl"

#ifdef HAS_OWN
// Puts the row's own token where nothing has been seen so far: into what the first invocations that
// share a token have.
void begin_with_own(uint thread, uint lane, bool is_first)
{
    const uint key = HEADS * KEY_DIM / 4u, value = key + KEY_DIM / 4u;
    [[unroll]] for (uint i = 0u; i < ROWS * TOKENS; i++)
        score[i] = 0.0;
    [[unroll]] for (uint i = 0u; i < KEY_QUADS; i++) {
        uint unit = i / 2u * LANES + lane;
        vec4 k = unit < KEY_UNITS ? own[key + min(unit, KEY_UNITS - 1u) * 2u + i % 2u] : vec4(0.0);
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            score[r * TOKENS] += dot(k, q[r * KEY_QUADS + i]);
    }
    if (LANES > 1u)
        add_lanes(thread);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        float s = score[r * TOKENS];
        s = p.softcap > 0.0 ? p.softcap * tanh_bounded(s / p.softcap) : s;
        most[r] = is_first ? s : NIB_ATTENTION_LEAST;
        sum[r] = is_first ? 1.0 : 0.0;
    }
    [[unroll]] for (uint i = 0u; i < VALUE_QUADS; i++) {
        uint unit = i / 2u * LANES + lane;
        vec4 v = own[value + min(unit, VALUE_UNITS - 1u) * 2u + i % 2u];
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            acc[r * VALUE_QUADS + i] = is_first && unit < VALUE_UNITS ? v : vec4(0.0);
    }
}
#endif

// Adds the weighted minima of codes of 4 bits to all numbers of their group.
void add_minima()
{
    [[unroll]] for (uint i = 0u; i < ROWS * VALUE_QUADS; i++)
        acc[i] += acc_min[i / (VALUE_UNIT / 4u)];
}

void main()
{
    uint thread = gl_LocalInvocationIndex, lane = thread % LANES, place = thread / LANES;
    uint n_head_tiles = (p.heads_per_kv_head + HEADS - 1u) / HEADS;
    uint kv_head = gl_WorkGroupID.x / n_head_tiles;
    uint first_head = kv_head * p.heads_per_kv_head + gl_WorkGroupID.x % n_head_tiles * HEADS;
    uint end_head = (kv_head + 1u) * p.heads_per_kv_head;
    Tile tile = find_tile();
    uint tables = p.tables_at + sequence_word(p.sequences_at, tile.sequence, 1u);
    uint table = tables + p.kv_class * step.header.page_table_stride;
    uint recent_table = tables + p.recent_keys.kv_class * step.header.page_table_stride;
    uint end = tile.n > 0u ? tile.position + tile.n - OWN_TOKENS : 0u;
    uint begin = p.window != 0u && p.window <= tile.position ? tile.position + 1u - p.window : 0u;
    uint first_page = begin / PAGE, end_page = (end + PAGE - 1u) / PAGE;
    uint n_pages = end_page - min(first_page, end_page);
    // First pages, which all rows read in f16, then those that some row reads as they are, then
    // those that some row reads in f16: a few are both.
    uint n_first = FIRST > first_page ? min(FIRST - first_page, n_pages) : 0u;
    uint n_recent = 0u, n_older = n_pages;
    if (RECENT > 0u && n_pages > 0u) {
        uint least = first_page + n_first;
        n_older = max(first_recent(end - 1u), least) - first_page;
        n_recent = end_page - max(first_recent(tile.position), least);
    }
    uint n_visits = n_older + n_recent;
    uint share = max((n_visits + gl_NumWorkGroups.z - 1u) / gl_NumWorkGroups.z, LEAST_PAGES);
    uint visit = gl_WorkGroupID.z * share, end_visit = min(n_visits, visit + share);
    bool begins = OWN_TOKENS > 0u && gl_WorkGroupID.z == 0u; // with the row's own token
    if (visit >= end_visit && !begins) {
        leave_nothing(tile, thread, first_head, end_head);
        return;
    }

#ifdef HAS_OWN
    make_own(thread, kv_head, first_head, end_head, step.rest[table + tile.position / PAGE],
             tile.position % PAGE, begins && gl_WorkGroupID.x % n_head_tiles == 0u);
#endif
    load_queries(tile, lane, first_head, end_head);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        most[r] = NIB_ATTENTION_LEAST;
        sum[r] = 0.0;
        [[unroll]] for (uint i = 0u; i < VALUE_QUADS; i++)
            acc[r * VALUE_QUADS + i] = vec4(0.0);
        [[unroll]] for (uint i = 0u; i < VALUE_SHARE; i++)
            acc_min[r * VALUE_SHARE + i] = 0.0;
    }

#ifdef HAS_OWN
    if (begins)
        begin_with_own(thread, lane, place == 0u);
#endif

    uint n_heads = p.n_heads / p.heads_per_kv_head;
    for (; visit < end_visit; visit++) {
        bool is_newest = RECENT > 0u && visit >= n_older;
        bool is_recent = is_newest || (FIRST > 0u && visit < n_first);
        uint page_index = is_newest ? end_page - (n_visits - visit) : first_page + visit;
        uint page = step.rest[table + page_index], base = page_index * PAGE;
        uint recent_page = is_recent ? step.rest[recent_table + page_index] : 0u;
        uint last = end - 1u - base;
        [[unroll]] for (uint i = 0u; i < ROWS * TOKENS; i++)
            score[i] = 0.0;
        if (KEYS_ARE_CODES && is_recent)
            score_recent(kv_head, n_heads, recent_page, lane, place, last);
        if (KEYS_HAVE_CHANNELS && !is_recent)
            score_channels(kv_head, page, lane, place);
        if (KEYS_ARE_CODES && !KEYS_HAVE_CHANNELS && !is_recent)
            score_base(kv_head, n_heads, page, lane);
        if (KEYS_ARE_CODES && !KEYS_HAVE_CHANNELS && !is_recent)
            score_codes(kv_head, page, lane, place);
        if (!KEYS_ARE_CODES)
            score_floats(kv_head, page, lane, place, last);
        if (LANES > 1u)
            add_lanes(thread);
        weigh_scores(tile, base + place * TOKENS, is_recent);
        if (VALUES_ARE_CODES && is_recent)
            add_recent(kv_head, n_heads, recent_page, lane, place, last);
        if (VALUES_ARE_CODES && !is_recent)
            add_codes(kv_head, page, lane, place, last);
        if (!VALUES_ARE_CODES)
            add_floats(kv_head, page, lane, place, last);
    }
    if (VALUE_FORMAT == NIB_KV_CODE_I4)
        add_minima();

#ifdef TEXELS
    if (IS_ALONE) {
        write_rows(tile, thread, first_head, end_head);
        return;
    }
#endif
    join_rows(tile, thread, first_head, end_head);
    // Not a loop: drivers do not unroll what has loops inside, and `acc` must stay in registers.
#define WRITE_ITEM(i)               \
    if (ROWS * N_CHUNKS > uint(i)) \
        write_item(tile, thread, uint(i), first_head, end_head);
    WRITE_ITEM(0)
    WRITE_ITEM(1)
    WRITE_ITEM(2)
    WRITE_ITEM(3)
    WRITE_ITEM(4)
    WRITE_ITEM(5)
    WRITE_ITEM(6)
    WRITE_ITEM(7)
}
