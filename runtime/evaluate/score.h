/// Figures of single rows of logits.
#ifndef RUNTIME_EVALUATE_SCORE_H
#define RUNTIME_EVALUATE_SCORE_H

#include <nibble/base.h>

/// A row of logits [n] and what its log-softmax needs.
struct nib_scored_row {
    const float *logits;
    uint32_t n;
    uint32_t argmax;
    double log_sum; ///< ln Σ e^logit
};

/// Prepares a row. Returns false where every logit is NaN or minus infinity.
bool nib_score_row(const float *logits, uint32_t n, struct nib_scored_row *out_row);
/// Returns −ln p(id), infinite where the logit is minus infinity.
double nib_score_nll(const struct nib_scored_row *row, uint32_t id);
/// Returns KL(reference ‖ model) in nats, at least 0; the rows have the same `n`.
double nib_score_divergence(const struct nib_scored_row *reference,
                            const struct nib_scored_row *model);
/// Returns the `share` quantile (0 to 1) of `values[0 .. n)`, n > 0, which it sorts; linear between
/// ranks.
double nib_score_quantile(double *values, size_t n, double share);

#endif
