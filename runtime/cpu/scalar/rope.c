#include <math.h>

#include "runtime/cpu/kernels.h"

void nib_cpu_scalar_angles(const struct nib_cpu_angles *a, uint64_t first, uint64_t last,
                           uint32_t thread)
{
    (void)thread;
    uint32_t half = a->table->dims / 2;
    for (uint64_t r = first; r < last; r++) {
        float *cosine = a->out + r * a->table->dims, *sine = cosine + half;
        float position = (float)a->rows[r].position;
        for (uint32_t j = 0; j < half; j++) {
            float angle = position * a->table->frequency[j];
            cosine[j] = cosf(angle) * a->table->magnitude;
            sine[j] = sinf(angle) * a->table->magnitude;
        }
    }
}

void nib_cpu_scalar_rope(const struct nib_cpu_rope *a, uint64_t first, uint64_t last,
                         uint32_t thread)
{
    (void)thread;
    uint32_t half = a->dims / 2;
    uint32_t step = a->interleaved ? 2 : 1;       // from one pair to the next
    uint32_t partner = a->interleaved ? 1 : half; // from a pair's first number to its second
    for (uint64_t r = first; r < last; r++) {
        const float *cosine = a->angles + r * a->dims, *sine = cosine + half;
        for (uint32_t h = 0; h < a->n_heads; h++) {
            float *x = a->x.data + r * a->x.stride + (uint64_t)h * a->head_dim;
            for (uint32_t j = 0; j < half; j++) {
                float *pair = x + j * step;
                float u = pair[0], v = pair[partner];
                pair[0] = u * cosine[j] - v * sine[j];
                pair[partner] = u * sine[j] + v * cosine[j];
            }
        }
    }
}
