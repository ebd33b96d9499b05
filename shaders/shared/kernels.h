// What the host hands to each kernel: push constants, specialization constants, bindings. C and
// GLSL.
// Offsets named `_at` and strides count 32-bit words; "view" columns begin at row · stride + at.
#ifndef SHADERS_SHARED_KERNELS_H
#define SHADERS_SHARED_KERNELS_H

#include "types.h"

// Bindings of descriptor set 0, storage buffers all; a kernel uses those that it needs.
#define NIB_BIND_STEP 0
#define NIB_BIND_IN 1     // activations that are read
#define NIB_BIND_IN_2 2   // more of them: `up` of a gated activation
#define NIB_BIND_OUT 3    // activations that are written
#define NIB_BIND_MATRIX 4 // weights; in kernels of the cache, the plane of keys or the one written
#define NIB_BIND_INPUT 5  // prepared input of a matmul; in attention, the plane of values
#define NIB_BIND_SUMS 6   // its scales and sums
#define NIB_BIND_TABLE 7  // bias, norm's weight, or a matrix's granules and permutation
#define NIB_BINDINGS 8
// Uniform texel buffers of 4 words, where the device plan has them: the same as 4 to 6 and 1 to 3.
#define NIB_BIND_MATRIX_TEXELS 8
#define NIB_BIND_INPUT_TEXELS 9
#define NIB_BIND_SUMS_TEXELS 10
#define NIB_BIND_IN_TEXELS 11
#define NIB_BIND_IN_2_TEXELS 12
#define NIB_BIND_OUT_TEXELS 13
#define NIB_TEXEL_BINDINGS 6

// Tiles of a matrix: rows side by side, weights of a row in one granule.
#define NIB_TILE_ROWS 16
#define NIB_GRANULE 32

// Specialization constants of kernels that read a matrix.
#define NIB_SPEC_CODE_BITS 0 // 2 to 8; floats: NIB_CODE_*
#define NIB_SPEC_HAS_BOOK 1
#define NIB_SPEC_SCALE_TYPE 2 // NIB_SCALES_*
#define NIB_SPEC_HAS_SUPER 3
#define NIB_SPEC_HAS_MIN 4
#define NIB_SPEC_ZERO_BITS 5 // of a zero point as stored: 0, 8, 16
#define NIB_SPEC_HALVES 6    // groups in a granule: 1, or 2 of 16 weights
#define NIB_SPEC_CENTER 7
// matmul, besides
#define NIB_SPEC_LANES 8     // invocations that share a row of the weight
#define NIB_SPEC_HAS_CODES 9 // the input is int8 codes with scales; sums are taken in integers
#define NIB_SPEC_HAS_BIAS 10
#define NIB_SPEC_WIDTH 11        // invocations side by side: 16 / rows of each, times tiles
#define NIB_SPEC_HAS_OUTLIERS 12 // LLM.int8: some columns are multiplied in fp32
#define NIB_SPEC_HAS_ADD 13      // the output is added to what is there
#define NIB_SPEC_SOURCE 14       // what a single row is computed from: NIB_PREPARE_SOURCE_*
#define NIB_SPEC_IS_GROUP 15     // a granule is a group
#define NIB_SPEC_TILE_M 16       // a tile of cooperative matrices: rows of the weight,
#define NIB_SPEC_TILE_N 17       // rows of the input,
#define NIB_SPEC_TILE_K 18       // and weights of a row
#define NIB_SPEC_SUBGROUP 19     // invocations of a subgroup
#define NIB_SPEC_THREADS 20      // of a workgroup, in x
#define NIB_SPEC_GRANULES 21     // of a row of input that the matmul prepares itself
#define NIB_SPEC_BLOCK_ROWS 22   // outputs of a workgroup: rows of the weight,
#define NIB_SPEC_BLOCK_COLS 23   // rows of the input
#define NIB_SPEC_ACROSS 24       // its subgroups that have rows of the weight of their own
#define NIB_SPEC_DEPTH 25        // granules that are in shared memory at once
#define NIB_SPECS 26

#define NIB_CODE_F16 16
#define NIB_CODE_BF16 17
#define NIB_CODE_F32 32
#define NIB_SCALES_F32 1
#define NIB_SCALES_F16 2
#define NIB_SCALES_BF16 3

// prepare
#define NIB_PREPARE_MODE 0
#define NIB_PREPARE_AS_VALUES 1
#define NIB_PREPARE_HAS_SPANS 2
#define NIB_PREPARE_HAS_PERMUTATION 3
#define NIB_PREPARE_F32 0
#define NIB_PREPARE_GROUP 1
#define NIB_PREPARE_TOKEN 2
#define NIB_PREPARE_STATIC 3
#define NIB_PREPARE_LLM 4
#define NIB_PREPARE_IS_LINES 4 // constant: rows are lines of logits
#define NIB_PREPARE_SOURCE 5   // constant: what the input is computed from
#define NIB_PREPARE_IS_SPLIT 6 // constant: of 8 columns the even ones come before the odd ones
#define NIB_PREPARE_SOURCE_VALUES 0
#define NIB_PREPARE_SOURCE_NORM 1       // a norm without weight
#define NIB_PREPARE_SOURCE_NORM_TIMES 2 // a norm with one
#define NIB_PREPARE_SOURCE_GATE 3       // and up: NIB_ELEMENTWISE_SILU and the functions behind it

// 2^-100: a group without a number as large counts as zero, so that no inverse is denormal.
#define NIB_PREPARE_LEAST 7.888609052210118e-31
#define NIB_PREPARE_QUADS 7     // constant: of a granule that an invocation takes
#define NIB_PREPARE_THREADS 128 // of a workgroup

// outliers
#define NIB_OUTLIERS_IS_LINES 0

// elementwise
#define NIB_ELEMENTWISE_SILU 0
#define NIB_ELEMENTWISE_GELU_TANH 1
#define NIB_ELEMENTWISE_GELU 2
#define NIB_ELEMENTWISE_ADD 3
#define NIB_ELEMENTWISE_SCALE 4
#define NIB_ELEMENTWISE_SOFTCAP 5

// formats of the cache
#define NIB_KV_CODE_F32 0
#define NIB_KV_CODE_F16 1
#define NIB_KV_CODE_I8 2
#define NIB_KV_CODE_I4 3
#define NIB_KV_CODE_I4_CHANNEL 4

// kv_store
#define NIB_KV_STORE_KEY_IS_HALF 0
#define NIB_KV_STORE_VALUE_IS_HALF 1
#define NIB_KV_STORE_INTERLEAVED 2
// kv_store_codes; kv_pack has the third
#define NIB_KV_STORE_FORMAT 0
#define NIB_KV_STORE_IS_KEY 1
#define NIB_KV_STORE_DIM 2
#define NIB_KV_STORE_HAS_RECENT 3  // stored in f16 as well
#define NIB_KV_STORE_TRANSFORMS 4  // whole groups
#define NIB_KV_STORE_FIRST_ALONE 5 // of what is stored in f16: the first pages, 0: all

// attention
#define NIB_ATTENTION_MAX_DIM 512
#define NIB_ATTENTION_LEAST (-1.0e38) // finite, so that a difference of maxima is never NaN
#define NIB_ATTENTION_KEY_FORMAT 0    // NIB_KV_CODE_*
#define NIB_ATTENTION_VALUE_FORMAT 1
#define NIB_ATTENTION_KEY_DIM 2
#define NIB_ATTENTION_VALUE_DIM 3
#define NIB_ATTENTION_ROWS 4
#define NIB_ATTENTION_HEADS 5
#define NIB_ATTENTION_LANES 6
#define NIB_ATTENTION_THREADS 7
#define NIB_ATTENTION_TILE 8 // what a tile of rows is: NIB_ATTENTION_TILE_*
#define NIB_ATTENTION_CHUNK 9
#define NIB_ATTENTION_IS_ALIGNED 10
#define NIB_ATTENTION_RECENT 11 // pages of newest tokens, 0: none are kept
#define NIB_ATTENTION_OWN 12    // quads of a step's only row that it turns and stores
#define NIB_ATTENTION_INTERLEAVED 13
#define NIB_ATTENTION_FIRST 14 // pages of first tokens that are in f16

#define NIB_ATTENTION_TILE_ROW 0        // any row of the step
#define NIB_ATTENTION_TILE_SINGLE 1     // a row that is its sequence's only one
#define NIB_ATTENTION_TILE_NEIGHBOURS 2 // rows of a sequence that has more

// draw
#define NIB_DRAW_HAS_SAMPLING 0 // constant: some line is not just the largest logit
#define NIB_DRAW_PART 2048      // logits that a workgroup looks at
#define NIB_DRAW_LIST 8192      // tokens that the list of a line holds

// measure_*: what the device can do at most
#define NIB_MEASURE_PIECE 1024 // quads of words that a workgroup reads one after the other
#define NIB_MEASURE_SUMS 8     // chains of multiply-adds that do not wait for one another
#define NIB_MEASURE_STEPS 16   // of a chain in a round
#define NIB_MEASURE_TILES 4    // products of tiles in a round

// A matrix, or a slice of its rows. Offsets count from its beginning.
struct nib_matrix_args {
    nib_uint n_granules;
    nib_uint n_groups; // in a row
    nib_uint n_supers;
    nib_uint granules_per_group;
    nib_uint groups_per_super;
    nib_uint high_at; // bits of codes beyond the first two or four
    nib_uint scale_at;
    nib_uint min_at;
    nib_uint sub_scale_at;
    nib_uint sub_min_at;
    nib_uint zero_at;
    nib_uint unit_at;
    nib_uint book_at;
};

// A single row of input that the matmul prepares itself: NIB_SPEC_SOURCE.
struct nib_matmul_source {
    nib_uint in_at;
    nib_uint up_at;
    nib_uint n_cols;
    float epsilon;
};

struct nib_matmul_args {
    NIB_STRUCT(nib_matrix_args) matrix;
    nib_uint n_rows; // of the weight
    nib_uint out_at;
    nib_uint out_stride;
    nib_uint bias_at;
    float factor; // NIB_SPEC_HAS_ADD
    NIB_STRUCT(nib_matmul_source) source;
};

// A matmul through texel buffers multiplies up to three matrices with the same input. Offsets of
// the matrix's planes are those in a slice of one tile: a slice of n tiles has them n times as far.
#define NIB_MATMUL_PARTS 3
struct nib_matmul_part {
    nib_uint n_rows; // 0: no such part
    nib_uint begin;  // texel where the slice begins
    nib_uint out_at;
    nib_uint out_stride;
};

struct nib_matmul_texel_args {
    NIB_STRUCT(nib_matrix_args) matrix;
    NIB_STRUCT(nib_matmul_part) parts[NIB_MATMUL_PARTS];
    nib_uint bias_at;
    float factor; // NIB_SPEC_HAS_ADD
    NIB_STRUCT(nib_matmul_source) source;
};

struct nib_embed_args {
    NIB_STRUCT(nib_matrix_args) matrix;
    nib_uint first_row; // of the slice in the matrix
    nib_uint n_rows;    // of the slice
    nib_uint n_cols;
    nib_uint out_at;
    nib_uint out_stride;
    float scale;
};

struct nib_prepare_args {
    nib_uint in_at;
    nib_uint in_stride;
    nib_uint n_cols;
    nib_uint n_granules;
    nib_uint permutation_at;
    float scale; // NIB_PREPARE_STATIC
    float limit; // NIB_PREPARE_LLM: outliers begin here
    nib_uint mask_stride;
    nib_uint up_at; // NIB_PREPARE_SOURCE_GATE
    nib_uint up_stride;
    float epsilon; // NIB_PREPARE_SOURCE_NORM
};

struct nib_outliers_args {
    nib_uint in_at;
    nib_uint in_stride;
    nib_uint n_cols;
    nib_uint mask_stride;
    nib_uint sequences_at;
    float limit;
};

struct nib_norm_args {
    nib_uint in_at;
    nib_uint in_stride;
    nib_uint out_at;
    nib_uint out_stride;
    nib_uint width; // of a group
    float epsilon;
};

struct nib_rope_part {
    nib_uint at;
    nib_uint stride;
    nib_uint n_heads; // 0: no such part
};

struct nib_rope_args {
    NIB_STRUCT(nib_rope_part) parts[2];
    nib_uint head_dim;
    nib_uint half_dims;
    nib_uint angles_at;
};

// Keys or values that are stored.
struct nib_kv_store_part {
    nib_uint at;
    nib_uint stride;
    nib_uint head_words; // of one head of one token; 0: stored by another kernel
    nib_uint page_words;
};

struct nib_kv_store_args {
    NIB_STRUCT(nib_kv_store_part) keys;
    NIB_STRUCT(nib_kv_store_part) values;
    nib_uint n_heads;
    nib_uint kv_class;
    nib_uint sequences_at;
    nib_uint tables_at;
    // What is turned on the way: keys, and queries in place.
    NIB_STRUCT(nib_rope_part) queries;
    nib_uint head_dim;
    nib_uint half_dims; // 0: nothing
    nib_uint angles_at;
};

// Where pages of tokens in f16 lie: behind a plane's pages of codes.
struct nib_kv_recent_args {
    nib_uint at;
    nib_uint kv_class;
};

struct nib_kv_store_codes_args {
    nib_uint in_at;
    nib_uint in_stride;
    nib_uint n_heads;
    nib_uint page_words;
    nib_uint scale_page_words;
    nib_uint kv_class;
    nib_uint window;
    nib_uint sequences_at;
    nib_uint tables_at;
    NIB_STRUCT(nib_kv_recent_args) recent;
};

// Keys that are packed channel by channel.
struct nib_kv_pack_args {
    nib_uint n_heads;
    nib_uint page_words;
    nib_uint scale_page_words;
    nib_uint kv_class;
    nib_uint sequences_at;
    nib_uint tables_at;
    NIB_STRUCT(nib_kv_recent_args) recent;
};

// Heads whose whole groups are transformed.
struct nib_kv_transform_args {
    nib_uint at;
    nib_uint stride;
    nib_uint n_heads;
    nib_uint head_dim;
    nib_uint n_groups; // of a head
};

struct nib_attention_args {
    nib_uint query_at;
    nib_uint query_stride;
    nib_uint out_at;
    nib_uint out_stride;
    nib_uint n_heads;
    nib_uint heads_per_kv_head;
    nib_uint key_words; // of one head of one token
    nib_uint value_words;
    nib_uint key_page_words;
    nib_uint value_page_words;
    nib_uint key_scale_page_words;
    nib_uint value_scale_page_words;
    nib_uint window; // 0: everything
    nib_uint kv_class;
    nib_uint sequences_at;
    nib_uint tables_at;
    float scale;
    float softcap;                              // 0: none
    NIB_STRUCT(nib_kv_recent_args) recent_keys; // where keys are codes
    NIB_STRUCT(nib_kv_recent_args) recent_values;
    // NIB_ATTENTION_OWN: beside the queries, what is not in the cache yet.
    nib_uint key_at;
    nib_uint value_at;
    nib_uint half_dims; // of a head that are turned
    nib_uint angles_at;
};

struct nib_attention_merge_args {
    nib_uint out_at;
    nib_uint out_stride;
    nib_uint n_heads;
    nib_uint value_dim;
    nib_uint parts; // of the pages, times rows of the bucket
};

struct nib_elementwise_args {
    nib_uint in_at; // the gate of an activation
    nib_uint in_stride;
    nib_uint up_at;
    nib_uint up_stride;
    nib_uint out_at;
    nib_uint out_stride;
    nib_uint width;
    float factor;
};

struct nib_gather_args {
    nib_uint in_at;
    nib_uint in_stride;
    nib_uint out_at;
    nib_uint out_stride;
    nib_uint width;
};

struct nib_advance_args {
    nib_uint n_rows;
};

struct nib_measure_args {
    nib_uint n_rounds;
    nib_uint n_pieces; // of the buffer
    nib_uint factor;
    nib_uint unlikely; // a result that does not come
};

struct nib_draw_args {
    nib_uint logits_at;
    nib_uint logits_stride;
    nib_uint vocabulary;
    nib_uint n_parts;   // of a line
    nib_uint max_lines; // stride of slots
    nib_uint draws_at;
    nib_uint scratch_stride; // of a line
    nib_uint levels_at;
    nib_uint list_at;
};

#endif
