#include "runtime/model/model.h"

#include <criterion/criterion.h>
#include <math.h>

enum { DIMS = 16, PAIRS = DIMS / 2 };

static const double PI = 3.14159265358979323846;

static float frequency[PAIRS];
static float magnitude;

static void compute(const struct nib_rope_config *rope, uint32_t model_context, uint32_t context)
{
    nib_rope_frequencies(rope, model_context, context, frequency, &magnitude);
}

static void expect_pair(uint32_t pair, double expected)
{
    cr_expect_float_eq((double)frequency[pair], expected, 1e-7 * expected,
                       "pair %u: %.9g, not %.9g", pair, (double)frequency[pair], expected);
}

Test(rope, plain)
{
    const struct nib_rope_config rope = {.base = 1e4f, .dims = DIMS};
    compute(&rope, 512, 512);
    for (uint32_t i = 0; i < PAIRS; i++)
        expect_pair(i, exp(-log(1e4) * i / PAIRS));
    cr_expect_eq(magnitude, 1);
}

Test(rope, linear_and_divisors)
{
    const float divisors[PAIRS] = {1, 2, 3, 4, 5, 6, 7, 8};
    const struct nib_rope_config rope = {.base = 1e4f,
                                         .dims = DIMS,
                                         .scaling = NIB_ROPE_SCALING_LINEAR,
                                         .factor = 8,
                                         .divisors = divisors};
    compute(&rope, 512, 512);
    for (uint32_t i = 0; i < PAIRS; i++)
        expect_pair(i, exp(-log(1e4) * i / PAIRS) / 8 / (i + 1));
    cr_expect_eq(magnitude, 1);
}

Test(rope, llama3_by_wavelengths)
{
    const struct nib_rope_config rope = {.base = 5e5f,
                                         .dims = DIMS,
                                         .scaling = NIB_ROPE_SCALING_LLAMA3,
                                         .factor = 8,
                                         .low_frequency_factor = 1,
                                         .high_frequency_factor = 4,
                                         .original_context = 64};
    compute(&rope, 512, 512);
    uint32_t n_kept = 0, n_between = 0, n_divided = 0;
    for (uint32_t i = 0; i < PAIRS; i++) {
        double f = pow(5e5, -(double)i / PAIRS);
        double wavelength = 2 * PI / f;
        if (wavelength < 64.0 / 4) {
            n_kept++;
            expect_pair(i, f);
        } else if (wavelength > 64.0) {
            n_divided++;
            expect_pair(i, f / 8);
        } else {
            double smooth = (64 / wavelength - 1) / 3;
            n_between++;
            expect_pair(i, f * ((1 - smooth) / 8 + smooth));
        }
    }
    cr_expect(n_kept == 1 && n_between == 1 && n_divided == 6, "%u %u %u", n_kept, n_between,
              n_divided);
}

/// The pair whose wavelength fits `turns` times in the original context, found by bisection.
static double pair_with_turns(double base, double context, double turns)
{
    double low = -100, high = 100;
    for (int i = 0; i < 200; i++) {
        double middle = (low + high) / 2;
        double n = context * pow(base, -middle / PAIRS) / (2 * PI);
        if (n > turns)
            low = middle;
        else
            high = middle;
    }
    return low;
}

Test(rope, yarn)
{
    for (int truncate = 0; truncate < 2; truncate++) {
        const struct nib_rope_config rope = {.base = 1e4f,
                                             .dims = DIMS,
                                             .scaling = NIB_ROPE_SCALING_YARN,
                                             .factor = 4,
                                             .original_context = 2048,
                                             .beta_fast = 32,
                                             .beta_slow = 1,
                                             .truncate = truncate};
        compute(&rope, 8192, 8192);
        double low = pair_with_turns(1e4, 2048, 32);
        double high = pair_with_turns(1e4, 2048, 1);
        if (truncate) {
            low = floor(low);
            high = ceil(high);
        }
        cr_assert(low > 0 && high < PAIRS);
        for (uint32_t i = 0; i < PAIRS; i++) {
            double f = pow(1e4, -(double)i / PAIRS);
            double ramp = i <= low ? 0 : i >= high ? 1 : (i - low) / (high - low);
            expect_pair(i, (1 - ramp) * f + ramp * f / 4);
        }
        cr_expect_float_eq((double)magnitude, 0.1 * log(4) + 1, 1e-6);
    }
}

Test(rope, yarn_magnitudes)
{
    struct nib_rope_config rope = {.base = 1e4f,
                                   .dims = DIMS,
                                   .scaling = NIB_ROPE_SCALING_YARN,
                                   .original_context = 1024,
                                   .beta_fast = 32,
                                   .beta_slow = 1,
                                   .truncate = true};
    compute(&rope, 8192, 8192);
    cr_expect_float_eq((double)magnitude, 0.1 * log(8) + 1, 1e-6, "factor by the contexts");
    rope.mscale = 1;
    rope.mscale_all_dims = 0.5f;
    compute(&rope, 8192, 8192);
    cr_expect_float_eq((double)magnitude, (0.1 * log(8) + 1) / (0.05 * log(8) + 1), 1e-6);
    rope.attention_factor = 1.5f;
    compute(&rope, 8192, 8192);
    cr_expect_eq(magnitude, 1.5f);
    rope.attention_factor = rope.mscale = 0;
    rope.factor = 0.5f;
    compute(&rope, 8192, 8192);
    cr_expect_eq(magnitude, 1);
}

Test(rope, long_rope)
{
    const float shorts[PAIRS] = {1, 1, 1, 1, 2, 2, 2, 2};
    const float longs[PAIRS] = {1, 2, 3, 4, 5, 6, 7, 8};
    const struct nib_rope_config rope = {.base = 1e4f,
                                         .dims = DIMS,
                                         .scaling = NIB_ROPE_SCALING_LONGROPE,
                                         .original_context = 4096,
                                         .short_factors = shorts,
                                         .long_factors = longs};
    compute(&rope, 131072, 4096);
    expect_pair(7, pow(1e4, -7.0 / 8) / 2);
    cr_expect_float_eq((double)magnitude, sqrt(1 + log(32) / log(4096)), 1e-6);
    compute(&rope, 131072, 4097);
    expect_pair(7, pow(1e4, -7.0 / 8) / 8);
    expect_pair(1, pow(1e4, -1.0 / 8) / 2);
}
