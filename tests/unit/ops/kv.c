#include <criterion/criterion.h>

#include "runtime/ops/kv.h"

Test(ops_kv, page_sizes)
{
    cr_assert_eq(nib_kv_page_size(NIB_KV_F32, 3, 64), 32u * 3 * 64 * 4);
    cr_assert_eq(nib_kv_page_size(NIB_KV_F16, 3, 64), 32u * 3 * 64 * 2);
    cr_assert_eq(nib_kv_page_size(NIB_KV_DEFAULT, 1, 80), 32u * 80 * 2);
    cr_assert_eq(nib_kv_page_size(NIB_KV_I8, 3, 64), 0);
    cr_assert_eq(nib_kv_page_size(NIB_KV_I4, 3, 64), 0);
}

Test(ops_kv, a_size_that_overflows_is_none)
{
    cr_assert_eq(nib_kv_page_size(NIB_KV_F16, UINT32_MAX, UINT32_MAX), 0);
    cr_assert_eq(nib_kv_page_size(NIB_KV_F32, 1u << 25, 1), 0);
    cr_assert_eq(nib_kv_page_size(NIB_KV_F32, 1u << 24, 1), 1u << 31);
}
