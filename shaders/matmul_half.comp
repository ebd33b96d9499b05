#version 450
// As matmul_coop.comp, for codes that have a scale for each group on both sides, where precision
// allows fp16: weights and inputs become numbers on their way to shared memory, and tiles of them
// are multiplied and summed in fp32 over the whole row, so that nothing but multiply-adds happens
// to tiles. A workgroup makes BLOCK_ROWS rows of the weight for BLOCK_COLS rows of x. Each
// invocation loads its granules of the next step into registers before the step's products, and
// turns them into numbers behind them.
//
// Powers of two bring the numbers into fp16's range, from 2^-24 to 65504: a unit for each row of
// the weight, computed when it was packed, and one for each row of x, from the largest of its
// scales. A row's largest number lies below 2^15 then, so that none overflows; a number keeps all
// 11 digits down to 2^-29 of the largest, and below that it is rounded to 2^-39 of it. Units are
// taken out of the sums, which is exact. A product is off by 2^-10 of it, and sums by far less;
// int8 codes themselves are off by 2^-8 of their group's largest number.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
#include "lib/weights.glsl"
#include "lib/dot.glsl"
#include "shared/kernels.h"

layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_HAS_ADD) const bool HAS_ADD = false;
// A tile, and the invocations of a subgroup.
layout(constant_id = NIB_SPEC_TILE_M) const uint TILE_M = 16;
layout(constant_id = NIB_SPEC_TILE_N) const uint TILE_N = 16;
layout(constant_id = NIB_SPEC_TILE_K) const uint TILE_K = 16;
layout(constant_id = NIB_SPEC_SUBGROUP) const uint SUBGROUP = 32;
layout(constant_id = NIB_SPEC_BLOCK_ROWS) const uint BLOCK_ROWS = 64;
layout(constant_id = NIB_SPEC_BLOCK_COLS) const uint BLOCK_COLS = 64;
layout(constant_id = NIB_SPEC_THREADS) const uint THREADS = 128;
layout(constant_id = NIB_SPEC_ACROSS) const uint ACROSS = 2;
layout(constant_id = NIB_SPEC_DEPTH) const uint DEPTH = 1;
layout(constant_id = NIB_SPEC_BUFFERS) const uint BUFFERS = 1;
layout(local_size_x = 128, local_size_x_id = NIB_SPEC_THREADS) in;

// How subgroups and their tiles lie in the block.
const uint SUBGROUPS = THREADS / SUBGROUP;
const uint SUBGROUP_COLS = SUBGROUPS / ACROSS;
const uint ROW_TILES = BLOCK_ROWS / TILE_M / ACROSS;
const uint COL_TILES = BLOCK_COLS / TILE_N / SUBGROUP_COLS;
// Granules of a step, and those that an invocation brings; where there are fewer than invocations,
// the first ones bring weights and the last ones inputs.
const uint WEIGHT_CELLS = BLOCK_ROWS * DEPTH;
const uint INPUT_CELLS = BLOCK_COLS * DEPTH;
const uint WEIGHT_LOADS = WEIGHT_CELLS > THREADS ? WEIGHT_CELLS / THREADS : 1u;
const uint INPUT_LOADS = INPUT_CELLS > THREADS ? INPUT_CELLS / THREADS : 1u;
// Units of 8 numbers: those of a granule, and from one row to the next, one more, so that
// neighbours meet different banks.
#define UNITS 4u
const uint STRIDE = DEPTH * UNITS + 1u;
const uint BUFFER = (BLOCK_ROWS + BLOCK_COLS) * STRIDE;

layout(push_constant) uniform Push {
    nib_matmul_args p;
};

layout(std430, set = 0, binding = NIB_BIND_OUT) buffer Out {
    float y[];
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

// Rows of the weight, then rows of x, in each buffer; at the end what subgroups write next.
shared uvec4 tiles[BUFFERS * BUFFER];
// What sums are multiplied with.
shared float row_factors[BLOCK_ROWS];
shared float column_factors[BLOCK_COLS];
shared uint column_scales[BLOCK_COLS]; // the largest ones, as bits

#define SUMS coopmat<float, gl_ScopeSubgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>
#define WEIGHTS coopmat<float16_t, gl_ScopeSubgroup, TILE_M, TILE_K, gl_MatrixUseA>
#define INPUTS coopmat<float16_t, gl_ScopeSubgroup, TILE_K, TILE_N, gl_MatrixUseB>

SUMS total[ROW_TILES * COL_TILES];

// What an invocation has loaded for the next step.
Granule granules[WEIGHT_LOADS];
GroupWords groups[WEIGHT_LOADS * HALVES];
uvec4 input_codes[INPUT_LOADS * 2u];
float input_scales[INPUT_LOADS];

// A granule of the step: a place in the block and a number in the step.
struct Cell {
    bool is_there;
    uint place;
    uint depth;
};

// Rows of a tile are neighbours in memory.
Cell weight_cell(uint i)
{
    uint cell = gl_LocalInvocationIndex + i * THREADS;
    uint row = cell / (TILE_ROWS * DEPTH) * TILE_ROWS + cell % TILE_ROWS;
    return Cell(WEIGHT_CELLS >= THREADS || cell < WEIGHT_CELLS, row, cell / TILE_ROWS % DEPTH);
}

// So are granules of a row of x.
Cell input_cell(uint i)
{
    const uint skipped = INPUT_CELLS < THREADS ? THREADS - INPUT_CELLS : 0u;
    uint cell = gl_LocalInvocationIndex + i * THREADS - skipped;
    return Cell(skipped == 0u || gl_LocalInvocationIndex >= skipped, cell / DEPTH, cell % DEPTH);
}

uint first_tile()
{
    return gl_WorkGroupID.x * (BLOCK_ROWS / TILE_ROWS);
}

// Rows behind the last tile are made from that, and not written.
uint tile_of(uint place)
{
    uint n_tiles = (p.n_rows + TILE_ROWS - 1u) / TILE_ROWS;
    return min(first_tile() + place / TILE_ROWS, n_tiles - 1u);
}

float unit_of(uint place)
{
    return uintBitsToFloat(words[p.matrix.unit_at + tile_of(place) * TILE_ROWS + place % TILE_ROWS]);
}

// The inverse of a power of two.
float inverse_of(float unit)
{
    return uintBitsToFloat((254u << 23) - floatBitsToUint(unit));
}

// Loads the granules of step `s`; behind the last granule inputs are zeros.
void load_step(uint s)
{
    [[unroll]] for (uint i = 0u; i < WEIGHT_LOADS; i++) {
        Cell cell = weight_cell(i);
        uint g = min(s * DEPTH + cell.depth, p.matrix.n_granules - 1u), tile = tile_of(cell.place);
        uint r = cell.place % TILE_ROWS;
        if (!cell.is_there)
            continue;
        granules[i] = load_granule(p.matrix, tile, g, r);
        [[unroll]] for (uint h = 0u; h < HALVES; h++)
            groups[i * HALVES + h] =
                load_group_words(p.matrix, tile, group_of(p.matrix, g, h), r);
    }
    [[unroll]] for (uint i = 0u; i < INPUT_LOADS; i++) {
        Cell cell = input_cell(i);
        uint g = s * DEPTH + cell.depth, known = min(g, p.matrix.n_granules - 1u);
        uint row = gl_WorkGroupID.y * BLOCK_COLS + cell.place;
        uint from = row * p.matrix.n_granules + known;
        if (!cell.is_there)
            continue;
        input_codes[2u * i] = codes[2u * from];
        input_codes[2u * i + 1u] = codes[2u * from + 1u];
        input_scales[i] = g == known ? sums[from].x : 0.0;
    }
}

// Two bytes as numbers: 0x6400 is 1024, whose last place is one.
f16vec2 even_bytes(uint bytes)
{
    return unpackFloat2x16((bytes & 0x00ff00ffu) | 0x64006400u);
}

f16vec2 odd_bytes(uint bytes)
{
    return even_bytes(bytes >> 8);
}

// Of a group: what is taken from codes, what they are multiplied with and what is added.
struct Terms {
    f16vec2 zero;
    f16vec2 scale;
    f16vec2 min;
};

// Returns two numbers as they are shared.
uint number_pair(f16vec2 codes, Terms t)
{
    f16vec2 v = codes - t.zero;
    return packFloat2x16(HAS_MIN ? fma(v, t.scale, t.min) : v * t.scale);
}

// The numbers of quad `q` of a granule, in the order in which those of inputs come.
uvec2 weight_numbers(Granule granule, uint q, Terms t)
{
    if (HAS_BOOK) {
        vec4 v = input_weights(granule, q);
        return uvec2(packFloat2x16(f16vec2(v.xz) * t.scale), packFloat2x16(f16vec2(v.yw) * t.scale));
    }
    uint bytes = CODE_BITS == 8u   ? granule.low[q / 4u][q & 3u]
                 : CODE_BITS == 4u ? split_nibbles(granule.low[0][q / 2u], q)
                                   : pack_bytes(code_quad(granule, q));
    return uvec2(number_pair(even_bytes(bytes), t), number_pair(odd_bytes(bytes), t));
}

void share_weights(uint i, uint buffer_at)
{
    Cell cell = weight_cell(i);
    if (!cell.is_there)
        return;
    uint at = buffer_at + cell.place * STRIDE + cell.depth * UNITS;
    float unit = inverse_of(row_factors[cell.place]);
    Terms t;
    [[unroll]] for (uint u = 0u; u < UNITS; u++) {
        if (u % (UNITS / HALVES) == 0u) {
            Group group =
                group_from(groups[i * HALVES + u / (UNITS / HALVES)], cell.place % TILE_ROWS);
            t.zero = f16vec2(float16_t(1024.0 + float(CENTER) + group.zero));
            t.scale = f16vec2(float16_t(group.scale * unit));
            t.min = f16vec2(float16_t(group.min * unit));
        }
        tiles[at + u] = uvec4(weight_numbers(granules[i], 2u * u, t),
                              weight_numbers(granules[i], 2u * u + 1u, t));
    }
}

void share_inputs(uint i, uint buffer_at)
{
    Cell cell = input_cell(i);
    if (!cell.is_there)
        return;
    uint at = buffer_at + (BLOCK_ROWS + cell.place) * STRIDE + cell.depth * UNITS;
    float unit = inverse_of(column_factors[cell.place]);
    f16vec2 scale = f16vec2(float16_t(input_scales[i] * unit));
    [[unroll]] for (uint u = 0u; u < UNITS; u++) {
        uint low = input_codes[2u * i + u / 2u][2u * u & 3u] ^ 0x80808080u;
        uint high = input_codes[2u * i + u / 2u][(2u * u & 3u) + 1u] ^ 0x80808080u;
        tiles[at + u] = uvec4(packFloat2x16((even_bytes(low) - f16vec2(1152.0hf)) * scale),
                              packFloat2x16((odd_bytes(low) - f16vec2(1152.0hf)) * scale),
                              packFloat2x16((even_bytes(high) - f16vec2(1152.0hf)) * scale),
                              packFloat2x16((odd_bytes(high) - f16vec2(1152.0hf)) * scale));
    }
}

// Turns what is loaded into numbers.
void share_step(uint buffer_at)
{
    [[unroll]] for (uint i = 0u; i < WEIGHT_LOADS; i++)
        share_weights(i, buffer_at);
    [[unroll]] for (uint i = 0u; i < INPUT_LOADS; i++)
        share_inputs(i, buffer_at);
}

// Finds the units of all rows of the block.
void find_units()
{
    // Neighbours in memory that one row's invocations look at.
    const uint lanes = 8u;
    uint thread = gl_LocalInvocationIndex, lane = thread % lanes;
    for (uint i = thread; i < BLOCK_COLS; i += THREADS)
        column_scales[i] = 0u;
    for (uint i = thread; i < BLOCK_ROWS; i += THREADS)
        row_factors[i] = inverse_of(unit_of(i));
    barrier();
    for (uint c = thread / lanes; c < BLOCK_COLS; c += THREADS / lanes) {
        uint from = (gl_WorkGroupID.y * BLOCK_COLS + c) * p.matrix.n_granules;
        float most = 0.0;
        for (uint g = lane; g < p.matrix.n_granules; g += lanes)
            most = max(most, sums[from + g].x);
        atomicMax(column_scales[c], floatBitsToUint(most));
    }
    barrier();
    // Codes are below 2^7, the largest scale below 2^(exponent - 126): with the unit, below 2^15.
    for (uint i = thread; i < BLOCK_COLS; i += THREADS) {
        int exponent = int(column_scales[i] >> 23);
        uint unit = uint(clamp(126 + 127 + 8 - exponent, 1, 253)) << 23;
        column_factors[i] = inverse_of(uintBitsToFloat(unit));
    }
    barrier();
}

// Where the subgroup's tiles begin.
uint first_row()
{
    return gl_SubgroupID / SUBGROUP_COLS * (ROW_TILES * TILE_M);
}

uint first_column()
{
    return gl_SubgroupID % SUBGROUP_COLS * (COL_TILES * TILE_N);
}

// Adds the products of what is shared.
void multiply(uint buffer_at)
{
    uint weights_at = buffer_at + first_row() * STRIDE;
    uint inputs_at = buffer_at + (BLOCK_ROWS + first_column()) * STRIDE;
    [[unroll]] for (uint k = 0u; k < DEPTH * 32u; k += TILE_K) {
        INPUTS inputs[COL_TILES];
        [[unroll]] for (uint c = 0u; c < COL_TILES; c++)
            coopMatLoad(inputs[c], tiles, inputs_at + c * TILE_N * STRIDE + k / 8u, STRIDE,
                        gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint r = 0u; r < ROW_TILES; r++) {
            WEIGHTS weights;
            coopMatLoad(weights, tiles, weights_at + r * TILE_M * STRIDE + k / 8u, STRIDE,
                        gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint c = 0u; c < COL_TILES; c++)
                total[r * COL_TILES + c] =
                    coopMatMulAdd(weights, inputs[c], total[r * COL_TILES + c]);
        }
    }
}

// Takes the units out of a tile's sums.
void scale_tile(uint r, uint c)
{
    SUMS factors;
    coopMatLoad(factors, row_factors, first_row() + r * TILE_M, 0u,
                gl_CooperativeMatrixLayoutColumnMajor);
    total[r * COL_TILES + c] = total[r * COL_TILES + c] * factors;
    coopMatLoad(factors, column_factors, first_column() + c * TILE_N, 0u,
                gl_CooperativeMatrixLayoutRowMajor);
    total[r * COL_TILES + c] = total[r * COL_TILES + c] * factors;
}

// Writes a tile that lies inside of the output.
void write_inner(uint r, uint c)
{
    uint row = first_tile() * TILE_ROWS + first_row() + r * TILE_M;
    uint column = gl_WorkGroupID.y * BLOCK_COLS + first_column() + c * TILE_N;
    uint at = column * p.out_stride + p.out_at + row;
    SUMS other;
    if (HAS_BIAS) {
        coopMatLoad(other, bias, p.bias_at + row, 0u, gl_CooperativeMatrixLayoutColumnMajor);
        total[r * COL_TILES + c] += other;
    }
    if (HAS_ADD) {
        coopMatLoad(other, y, at, p.out_stride, gl_CooperativeMatrixLayoutColumnMajor);
        total[r * COL_TILES + c] = other + p.factor * total[r * COL_TILES + c];
    }
    coopMatStore(total[r * COL_TILES + c], y, at, p.out_stride,
                 gl_CooperativeMatrixLayoutColumnMajor);
}

// Writes what there is of a tile, through shared memory.
void write_edge(uint r, uint c)
{
    uint results_at = gl_SubgroupID * (TILE_M * TILE_N / 4u);
    barrier();
    coopMatStore(total[r * COL_TILES + c], tiles, results_at, TILE_M / 4u,
                 gl_CooperativeMatrixLayoutColumnMajor);
    barrier();
    for (uint i = gl_SubgroupInvocationID; i < TILE_M * TILE_N; i += SUBGROUP) {
        uint row = first_tile() * TILE_ROWS + first_row() + r * TILE_M + i % TILE_M;
        uint column = gl_WorkGroupID.y * BLOCK_COLS + first_column() + c * TILE_N + i / TILE_M;
        if (row >= p.n_rows)
            continue;
        float sum = uintBitsToFloat(tiles[results_at + i / 4u][i & 3u]);
        if (HAS_BIAS)
            sum += bias[p.bias_at + row];
        uint at = column * p.out_stride + p.out_at + row;
        y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
    }
}

void main()
{
    load_book(p.matrix, gl_LocalInvocationIndex, THREADS);
    load_step(0u);
    find_units();
    share_step(0u);
    [[unroll]] for (uint i = 0u; i < ROW_TILES * COL_TILES; i++)
        total[i] = SUMS(0.0);
    barrier();
    uint n_steps = (p.matrix.n_granules + DEPTH - 1u) / DEPTH, buffer_at = 0u;
    for (uint s = 1u; s < n_steps; s++) {
        load_step(s);
        multiply(buffer_at);
        buffer_at = BUFFERS == 2u ? BUFFER - buffer_at : 0u;
        if (BUFFERS == 1u)
            barrier();
        share_step(buffer_at);
        barrier();
    }
    multiply(buffer_at);
    // Tiles must begin at multiples of 16 bytes.
    bool is_inner = (first_tile() * TILE_ROWS + BLOCK_ROWS <= p.n_rows) &&
                    ((p.out_at | p.out_stride) & 3u) == 0u;
    [[unroll]] for (uint i = 0u; i < ROW_TILES * COL_TILES; i++) {
        scale_tile(i / COL_TILES, i % COL_TILES);
        if (is_inner)
            write_inner(i / COL_TILES, i % COL_TILES);
        else
            write_edge(i / COL_TILES, i % COL_TILES);
    }
}
