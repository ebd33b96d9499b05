#include <math.h>

#include "runtime/cpu/kernels.h"
#include "runtime/cpu/scalar/lanes.h"

void nib_cpu_scalar_norm(const struct nib_cpu_norm *a, uint64_t first, uint64_t last,
                         uint32_t thread)
{
    (void)thread;
    for (uint64_t r = first; r < last; r++) {
        for (uint32_t g = 0; g < a->n_groups; g++) {
            const float *in = a->in.data + r * a->in.stride + (uint64_t)g * a->group;
            float *out = a->out.data + r * a->out.stride + (uint64_t)g * a->group;
            float mean = nib_dot(in, in, a->group) / (float)a->group;
            float factor = 1.0f / sqrtf(mean + a->epsilon);
            for (uint32_t i = 0; i < a->group; i++)
                out[i] = in[i] * factor * (a->weight ? a->weight[i] : 1.0f);
        }
    }
}
