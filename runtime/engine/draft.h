/// Drafts of the next tokens by looking up what followed the same words before (prompt lookup
/// decoding, Saxena 2023). Thread-safety: safe.
#ifndef RUNTIME_ENGINE_DRAFT_H
#define RUNTIME_ENGINE_DRAFT_H

#include <stdint.h>

/// Writes up to `n_draft` tokens that may follow `tokens[0 .. n)` behind them, to tokens[n] and on,
/// and returns their number: what followed the last place that ended like the tokens, of the places
/// that share most tokens with it, at least two. Takes time in proportion to n.
uint32_t nib_draft_find(int32_t *tokens, uint32_t n, uint32_t n_draft);

#endif
