#version 450
// As attention.comp for sequences that have more than one row in the step, by cooperative matrices:
// keys and values are halves, and queries and weights become such; products are summed in fp32.
// A workgroup takes ROWS query rows that share a KV head, each of its subgroups the TILE_M rows of
// one tile. While a page is multiplied, the next one is on its way into registers. SPLIT
// invocations of a subgroup share a row's scores, and each of them keeps the row's maximum, and the
// sum of its own weights. Not for precise mode: fp16 has too few digits for its tolerance.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
#include "lib/step.glsl"
#include "shared/kernels.h"

#define PAGE uint(NIB_KV_PAGE_TOKENS)
#define HALF_MAX 65504.0

layout(constant_id = NIB_ATTENTION_KEY_DIM) const uint KEY_DIM = 32;
layout(constant_id = NIB_ATTENTION_VALUE_DIM) const uint VALUE_DIM = 32;
layout(constant_id = NIB_ATTENTION_ROWS) const uint ROWS = 32;  // of a tile
layout(constant_id = NIB_ATTENTION_HEADS) const uint HEADS = 1; // that a tile has of each row
layout(constant_id = NIB_SPEC_TILE_M) const uint TILE_M = 16;
layout(constant_id = NIB_SPEC_TILE_N) const uint TILE_N = 16;
layout(constant_id = NIB_SPEC_TILE_K) const uint TILE_K = 16;
layout(constant_id = NIB_SPEC_SUBGROUP) const uint SUBGROUP = 32;
layout(constant_id = NIB_SPEC_THREADS) const uint THREADS = 128;
layout(local_size_x = 128, local_size_x_id = NIB_SPEC_THREADS) in;

const uint SPLIT = SUBGROUP / TILE_M;
const uint SHARE = PAGE / SPLIT / 4u; // quads of scores of an invocation
// From one row in shared memory to the next, in units of 16 bytes: one more than it takes, so that
// neighbours meet different banks.
const uint KEY_UNITS = KEY_DIM / 8u;
const uint VALUE_UNITS = VALUE_DIM / 8u;
const uint KEY_STRIDE = KEY_UNITS + 1u;
const uint VALUE_STRIDE = VALUE_UNITS + 1u;
#define SCORE_STRIDE 9u
#define WEIGHT_STRIDE 5u
// Units of a page that an invocation brings.
const uint KEY_LOADS = (PAGE * KEY_UNITS + THREADS - 1u) / THREADS;
const uint VALUE_LOADS = (PAGE * VALUE_UNITS + THREADS - 1u) / THREADS;

layout(push_constant) uniform Push {
    nib_attention_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer QueryQuads {
    vec4 query_quads[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer KeyUnits {
    uvec4 key_units[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer ValueUnits {
    uvec4 value_units[];
};

// The page: keys, then values; before them, the queries.
shared uvec4 page_units[PAGE * (KEY_STRIDE + VALUE_STRIDE)];
shared uvec4 scores[ROWS * SCORE_STRIDE]; // floats; at the end, outputs
shared uvec4 weights[ROWS * WEIGHT_STRIDE];
shared float factors[ROWS]; // what a row's outputs are multiplied with
shared float sums[THREADS];

#define SUMS coopmat<float, gl_ScopeSubgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, TILE_M, TILE_K, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, TILE_K, TILE_N, gl_MatrixUseB>

LEFT queries[KEY_DIM / TILE_K];
SUMS outputs[VALUE_DIM / TILE_N];
uvec4 next_keys[KEY_LOADS];
uvec4 next_values[VALUE_LOADS];
float most, sum;

// Rows [first, first + n) of the step, of one sequence, the first at `position`.
struct Tile {
    uint sequence;
    uint first;
    uint n; // 0: nothing to do
    uint position;
};

Tile find_tile()
{
    const uint many = ROWS / HEADS;
    uint left = gl_WorkGroupID.y, n_sequences = step.header.n_sequences;
    Tile tile = Tile(0u, 0u, 0u, 0u);
    for (uint s = 0u; s < n_sequences; s++) {
        uint n = sequence_word(p.sequences_at, s, 3u);
        uint n_tiles = n > 1u ? (n + many - 1u) / many : 0u;
        if (left < n_tiles) {
            tile.sequence = s;
            tile.first = sequence_word(p.sequences_at, s, 2u) + left * many;
            tile.n = min(n - left * many, many);
            break;
        }
        left -= n_tiles;
    }
    tile.position = step.rows[tile.first].position;
    return tile;
}

uvec2 pack_quad(vec4 v)
{
    v = clamp(v, -HALF_MAX, HALF_MAX);
    return uvec2(packFloat2x16(f16vec2(v.xy)), packFloat2x16(f16vec2(v.zw)));
}

// Loads the queries as tiles; rows behind the end stand in for what the tile lacks.
void load_queries(Tile tile, uint thread, uint first_head)
{
    [[dont_unroll]] for (uint i = thread; i < ROWS * KEY_UNITS; i += THREADS) {
        uint r = i / KEY_UNITS, u = i % KEY_UNITS;
        uint row = tile.first + min(r / HEADS, tile.n - 1u), head = first_head + r % HEADS;
        uint at = (row * p.query_stride + p.query_at + head * KEY_DIM) / 4u + 2u * u;
        page_units[r * KEY_STRIDE + u] = uvec4(pack_quad(query_quads[at] * p.scale),
                                               pack_quad(query_quads[at + 1u] * p.scale));
    }
    barrier();
    uint first = gl_SubgroupID * TILE_M * KEY_STRIDE;
    [[unroll]] for (uint k = 0u; k < KEY_DIM / TILE_K; k++)
        coopMatLoad(queries[k], page_units, first + k * (TILE_K / 8u), KEY_STRIDE,
                    gl_CooperativeMatrixLayoutRowMajor);
    barrier();
}

// Loads a page of which `last` is the last token that is there.
void load_page(uint thread, uint head, uint page, uint last)
{
    [[unroll]] for (uint i = 0u; i < KEY_LOADS; i++) {
        uint unit = thread + i * THREADS, token = min(unit / KEY_UNITS, last);
        uint at = page * p.key_page_words / 4u + (head * PAGE + token) * KEY_UNITS;
        next_keys[i] = key_units[at + unit % KEY_UNITS];
    }
    [[unroll]] for (uint i = 0u; i < VALUE_LOADS; i++) {
        uint unit = thread + i * THREADS, token = min(unit / VALUE_UNITS, last);
        uint at = page * p.value_page_words / 4u + (head * PAGE + token) * VALUE_UNITS;
        next_values[i] = value_units[at + unit % VALUE_UNITS];
    }
}

// Shares it. Where there is no token, another one stands in, so that all are numbers.
void share_page(uint thread)
{
    [[unroll]] for (uint i = 0u; i < KEY_LOADS; i++) {
        uint unit = thread + i * THREADS;
        if (unit < PAGE * KEY_UNITS)
            page_units[unit / KEY_UNITS * KEY_STRIDE + unit % KEY_UNITS] = next_keys[i];
    }
    [[unroll]] for (uint i = 0u; i < VALUE_LOADS; i++) {
        uint unit = thread + i * THREADS, at = PAGE * KEY_STRIDE;
        if (unit < PAGE * VALUE_UNITS)
            page_units[at + unit / VALUE_UNITS * VALUE_STRIDE + unit % VALUE_UNITS] =
                next_values[i];
    }
}

// Multiplies the subgroup's queries with the page's keys.
void score_page(uint first_row)
{
    [[unroll]] for (uint t = 0u; t < PAGE / TILE_N; t++) {
        SUMS products = SUMS(0.0);
        [[unroll]] for (uint k = 0u; k < KEY_DIM / TILE_K; k++) {
            RIGHT keys;
            coopMatLoad(keys, page_units, t * TILE_N * KEY_STRIDE + k * (TILE_K / 8u), KEY_STRIDE,
                        gl_CooperativeMatrixLayoutColumnMajor);
            products = coopMatMulAdd(queries[k], keys, products);
        }
        coopMatStore(products, scores, first_row * SCORE_STRIDE + t * (TILE_N / 4u), SCORE_STRIDE,
                     gl_CooperativeMatrixLayoutRowMajor);
    }
}

// Returns quad `q` of a row's scores, as they count: it sees tokens from `unseen` on that come
// before `seen`.
vec4 score_quad(uint row, uint q, uint first_token, uint unseen, uint seen)
{
    vec4 v = uintBitsToFloat(scores[row * SCORE_STRIDE + q]);
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint token = first_token + 4u * q + i;
        if (p.softcap > 0.0)
            v[i] = p.softcap * tanh(clamp(v[i] / p.softcap, -12.0, 12.0));
        v[i] = token >= unseen && token < seen ? v[i] : NIB_ATTENTION_LEAST;
    }
    return v;
}

// Turns the subgroup's scores into weights.
void weigh_scores(Tile tile, uint row, uint part, uint first_token)
{
    uint seen = tile.position + row / HEADS + 1u;
    uint unseen = p.window != 0u && p.window < seen ? seen - p.window : 0u;
    float next = most;
    [[unroll]] for (uint q = 0u; q < PAGE / 4u; q++) {
        vec4 v = score_quad(row, q, first_token, unseen, seen);
        next = max(next, max(max(v.x, v.y), max(v.z, v.w)));
    }
    float shrink = exp(most - next);
    most = next;
    sum *= shrink;
    [[unroll]] for (uint j = 0u; j < SHARE; j += 2u) {
        uvec4 unit;
        [[unroll]] for (uint h = 0u; h < 2u; h++) {
            vec4 v = score_quad(row, part * SHARE + j + h, first_token, unseen, seen);
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                v[i] = v[i] > NIB_ATTENTION_LEAST ? exp(v[i] - next) : 0.0;
            sum += (v.x + v.y) + (v.z + v.w);
            uvec2 pair = pack_quad(v);
            unit[2u * h] = pair.x;
            unit[2u * h + 1u] = pair.y;
        }
        weights[row * WEIGHT_STRIDE + (part * SHARE + j) / 2u] = unit;
    }
    if (part == 0u)
        factors[row] = shrink;
}

// Multiplies all of the subgroup's outputs with their rows' factors.
void scale_outputs(uint first_row)
{
    SUMS all;
    coopMatLoad(all, factors, first_row, 0u, gl_CooperativeMatrixLayoutColumnMajor);
    [[unroll]] for (uint c = 0u; c < VALUE_DIM / TILE_N; c++)
        outputs[c] = outputs[c] * all;
}

// Adds the page's weighted values.
void add_page(uint first_row)
{
    scale_outputs(first_row);
    [[unroll]] for (uint k = 0u; k < PAGE / TILE_K; k++) {
        LEFT shares;
        coopMatLoad(shares, weights, first_row * WEIGHT_STRIDE + k * (TILE_K / 8u), WEIGHT_STRIDE,
                    gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint c = 0u; c < VALUE_DIM / TILE_N; c++) {
            RIGHT values;
            coopMatLoad(values, page_units,
                        PAGE * KEY_STRIDE + k * TILE_K * VALUE_STRIDE + c * (TILE_N / 8u),
                        VALUE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
            outputs[c] = coopMatMulAdd(shares, values, outputs[c]);
        }
    }
}

// Divides the subgroup's outputs by the sums of their rows' weights and writes them, PAGE columns
// at a time.
void write_outputs(Tile tile, uint first_row, uint first_head)
{
    uint lane = gl_SubgroupInvocationID, thread = gl_SubgroupID * SUBGROUP + lane;
    sums[thread] = sum;
    subgroupBarrier();
    if (lane < TILE_M) {
        float total = 0.0;
        [[unroll]] for (uint k = 0u; k < SPLIT; k++)
            total += sums[thread + k * TILE_M];
        factors[first_row + lane] = total > 0.0 ? 1.0 / total : 0.0;
    }
    subgroupBarrier();
    scale_outputs(first_row);
    const uint tiles = PAGE / TILE_N;
    [[unroll]] for (uint c = 0u; c < VALUE_DIM / TILE_N; c++) {
        coopMatStore(outputs[c], scores, first_row * SCORE_STRIDE + c % tiles * (TILE_N / 4u),
                     SCORE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        if (c % tiles + 1u < tiles)
            continue;
        subgroupBarrier();
        [[dont_unroll]] for (uint i = lane; i < TILE_M * PAGE; i += SUBGROUP) {
            uint r = first_row + i / PAGE, d = i % PAGE;
            uint row = tile.first + r / HEADS, head = first_head + r % HEADS;
            float v = uintBitsToFloat(scores[r * SCORE_STRIDE + d / 4u][d & 3u]);
            if (r / HEADS < tile.n)
                y[row * p.out_stride + p.out_at + head * VALUE_DIM + c / tiles * PAGE + d] = v;
        }
        subgroupBarrier();
    }
}

void main()
{
    // Of all invocations, in the order of subgroups.
    uint lane = gl_SubgroupInvocationID, thread = gl_SubgroupID * SUBGROUP + lane;
    uint first_row = gl_SubgroupID * TILE_M, row = first_row + lane % TILE_M;
    uint kv_head = gl_WorkGroupID.x, first_head = kv_head * p.heads_per_kv_head;
    Tile tile = find_tile();
    if (tile.n == 0u)
        return;
    uint table = p.tables_at + sequence_word(p.sequences_at, tile.sequence, 1u) +
                 p.kv_class * step.header.page_table_stride;
    uint end = tile.position + tile.n;
    uint begin = p.window != 0u && p.window <= tile.position ? tile.position + 1u - p.window : 0u;
    uint page = begin / PAGE, end_page = (end + PAGE - 1u) / PAGE;
    load_page(thread, kv_head, step.rest[table + page], end - 1u - page * PAGE);
    load_queries(tile, thread, first_head);
    most = NIB_ATTENTION_LEAST;
    sum = 0.0;
    [[unroll]] for (uint c = 0u; c < VALUE_DIM / TILE_N; c++)
        outputs[c] = SUMS(0.0);
    for (; page < end_page; page++) {
        share_page(thread);
        barrier();
        uint next = min(page + 1u, end_page - 1u);
        load_page(thread, kv_head, step.rest[table + next], end - 1u - next * PAGE);
        score_page(first_row);
        subgroupBarrier();
        weigh_scores(tile, row, lane / TILE_M, page * PAGE);
        subgroupBarrier();
        add_page(first_row);
        barrier();
    }
    write_outputs(tile, first_row, first_head);
}
