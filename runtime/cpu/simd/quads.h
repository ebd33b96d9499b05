/// The quantized input of the integer matmul: rows of codes in blocks of 16 (the last block may be
/// lower), columns in blocks of 32 like the weights' panels, so that a row block is read from its
/// begin to its end. A row of input has one row of codes; in INT16_GROUP two, the codes' high parts
/// and their low ones, whose products are added up.
#ifndef RUNTIME_CPU_SIMD_QUADS_H
#define RUNTIME_CPU_SIMD_QUADS_H

#include "runtime/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/// Added to the integers of a code book, so that weights are unsigned.
#define BOOK_CENTER 128

/// Column blocks at most whose products are summed up as integers: those of 512 weights of eight
/// bits with codes down to −128 are below 2^24, so that fp32 holds them exactly.
#define MAX_RUN_BLOCKS 16u

/// What of the input row r of a row block needs for column block b: element b · height + r of
/// `scale`, 32 bytes at element b · height + r of `codes`, elements (b · halves + half) · height +
/// r of `start` and `fold`. Of blocks that share their scales, `run` neighbours from a multiple of
/// that on, the first has the start and the fold of all.
struct quads {
    int8_t *codes;
    float *scale;
    int32_t *start; ///< what integer sums begin with: −center · Σ codes
    float *fold;    ///< what goes with minima, scale · Σ codes, or with zero points, Σ codes
    int16_t *pairs; ///< of a row block of 16, where has_pairs(): the codes as store_pairs() does it
    int32_t *pair_start; ///< with them: `start` less Σ (x0 x1 + x2 x3) of quads, without halves
    uint32_t height;
    uint32_t halves; ///< groups in a column block: 1 or 2
    uint32_t run;    ///< a power of two, 1 with halves
};

/// Returns how many rows of codes a row of input has.
INLINE uint32_t code_parts(const struct nib_cpu_matmul *a)
{
    return a->activation == NIB_ACTIVATION_INT16_GROUP ? 2 : 1;
}

/// How codes of weights lie in their block, see panel.h.
enum codes_kind { NIBBLES, BOOK, BYTES, TWOS, THREES, FIVES, SIXES };

INLINE enum codes_kind kind_of(const struct nib_format *format)
{
    return format->code == NIB_CODE_BOOK ? BOOK
           : format->bits == 8           ? BYTES
           : format->bits == 6           ? SIXES
           : format->bits == 5           ? FIVES
           : format->bits == 3           ? THREES
           : format->bits == 2           ? TWOS
                                         : NIBBLES;
}

/// Returns whether sums of a block's products fit 16 bits.
INLINE bool is_small_kind(enum codes_kind kind)
{
    return kind == NIBBLES || kind == TWOS || kind == THREES;
}

/// Returns the number of rows of codes.
INLINE uint64_t code_rows(const struct nib_cpu_matmul *a)
{
    return (uint64_t)a->n_rows * code_parts(a);
}

/// Returns whether the matmul multiplies integers in panels.
INLINE bool has_quads(const struct nib_cpu_matmul *a)
{
    return a->weight->has_panels && a->weight->panels.has_even_groups &&
           nib_cpu_input_has_codes(a->activation, &a->weight->format);
}

/// Returns whether whole row blocks are multiplied with weights of a kind as numbers of 16 bits.
INLINE bool is_wide(enum codes_kind kind)
{
#ifdef NIB_LANES_PAIRS
    return !is_small_kind(kind);
#else
    (void)kind;
    return false;
#endif
}

/// Returns whether the input of whole row blocks has pairs.
INLINE bool has_pairs(const struct nib_cpu_matmul *a)
{
    return is_wide(kind_of(&a->weight->format)) && code_rows(a) >= NIB_PANEL_ROWS && has_quads(a);
}

/// Returns whether groups end anywhere, but between quads, so that integers can be multiplied.
INLINE bool has_quad_runs(const struct nib_cpu_matmul *a)
{
    return a->weight->has_panels && !a->weight->panels.has_even_groups &&
           a->weight->format.group % 4 == 0 && code_parts(a) == 1 &&
           nib_cpu_input_has_codes(a->activation, &a->weight->format);
}

/// Returns whether the matmul reads fp32 values that differ from its input. Where groups end even
/// within quads, codes of activations are turned back to numbers.
INLINE bool input_has_values(const struct nib_cpu_matmul *a)
{
    const struct nib_cpu_matrix *weight = a->weight;
    return nib_cpu_input_has_values(a->activation, &weight->format, weight->permutation != NULL) ||
           (a->activation != NIB_ACTIVATION_F32 && !has_quads(a) && !has_quad_runs(a));
}

/// The outlier columns of a stretch of rows of one sequence. Inputs of the k-th one lie in
/// input->values[row][k].
struct outliers {
    uint32_t n_rows; ///< left of the stretch
    uint32_t n;
    const uint32_t *columns; ///< [n], ascending
};

/// Numbers of input->outliers before the columns: rows left of the stretch, rows since its first,
/// and with the first one the number of columns.
#define OUTLIERS_HEAD 3

INLINE uint32_t *find_outlier_row(const struct nib_cpu_matmul *a, uint64_t r)
{
    return a->input->outliers + r * (OUTLIERS_HEAD + a->weight->cols);
}

/// Finds the stretch that row `r` is in.
INLINE struct outliers find_outliers(const struct nib_cpu_matmul *a, uint64_t r)
{
    const uint32_t *row = find_outlier_row(a, r), *first = find_outlier_row(a, r - row[1]);
    return (struct outliers){
        .n_rows = row[0],
        .n = first[2],
        .columns = first + OUTLIERS_HEAD,
    };
}

/// Returns how many column blocks, a power of two, share the scales of weights and of activations;
/// no group begins within them.
INLINE uint32_t find_run(const struct nib_cpu_matmul *a)
{
    const struct nib_format *format = &a->weight->format;
    uint32_t blocks = format->group / NIB_PANEL_BLOCK;
    if (nib_activation_has_groups(a->activation) || !has_quads(a) ||
        format->group == NIB_PANEL_BLOCK / 2)
        return 1;
    if (format->group == 0 || format->group >= a->weight->cols)
        return MAX_RUN_BLOCKS;
    blocks &= ~blocks + 1; // the lowest bit
    return blocks < MAX_RUN_BLOCKS ? blocks : MAX_RUN_BLOCKS;
}

/// Finds the row block that begins with row `row` of codes, a multiple of 16.
INLINE struct quads find_quads(const struct nib_cpu_matmul *a, uint64_t row)
{
    const struct nib_cpu_matrix *weight = a->weight;
    const struct nib_cpu_input *input = a->input;
    uint32_t halves = weight->format.group == NIB_PANEL_BLOCK / 2 ? 2 : 1;
    uint64_t at = row * weight->panels.n_blocks, rest = code_rows(a) - row;
    return (struct quads){
        .codes = input->quads + at * NIB_PANEL_BLOCK,
        .scale = input->quad_scale + at,
        .start = input->quad_start + at * halves,
        .fold = input->quad_fold + at * halves,
        .pairs = input->codes + at * NIB_PANEL_BLOCK,
        .pair_start = input->pair_start + at,
        .height = rest < NIB_PANEL_ROWS ? (uint32_t)rest : NIB_PANEL_ROWS,
        .halves = halves,
        .run = find_run(a),
    };
}

#endif
