#include "runtime/cpu/kernels.h"

void nib_cpu_scalar_embed(const struct nib_cpu_embed *a, uint64_t first, uint64_t last,
                          uint32_t thread)
{
    const struct nib_cpu_matrix *weight = a->weight;
    struct nib_row_block block;
    nib_row_block_init(&block, &weight->format, 1, weight->cols, a->scratch[thread].block);
    for (uint64_t r = first; r < last; r++) {
        float *out = a->out.data + r * a->out.stride;
        nib_cpu_matrix_load(weight, a->rows[r].token, 0, &block);
        nib_row_dequantize(&weight->format, &block, 0, out);
        for (uint64_t i = 0; i < weight->cols; i++)
            out[i] *= a->scale;
    }
}
