/// Sums in eight lanes: term i of a sum goes to lane i mod 8, terms in order, and the lanes are
/// added up pairwise at the end. So a sum has one value on every compiler, and can be computed four
/// terms at an instruction on any CPU with 128-bit vectors.
#ifndef RUNTIME_CPU_SCALAR_LANES_H
#define RUNTIME_CPU_SCALAR_LANES_H

#include <stdint.h>
#include <string.h>

/// Lanes of a sum.
#define NIB_LANES 8

/// Four neighbouring lanes. Compilers do not keep arrays of sums in registers reliably, but
/// vectors.
#if defined(__GNUC__)
typedef float nib_quad __attribute__((vector_size(16)));

static inline nib_quad nib_quad_load(const float *p)
{
    nib_quad q;
    memcpy(&q, p, sizeof q);
    return q;
}

/// Returns sum + a · b, each product rounded.
static inline nib_quad nib_quad_add_product(nib_quad sum, nib_quad a, nib_quad b)
{
    return sum + a * b;
}

static inline float nib_quad_get(nib_quad q, int i)
{
    return q[i];
}
#else
typedef struct {
    float f[4];
} nib_quad;

static inline nib_quad nib_quad_load(const float *p)
{
    nib_quad q;
    memcpy(&q, p, sizeof q);
    return q;
}

static inline nib_quad nib_quad_add_product(nib_quad sum, nib_quad a, nib_quad b)
{
    for (int i = 0; i < 4; i++)
        sum.f[i] += a.f[i] * b.f[i];
    return sum;
}

static inline float nib_quad_get(nib_quad q, int i)
{
    return q.f[i];
}
#endif

/// Returns the sum of lanes 0 to 3 (low) and 4 to 7 (high).
static inline float nib_lanes_sum(nib_quad low, nib_quad high)
{
    float even = (nib_quad_get(low, 0) + nib_quad_get(high, 0)) +
                 (nib_quad_get(low, 2) + nib_quad_get(high, 2));
    float odd = (nib_quad_get(low, 1) + nib_quad_get(high, 1)) +
                (nib_quad_get(low, 3) + nib_quad_get(high, 3));
    return even + odd;
}

/// Copies the last n < 8 terms to `out` and fills up with zeros, which add nothing.
static inline void nib_lanes_tail(const float *p, uint64_t n, float out[NIB_LANES])
{
    memset(out, 0, NIB_LANES * sizeof *out);
    memcpy(out, p, n * sizeof *out);
}

/// Returns Σ a[i] · b[i].
static inline float nib_dot(const float *a, const float *b, uint64_t n)
{
    nib_quad low = {0}, high = {0};
    uint64_t i = 0;
    for (; i + NIB_LANES <= n; i += NIB_LANES) {
        low = nib_quad_add_product(low, nib_quad_load(a + i), nib_quad_load(b + i));
        high = nib_quad_add_product(high, nib_quad_load(a + i + 4), nib_quad_load(b + i + 4));
    }
    if (i < n) {
        float at[NIB_LANES], bt[NIB_LANES];
        nib_lanes_tail(a + i, n - i, at);
        nib_lanes_tail(b + i, n - i, bt);
        low = nib_quad_add_product(low, nib_quad_load(at), nib_quad_load(bt));
        high = nib_quad_add_product(high, nib_quad_load(at + 4), nib_quad_load(bt + 4));
    }
    return nib_lanes_sum(low, high);
}

/// Writes Σ a[k · stride + i] · x[i] to out[k] for k < 4: the same sums as nib_dot's.
static inline void nib_dot_4(const float *a, uint64_t stride, const float *x, uint64_t n,
                             float out[4])
{
    nib_quad low[4] = {{0}}, high[4] = {{0}};
    uint64_t i = 0;
    for (; i + NIB_LANES <= n; i += NIB_LANES) {
        nib_quad x_low = nib_quad_load(x + i), x_high = nib_quad_load(x + i + 4);
        for (int k = 0; k < 4; k++) {
            const float *p = a + (uint64_t)k * stride + i;
            low[k] = nib_quad_add_product(low[k], nib_quad_load(p), x_low);
            high[k] = nib_quad_add_product(high[k], nib_quad_load(p + 4), x_high);
        }
    }
    if (i < n) {
        float xt[NIB_LANES], at[NIB_LANES];
        nib_lanes_tail(x + i, n - i, xt);
        for (int k = 0; k < 4; k++) {
            nib_lanes_tail(a + (uint64_t)k * stride + i, n - i, at);
            low[k] = nib_quad_add_product(low[k], nib_quad_load(at), nib_quad_load(xt));
            high[k] = nib_quad_add_product(high[k], nib_quad_load(at + 4), nib_quad_load(xt + 4));
        }
    }
    for (int k = 0; k < 4; k++)
        out[k] = nib_lanes_sum(low[k], high[k]);
}

#endif
