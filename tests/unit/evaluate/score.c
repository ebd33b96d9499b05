#include "runtime/evaluate/score.h"

#include "runtime/base/philox.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#define N 3001

static void fill(float *logits, uint64_t seed)
{
    for (uint32_t i = 0; i < N; i++)
        logits[i] = (nib_philox_uniform(seed, i) - 0.5f) * 30.0f;
}

static double log_sum_of(const float *logits)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < N; i++)
        sum += exp((double)logits[i]);
    return log(sum);
}

Test(score, matches_double_precision)
{
    static float p[N];
    static float q[N];
    for (uint64_t round = 0; round < 20; round++) {
        struct nib_scored_row reference;
        struct nib_scored_row model;
        fill(p, round);
        for (uint32_t i = 0; i < N; i++)
            q[i] = p[i] + (nib_philox_uniform(100 + round, i) - 0.5f) * 0.2f;
        cr_assert(nib_score_row(p, N, &reference));
        cr_assert(nib_score_row(q, N, &model));
        double log_p = log_sum_of(p);
        double log_q = log_sum_of(q);
        double divergence = 0.0;
        for (uint32_t i = 0; i < N; i++)
            divergence +=
                exp((double)p[i] - log_p) * (((double)p[i] - log_p) - ((double)q[i] - log_q));
        cr_assert_float_eq(nib_score_nll(&model, 17), log_q - (double)q[17], 1e-6);
        cr_assert_float_eq(nib_score_divergence(&reference, &model), divergence,
                           1e-6 + 1e-4 * divergence);
        cr_assert_eq(nib_score_divergence(&reference, &reference), 0.0);
    }
}

Test(score, rows_with_gaps)
{
    const float logits[4] = {NAN, 0.0f, -INFINITY, 0.0f};
    const float nothing[2] = {NAN, -INFINITY};
    struct nib_scored_row row;
    cr_assert(nib_score_row(logits, 4, &row));
    cr_assert_eq(row.argmax, 1);
    cr_assert_float_eq(nib_score_nll(&row, 3), log(2.0), 1e-7);
    cr_assert(isinf(nib_score_nll(&row, 2)));
    cr_assert_eq(nib_score_divergence(&row, &row), 0.0);
    cr_assert_not(nib_score_row(nothing, 2, &row));
}

Test(score, quantiles)
{
    double values[5] = {5.0, 1.0, 3.0, 2.0, 4.0};
    cr_assert_float_eq(nib_score_quantile(values, 5, 0.5), 3.0, 1e-12);
    cr_assert_float_eq(nib_score_quantile(values, 5, 0.99), 4.96, 1e-12);
    cr_assert_float_eq(nib_score_quantile(values, 5, 1.0), 5.0, 1e-12);
    cr_assert_float_eq(nib_score_quantile(values, 1, 0.99), 1.0, 1e-12);
}
