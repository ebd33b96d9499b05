/// Arithmetic on sizes from files: each function returns false instead of wrapping around.
/// Thread-safety: safe.
#ifndef RUNTIME_BASE_CHECKED_H
#define RUNTIME_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool nib_add_u64(uint64_t a, uint64_t b, uint64_t *out_sum)
{
    *out_sum = a + b;
    return *out_sum >= a;
}

static inline bool nib_mul_u64(uint64_t a, uint64_t b, uint64_t *out_product)
{
    *out_product = a * b;
    return a == 0 || *out_product / a == b;
}

static inline bool nib_add_size(size_t a, size_t b, size_t *out_sum)
{
    *out_sum = a + b;
    return *out_sum >= a;
}

static inline bool nib_mul_size(size_t a, size_t b, size_t *out_product)
{
    *out_product = a * b;
    return a == 0 || *out_product / a == b;
}

/// Rounds `value` up to a multiple of `unit` > 0.
static inline bool nib_round_up_u64(uint64_t value, uint64_t unit, uint64_t *out_rounded)
{
    uint64_t rest = value % unit;
    return nib_add_u64(value, rest ? unit - rest : 0, out_rounded);
}

/// Returns ceil(a / b), b > 0.
static inline uint64_t nib_ceil_div_u64(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static inline uint32_t nib_min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

#endif
