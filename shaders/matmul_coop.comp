#version 450
// As matmul_tile.comp with codes on both sides, by cooperative matrices. A workgroup makes
// BLOCK_ROWS rows of the weight for BLOCK_COLS rows of x. Its invocations bring one granule after
// the other to shared memory, where weights are codes less their zero points. Each subgroup
// multiplies tiles of TILE_M rows by TILE_N columns: products of codes are integers below 2^24,
// which int32 and fp32 hold exactly, so that both kinds of tile give what scalar code gives.
// Scales are applied to whole tiles: a matrix loaded with stride 0 repeats a row or a column.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
#include "lib/weights.glsl"
#include "lib/dot.glsl"
#include "shared/kernels.h"

#define THREADS 128u
#define BLOCK_COLS 64u
#define BLOCK_ROWS (ROWS * 8u)

layout(constant_id = NIB_SPEC_HAS_BIAS) const bool HAS_BIAS = false;
layout(constant_id = NIB_SPEC_HAS_ADD) const bool HAS_ADD = false;
// A tile, and the invocations of a subgroup.
layout(constant_id = NIB_SPEC_TILE_M) const uint TILE_M = 16;
layout(constant_id = NIB_SPEC_TILE_N) const uint TILE_N = 16;
layout(constant_id = NIB_SPEC_TILE_K) const uint TILE_K = 16;
layout(constant_id = NIB_SPEC_SUBGROUP) const uint SUBGROUP = 32;
layout(local_size_x = 128) in;

const uint STEPS = 32u / HALVES / TILE_K; // of a half
// How subgroups and their tiles lie in the block.
const uint SUBGROUPS = THREADS / SUBGROUP;
const uint BLOCK_TILES = BLOCK_ROWS / TILE_M;
const uint SUBGROUP_ROWS = SUBGROUPS < BLOCK_TILES ? SUBGROUPS : BLOCK_TILES;
const uint SUBGROUP_COLS = SUBGROUPS / SUBGROUP_ROWS;
const uint ROW_TILES = BLOCK_TILES / SUBGROUP_ROWS;
const uint COL_TILES = BLOCK_COLS / TILE_N / SUBGROUP_COLS;

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

#ifdef HAS_BYTES
#define ELEMENT int8_t
#define EXACT int
#define UNIT i8vec4 // a quad of codes
#define UNITS_A_QUAD 1u
#else
#define ELEMENT float16_t
#define EXACT float
#define UNIT f16vec2
#define UNITS_A_QUAD 2u
#endif
#define UNITS (8u * UNITS_A_QUAD) // of a granule
// From one row to the next, 16 bytes more, so that neighbours meet different banks.
#define STRIDE (UNITS + 4u)

shared UNIT weight_tiles[BLOCK_ROWS * STRIDE];
shared UNIT input_tiles[BLOCK_COLS * STRIDE];
// Of each row of the weight by halves, and of each row of x.
shared float scales[2][BLOCK_ROWS];
shared float offsets[2][BLOCK_ROWS];
shared float columns[BLOCK_COLS];
shared float column_sums[2][BLOCK_COLS]; // times the scale
// What each subgroup writes next.
shared float results[SUBGROUPS * TILE_M * TILE_N];

#define SUMS coopmat<float, gl_ScopeSubgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>
#define EXACT_SUMS coopmat<EXACT, gl_ScopeSubgroup, TILE_M, TILE_N, gl_MatrixUseAccumulator>
#define WEIGHTS coopmat<ELEMENT, gl_ScopeSubgroup, TILE_M, TILE_K, gl_MatrixUseA>
#define INPUTS coopmat<ELEMENT, gl_ScopeSubgroup, TILE_K, TILE_N, gl_MatrixUseB>

// Whether bytes do not hold all of what a weight is a multiple of.
bool has_offset()
{
    return HAS_MIN || (CODE_BITS == 8u && (ZERO_BITS > 0u || CENTER != 128));
}

SUMS total[ROW_TILES * COL_TILES];

// Where the subgroup's tiles begin.
uint first_row()
{
    return gl_SubgroupID / SUBGROUP_COLS * (ROW_TILES * TILE_M);
}

uint first_column()
{
    return gl_SubgroupID % SUBGROUP_COLS * (COL_TILES * TILE_N);
}

// Puts four signed bytes into unit `at` and, of halves, the one behind it: weights and inputs in
// the same order.
#ifdef HAS_BYTES
#define SHARE(tiles, at, bytes) tiles[at] = unpack8(int(bytes))
#else
// 0x6400 is 1024, whose last place is one.
#define SHARE(tiles, at, bytes)                                                          \
    {                                                                                    \
        uint biased = (bytes) ^ 0x80808080u;                                             \
        tiles[at] = unpackFloat2x16((biased & 0x00ff00ffu) | 0x64006400u) -              \
                    f16vec2(1152.0hf);                                                   \
        tiles[(at) + 1u] = unpackFloat2x16(((biased >> 8) & 0x00ff00ffu) | 0x64006400u) - \
                           f16vec2(1152.0hf);                                            \
    }
#endif

// Brings a quarter or, where BLOCK_ROWS is half of the invocations, the half of a row of x.
void share_inputs(uint g, uint first)
{
    uint thread = gl_LocalInvocationIndex, place = thread % BLOCK_COLS, h = thread / BLOCK_COLS;
    uint from = (first + place) * p.matrix.n_granules + g;
    uvec4 quads = codes[from * 2u + h];
    [[unroll]] for (uint q = 0u; q < 4u; q++)
        SHARE(input_tiles, place * STRIDE + (4u * h + q) * UNITS_A_QUAD, quads[q]);
    if (h > 0u)
        return;
    vec4 column = sums[from];
    columns[place] = column.x;
    if (has_offset() && HALVES == 2u) {
        column_sums[0][place] = column.x * column.y;
        column_sums[1][place] = column.x * column.z;
    } else if (has_offset()) {
        column_sums[0][place] = column.x * (column.y + column.z);
    }
}

// Brings a granule of a row of the weight; where there are two invocations for each, half of it.
void share_weights(uint tile, uint g, uint r)
{
    const uint parts = THREADS / BLOCK_ROWS;
    uint place = gl_LocalInvocationIndex % BLOCK_ROWS, part = gl_LocalInvocationIndex / BLOCK_ROWS;
    Granule granule = load_granule(p.matrix, tile, g, r);
    Group group;
    [[unroll]] for (uint h = 0u; h < 2u; h++) {
        if (h < HALVES)
            group = load_group(p.matrix, tile, group_of(p.matrix, g, h), r);
        // What is taken from each code; of 8 bits, what an offset makes good.
        int zero = HAS_BOOK ? 0 : CENTER + int(group.zero);
        if (h < HALVES && part == 0u) {
            scales[h][place] = group.scale;
            if (has_offset())
                offsets[h][place] =
                    CODE_BITS == 8u ? group.scale * float(128 - zero) + group.min : group.min;
        }
        if (parts == 2u && part != h)
            continue;
        [[unroll]] for (uint q = 4u * h; q < 4u * h + 4u; q++) {
            uint bytes = quad_bytes(granule, q);
            if (CODE_BITS < 8u && !HAS_BOOK)
                bytes = ((bytes | 0x80808080u) - uint(zero) * 0x01010101u) ^ 0x80808080u;
            SHARE(weight_tiles, place * STRIDE + q * UNITS_A_QUAD, bytes);
        }
    }
}

// Adds the products of half `h` of what is shared, or, without halves, of all of it.
void add_half(uint h)
{
    uint row = first_row(), column = first_column();
    INPUTS inputs[COL_TILES * STEPS];
    SUMS column_scales[COL_TILES];
    [[unroll]] for (uint c = 0u; c < COL_TILES; c++) {
        uint at = column + c * TILE_N;
        [[unroll]] for (uint s = 0u; s < STEPS; s++)
            coopMatLoad(inputs[c * STEPS + s], input_tiles,
                        at * STRIDE + (h * 4u * UNITS_A_QUAD) + s * TILE_K * UNITS / 32u, STRIDE,
                        gl_CooperativeMatrixLayoutColumnMajor);
        coopMatLoad(column_scales[c], columns, at, 0u, gl_CooperativeMatrixLayoutRowMajor);
    }
    [[unroll]] for (uint k = 0u; k < ROW_TILES; k++) {
        uint at = row + k * TILE_M;
        WEIGHTS weights[STEPS];
        // glslang 13 forgets the type's parameters behind a comma.
        SUMS row_scales;
        SUMS row_offsets;
        [[unroll]] for (uint s = 0u; s < STEPS; s++)
            coopMatLoad(weights[s], weight_tiles,
                        at * STRIDE + (h * 4u * UNITS_A_QUAD) + s * TILE_K * UNITS / 32u, STRIDE,
                        gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(row_scales, scales[h], at, 0u, gl_CooperativeMatrixLayoutColumnMajor);
        if (has_offset())
            coopMatLoad(row_offsets, offsets[h], at, 0u, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint c = 0u; c < COL_TILES; c++) {
            EXACT_SUMS exact = EXACT_SUMS(EXACT(0));
            [[unroll]] for (uint s = 0u; s < STEPS; s++)
                exact = coopMatMulAdd(weights[s], inputs[c * STEPS + s], exact);
            total[k * COL_TILES + c] += SUMS(exact) * column_scales[c] * row_scales;
            if (has_offset()) {
                SUMS half_sums;
                coopMatLoad(half_sums, column_sums[h], column + c * TILE_N, 0u,
                            gl_CooperativeMatrixLayoutRowMajor);
                total[k * COL_TILES + c] += half_sums * row_offsets;
            }
        }
    }
}

// Writes a tile of each subgroup, which is in `results`.
void write_tiles(uint k, uint c, uint block_row, uint first)
{
    for (uint i = gl_SubgroupInvocationID; i < TILE_M * TILE_N; i += SUBGROUP) {
        uint row = block_row + first_row() + k * TILE_M + i % TILE_M;
        uint column = first + first_column() + c * TILE_N + i / TILE_M;
        if (row >= p.n_rows)
            continue;
        float sum = results[gl_SubgroupID * TILE_M * TILE_N + i];
        if (HAS_BIAS)
            sum += bias[p.bias_at + row];
        uint at = column * p.out_stride + p.out_at + row;
        y[at] = HAS_ADD ? y[at] + p.factor * sum : sum;
    }
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
    [[unroll]] for (uint i = 0u; i < ROW_TILES * COL_TILES; i++)
        total[i] = SUMS(0.0);
    for (uint g = 0u; g < p.matrix.n_granules; g++) {
        barrier();
        share_weights(tile, g, r);
        share_inputs(g, first);
        barrier();
        [[unroll]] for (uint h = 0u; h < 2u; h++) {
            if (h < HALVES)
                add_half(h);
        }
    }
    [[unroll]] for (uint i = 0u; i < ROW_TILES * COL_TILES; i++) {
        barrier();
        coopMatStore(total[i], results, gl_SubgroupID * TILE_M * TILE_N, TILE_M,
                     gl_CooperativeMatrixLayoutColumnMajor);
        barrier();
        write_tiles(i / COL_TILES, i % COL_TILES, block_tile * TILE_ROWS, first);
    }
}
