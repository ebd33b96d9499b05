/// How the rows of a step are shared out.
#ifndef RUNTIME_ENGINE_SCHEDULE_H
#define RUNTIME_ENGINE_SCHEDULE_H

#include <stdint.h>

/// Shares `budget` rows among `n` sessions that wait for `pending[i]` tokens: each gets a row while
/// there are rows, in order, and what is left is filled up evenly. Writes the rows of each to
/// `out_rows` and returns their sum.
uint32_t nib_schedule_share(const uint32_t *pending, uint32_t n, uint32_t budget,
                            uint32_t *out_rows);

/// The same for sessions whose rows must not be parted: in order, each gets all that it waits for,
/// up to the first for which too few rows are left.
uint32_t nib_schedule_share_whole(const uint32_t *pending, uint32_t n, uint32_t budget,
                                  uint32_t *out_rows);

/// Returns the rows of the next chunk of a session that has computed `n_computed` < `n_tokens`
/// tokens: chunks end at positions that are multiples of `size`.
uint32_t nib_schedule_chunk(uint32_t n_computed, uint32_t n_tokens, uint32_t size);

/// Returns `n_rows` > 0 rounded up to a bucket, a power of two.
uint32_t nib_schedule_bucket(uint32_t n_rows);

#endif
