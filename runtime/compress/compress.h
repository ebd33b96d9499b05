/// The interfaces of this folder: the plan of what is quantized how, quantized matrices, the
/// quantizers that make them and the writers that store them.
///
/// pipeline.c goes over the plan's layers: it reads the weights of a layer, lets the calibration
/// gather statistics of the matrices' inputs where a method wants them, quantizes, and hands the
/// layer's tensors to the writer, in the plan's order, each once.
#ifndef RUNTIME_COMPRESS_COMPRESS_H
#define RUNTIME_COMPRESS_COMPRESS_H

#include "runtime/base/arena.h"
#include "runtime/compress/dense.h"
#include "runtime/compress/mix.h"
#include "runtime/import/source.h"
#include "runtime/quant/row_reader.h"
#include <nibble/quantize.h>

// The plan.

/// How the rows of a matrix or vector of queries or keys are ordered: GGUF's llama models have the
/// two numbers of a RoPE pair side by side, Hugging Face's have them in the two halves of a head.
enum nib_row_order {
    NIB_ROWS_AS_STORED,
    NIB_ROWS_TO_HALVES, ///< output row h·d + j + (d/2)·p is source row h·d + 2j + p
    NIB_ROWS_TO_PAIRS   ///< output row h·d + 2j + p is source row h·d + j + (d/2)·p
};

/// How one matrix is quantized.
struct nib_matrix_scheme {
    struct nib_format format; ///< with its own group, scale type, bits and center; a float format:
                              ///< not quantized
    bool per_tensor;          ///< one scale for the matrix: format.group is 0, all rows' are equal
    enum nib_quantize_range range;
    enum nib_activation activation;
    float outlier_threshold; ///< LLM_INT8
    bool double_quantized;   ///< nf4, fp4: scales are quantized, too
};

/// One tensor of the output. Vectors, and matrices that are kept, have a float scheme.
struct nib_compress_entry {
    enum nib_role role;
    uint32_t layer;   ///< 0 for roles outside the layers
    const char *name; ///< of the source's tensor, for messages
    uint64_t rows;    ///< vectors: 1
    uint64_t cols;
    enum nib_row_order order;
    struct nib_matrix_scheme scheme;
    bool is_quantized;
    bool has_open_group; ///< nobody asked for a group; the plan gives it the common one at its end
    /// The source's bytes may be copied as they are: the tensor is not quantized here, nothing is
    /// absorbed into it, and the container is the source's. Its values are not put.
    bool is_copied;
};

/// Everything that a run does, settled before anything is computed or written. Immutable; alive as
/// long as the run, so that writers may keep pointers into it.
struct nib_compress_plan {
    const struct nib_source *source;
    struct nib_quantize_params params; ///< with defaults filled in; container is never DEFAULT
    struct nib_mix mix;                ///< params.mix, read
    /// In the order in which tensors are put: token embedding, layers 0 and up, output norm, head.
    /// Tied heads have no entry of their own; in GGUF, the token embedding then comes last.
    struct nib_compress_entry *entries;
    uint32_t n_entries;
    struct nib_arena arena;
};

// Quantized matrices.

/// The second level of nf4 and fp4: absmax = book[code] · scale[block / 256] + offset, blocks being
/// counted over the whole matrix; block.scale of the matrix holds the same values in fp32.
struct nib_scale_codes {
    uint8_t *codes; ///< [blocks]
    float *scale;   ///< [ceil(blocks / 256)]
    float offset;
    const float *book; ///< [256], static
};

/// A matrix as a quantizer leaves it, whole and in canonical form, rows in the output's order.
struct nib_quantized_matrix {
    enum nib_role role;
    uint32_t layer;
    struct nib_format format;
    uint64_t rows;
    uint64_t cols;
    struct nib_row_block block; ///< all rows
    /// [cols], or NULL. Code j of a row belongs to input feature permutation[j], and groups are of
    /// neighbours in this order (act-order without static groups).
    const uint32_t *permutation;
    enum nib_activation activation;
    float activation_scale; ///< INT8_STATIC: as the container stores it
    float outlier_threshold;
    float *row_absmax;                  ///< [rows], LLM_INT8 alone: scales are these / 127
    struct nib_scale_codes scale_codes; ///< codes is NULL where there is one level alone
    void *memory;                       ///< of all arrays
};

/// Makes a matrix for `entry` with room for its block and, where `has_permutation`, permutation
/// (cast away const to fill it). Errors: memory.
enum nib_status nib_quantized_matrix_create(const struct nib_compress_entry *entry,
                                            bool has_permutation,
                                            struct nib_quantized_matrix **out_matrix,
                                            struct nib_error *err);
/// Returns the bits that codes, scales and zero points take where nothing is padded.
uint64_t nib_quantized_matrix_bits(const struct nib_quantized_matrix *matrix);
void nib_quantized_matrix_destroy(struct nib_quantized_matrix **matrix);
/// Writes row `row` in fp32, columns in the order of input features. `scratch` holds `cols` floats
/// (used with a permutation alone; else NULL will do). Thread-safety: safe.
void nib_quantized_matrix_row(const struct nib_quantized_matrix *matrix, uint64_t row, float *out,
                              float *scratch);
/// Returns `scale` as the format's scale type stores it. A scale that would become 0 becomes the
/// type's smallest positive number.
float nib_scale_stored(enum nib_scale_type type, float scale);

// Quantizers.

/// What calibration knows of a matrix's input, summed over n_rows tokens. Arrays are NULL where no
/// quantizer of the run asked for them.
struct nib_input_stats {
    uint64_t n_rows;
    uint64_t cols;
    float *hessian;     ///< [cols][cols]: Σ x xᵀ / n_rows, both triangles
    float *mean_abs;    ///< [cols]
    float *mean_square; ///< [cols]
    float *max_abs;     ///< [cols]
};
enum nib_stats_need {
    NIB_STATS_HESSIAN = 1,
    NIB_STATS_CHANNELS = 2 ///< the other three
};

/// What a quantizer gets: one matrix.
struct nib_quantize_job {
    const struct nib_compress_plan *plan;
    const struct nib_compress_entry *entry;
    const float *weights;                ///< [rows][cols], rows in the output's order, finite
    const struct nib_input_stats *stats; ///< NULL where the method needs none
    struct nib_thread_pool *pool;        ///< to run loops on
    struct nib_dense *dense;             ///< to multiply on the same threads
};

/// A quantizer. Thread-safety: the functions are called by one thread at a time.
struct nib_quantizer {
    uint32_t stats; ///< of enum nib_stats_need
    enum nib_status (*quantize)(const struct nib_quantize_job *job,
                                struct nib_quantized_matrix **out_matrix, struct nib_error *err);
};
/// Returns the quantizer that makes `entry`'s format by the plan's method; static.
const struct nib_quantizer *nib_quantizer_get(const struct nib_compress_plan *plan,
                                              const struct nib_compress_entry *entry);

// Writers.

/// A writer of one container. It sees the plan first, then the tensors in the plan's order, as they
/// come: it keeps none of them. Nothing appears at `path` before `finish`.
/// Thread-safety: one thread at a time.
struct nib_checkpoint_writer {
    /// Says before any work whether the container can hold what the plan asks for.
    /// Errors: unsupported, naming the matrix and the remedy.
    enum nib_status (*check)(const struct nib_compress_plan *plan, struct nib_error *err);
    /// Makes what is written beside `path`, where nothing is yet. Errors: io, memory.
    enum nib_status (*begin)(const struct nib_compress_plan *plan, const char *path,
                             void **out_self, struct nib_error *err);
    /// Stores a quantized matrix. `entry` is an index into the plan.
    enum nib_status (*put_matrix)(void *self, uint32_t entry,
                                  const struct nib_quantized_matrix *matrix, struct nib_error *err);
    /// Stores rows [first, first + count) of a tensor that is not quantized, in fp32 and in the
    /// output's row order; norm weights as the computation multiplies by them (norm_offset added).
    /// All rows come, in order, before the next entry.
    enum nib_status (*put_rows)(void *self, uint32_t entry, uint64_t first, uint64_t count,
                                const float *values, struct nib_error *err);
    /// Stores a tensor that is_copied as the source has it. NULL: the plan has none.
    enum nib_status (*put_copy)(void *self, uint32_t entry, struct nib_error *err);
    /// Puts the file or folder in its place, `*out_bytes` large, and frees the writer, which it
    /// does on failure too.
    enum nib_status (*finish)(void **self, uint64_t *out_bytes, struct nib_error *err);
    /// Removes what was written and frees the writer; a pointer to NULL is accepted.
    void (*discard)(void **self);
};
/// Returns the writer of a container (never DEFAULT), or NULL where this library has none.
const struct nib_checkpoint_writer *
nib_checkpoint_writer_get(enum nib_quantize_container container);

/// What the pipeline runs: settles the plan, quantizes and writes. As nib_quantize, with params of
/// this version.
enum nib_status nib_compress_run(const struct nib_source *source, const char *path,
                                 const struct nib_quantize_params *params,
                                 struct nib_quantization_report *out_report, struct nib_error *err);

#endif
