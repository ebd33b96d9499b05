/// Choosing a token from a row of logits, as <nibble/session.h> describes struct nib_sampling.
///
/// Probabilities are integers: a token's weight is e^((logit − max) / temperature) in units of
/// 2^-30, so sums are exact in any order, and the set that top-k, top-p and min-p keep, as well as
/// the draw, do not depend on how the sums were made. Of equal logits the lower id goes first. The
/// draw inverts the cumulative sum over the kept tokens in the order of their ids. Thresholds are
/// found by radix selection: three passes over the vocabulary each, and nothing is sorted.
#ifndef RUNTIME_OPS_SAMPLER_H
#define RUNTIME_OPS_SAMPLER_H

#include "shaders/shared/step.h"
#include <nibble/session.h>

/// Working memory for one vocabulary. Thread-safety: one thread at a time.
struct nib_sampler;

/// Errors: memory.
enum nib_status nib_sampler_create(uint32_t vocabulary, struct nib_sampler **out_sampler,
                                   struct nib_error *err);
void nib_sampler_destroy(struct nib_sampler **sampler);
/// Returns the bytes of a sampler's memory.
uint64_t nib_sampler_size(uint32_t vocabulary);

/// What a draw depends on besides the logits.
struct nib_choice {
    const struct nib_sampling *sampling; ///< checked by nib_sampling_validate
    const struct nib_logit_bias *biases;
    uint32_t n_biases;
    const uint32_t *allowed; ///< bit i % 32 of word i / 32 stands for id i; NULL: all
    const int32_t *tokens;   ///< the sequence so far, ids inside the vocabulary
    size_t n_tokens;         ///< also the position of the token that is drawn
};

/// Checks that the numbers are in range. Errors: argument.
enum nib_status nib_sampling_validate(const struct nib_sampling *sampling, struct nib_error *err);

/// Returns whether logits of recent tokens are changed.
bool nib_sampling_has_penalty(const struct nib_sampling *sampling);
/// Returns what a device needs to draw the token at `position` as nib_sampler_choose does: the same
/// one from equal logits, where there is no bias, mask or penalty.
struct nib_step_draw nib_sampler_plan_draw(const struct nib_sampling *sampling, uint64_t position);

/// Chooses a token. The logits are left as they are. Errors: argument (no token is left: every
/// logit is NaN or minus infinity, from the model or by biases and mask).
enum nib_status nib_sampler_choose(struct nib_sampler *sampler, const float *logits,
                                   const struct nib_choice *choice, int32_t *out_id,
                                   struct nib_error *err);

/// Fails as nib_sampler_choose does where no token is left.
enum nib_status nib_sampler_fail(struct nib_error *err);

/// Returns memory for a mask, ceil(vocabulary / 32) words, with all bits set.
uint32_t *nib_sampler_mask(struct nib_sampler *sampler);

#endif
