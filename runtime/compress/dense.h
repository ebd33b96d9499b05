/// Products of dense matrices in fp32 and fp64, which statistics and quantizers are made of.
#ifndef RUNTIME_COMPRESS_DENSE_H
#define RUNTIME_COMPRESS_DENSE_H

#include "runtime/base/thread_pool.h"

/// Threads and their buffers. Thread-safety: one thread at a time.
struct nib_dense;
/// Makes one for `pool`, which outlives it. Errors: memory.
enum nib_status nib_dense_create(struct nib_thread_pool *pool, struct nib_dense **out_dense,
                                 struct nib_error *err);
void nib_dense_destroy(struct nib_dense **dense);
struct nib_thread_pool *nib_dense_pool(const struct nib_dense *dense);

/// C += alpha · A · B, C being [m][n], rows c_row apart. Element (i, k) of A stands at
/// a[i · a_row + k · a_col], element (k, j) of B at b[k · b_row + j · b_col]: either may be
/// transposed. C overlaps neither. Results do not depend on the number of threads, but on the
/// CPU's instruction set.
struct nib_product_f32 {
    uint64_t m, n, k;
    const float *a;
    uint64_t a_row, a_col;
    const float *b;
    uint64_t b_row, b_col;
    float *c;
    uint64_t c_row;
    float alpha;
    bool is_lower; ///< elements above the diagonal are of no interest and may be left as they are
};
struct nib_product_f64 {
    uint64_t m, n, k;
    const double *a;
    uint64_t a_row, a_col;
    const double *b;
    uint64_t b_row, b_col;
    double *c;
    uint64_t c_row;
    double alpha;
    bool is_lower;
};
void nib_multiply_f32(struct nib_dense *dense, const struct nib_product_f32 *product);
void nib_multiply_f64(struct nib_dense *dense, const struct nib_product_f64 *product);

/// Replaces the symmetric positive definite matrix a[n][n] (lower triangle read) by its Cholesky
/// factor L, a = L Lᵀ, in the lower triangle; what is above is set to 0. Returns false where `a` is
/// not positive definite.
bool nib_cholesky(struct nib_dense *dense, double *a, uint64_t n);
/// Replaces the lower triangular l[n][n], zero above the diagonal, by its inverse. Errors: memory.
enum nib_status nib_invert_lower(struct nib_dense *dense, double *l, uint64_t n,
                                 struct nib_error *err);

#endif
