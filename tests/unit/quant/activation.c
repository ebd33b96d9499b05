#include "runtime/quant/activation.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "runtime/quant/format.h"
#include "vectors.h"

Test(activation, groups_with_a_short_last_one)
{
    enum { COLS = 70, GROUPS = 3 };
    float x[COLS], scale[GROUPS];
    int8_t codes[COLS];
    int32_t sum[GROUPS];
    uint32_t state = 5;
    for (int i = 0; i < COLS; i++)
        x[i] = random_float(&state) * (float)(1 + i / 32 * 100);
    nib_activation_quantize_groups(x, COLS, codes, scale, sum);
    for (int g = 0; g < GROUPS; g++) {
        int32_t total = 0;
        float largest = 0;
        int end = g == GROUPS - 1 ? COLS : 32 * (g + 1);
        for (int i = 32 * g; i < end; i++)
            largest = fmaxf(largest, fabsf(x[i]));
        cr_assert_eq(scale[g], largest / 127.0f);
        for (int i = 32 * g; i < end; i++) {
            cr_assert_eq((float)codes[i], rintf(x[i] * (127.0f / largest)));
            total += codes[i];
        }
        cr_assert_eq(sum[g], total);
    }
}

Test(activation, halves_go_to_even)
{
    float x[8] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -126.5f, -127.0f};
    static const int8_t expected[8] = {127, 0, 2, 2, 0, -2, -126, -127};
    int8_t codes[8];
    float scale;
    int32_t sum;
    nib_activation_quantize_groups(x, 8, codes, &scale, &sum);
    cr_assert(scale == 1.0f && sum == -125 + 1);
    cr_assert(memcmp(codes, expected, 8) == 0);
}

Test(activation, groups_of_16_bits)
{
    float x[33] = {0.5f, -2.0f, 1.0f, 0x1p-14f};
    int16_t codes[33];
    float scale[2];
    int32_t sum[2];
    x[32] = NAN;
    nib_activation_quantize_groups_16(x, 33, codes, scale, sum);
    cr_assert_eq(scale[0], 2.0f / NIB_ACTIVATION_MAX_16);
    // Half of 32639 is a tie, which goes to the even neighbour.
    cr_assert(codes[0] == 8160 && codes[1] == -32639 && codes[2] == 16320 && codes[3] == 1);
    cr_assert_eq(sum[0], 8160 - 32639 + 16320 + 1);
    cr_assert(scale[1] == 0.0f && codes[32] == 0 && sum[1] == 0);
    x[3] = INFINITY;
    nib_activation_quantize_groups_16(x, 32, codes, scale, sum);
    cr_assert(isinf(scale[0]) && codes[1] == 0 && codes[3] == 0);
}

Test(activation, token_reaches_both_ends)
{
    float x[3] = {-255.0f, 255.0f, 127.0f};
    int8_t codes[3];
    cr_assert_eq(nib_activation_quantize_token(x, 3, codes), 2.0f);
    cr_assert(codes[0] == -128 && codes[1] == 127 && codes[2] == 64);
}

Test(activation, static_scale_clamps)
{
    float x[6] = {100.0f, -100.0f, 0.25f, 0.75f, INFINITY, NAN};
    static const int8_t expected[6] = {127, -128, 0, 2, 127, 0};
    int8_t codes[6];
    nib_activation_quantize_static(x, 6, 0.5f, codes);
    cr_assert(memcmp(codes, expected, 6) == 0);
    // Scales that only a broken file has.
    static const float scales[] = {0.0f, -0.0f, NAN, INFINITY, 1e-45f};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        nib_activation_quantize_static(x, 6, scales[i], codes);
}

Test(activation, zero_tiny_and_odd_rows)
{
    float x[32] = {0};
    int8_t codes[32];
    float scale;
    int32_t sum;
    nib_activation_quantize_groups(x, 32, codes, &scale, &sum);
    cr_assert(scale == 0.0f && sum == 0 && codes[0] == 0);
    cr_assert(nib_activation_quantize_token(x, 32, codes) == 0.0f && codes[31] == 0);
    x[3] = 0x1p-149f;
    nib_activation_quantize_groups(x, 32, codes, &scale, &sum);
    cr_assert(scale == 0.0f && sum == 0 && codes[3] == 0);
    x[3] = 0x1p-100f;
    nib_activation_quantize_groups(x, 32, codes, &scale, &sum);
    cr_assert(scale == 0x1p-100f / 127.0f && sum == 127 && codes[3] == 127);

    x[4] = NAN;
    nib_activation_quantize_groups(x, 32, codes, &scale, &sum);
    cr_assert(scale == 0x1p-100f / 127.0f && codes[3] == 127 && codes[4] == 0);
    x[5] = -INFINITY;
    nib_activation_quantize_groups(x, 32, codes, &scale, &sum);
    cr_assert(isinf(scale) && sum == 0 && codes[3] == 0 && codes[4] == 0 && codes[5] == 0);
    cr_assert(isinf(nib_activation_quantize_token(x, 32, codes)) && codes[5] == 0);
}

Test(activation, regular_part_leaves_outliers_out)
{
    float x[6] = {1.0f, -6.0f, 2.0f, 7.5f, -5.0f, NAN};
    static const uint8_t marks[6] = {1, 1, 0, 1, 0, 0};
    static const int8_t expected[6] = {25, 0, 51, 0, -127, 0};
    int8_t codes[6];
    uint8_t outlier[6] = {1}; // set by an earlier row
    cr_assert_eq(nib_activation_quantize_regular(x, 6, 6.0f, codes, outlier), 5.0f / 127.0f);
    cr_assert(memcmp(outlier, marks, 6) == 0);
    cr_assert(memcmp(codes, expected, 6) == 0);

    uint8_t none[5] = {0};
    cr_assert_eq(nib_activation_quantize_regular(x, 5, 0.0f, codes, none), 7.5f / 127.0f);
    cr_assert(codes[3] == 127 && !memchr(none, 1, 5));
}
