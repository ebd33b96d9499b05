/// Philox4x32-10, a counter-based random number generator: Salmon, Moraes, Dror and Shaw, "Parallel
/// random numbers: as easy as 1, 2, 3", SC 2011. Devices get its numbers, so a draw depends on
/// the seed and the position alone.
#ifndef RUNTIME_BASE_PHILOX_H
#define RUNTIME_BASE_PHILOX_H

#include <stdint.h>

/// Writes the four words of block `counter` under `key`; the generator itself.
void nib_philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/// Writes the four words of block (counter_low, counter_high, 0, 0) under `seed`.
void nib_philox(uint64_t seed, uint64_t counter, uint32_t out[4]);
/// Returns the first word of the block as a float in [0, 1): its upper 24 bits × 2^-24.
float nib_philox_uniform(uint64_t seed, uint64_t counter);

#endif
