#include "runtime/base/half.h"

#include <criterion/criterion.h>
#include <math.h>

/// The value of a binary16 bit pattern, straight from the standard's definition.
static double f16_value(unsigned h)
{
    double sign = h & 0x8000 ? -1 : 1;
    int exponent = h >> 10 & 0x1f;
    double fraction = (h & 0x3ff) / 1024.0;
    if (exponent == 31)
        return fraction != 0 ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, -14);
    return sign * ldexp(1 + fraction, exponent - 15);
}

Test(half, every_f16_widens_exactly_and_comes_back)
{
    for (unsigned h = 0; h < 0x10000; h++) {
        double value = f16_value(h);
        float widened = nib_f32_from_f16((uint16_t)h);
        if (isnan(value)) {
            cr_assert(isnan(widened));
            unsigned back = nib_f16_from_f32(widened);
            cr_assert_eq(back, h | 0x200, "NaN %x became %x", h, back);
        } else {
            cr_assert(widened == value && !signbit(widened) == !(h & 0x8000), "%x", h);
            cr_assert_eq(nib_f16_from_f32(widened), h);
        }
    }
}

/// Between each pair of neighbours lie a tie and its two fp32 neighbours.
Test(half, f16_rounds_to_nearest_even_everywhere)
{
    for (unsigned h = 0; h < 0x7c00; h++) {
        // 65536 stands for what is past the largest number, whose neighbour is infinity.
        double above = h == 0x7bff ? 65536.0 : f16_value(h + 1);
        float tie = (float)((f16_value(h) + above) / 2); // exact
        unsigned even = h & 1 ? h + 1 : h;
        cr_assert_eq(nib_f16_from_f32(tie), even, "%x", h);
        cr_assert_eq(nib_f16_from_f32(-tie), even | 0x8000, "%x", h);
        cr_assert_eq(nib_f16_from_f32(nextafterf(tie, 0)), h, "%x", h);
        cr_assert_eq(nib_f16_from_f32(nextafterf(tie, INFINITY)), h + 1, "%x", h);
    }
    cr_assert_eq(nib_f16_from_f32(INFINITY), 0x7c00);
    cr_assert_eq(nib_f16_from_f32(-3.4e38f), 0xfc00);
    cr_assert_eq(nib_f16_from_f32(1e-45f), 0);
    cr_assert_eq(nib_f16_from_f32(-1e-45f), 0x8000);
}

Test(half, every_bf16_widens_exactly_and_comes_back)
{
    for (unsigned h = 0; h < 0x10000; h++) {
        float widened = nib_f32_from_bf16((uint16_t)h);
        cr_assert_eq(nib_f32_bits(widened), h << 16);
        unsigned back = nib_bf16_from_f32(widened);
        cr_assert_eq(back, isnan(widened) ? h | 0x40 : h);
    }
}

Test(half, bf16_rounds_to_nearest_even_everywhere)
{
    for (unsigned h = 0; h < 0x7f80; h++) {
        unsigned even = h & 1 ? h + 1 : h;
        for (unsigned sign = 0; sign < 0x10000; sign += 0x8000) {
            uint32_t tie = (h | sign) << 16 | 0x8000u;
            cr_assert_eq(nib_bf16_from_f32(nib_f32_from_bits(tie)), even | sign);
            cr_assert_eq(nib_bf16_from_f32(nib_f32_from_bits(tie - 1)), h | sign);
            cr_assert_eq(nib_bf16_from_f32(nib_f32_from_bits(tie + 1)), (h + 1) | sign);
        }
    }
    // A NaN whose payload lies in the lower bits alone must not become infinity.
    cr_assert(isnan(nib_f32_from_bf16(nib_bf16_from_f32(nib_f32_from_bits(0x7f800001u)))));
    cr_assert(isnan(nib_f32_from_f16(nib_f16_from_f32(nib_f32_from_bits(0xff800001u)))));
}
