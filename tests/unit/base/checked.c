#include "runtime/base/checked.h"
#include "runtime/base/bytes.h"

#include <criterion/criterion.h>

static const uint64_t edges[] = {
    0,
    1,
    2,
    3,
    255,
    UINT32_MAX - 1,
    UINT32_MAX,
    (uint64_t)UINT32_MAX + 1,
    INT64_MAX,
    (uint64_t)INT64_MAX + 1,
    UINT64_MAX / 3,
    UINT64_MAX - 1,
    UINT64_MAX,
};
enum { N_EDGES = sizeof edges / sizeof *edges };

/// The bits of a * b above the lower 64, by school multiplication.
static uint64_t upper_product(uint64_t a, uint64_t b)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = (a0 * b0 >> 32) + (uint32_t)(a1 * b0) + a0 * b1; // at most 2^64 - 1
    return a1 * b1 + (a1 * b0 >> 32) + (middle >> 32);
}

Test(checked, sums_and_products_never_wrap)
{
    for (size_t i = 0; i < N_EDGES; i++) {
        for (size_t k = 0; k < N_EDGES; k++) {
            uint64_t a = edges[i], b = edges[k], result;
            cr_assert_eq(nib_add_u64(a, b, &result), a <= UINT64_MAX - b);
            cr_assert_eq(result, a + b);
            cr_assert_eq(nib_mul_u64(a, b, &result), upper_product(a, b) == 0);
            cr_assert_eq(result, a * b);
            if (b == 0)
                continue;
            cr_assert_eq(nib_ceil_div_u64(a, b), a / b + (a % b ? 1 : 0));
            uint64_t rest = a % b ? b - a % b : 0;
            cr_assert_eq(nib_round_up_u64(a, b, &result), a <= UINT64_MAX - rest);
            cr_assert_eq(result, a + rest);
        }
    }
    size_t result;
    cr_assert(!nib_add_size(SIZE_MAX, 1, &result));
    cr_assert(!nib_mul_size(SIZE_MAX / 2 + 1, 2, &result));
    cr_assert(nib_mul_size(SIZE_MAX / 2, 2, &result) && result == SIZE_MAX - 1);
}

Test(checked, bytes_are_little_endian_at_any_address)
{
    uint8_t bytes[16] = {0};
    for (size_t i = 0; i < 8; i++) {
        nib_store_u64(bytes + i, 0x8877665544332211u);
        cr_assert_eq(bytes[i], 0x11);
        cr_assert_eq(bytes[i + 7], 0x88);
        cr_assert_eq(nib_load_u16(bytes + i), 0x2211);
        cr_assert_eq(nib_load_u32(bytes + i), 0x44332211);
        cr_assert_eq(nib_load_u64(bytes + i), 0x8877665544332211u);
        nib_store_u32(bytes + i, 0xc0490fdb);
        cr_assert_float_eq(nib_load_f32(bytes + i), -3.1415927f, 0);
    }
}
