#include "runtime/compress/run.h"

#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

/// Returns Σ a H aᵀ over the rows of `a`, or Σ a² where there is no H. `product` is as large as `a`.
static double power(const struct nib_quantize_job *job, const float *a, float *product)
{
    const uint64_t rows = job->entry->rows, cols = job->entry->cols;
    const float *hessian = job->stats ? job->stats->hessian : NULL;
    double sum = 0;
    if (hessian) {
        memset(product, 0, (size_t)(rows * cols) * sizeof *product);
        nib_multiply_f32(job->dense, &(struct nib_product_f32){
                                         .m = rows,
                                         .n = cols,
                                         .k = cols,
                                         .a = a,
                                         .a_row = cols,
                                         .a_col = 1,
                                         .b = hessian,
                                         .b_row = cols,
                                         .b_col = 1,
                                         .c = product,
                                         .c_row = cols,
                                         .alpha = 1,
                                     });
    }
    for (uint64_t i = 0; i < rows * cols; i++)
        sum += (double)(a[i] * (hessian ? product[i] : a[i]));
    return sum;
}

enum nib_status nib_matrix_error(const struct nib_quantize_job *job,
                                 const struct nib_quantized_matrix *matrix, double *out_error,
                                 struct nib_error *err)
{
    const uint64_t rows = matrix->rows, cols = matrix->cols;
    float *lost = malloc((size_t)(2 * rows * cols + cols) * sizeof *lost);
    if (!lost)
        return nib_fail_memory(err);
    float *product = lost + rows * cols, *line = product + rows * cols;
    for (uint64_t r = 0; r < rows; r++) {
        float *to = lost + r * cols;
        nib_quantized_matrix_row(matrix, r, to, line);
        for (uint64_t i = 0; i < cols; i++)
            to[i] -= job->weights[r * cols + i];
    }
    const double error = power(job, lost, product), whole = power(job, job->weights, product);
    *out_error = whole > 0 ? error / whole : 0;
    free(lost);
    return NIB_OK;
}
