/// The CPU's kernels: their arguments, their signatures, and the table of function pointers.
///
/// A kernel works on items [first, last) of a loop that exec.c shares out to the threads, writes
/// outputs of those items alone, and gives each output the same bits whatever the pieces are. The
/// scalar kernels are the specification of all others; exec.c has checked nothing that
/// nib_plan_validate did not.
#ifndef RUNTIME_CPU_KERNELS_H
#define RUNTIME_CPU_KERNELS_H

#include "runtime/cpu/features.h"
#include "runtime/cpu/matrix.h"
#include "runtime/ops/plan.h"
#include "runtime/ops/step.h"

/// Columns of a value from a view's first one on: row r begins at data + r · stride.
struct nib_cpu_rows {
    float *data;
    uint64_t stride;
};

/// Weight rows that a kernel takes apart at once.
#define NIB_CPU_BLOCK_ROWS 4
/// Query heads, of one or more rows, that go through the cache together: whole tiles of 6 or 12.
#define NIB_CPU_MAX_QUERIES 60
/// Integer sums are taken over at most this many weights: 2^15 products of a code (at most 2^8 from
/// its zero point) with an activation's (at most 2^7) fit 31 bits. INT16_GROUP has runs of 32.
#define NIB_CPU_MAX_RUN 32768u

/// Column blocks of a panel that kernels of many rows unpack at once, at most.
#define NIB_CPU_TALL_BLOCKS 32u
/// Input rows for which they unpack it once, at most.
#define NIB_CPU_TALL_ROWS 256u
/// Panels at most that are unpacked at once.
#define NIB_CPU_TALL_PANELS 4u

/// A stretch of a panel unpacked, on a cache line's begin.
struct nib_cpu_tall {
    uint8_t bytes[NIB_CPU_TALL_BLOCKS * NIB_PANEL_BLOCK * NIB_PANEL_ROWS];
    float scale[2 * NIB_CPU_TALL_BLOCKS * NIB_PANEL_ROWS]; ///< of each group of a block: 1 or 2
    float min[2 * NIB_CPU_TALL_BLOCKS * NIB_PANEL_ROWS];   ///< or zero points
    int32_t start[NIB_CPU_TALL_BLOCKS * NIB_PANEL_ROWS];   ///< what store_weight_pairs() returns
};

/// A thread's own buffers, large enough for any op of the plan. C is the most columns of a matrix,
/// R the most runs, G the most groups.
struct nib_cpu_scratch {
    void *block;         ///< memory of a row block of NIB_CPU_BLOCK_ROWS rows
    float *values;       ///< [NIB_CPU_BLOCK_ROWS][C] weights
    int16_t *codes;      ///< [NIB_CPU_BLOCK_ROWS][C] weights
    float *run_scale;    ///< [NIB_CPU_BLOCK_ROWS][R]
    float *run_min;      ///< [NIB_CPU_BLOCK_ROWS][R]
    float *group_scale;  ///< [max(G, activation groups of C)]
    float *group_min;    ///< [G]
    int32_t *group_sum;  ///< [activation groups of C]
    int8_t *input_codes; ///< [C]
    int16_t *wide_codes; ///< [C]
    uint8_t *outlier;    ///< [C]
    float *keys;         ///< one head's keys of a page, filled up to whole groups of 32 numbers
    float *base;         ///< what that page's keys are relative to, filled up as well
    float *page_values;  ///< one head's values of a page, each filled up to whole vectors of 16
    float *queries;      ///< [NIB_CPU_MAX_QUERIES][key_dim]
    float *totals;       ///< [NIB_CPU_MAX_QUERIES][value_dim], filled up as well
    struct nib_cpu_tall *tall; ///< [NIB_CPU_TALL_PANELS]
    float *tall_sums;   ///< [NIB_CPU_TALL_ROWS][16 NIB_CPU_TALL_PANELS], on a cache line's begin
    float *panel_scale; ///< [8 B][16], B being the most blocks of 32 columns
};

/// A run: neighbouring weights of a row that share their scale and whose activations share theirs,
/// at most NIB_CPU_MAX_RUN. Runs are the same in every row of a matrix.
struct nib_cpu_run {
    uint32_t end;   ///< one past the last column
    uint32_t group; ///< of the weights
};

/// Input of a matmul as `prepare` leaves it. Columns are in the order of the weight's codes.
struct nib_cpu_input {
    float *values;  ///< [n_rows][cols], where nib_cpu_input_has_values
    int16_t *codes; ///< [n_rows][cols], where nib_cpu_input_has_codes; quads.pairs lie here too
    float *scale;   ///< [n_rows][n_runs], with codes
    float *sum;     ///< [n_rows][n_runs] sums of codes; integers
    uint8_t *dense; ///< [n_rows] 1: `values` holds a floating part to be added (LLM_INT8)
    /// What vector kernels have instead of codes, scale and sum, B being the number of blocks of 32
    /// columns; see simd/quads.h. INT16_GROUP has twice as many rows of them.
    int8_t *quads;       ///< [n_rows][32 B]
    float *quad_scale;   ///< [n_rows][B]
    int32_t *quad_start; ///< [n_rows][2 B]
    float *quad_fold;    ///< [n_rows][2 B]
    int32_t *pair_start; ///< [n_rows][B]
    uint32_t *outliers;  ///< [n_rows][3 + cols], LLM_INT8
    struct nib_cpu_run *runs;
    uint32_t n_runs;
};

/// x · weight^T + bias in one of the activation modes.
struct nib_cpu_matmul {
    const struct nib_cpu_matrix *weight;
    const float *bias; ///< [weight->rows] or NULL
    enum nib_activation activation;
    uint32_t n_rows;
    struct nib_cpu_rows in;
    struct nib_cpu_rows out;
    struct nib_cpu_input *input;
    struct nib_cpu_scratch *scratch; ///< [threads]
};

/// Returns whether the matmul multiplies integers: the activation mode makes codes, and the weights
/// are codes of integer value.
bool nib_cpu_input_has_codes(enum nib_activation activation, const struct nib_format *format);
/// Returns whether the matmul reads fp32 values that differ from its input: permuted ones, codes
/// turned back to numbers (float weights), or outliers.
bool nib_cpu_input_has_values(enum nib_activation activation, const struct nib_format *format,
                              bool has_permutation);
/// Returns whether the matmul's input can be prepared by column blocks.
bool nib_cpu_prepares_blocks(enum nib_activation activation, const struct nib_cpu_matrix *weight);
/// Writes the runs of a row of `cols` weights to `out_runs` (NULL: counts alone); returns their
/// number.
uint32_t nib_cpu_runs(enum nib_activation activation, const struct nib_format *format,
                      uint64_t cols, struct nib_cpu_run *out_runs);

/// Weight rows of which nib_cpu_largest finds the largest output.
#define NIB_CPU_LARGEST_ROWS 32u

/// The head where only the largest output of a row is wanted: first the upper halves of the input's
/// codes are multiplied, of all weights, then all of them, of weights that can still win.
struct nib_cpu_largest {
    struct nib_cpu_matmul whole; ///< INT16_GROUP, its input prepared; no bias; at most
                                 ///< NIB_STEP_MAX_LOGITS rows
    struct nib_cpu_input *upper; ///< what begin_largest makes of whole.input: the upper halves
    float *rest;                 ///< [n_rows] Euclidean norms of what the upper halves leave
    float *largest;   ///< [weight rows / NIB_CPU_LARGEST_ROWS, up][n_lanes] of products of upper
                      ///< halves; what is there for rows that are not means nothing
    uint32_t n_lanes; ///< n_rows filled up to whole vectors of 16
};

struct nib_cpu_embed {
    const struct nib_cpu_matrix *weight;
    const struct nib_step_row *rows;
    struct nib_cpu_rows out;
    float scale;
    struct nib_cpu_scratch *scratch;
};

struct nib_cpu_norm {
    struct nib_cpu_rows in;
    struct nib_cpu_rows out;
    const float *weight; ///< [group] or NULL
    uint32_t n_groups;
    uint32_t group; ///< columns of a group
    float epsilon;
};

/// Cosines and sines of a table's angles for each row of a step, times the table's magnitude.
struct nib_cpu_angles {
    const struct nib_rope_table *table;
    const struct nib_step_row *rows;
    float *out; ///< [n_rows][dims]: dims / 2 cosines, then as many sines
};

struct nib_cpu_rope {
    struct nib_cpu_rows x;
    uint32_t n_heads;
    uint32_t head_dim;
    uint32_t dims;
    bool interleaved;
    const float *angles; ///< as nib_cpu_angles.out
};

/// The cache of one layer. Its part of a page is what nib_backend.kv_export writes: keys, values,
/// key scales, value scales. All layers' parts of one page lie side by side, so that the pages in
/// use fill few large pages of memory.
struct nib_cpu_cache {
    const struct nib_kv_layer *layer;
    enum nib_kv_format key_format;
    enum nib_kv_format value_format;
    uint8_t *pages; ///< this layer's part of page 0
    uint64_t page_stride;
    uint32_t recent_pages; ///< as nib_plan.recent_pages
    uint32_t first_pages;  ///< as nib_plan.first_pages; where both are 0, what follows is not there
    uint32_t recent_class; ///< of tokens in f16
    uint32_t n_recent;     ///< pages; those behind are of the step, and shared by all layers
    uint8_t *recent;       ///< as `pages`
    uint64_t recent_stride;
    uint8_t *step_pages;
    uint64_t step_stride;
};

/// Returns the page table of a row's sequence in class `kv_class`.
static inline const uint32_t *nib_cpu_kv_find_table(const struct nib_step *step,
                                                    const struct nib_step_row *row,
                                                    uint32_t kv_class)
{
    return step->page_tables + step->sequences[row->sequence].page_table +
           (uint64_t)kv_class * step->header.page_table_stride;
}

/// Returns the first of the newest tokens, which a row at `position` reads in f16; UINT64_MAX:
/// there are none.
static inline uint64_t nib_cpu_kv_first_recent(const struct nib_cpu_cache *cache, uint32_t position)
{
    uint32_t page = position / NIB_KV_PAGE_TOKENS;
    if (cache->recent_pages == 0)
        return UINT64_MAX;
    return (uint64_t)NIB_KV_FIRST_RECENT(page, cache->recent_pages) * NIB_KV_PAGE_TOKENS;
}

/// Tells whether all rows read a token in f16.
static inline bool nib_cpu_kv_is_first(const struct nib_cpu_cache *cache, uint64_t token)
{
    return token / NIB_KV_PAGE_TOKENS < cache->first_pages;
}

/// Returns the number of the page that holds a position of a row's sequence.
static inline uint64_t nib_cpu_kv_find_page(const struct nib_cpu_cache *cache,
                                            const struct nib_step *step,
                                            const struct nib_step_row *row, uint64_t position)
{
    return nib_cpu_kv_find_table(step, row, cache->layer->kv_class)[position / NIB_KV_PAGE_TOKENS];
}

/// One KV head of a page in the cache: its keys or its values.
struct nib_cpu_kv_head {
    enum nib_kv_format format;
    uint32_t dim;
    uint32_t token_bytes; ///< of one token's numbers
    bool is_key;
    bool is_transformed;
    uint8_t *numbers;
    uint32_t *scales;      ///< of tokens, or of channels; NULL in f32 and f16
    uint8_t *base;         ///< of keys in i8 and i4; else NULL
    uint32_t *base_scales; ///< the same
};
struct nib_cpu_kv_head nib_cpu_kv_find_head(const struct nib_cpu_cache *cache, bool is_key,
                                            uint64_t page, uint32_t kv_head);

/// Returns the head in a page of tokens in f16; where the format has no codes, which such pages do
/// not hold, in page `page` instead.
struct nib_cpu_kv_head nib_cpu_kv_find_recent(const struct nib_cpu_cache *cache, bool is_key,
                                              uint64_t recent_page, uint64_t page,
                                              uint32_t kv_head);

struct nib_cpu_kv_store {
    const struct nib_cpu_cache *cache;
    const struct nib_step *step;
    struct nib_cpu_rows key;
    struct nib_cpu_rows value;
};
/// Some of a step's rows, neighbours of one sequence whose tokens are neighbours in one page.
struct nib_cpu_kv_rows {
    uint64_t first;
    uint32_t n;
    uint64_t page;        ///< of the cache
    uint64_t recent_page; ///< of tokens in f16; NIB_NONE: these are not kept there
};
/// Returns those that begin with row r, which is no padding, and end before `last`.
struct nib_cpu_kv_rows nib_cpu_kv_find_rows(const struct nib_cpu_kv_store *a, uint64_t r,
                                            uint64_t last);
/// Stores the keys or values of rows, which are codes.
void nib_cpu_kv_store_integers(const struct nib_cpu_kv_store *a, const struct nib_cpu_kv_rows *rows,
                               bool is_key);
/// Multiplies the whole groups of a head of `dim` numbers by the Hadamard matrix and `factor`.
void nib_cpu_kv_transform(float *x, uint32_t dim, float factor);
/// Writes group `group` of a page's base to out[NIB_KV_GROUP].
void nib_cpu_kv_load_base(const struct nib_cpu_kv_head *head, uint32_t group, float *out);
/// Writes token `token` of a page of codes to out[dim], transformed as it was stored.
void nib_cpu_kv_load_integers(const struct nib_cpu_kv_head *head, uint32_t token, float *out);

struct nib_cpu_attention {
    const struct nib_cpu_cache *cache;
    const struct nib_step *step;
    uint32_t n_rows; ///< of the step: what is behind a loop's items is fetched ahead
    struct nib_cpu_rows query;
    struct nib_cpu_rows out;
    uint32_t n_heads;
    float scale;
    float softcap;
    struct nib_cpu_scratch *scratch;
    /// What attention_blocks leaves to attention_merge, see NIB_CPU_PART_SIZE:
    float *parts;      ///< [row][head][n_blocks][part]
    uint32_t n_blocks; ///< of NIB_CPU_BLOCK_TOKENS, from position 0 on
};
/// Tokens whose part of an output is summed up by itself, whoever does it: an output's bits do not
/// depend on the number of threads that a sequence's blocks are shared out to.
#define NIB_CPU_BLOCK_TOKENS 512u
/// Floats of a part: sums of values, filled up to whole vectors, sums of weights, and what they are
/// relative to.
#define NIB_CPU_PART_SIZE(value_dim) (((value_dim) + 15) / 16 * 16 + 32)

struct nib_cpu_activate {
    struct nib_cpu_rows gate;
    struct nib_cpu_rows up;
    struct nib_cpu_rows out;
    uint32_t width;
    enum nib_gate_function function;
};

struct nib_cpu_add {
    struct nib_cpu_rows in;
    struct nib_cpu_rows out;
    uint32_t width;
    float scale;
};

struct nib_cpu_scale {
    struct nib_cpu_rows x;
    uint32_t width;
    float factor;
};

struct nib_cpu_softcap {
    struct nib_cpu_rows x;
    uint32_t width;
    float cap;
};

/// The kernels. Columns: name, struct of its arguments, what an item of its loop is.
#define NIB_CPU_KERNELS(X)                                                       \
    X(embed, nib_cpu_embed)         /* a row */                                  \
    X(norm, nib_cpu_norm)           /* a row */                                  \
    X(prepare, nib_cpu_matmul)      /* a row; LLM_INT8: all rows of a sequence \
                                       of the step come in one call */ \
    X(matmul, nib_cpu_matmul)       /* a row of the weight */                    \
    X(angles, nib_cpu_angles)       /* a row */                                  \
    X(rope, nib_cpu_rope)           /* a row */                                  \
    X(kv_store, nib_cpu_kv_store)   /* a row */                                  \
    X(attention, nib_cpu_attention) /* a head of a row: row · n_heads + head */ \
    X(activate, nib_cpu_activate)   /* a row */                                  \
    X(add, nib_cpu_add)             /* a row */                                  \
    X(scale, nib_cpu_scale)         /* a row */                                  \
    X(softcap, nib_cpu_softcap)     /* a row */

#define X(name, args)                                                                     \
    typedef void nib_cpu_##name##_fn(const struct args *a, uint64_t first, uint64_t last, \
                                     uint32_t thread);
NIB_CPU_KERNELS(X)
#undef X

typedef void nib_cpu_largest_fn(const struct nib_cpu_largest *a, uint64_t first, uint64_t last,
                                uint32_t thread);

struct nib_cpu_kernels {
#define X(name, args) nib_cpu_##name##_fn *name;
    NIB_CPU_KERNELS(X)
#undef X
    /// `prepare` of all rows, by columns: an item is a block of NIB_PANEL_BLOCK. Threads that share
    /// a block of rows would take the same cache lines from each other. Only for what
    /// nib_cpu_prepares_blocks lets through; NULL at level scalar.
    nib_cpu_prepare_fn *prepare_blocks;
    /// The two steps of nib_cpu_largest; items are rows of the input, and stretches of
    /// NIB_CPU_LARGEST_ROWS rows of the weight. Both NULL at level scalar.
    nib_cpu_largest_fn *begin_largest;
    nib_cpu_largest_fn *find_largest;
    /// Attention of few rows in two steps. An item of the first is a block of a KV head of a row:
    /// (row · KV heads + KV head) · n_blocks + block; of the second, a head of a row. NULL at level
    /// scalar.
    nib_cpu_attention_fn *attention_blocks;
    nib_cpu_attention_fn *attention_merge;
    /// Does as many multiply-adds of bytes as the level's instructions can, in `rounds` rounds, and
    /// returns their number: what benchmarks call the peak. NULL at level scalar.
    uint64_t (*int8_peak)(uint64_t rounds);
    uint64_t (*int8_byte_peak)(uint64_t rounds); ///< of weights of more than four bits, exactly
    uint64_t (*f32_peak)(uint64_t rounds);       ///< the same of fp32 numbers; also at level scalar
    nib_panel_store_fn *store_panel;             ///< gives the bytes of nib_panel_store
    bool wants_panels; ///< the matmul is fast on matrices packed in panels
};

/// Fills the table with the kernels of `level`, and scalar ones where it has none.
void nib_cpu_kernels_init(struct nib_cpu_kernels *out_kernels, enum nib_cpu_level level);

/// The scalar kernels.
#define X(name, args) nib_cpu_##name##_fn nib_cpu_scalar_##name;
NIB_CPU_KERNELS(X)
#undef X

uint64_t nib_cpu_scalar_f32_peak(uint64_t rounds);

/// Put a level's kernels into the table, in place of scalar ones.
#ifdef NIB_CPU_HAS_X86
void nib_cpu_avx2_fill(struct nib_cpu_kernels *kernels);
void nib_cpu_avx_vnni_fill(struct nib_cpu_kernels *kernels);
void nib_cpu_avx512_fill(struct nib_cpu_kernels *kernels);
void nib_cpu_avx512_vnni_fill(struct nib_cpu_kernels *kernels);
void nib_cpu_amx_fill(struct nib_cpu_kernels *kernels);
#endif
#ifdef NIB_CPU_HAS_NEON
void nib_cpu_neon_fill(struct nib_cpu_kernels *kernels);
void nib_cpu_neon_dotprod_fill(struct nib_cpu_kernels *kernels);
void nib_cpu_neon_i8mm_fill(struct nib_cpu_kernels *kernels);
#endif

#endif
