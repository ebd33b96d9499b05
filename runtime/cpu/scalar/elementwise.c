#include <math.h>

#include "runtime/cpu/kernels.h"

static float silu(float x)
{
    return x / (1.0f + expf(-x));
}

static float gelu_tanh(float x)
{
    const float sqrt_2_over_pi = 0.79788456080286535588f;
    return 0.5f * x * (1.0f + tanhf(sqrt_2_over_pi * (x + 0.044715f * x * x * x)));
}

static float gelu(float x)
{
    const float sqrt_half = 0.70710678118654752440f;
    return 0.5f * x * (1.0f + erff(x * sqrt_half));
}

void nib_cpu_scalar_activate(const struct nib_cpu_activate *a, uint64_t first, uint64_t last,
                             uint32_t thread)
{
    (void)thread;
    float (*function)(float) = a->function == NIB_GATE_SILU        ? silu
                               : a->function == NIB_GATE_GELU_TANH ? gelu_tanh
                                                                   : gelu;
    for (uint64_t r = first; r < last; r++) {
        const float *gate = a->gate.data + r * a->gate.stride;
        const float *up = a->up.data + r * a->up.stride;
        float *out = a->out.data + r * a->out.stride;
        for (uint32_t i = 0; i < a->width; i++)
            out[i] = function(gate[i]) * up[i];
    }
}

void nib_cpu_scalar_add(const struct nib_cpu_add *a, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    for (uint64_t r = first; r < last; r++) {
        const float *in = a->in.data + r * a->in.stride;
        float *out = a->out.data + r * a->out.stride;
        for (uint32_t i = 0; i < a->width; i++)
            out[i] += a->scale * in[i];
    }
}

void nib_cpu_scalar_scale(const struct nib_cpu_scale *a, uint64_t first, uint64_t last,
                          uint32_t thread)
{
    (void)thread;
    for (uint64_t r = first; r < last; r++) {
        float *x = a->x.data + r * a->x.stride;
        for (uint32_t i = 0; i < a->width; i++)
            x[i] *= a->factor;
    }
}

void nib_cpu_scalar_softcap(const struct nib_cpu_softcap *a, uint64_t first, uint64_t last,
                            uint32_t thread)
{
    (void)thread;
    for (uint64_t r = first; r < last; r++) {
        float *x = a->x.data + r * a->x.stride;
        for (uint32_t i = 0; i < a->width; i++)
            x[i] = a->cap * tanhf(x[i] / a->cap);
    }
}
