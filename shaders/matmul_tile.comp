#version 450
// As matmul.comp, for many rows of x. A workgroup makes BLOCK_ROWS rows of the weight for
// BLOCK_COLS rows of x. Its invocations bring one granule after the other to shared memory, taken
// apart once for all: codes as bytes beside the groups' scales, or weights and inputs as floats,
// half a granule at a time. An invocation makes ROWS times COLS of the outputs.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/weights.glsl"
#include "lib/dot.glsl"
#include "shared/kernels.h"

#define THREADS 128u
#define BLOCK_COLS 64u
#define COLS 4u
#define COL_THREADS (BLOCK_COLS / COLS)
#define ROW_THREADS (THREADS / COL_THREADS)
#define BLOCK_ROWS (ROW_THREADS * ROWS)
// Quads of words from one row of codes to the next, so that neighbours meet different banks.
#define CODES_STRIDE 3u
#define HALF 16u

layout(constant_id = NIB_SPEC_HAS_CODES) const bool HAS_CODES = false;
layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_HAS_ADD) const bool HAS_ADD = false;
layout(local_size_x = 128) in;

const bool HAS_HALVES = HALVES == 2u;

layout(push_constant) uniform Push {
    nib_matmul_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer Input {
    vec4 x[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer Codes {
    uvec4 codes[]; // [row][granule][2]
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) readonly buffer Sums {
    vec4 sums[]; // [row][granule]: the scale, the sums of both halves
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Bias {
    float bias[];
};

// Codes, four a word: [row][CODES_STRIDE].
const uint CODES_PITCH = HAS_CODES ? CODES_STRIDE : 0u;
shared uvec4 weight_codes[BLOCK_ROWS * CODES_PITCH + 1u];
shared uvec4 input_codes[BLOCK_COLS * CODES_PITCH + 1u];
// Floats: [HALF][row].
const uint FLOATS_PITCH = HAS_CODES ? 0u : HALF;
shared float weight_floats[BLOCK_ROWS * FLOATS_PITCH + 1u];
shared float input_floats[BLOCK_COLS * FLOATS_PITCH + 1u];
// Of each row of the weight, by halves, and of each row of x.
shared float scales[2][BLOCK_ROWS];
shared float minima[2][BLOCK_ROWS];
shared float zeros[2][BLOCK_ROWS];
shared vec4 columns[BLOCK_COLS];

float total[ROWS * COLS];

// Rows and columns of the block that an invocation has. Floats are read four neighbours at once.
uint row_of(uint k)
{
    uint thread = gl_LocalInvocationIndex % ROW_THREADS;
    return HAS_CODES ? thread + ROW_THREADS * k : (k / 4u * ROW_THREADS + thread) * 4u + k % 4u;
}

uint column_of(uint c)
{
    uint thread = gl_LocalInvocationIndex / ROW_THREADS;
    return HAS_CODES ? thread + COL_THREADS * c : thread * COLS + c;
}

// Brings the codes of a granule of x. Where all invocations have a row of the weight, each brings
// half a row of x, else those without one bring whole rows.
void share_input_codes(uint g, uint first)
{
    const bool is_shared = BLOCK_ROWS == THREADS;
    uint thread = gl_LocalInvocationIndex, place = thread % BLOCK_COLS;
    uint from = (first + place) * p.matrix.n_granules + g;
    if (!is_shared && thread < BLOCK_ROWS)
        return;
    [[unroll]] for (uint i = 0u; i < (is_shared ? 1u : 2u); i++) {
        uint h = is_shared ? thread / BLOCK_COLS : i;
        input_codes[place * CODES_STRIDE + h] = codes[from * 2u + h];
    }
    if (!is_shared || thread < BLOCK_COLS)
        columns[place] = sums[from];
}

// Brings the codes of a granule of the weight, and what belongs to its groups.
void share_weight_codes(uint tile, uint g, uint r)
{
    uint place = gl_LocalInvocationIndex, at = place * CODES_STRIDE;
    if (place >= BLOCK_ROWS)
        return;
    Granule granule = load_granule(p.matrix, tile, g, r);
    [[unroll]] for (uint q = 0u; q < 8u; q += 4u)
        weight_codes[at + q / 4u] = uvec4(quad_bytes(granule, q), quad_bytes(granule, q + 1u),
                                          quad_bytes(granule, q + 2u), quad_bytes(granule, q + 3u));
    [[unroll]] for (uint h = 0u; h < HALVES; h++) {
        Group group = load_group(p.matrix, tile, group_of(p.matrix, g, h), r);
        scales[h][place] = group.scale;
        if (HAS_MIN)
            minima[h][place] = group.min;
        if (ZERO_BITS > 0u)
            zeros[h][place] = group.zero;
    }
}

void add_codes()
{
    uvec4 low[COLS], high[COLS];
    vec4 column[COLS];
    ivec2 begin[COLS];
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        uint at = column_of(c);
        low[c] = input_codes[at * CODES_STRIDE];
        high[c] = input_codes[at * CODES_STRIDE + 1u];
        column[c] = columns[at];
        // Bytes of the weight hold codes less BYTE_OFFSET.
        ivec2 offset = ivec2(float(BYTE_OFFSET - CENTER) * column[c].yz);
        begin[c] = HAS_BOOK ? ivec2(0) : HAS_HALVES ? offset : ivec2(offset.x + offset.y, 0);
    }
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = row_of(k);
        uvec4 w_low = weight_codes[row * CODES_STRIDE];
        uvec4 w_high = weight_codes[row * CODES_STRIDE + 1u];
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            ivec2 exact = begin[c];
            [[unroll]] for (uint q = 0u; q < 4u; q++)
                exact.x = dot_bytes(w_low[q], low[c][q], exact.x);
            [[unroll]] for (uint q = 0u; q < 4u; q++)
                exact[HAS_HALVES ? 1 : 0] =
                    dot_bytes(w_high[q], high[c][q], exact[HAS_HALVES ? 1 : 0]);
            vec2 products = vec2(exact), half_sums = column[c].yz;
            if (ZERO_BITS > 0u && HAS_HALVES)
                products -= vec2(zeros[0][row], zeros[1][row]) * half_sums;
            else if (ZERO_BITS > 0u)
                products.x -= zeros[0][row] * (half_sums.x + half_sums.y);
            float sum = scales[0][row] * products.x;
            if (HAS_HALVES)
                sum += scales[1][row] * products.y;
            if (HAS_MIN)
                sum += minima[0][row] * half_sums.x +
                       minima[HAS_HALVES ? 1u : 0u][row] * half_sums.y;
            total[k * COLS + c] += column[c].x * sum;
        }
    }
}

#if ROWS == 8
// Half `h` of a granule of weights and of x, every other quad of it for each invocation.
void share_floats(const Granule granule, Group group, uint g, uint h, uint first)
{
    uint place = gl_LocalInvocationIndex % BLOCK_COLS, part = gl_LocalInvocationIndex / BLOCK_COLS;
    [[unroll]] for (uint i = 0u; i < 2u; i++) {
        uint q = 4u * h + 2u * i + part, k = (2u * i + part) * 4u;
        // Where the quad's place is not known before, both are made.
        vec4 w = CODE_BITS == 4u ? input_weights(granule, q)
                 : part == 0u    ? input_weights(granule, 4u * h + 2u * i)
                                 : input_weights(granule, 4u * h + 2u * i + 1u);
        vec4 quad = x[((first + place) * p.matrix.n_granules + g) * 8u + q];
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            float value = group.scale * (w[j] - group.zero) + group.min;
            weight_floats[(k + j) * BLOCK_ROWS + place] = value;
            input_floats[(k + j) * BLOCK_COLS + place] = quad[j];
        }
    }
}

void add_floats()
{
    // In one piece it takes NVIDIA's compiler half a minute.
    [[dont_unroll]] for (uint first = 0u; first < HALF; first += 4u) {
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            float w[ROWS], v[COLS];
            [[unroll]] for (uint k = 0u; k < ROWS; k++)
                w[k] = weight_floats[(first + i) * BLOCK_ROWS + row_of(k)];
            [[unroll]] for (uint c = 0u; c < COLS; c++)
                v[c] = input_floats[(first + i) * BLOCK_COLS + column_of(c)];
            [[unroll]] for (uint k = 0u; k < ROWS; k++)
                [[unroll]] for (uint c = 0u; c < COLS; c++)
                    total[k * COLS + c] += w[k] * v[c];
        }
    }
}
#endif

// Adds the products of one granule.
void add_granule(uint tile, uint g, uint r, uint first)
{
    if (HAS_CODES) {
        barrier();
        share_weight_codes(tile, g, r);
        share_input_codes(g, first);
        barrier();
        add_codes();
        return;
    }
#if ROWS == 8
    Granule granule = load_granule(p.matrix, tile, g, r);
    Group group;
    [[unroll]] for (uint h = 0u; h < 2u; h++) {
        if (h == 0u || HAS_HALVES)
            group = load_group(p.matrix, tile, group_of(p.matrix, g, h), r);
        barrier();
        share_floats(granule, group, g, h, first);
        barrier();
        add_floats();
    }
#endif
}

void main()
{
    uint place = gl_LocalInvocationIndex % BLOCK_ROWS, first = gl_WorkGroupID.y * BLOCK_COLS;
    uint n_tiles = (p.n_rows + TILE_ROWS - 1u) / TILE_ROWS;
    uint block_tile = gl_WorkGroupID.x * (BLOCK_ROWS / TILE_ROWS);
    uint tile = min(block_tile + place / TILE_ROWS, n_tiles - 1u), r = place % TILE_ROWS;
    load_book(p.matrix, gl_LocalInvocationIndex, THREADS);
    if (HAS_BOOK)
        barrier();
    [[unroll]] for (uint i = 0u; i < ROWS * COLS; i++)
        total[i] = 0.0;
    for (uint g = 0u; g < p.matrix.n_granules; g++)
        add_granule(tile, g, r, first);
    [[unroll]] for (uint k = 0u; k < ROWS; k++) {
        uint row = block_tile * TILE_ROWS + row_of(k);
        if (row >= p.n_rows)
            continue;
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            float sum = total[k * COLS + c];
            if (HAS_BIAS)
                sum += bias[p.bias_at + row];
            uint at = (first + column_of(c)) * p.out_stride + p.out_at + row;
            y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
        }
    }
}
