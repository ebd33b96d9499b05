#include "runtime/ops/sampler.h"

#include "runtime/base/philox.h"
#include "runtime/ops/logits.h"
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#define N 1000

static int32_t choose(const float *logits, uint32_t n, const struct nib_choice *choice)
{
    struct nib_sampler *sampler = NULL;
    int32_t id = -1;
    cr_assert_eq(nib_sampler_create(n, &sampler, NULL), NIB_OK);
    cr_assert_eq(nib_sampler_choose(sampler, logits, choice, &id, NULL), NIB_OK);
    nib_sampler_destroy(&sampler);
    return id;
}

static void fill(float *logits, uint32_t n, uint64_t seed, float spread)
{
    for (uint32_t i = 0; i < n; i++)
        logits[i] =
            (nib_philox_uniform(seed, 2 * i) + nib_philox_uniform(seed, 2 * i + 1) - 1.0f) * spread;
}

Test(sampler, exp_is_close)
{
    for (float x = -86.9f; x <= 0.0f; x += 0.00137f) {
        double expected = exp((double)x);
        cr_assert_lt(fabs((double)nib_exp_negative(x) - expected), expected * 2.4e-7, "e^%g",
                     (double)x);
    }
    cr_assert_eq(nib_exp_negative(0.0f), 1.0f);
    cr_assert_eq(nib_exp_negative(-88.0f), 0.0f);
    cr_assert_eq(nib_exp_negative(-INFINITY), 0.0f);
}

Test(sampler, greedy_takes_the_first_of_equal_ones)
{
    const float logits[6] = {1.0f, 3.0f, -2.0f, 3.0f, NAN, 0.0f};
    struct nib_sampling greedy = {0};
    struct nib_choice choice = {.sampling = &greedy};
    cr_assert_eq(choose(logits, 6, &choice), 1);
    const float infinite[3] = {1.0f, INFINITY, INFINITY};
    cr_assert_eq(choose(infinite, 3, &choice), 1);
    const float zeros[2] = {-0.0f, 0.0f};
    cr_assert_eq(choose(zeros, 2, &choice), 0);
    // In blocks of their own; NaN of either sign counts as minus infinity.
    static float many[1500];
    for (uint32_t i = 0; i < 1500; i++)
        many[i] = i % 2 ? -1.0f : -NAN;
    many[700] = -0.0f;
    many[1400] = 0.0f;
    cr_assert_eq(choose(many, 1500, &choice), 700);
    many[1200] = FLT_MAX;
    many[1300] = NAN;
    cr_assert_eq(choose(many, 1500, &choice), 1200);
    many[800] = INFINITY;
    cr_assert_eq(choose(many, 1500, &choice), 800);
}

Test(sampler, biases_mask_and_penalty)
{
    const float logits[4] = {4.0f, 3.0f, 2.0f, -1.0f};
    struct nib_sampling greedy = {0};
    struct nib_logit_bias biases[2] = {{.id = 0, .bias = -INFINITY}, {.id = 2, .bias = 1.5f}};
    struct nib_choice choice = {.sampling = &greedy, .biases = biases, .n_biases = 2};
    cr_assert_eq(choose(logits, 4, &choice), 2);
    uint32_t allowed = 8;
    choice.allowed = &allowed;
    cr_assert_eq(choose(logits, 4, &choice), 3);

    struct nib_sampling penalized = {.repeat_penalty = 1.5f, .repeat_last = 2};
    const int32_t tokens[5] = {1, 0, 0, 0, 0};
    struct nib_choice repeated = {.sampling = &penalized, .tokens = tokens, .n_tokens = 5};
    cr_assert_eq(choose(logits, 4, &repeated), 1, "4 / 1.5 is below 3, and 1 is too long ago");
    penalized.repeat_last = 0;
    cr_assert_eq(choose(logits, 4, &repeated), 0, "4 / 1.5 is above 3 / 1.5");
}

Test(sampler, nothing_left_is_an_error)
{
    const float logits[3] = {NAN, -INFINITY, NAN};
    const float good[3] = {0.0f, 1.0f, 2.0f};
    struct nib_sampling sampling = {.temperature = 1.0f};
    struct nib_choice choice = {.sampling = &sampling};
    struct nib_sampler *sampler = NULL;
    int32_t id = 7;
    cr_assert_eq(nib_sampler_create(3, &sampler, NULL), NIB_OK);
    cr_assert_eq(nib_sampler_choose(sampler, logits, &choice, &id, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(id, 0);
    uint32_t *allowed = nib_sampler_mask(sampler);
    cr_assert_eq(allowed[0] & 7, 7);
    allowed[0] = 0;
    choice.allowed = allowed;
    cr_assert_eq(nib_sampler_choose(sampler, good, &choice, &id, NULL), NIB_ERROR_ARGUMENT);
    nib_sampler_destroy(&sampler);
}

Test(sampler, numbers_out_of_range_are_refused)
{
    const struct nib_sampling bad[] = {{.temperature = -1.0f},    {.temperature = NAN},
                                       {.temperature = INFINITY}, {.top_p = 1.01f},
                                       {.min_p = -0.1f},          {.repeat_penalty = -2.0f}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(nib_sampling_validate(&bad[i], NULL), NIB_ERROR_ARGUMENT, "number %zu", i);
    struct nib_sampling good = {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f};
    cr_assert_eq(nib_sampling_validate(&good, NULL), NIB_OK);
}

/// The same choice by sorting, in double.
struct candidate {
    double weight;
    float logit;
    uint32_t id;
    bool kept;
};

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    return x->id < y->id ? -1 : 1;
}

static void reference_filter(struct candidate *c, const float *logits, uint32_t n,
                             const struct nib_sampling *s)
{
    float max = logits[nib_logits_argmax(logits, n)];
    for (uint32_t i = 0; i < n; i++)
        c[i] = (struct candidate){
            .weight = exp(((double)logits[i] - (double)max) / (double)s->temperature),
            .logit = logits[i],
            .id = i,
            .kept = true};
    qsort(c, n, sizeof *c, by_logit);
    double total = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        c[i].kept = s->top_k == 0 || i < s->top_k;
        total += c[i].kept ? c[i].weight : 0.0;
    }
    double sum = 0.0;
    for (uint32_t i = 0; i < n && s->top_p > 0.0f && s->top_p < 1.0f; i++) {
        c[i].kept = c[i].kept && sum < (double)s->top_p * total;
        sum += c[i].weight;
    }
    for (uint32_t i = 0; i < n; i++)
        c[i].kept = c[i].kept && c[i].weight >= (double)s->min_p;
    qsort(c, n, sizeof *c, by_id);
}

static int32_t reference_draw(const struct candidate *c, uint32_t n, double uniform)
{
    double total = 0.0;
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        total += c[i].kept ? c[i].weight : 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sum += c[i].kept ? c[i].weight : 0.0;
        if (c[i].kept && sum > uniform * total)
            return (int32_t)i;
    }
    return -1;
}

Test(sampler, matches_sorting)
{
    static float logits[N];
    static struct candidate candidates[N];
    static int32_t tokens[1];
    const struct nib_sampling samplings[] = {
        {.temperature = 1.0f},
        {.temperature = 0.7f, .top_k = 40},
        {.temperature = 1.3f, .top_p = 0.9f},
        {.temperature = 0.8f, .min_p = 0.05f},
        {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f, .min_p = 0.02f},
        {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f},
        {.temperature = 1.0f, .top_p = 0.5f, .min_p = 0.001f},
        {.temperature = 0.3f, .top_k = 300},
        {.temperature = 2.0f, .top_k = 1},
        {.temperature = 1.0f, .top_p = 1e-6f},
    };
    struct nib_sampler *sampler = NULL;
    uint32_t different = 0;
    uint32_t draws = 0;
    cr_assert_eq(nib_sampler_create(N, &sampler, NULL), NIB_OK);
    for (uint64_t round = 0; round < 200; round++) {
        fill(logits, N, round, 4.0f + (float)(round % 7) * 3.0f);
        for (uint32_t i = 0; i < N && round % 5 == 0; i++)
            logits[i] = roundf(logits[i] * 2.0f) / 2.0f; // many equal ones
        for (size_t s = 0; s < sizeof samplings / sizeof samplings[0]; s++) {
            struct nib_sampling sampling = samplings[s];
            sampling.seed = round * 100 + s;
            struct nib_choice choice = {
                .sampling = &sampling, .tokens = tokens, .n_tokens = (size_t)round % 2};
            int32_t id = -1;
            cr_assert_eq(nib_sampler_choose(sampler, logits, &choice, &id, NULL), NIB_OK);
            reference_filter(candidates, logits, N, &sampling);
            cr_assert(candidates[id].kept, "sampling %zu kept %d", s, id);
            float uniform = nib_philox_uniform(sampling.seed, choice.n_tokens);
            different += id != reference_draw(candidates, N, (double)uniform);
            draws++;
        }
    }
    // Rounding moves the borders between tokens by some 1e-7 each.
    cr_assert_leq(different, 1, "%u of %u draws differ", different, draws);
    nib_sampler_destroy(&sampler);
}

Test(sampler, draws_follow_the_distribution)
{
    float logits[4] = {0.0f, logf(2.0f), -INFINITY, logf(5.0f)};
    const double expected[4] = {0.125, 0.25, 0.0, 0.625};
    struct nib_sampling sampling = {.temperature = 1.0f, .seed = 99};
    uint32_t counts[4] = {0};
    const uint32_t draws = 40000;
    struct nib_sampler *sampler = NULL;
    static int32_t tokens[40000];
    cr_assert_eq(nib_sampler_create(4, &sampler, NULL), NIB_OK);
    for (uint32_t i = 0; i < draws; i++) {
        struct nib_choice choice = {.sampling = &sampling, .tokens = tokens, .n_tokens = i};
        int32_t id;
        cr_assert_eq(nib_sampler_choose(sampler, logits, &choice, &id, NULL), NIB_OK);
        counts[id]++;
    }
    for (uint32_t i = 0; i < 4; i++) {
        double deviation = sqrt(expected[i] * (1.0 - expected[i]) / draws);
        cr_assert_leq(fabs((double)counts[i] / draws - expected[i]), 4.0 * deviation);
    }
    nib_sampler_destroy(&sampler);
}

Test(sampler, temperature_limits)
{
    float logits[3] = {1.0f, 1.0f + 1e-6f, 0.0f};
    struct nib_sampling cold = {.temperature = 1e-30f, .seed = 5};
    struct nib_choice choice = {.sampling = &cold};
    cr_assert_eq(choose(logits, 3, &choice), 1);
    struct nib_sampling hot = {.temperature = 1e6f, .seed = 5};
    choice.sampling = &hot;
    int32_t id = choose(logits, 3, &choice);
    cr_assert(id >= 0 && id < 3);
    float huge[3] = {-3.4e38f, 3.4e38f, INFINITY};
    choice.sampling = &cold;
    cr_assert_eq(choose(huge, 3, &choice), 2);
}

Test(sampler, log_probabilities)
{
    const float logits[5] = {1.0f, NAN, 3.0f, 3.0f, -INFINITY};
    double sum = exp(1.0) + 2.0 * exp(3.0);
    double log_sum = nib_logits_log_sum(logits, 5, nib_logits_argmax(logits, 5));
    cr_assert_float_eq(log_sum, log(sum), 1e-6);
    struct nib_token_logprob top[5];
    nib_logits_top(logits, 5, log_sum, top, 3);
    cr_assert_eq(top[0].id, 2);
    cr_assert_eq(top[1].id, 3);
    cr_assert_eq(top[2].id, 0);
    cr_assert_float_eq(top[2].logprob, 1.0 - log(sum), 1e-6);
}

Test(sampler, log_sum_of_a_large_row)
{
    static float logits[12345];
    fill(logits, 12345, 4, 20.0f);
    double sum = 0.0;
    for (uint32_t i = 0; i < 12345; i++)
        sum += exp((double)logits[i]);
    double log_sum = nib_logits_log_sum(logits, 12345, nib_logits_argmax(logits, 12345));
    cr_assert_float_eq(log_sum, log(sum), 2e-7);
}
