/// How the rows of a step are shared out.
#ifndef RUNTIME_ENGINE_SCHEDULE_H
#define RUNTIME_ENGINE_SCHEDULE_H

#include <stdint.h>

/// Shares `budget` rows among `n` sessions that wait for `pending[i]` tokens: each gets a row while
/// there are rows, in order, and what is left is filled up evenly. Writes the rows of each to
/// `out_rows` and returns their sum.
uint32_t nib_schedule_share(const uint32_t *pending, uint32_t n, uint32_t budget,
                            uint32_t *out_rows);

/// The same for rows of one session that must not be parted: each session, in order, gets all
/// `pending[i]` <= budget or none.
uint32_t nib_schedule_chunks(const uint32_t *pending, uint32_t n, uint32_t budget,
                             uint32_t *out_rows);

/// Returns `n_rows` > 0 rounded up to a bucket, a power of two.
uint32_t nib_schedule_bucket(uint32_t n_rows);

#endif
