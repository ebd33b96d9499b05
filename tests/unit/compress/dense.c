// Products, Cholesky factors and inverses against plain loops.
#include "runtime/compress/dense.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static struct nib_thread_pool *pool;
static struct nib_dense *dense;

static void set_up(void)
{
    cr_assert_eq(nib_thread_pool_create(2, false, &pool, NULL), NIB_OK);
    cr_assert_eq(nib_dense_create(pool, &dense, NULL), NIB_OK);
}

static void tear_down(void)
{
    nib_dense_destroy(&dense);
    nib_thread_pool_destroy(&pool);
}

TestSuite(dense, .init = set_up, .fini = tear_down);

/// Returns numbers in [−1, 1), the same in every run.
static double number(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (double)(*state >> 8) / (1 << 23) - 1;
}

struct shape {
    uint64_t m, n, k;
    bool transposes_a, transposes_b;
};

static void check_f32(struct shape s)
{
    uint32_t state = 1;
    float *a = malloc(s.m * s.k * sizeof *a), *b = malloc(s.k * s.n * sizeof *b);
    float *c = malloc(s.m * s.n * sizeof *c), *start = malloc(s.m * s.n * sizeof *start);
    for (uint64_t i = 0; i < s.m * s.k; i++)
        a[i] = (float)number(&state);
    for (uint64_t i = 0; i < s.k * s.n; i++)
        b[i] = (float)number(&state);
    for (uint64_t i = 0; i < s.m * s.n; i++)
        start[i] = c[i] = (float)number(&state);
    const struct nib_product_f32 product = {.m = s.m,
                                            .n = s.n,
                                            .k = s.k,
                                            .a = a,
                                            .a_row = s.transposes_a ? 1 : s.k,
                                            .a_col = s.transposes_a ? s.m : 1,
                                            .b = b,
                                            .b_row = s.transposes_b ? 1 : s.n,
                                            .b_col = s.transposes_b ? s.k : 1,
                                            .c = c,
                                            .c_row = s.n,
                                            .alpha = -0.5f};
    nib_multiply_f32(dense, &product);
    for (uint64_t i = 0; i < s.m; i++) {
        for (uint64_t j = 0; j < s.n; j++) {
            double sum = 0;
            for (uint64_t k = 0; k < s.k; k++)
                sum += (double)a[i * product.a_row + k * product.a_col] *
                       (double)b[k * product.b_row + j * product.b_col];
            const double want = (double)start[i * s.n + j] - 0.5 * sum;
            cr_assert_float_eq((double)c[i * s.n + j], want, 1e-4, "at %d, %d", (int)i, (int)j);
        }
    }
    free(a);
    free(b);
    free(c);
    free(start);
}

Test(dense, products)
{
    check_f32((struct shape){1, 1, 1, false, false});
    check_f32((struct shape){5, 7, 3, false, true});
    check_f32((struct shape){13, 33, 300, true, false});
    check_f32((struct shape){200, 270, 40, false, false});
    check_f32((struct shape){193, 65, 257, true, true});
}

Test(dense, lower_triangle)
{
    enum { N = 210, K = 9 };
    static float x[K * N], c[N * N];
    uint32_t state = 7;
    for (int i = 0; i < K * N; i++)
        x[i] = (float)number(&state);
    nib_multiply_f32(dense, &(struct nib_product_f32){.m = N,
                                                      .n = N,
                                                      .k = K,
                                                      .a = x,
                                                      .a_row = 1,
                                                      .a_col = N,
                                                      .b = x,
                                                      .b_row = N,
                                                      .b_col = 1,
                                                      .c = c,
                                                      .c_row = N,
                                                      .alpha = 1,
                                                      .is_lower = true});
    for (int i = 0; i < N; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += (double)x[k * N + i] * (double)x[k * N + j];
            cr_assert_float_eq((double)c[i * N + j], sum, 1e-5);
        }
    }
}

Test(dense, cholesky_and_inverse)
{
    enum { N = 150 };
    static double m[N][N], a[N][N], l[N][N];
    uint32_t state = 3;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            m[i][j] = number(&state);
    }
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            a[i][j] = i == j;
            for (int k = 0; k < N; k++)
                a[i][j] += m[i][k] * m[j][k];
            l[i][j] = a[i][j];
        }
    }
    cr_assert(nib_cholesky(dense, &l[0][0], N));
    for (int i = 0; i < N; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k <= j; k++)
                sum += l[i][k] * l[j][k];
            cr_assert_float_eq(sum, a[i][j], 1e-9);
            cr_assert(i == j || l[j][i] == 0);
        }
    }
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            m[i][j] = l[i][j];
    }
    cr_assert_eq(nib_invert_lower(dense, &l[0][0], N, NULL), NIB_OK);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum += l[i][k] * m[k][j];
            cr_assert_float_eq(sum, i == j, 1e-9);
        }
    }
}

Test(dense, refuses_what_is_not_definite)
{
    double a[4] = {1, 0, 2, 1};
    cr_assert(!nib_cholesky(dense, a, 2));
}
