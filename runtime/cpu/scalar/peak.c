#include "runtime/cpu/kernels.h"

/// Sums that do not wait for one another.
#define SUMS 32

uint64_t nib_cpu_scalar_f32_peak(uint64_t rounds)
{
    float sums[SUMS], total = 0;
    float factor = (float)(rounds % 2) * 0.5f; // unknown to compilers
    for (int i = 0; i < SUMS; i++)
        sums[i] = (float)i;
    for (uint64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < SUMS; i++)
            sums[i] = sums[i] * factor + 1.0f;
    }
    for (int i = 0; i < SUMS; i++)
        total += sums[i];
    return rounds * SUMS + (total < 0); // never, but so the sums are needed
}
