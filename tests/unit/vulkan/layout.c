#include <criterion/criterion.h>

#include "runtime/vulkan/matrix.h"

static struct nib_vk_layout make(enum nib_format_id id, uint32_t group, uint64_t rows,
                                 uint64_t cols, uint64_t range)
{
    struct nib_vk_layout layout;
    struct nib_error error;
    struct nib_format format = *nib_format_get(id);
    format.group = group;
    cr_assert_eq(nib_vk_layout_make(&format, rows, cols, range, &layout, &error), NIB_OK, "%s",
                 error.message);
    return layout;
}

Test(vulkan_layout, bits_hardly_grow)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get((enum nib_format_id)id);
        struct nib_vk_layout l = make((enum nib_format_id)id, format->group, 64, 1024, 1u << 30);
        uint64_t bytes = nib_vk_layout_slice_bytes(&l, 0);
        uint64_t packed = nib_format_packed_bytes(format, 64, 1024);
        // The 4- and 6-bit scales of a super-block are bytes here, powers of two 16 bits, zero
        // points 8 or 16, and rows have a unit.
        uint64_t room = format->super || format->scale == NIB_SCALE_E8M0 ? packed / 5 : packed / 32;
        cr_expect_leq(bytes, packed + room + 64 * sizeof(float) + 64, "%s: %llu of %llu bytes", format->name,
                      (unsigned long long)bytes, (unsigned long long)packed);
    }
}

Test(vulkan_layout, slices_are_whole_tiles)
{
    struct nib_vk_layout l = make(NIB_FORMAT_Q8_0, 32, 1000, 64, 64 * 1024);
    uint64_t rows = 0;
    cr_assert_gt(l.n_slices, 1);
    cr_assert_eq(l.slice_rows % NIB_TILE_ROWS, 0);
    for (uint32_t s = 0; s < l.n_slices; s++) {
        cr_assert_leq(nib_vk_layout_slice_bytes(&l, s), 64 * 1024);
        rows += nib_vk_layout_slice_rows(&l, s);
    }
    cr_assert_eq(rows, 1000);
}

Test(vulkan_layout, granules_end_where_odd_groups_end)
{
    struct nib_vk_layout l = make(NIB_FORMAT_INT4, 20, 1, 70, 1u << 20);
    static const uint32_t expected[] = {0, 20, 20, 12, 32, 8, 40, 20, 60, 4, 64, 6};
    uint32_t spans[12];
    cr_assert(l.has_spans);
    cr_assert_eq(l.n_granules, 6);
    nib_vk_layout_spans(&l, spans);
    cr_assert_arr_eq(spans, expected, sizeof expected);
    cr_assert(!make(NIB_FORMAT_INT4, 0, 1, 70, 1u << 20).has_spans);
    cr_assert(!make(NIB_FORMAT_INT4, 64, 1, 70, 1u << 20).has_spans);
}

Test(vulkan_layout, refuses_what_has_no_place)
{
    struct nib_vk_layout l;
    struct nib_error error;
    const struct nib_format *format = nib_format_get(NIB_FORMAT_Q8_0);
    cr_assert_eq(nib_vk_layout_make(format, 1, 1u << 20, 1u << 20, &l, &error),
                 NIB_ERROR_UNSUPPORTED);
    cr_assert_eq(nib_vk_layout_make(format, 0, 32, 1u << 20, &l, &error), NIB_ERROR_UNSUPPORTED);
    cr_assert_eq(nib_vk_layout_make(format, 1u << 20, 1024, 1u << 20, &l, &error),
                 NIB_ERROR_UNSUPPORTED);
}
