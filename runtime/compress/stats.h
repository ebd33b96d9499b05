/// Statistics of matmul inputs: sums over all tokens that calibration shows.
#ifndef RUNTIME_COMPRESS_STATS_H
#define RUNTIME_COMPRESS_STATS_H

#include "runtime/compress/compress.h"
#include "runtime/compress/dense.h"

/// Magnitudes are counted in classes of a thirty-second of an octave at most: the upper bits of
/// their fp32 form.
#define NIB_MAGNITUDE_SHIFT 18
#define NIB_MAGNITUDE_CLASSES (0x7f800000u >> NIB_MAGNITUDE_SHIFT)

/// An accumulator for one input. Thread-safety: one thread at a time.
struct nib_stats_sum {
    struct nib_input_stats stats; ///< sums while adding; means after nib_stats_finish
    uint64_t *magnitudes;         ///< [NIB_MAGNITUDE_CLASSES], or NULL
    float *memory;                ///< memory of all
};

/// Makes one for rows of `cols` numbers; `needs` is a sum of enum nib_stats_need. Errors: memory.
enum nib_status nib_stats_init(struct nib_stats_sum *sum, uint64_t cols, uint32_t needs,
                               bool has_magnitudes, struct nib_error *err);
void nib_stats_free(struct nib_stats_sum *sum);
/// Adds `n_rows` rows, `stride` floats apart.
void nib_stats_add(struct nib_stats_sum *sum, struct nib_dense *dense, const float *rows,
                   uint64_t stride, uint32_t n_rows);
/// Turns sums into means. Errors: format (they are not finite; `name` is the matrix's).
enum nib_status nib_stats_finish(struct nib_stats_sum *sum, const char *name,
                                 struct nib_error *err);

#endif
