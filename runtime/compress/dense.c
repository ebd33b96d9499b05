#include "runtime/compress/dense.h"

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/compress/dense_kernel.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// A block of C that one thread works on, and how deep it goes at once: with NIB_TILE_ROWS-high
/// tiles, A's block stays in the second cache while B's columns pass through the first. A multiple
/// of every tile's rows and columns.
#define BLOCK_ROWS 192u
#define BLOCK_COLS 256u
#define BLOCK_DEPTH 256u
/// Rows of a triangle that are factored at once without products.
#define PANEL 64u

struct nib_dense {
    struct nib_thread_pool *pool;
    const struct nib_dense_kernels *kernels;
    uint8_t *buffers; ///< [threads] of BUFFER_BYTES
    size_t size;
};
/// A's block, B's block and a tile, for fp64.
#define BUFFER_BYTES \
    (((BLOCK_ROWS + BLOCK_COLS) * BLOCK_DEPTH + NIB_TILE_ROWS * NIB_TILE_COLS) * sizeof(double))

static const struct nib_dense_kernels *best_kernels(void)
{
#ifdef NIB_DENSE_HAS_X86
    if (__builtin_cpu_supports("avx512f"))
        return &nib_dense_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &nib_dense_avx2;
#endif
    return &nib_dense_base;
}

enum nib_status nib_dense_create(struct nib_thread_pool *pool, struct nib_dense **out_dense,
                                 struct nib_error *err)
{
    struct nib_dense *dense = calloc(1, sizeof *dense);
    *out_dense = NULL;
    if (!dense)
        return nib_fail_memory(err);
    dense->pool = pool;
    dense->kernels = best_kernels();
    dense->size = nib_thread_pool_size(pool) * BUFFER_BYTES;
    dense->buffers = nib_pages_alloc(dense->size);
    if (!dense->buffers) {
        free(dense);
        return nib_fail_memory(err);
    }
    *out_dense = dense;
    return NIB_OK;
}

void nib_dense_destroy(struct nib_dense **dense)
{
    if (*dense)
        nib_pages_free((*dense)->buffers, (*dense)->size);
    free(*dense);
    *dense = NULL;
}

struct nib_thread_pool *nib_dense_pool(const struct nib_dense *dense)
{
    return dense->pool;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

#define REAL float
#define NAME(name) name##_f32
#define TILE_COLS cols_f32
#define TILE tile_f32
#include "runtime/compress/dense_product.inc"
#undef REAL
#undef NAME
#undef TILE_COLS
#undef TILE

#define REAL double
#define NAME(name) name##_f64
#define TILE_COLS cols_f64
#define TILE tile_f64
#include "runtime/compress/dense_product.inc"

/// Factors rows and columns [first, last) of `a`, from which all columns before were subtracted.
static bool factor_diagonal(double *a, uint64_t n, uint64_t first, uint64_t last)
{
    for (uint64_t j = first; j < last; j++) {
        double *row = a + j * n;
        double sum = row[j];
        for (uint64_t k = first; k < j; k++)
            sum -= row[k] * row[k];
        if (!(sum > 0))
            return false;
        row[j] = sqrt(sum);
        for (uint64_t i = j + 1; i < last; i++) {
            double dot = a[i * n + j];
            for (uint64_t k = first; k < j; k++)
                dot -= a[i * n + k] * row[k];
            a[i * n + j] = dot / row[j];
        }
    }
    return true;
}

struct solve_loop {
    double *a;
    uint64_t n, first, last;
};

/// Solves rows [last + first_row, ...) against the diagonal block.
static void solve_body(void *user, uint64_t first_row, uint64_t last_row, uint32_t thread)
{
    (void)thread;
    const struct solve_loop *loop = user;
    for (uint64_t i = loop->last + first_row; i < loop->last + last_row; i++) {
        double *row = loop->a + i * loop->n;
        for (uint64_t j = loop->first; j < loop->last; j++) {
            const double *factor = loop->a + j * loop->n;
            double dot = row[j];
            for (uint64_t k = loop->first; k < j; k++)
                dot -= row[k] * factor[k];
            row[j] = dot / factor[j];
        }
    }
}

bool nib_cholesky(struct nib_dense *dense, double *a, uint64_t n)
{
    for (uint64_t first = 0; first < n; first += PANEL) {
        const uint64_t last = least(n, first + PANEL);
        if (!factor_diagonal(a, n, first, last))
            return false;
        if (last == n)
            break;
        struct solve_loop loop = {a, n, first, last};
        nib_thread_pool_run(dense->pool, n - last, 16, solve_body, &loop);
        double *rest = a + last * n;
        nib_multiply_f64(dense, &(struct nib_product_f64){
                                    .m = n - last,
                                    .n = n - last,
                                    .k = last - first,
                                    .a = rest + first,
                                    .a_row = n,
                                    .a_col = 1,
                                    .b = rest + first,
                                    .b_row = 1,
                                    .b_col = n,
                                    .c = rest + last,
                                    .c_row = n,
                                    .alpha = -1,
                                    .is_lower = true,
                                });
    }
    for (uint64_t i = 0; i < n; i++)
        memset(a + i * n + i + 1, 0, (size_t)(n - i - 1) * sizeof *a);
    return true;
}

/// Inverts the diagonal block of rows and columns [first, last).
static void invert_diagonal(double *l, uint64_t n, uint64_t first, uint64_t last)
{
    for (uint64_t i = first; i < last; i++) {
        double *row = l + i * n;
        const double inverse = 1 / row[i];
        for (uint64_t j = first; j < i; j++) {
            double sum = 0;
            for (uint64_t k = j; k < i; k++)
                sum += row[k] * l[k * n + j];
            row[j] = -sum * inverse;
        }
        row[i] = inverse;
    }
}

enum nib_status nib_invert_lower(struct nib_dense *dense, double *l, uint64_t n,
                                 struct nib_error *err)
{
    double *product = calloc((size_t)(PANEL * n), sizeof *product);
    if (!product)
        return nib_fail_memory(err);
    for (uint64_t first = 0; first < n; first += PANEL) {
        const uint64_t rows = least(PANEL, n - first);
        double *block = l + first * n;
        invert_diagonal(l, n, first, first + rows);
        if (first == 0)
            continue;
        // Rows of the inverse left of the diagonal: −(inverse diagonal) · L · (inverse above).
        memset(product, 0, (size_t)(rows * first) * sizeof *product);
        nib_multiply_f64(dense, &(struct nib_product_f64){
                                    .m = rows,
                                    .n = first,
                                    .k = first,
                                    .a = block,
                                    .a_row = n,
                                    .a_col = 1,
                                    .b = l,
                                    .b_row = n,
                                    .b_col = 1,
                                    .c = product,
                                    .c_row = first,
                                    .alpha = 1,
                                });
        for (uint64_t i = 0; i < rows; i++)
            memset(block + i * n, 0, (size_t)first * sizeof *block);
        nib_multiply_f64(dense, &(struct nib_product_f64){
                                    .m = rows,
                                    .n = first,
                                    .k = rows,
                                    .a = block + first,
                                    .a_row = n,
                                    .a_col = 1,
                                    .b = product,
                                    .b_row = first,
                                    .b_col = 1,
                                    .c = block,
                                    .c_row = n,
                                    .alpha = -1,
                                });
    }
    free(product);
    return NIB_OK;
}
