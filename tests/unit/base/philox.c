#include "runtime/base/philox.h"

#include <criterion/criterion.h>

/// The known answers that Random123 publishes for philox4x32-10 (kat_vectors).
Test(philox, gives_the_known_answers)
{
    static const struct {
        uint32_t counter[4];
        uint32_t key[2];
        uint32_t out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        nib_philox_block(cases[i].counter, cases[i].key, out);
        cr_assert_arr_eq(out, cases[i].out, sizeof out);
    }
}

Test(philox, seed_and_counter_fill_key_and_counter)
{
    const uint32_t counter[4] = {0x89abcdef, 0x01234567, 0, 0};
    const uint32_t key[2] = {0x76543210, 0xfedcba98};
    uint32_t expected[4], out[4];
    nib_philox_block(counter, key, expected);
    nib_philox(0xfedcba9876543210u, 0x0123456789abcdefu, out);
    cr_assert_arr_eq(out, expected, sizeof out);
}

Test(philox, uniform_numbers_stay_below_one_and_are_even)
{
    enum { N = 200000, N_BINS = 16 };
    unsigned bins[N_BINS] = {0};
    double sum = 0;
    for (uint64_t i = 0; i < N; i++) {
        float value = nib_philox_uniform(42, i);
        cr_assert(value >= 0 && value < 1);
        bins[(unsigned)(value * N_BINS)]++;
        sum += (double)value;
    }
    // Five standard deviations; the numbers are always the same.
    cr_assert_float_eq(sum / N, 0.5, 5 * 0.2887 / 447);
    for (int i = 0; i < N_BINS; i++)
        cr_assert_float_eq((double)bins[i], N / 16.0, 5 * 108.3);
}
