/// Scaling of inputs, which changes nothing in exact arithmetic: the columns of all matrices that
/// have an input are multiplied by s, and what produces the input gives 1/s of it: a norm's
/// weights, the rows of V for the attention's output, the rows of the FFN's up for its down.
#ifndef RUNTIME_COMPRESS_SCALING_H
#define RUNTIME_COMPRESS_SCALING_H

#include "runtime/compress/run.h"

/// What produces an input and the matrices that have it, in a layer at work.
struct nib_scaled_input {
    struct nib_layer_work *work;
    enum nib_role input;
    uint64_t cols;
    uint32_t matrices[4]; ///< entries of the layer
    uint32_t n_matrices;
    uint32_t producer; ///< entry of the layer
    uint32_t bias;     ///< likewise, of the producer; UINT32_MAX: none
    uint64_t first;    ///< row (or number of a norm's vector) that makes the first column
    uint32_t heads;    ///< V: query heads of a KV head, whose columns share a factor; else 1
    uint32_t head_dim; ///< V: columns of a head; else all
};

/// Describes the input that the matrix of role `input` has; returns false where nothing can take
/// the scale in: it has no producer of its own, or none of its matrices is quantized.
bool nib_scaled_input_find(struct nib_layer_work *work, enum nib_role input,
                           struct nib_scaled_input *out);
/// Returns the column of the producer that makes column `column`, less `first`.
uint64_t nib_scaled_source(const struct nib_scaled_input *scaled, uint64_t column);
/// Makes columns that share a factor have one: the geometric mean of theirs.
void nib_scaled_share(const struct nib_scaled_input *scaled, float *s);
/// Scales weights, and the statistics of the input where there are any, and gives the calibration
/// the changed tensors.
enum nib_status nib_scaled_apply(const struct nib_scaled_input *scaled, const float *s,
                                 struct nib_error *err);
/// Fails with format: a search has found no scales with a finite error.
enum nib_status nib_scaled_fail(const struct nib_scaled_input *scaled, struct nib_error *err);

/// AWQ (Lin et al. 2023, arXiv 2306.00978): finds s = mean|x|^α / mean|w|^β, the w's being shares
/// of their group's largest, with the least output error E|W x − Q(W s) x / s|² over α and β, Q
/// rounding to nearest. The error is exact for all calibration tokens, by H = E[x xᵀ].
/// Errors: format (as nib_scaled_fail), memory.
enum nib_status nib_awq_search(const struct nib_scaled_input *scaled, float *out_s,
                               struct nib_error *err);
/// SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): s = max|x|^α / max|w|^(1−α); α is given, or
/// the one with the least output error predicted, rounding errors of inputs and weights being taken
/// as uniform. Errors: format (as nib_scaled_fail), memory.
enum nib_status nib_smooth_search(const struct nib_scaled_input *scaled, float *out_s,
                                  struct nib_error *err);

#endif
