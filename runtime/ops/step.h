/// A step as the engine hands it to a backend.
#ifndef RUNTIME_OPS_STEP_H
#define RUNTIME_OPS_STEP_H

#include "shaders/shared/step.h"
#include <stddef.h>

_Static_assert(sizeof(struct nib_step_row) == 16, "shared with GLSL");
_Static_assert(offsetof(struct nib_step_row, logit_row) == 12, "shared with GLSL");
_Static_assert(sizeof(struct nib_step_sequence) == 16, "shared with GLSL");
_Static_assert(offsetof(struct nib_step_sequence, n_rows) == 12, "shared with GLSL");
_Static_assert(offsetof(struct nib_step_header, first_logit) == 20, "shared with GLSL");

_Static_assert(sizeof(struct nib_step_header) == 4 * NIB_STEP_HEADER_WORDS, "shared with GLSL");
_Static_assert(sizeof(struct nib_step_draw) == 4 * NIB_STEP_DRAW_WORDS, "shared with GLSL");
_Static_assert(offsetof(struct nib_step_draw, random) == 16, "shared with GLSL");

/// Lines of logits that one run of the head makes at most; more rows that want logits take more
/// runs.
#define NIB_STEP_MAX_LOGITS 32

/// One forward pass over flat rows. The arrays belong to the engine and do not change during a call
/// of `run`; what is written stays valid until the run has been waited for. Positions below a
/// sequence's first row are in the cache already.
struct nib_step {
    struct nib_step_header header;
    const struct nib_step_row *rows;           ///< [n_rows]
    const struct nib_step_sequence *sequences; ///< [n_sequences]
    const uint32_t *page_tables; ///< page numbers; entry i of a table is of tokens 32 i and up
    float *logits; ///< host memory [n_logits][vocabulary] that the head fills; row r's logits go to
                   ///< line logit_row − first_logit
    /// [n_logits], or NULL: how the head draws the token of each line, which then goes to `drawn`;
    /// `logits` may be written, and mean nothing. For backends that have most_runs.
    const struct nib_step_draw *draws;
    uint32_t *drawn; ///< host memory [n_logits]; NIB_NONE: all logits are NaN or minus infinity
};

#endif
