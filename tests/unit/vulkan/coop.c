// Cooperative matrices against the scalar code: every format, shapes that fill no tile, numbers at
// the ends of their ranges. Skipped where the device has none.
#include <criterion/criterion.h>
#include <string.h>

#include "rig.h"
#include "runtime/vulkan/device.h"

/// Products of codes are exact; sums of granules are in another order. Products of halves that are
/// numbers are not.
#define TOLERANCE 2e-5
#define TOLERANCE_OF_NUMBERS 1e-3

static double tolerance_of(const char *variant)
{
    return strcmp(variant, "half") == 0 ? TOLERANCE_OF_NUMBERS : TOLERANCE;
}

static void check(void *device, const struct rig_matmul *p, double tolerance)
{
    double worst = rig_compare(device, p);
    cr_expect(worst <= tolerance, "%s group %u, %s, %u x %u, %u inputs, extreme %d: off by %g",
              p->format.name, p->format.group, nib_activation_name(p->activation), p->rows, p->cols,
              p->n_inputs, (int)p->extreme, worst);
}

/// Each format, the modes and numbers of rows in turn.
static void check_formats(const char *variant)
{
    static const enum nib_activation activations[] = {
        NIB_ACTIVATION_INT8_GROUP, NIB_ACTIVATION_INT8_TOKEN, NIB_ACTIVATION_INT8_STATIC};
    static const uint32_t rows[] = {1, 15, 127, 129, 300};
    static const uint32_t inputs[] = {64, 65, 128, 200};
    void *device = rig_open_variant(variant);
    bool has_all_modes = strcmp(variant, "half") != 0;
    for (uint32_t i = 0; i < (uint32_t)NIB_FORMAT_COUNT; i++) {
        if (rig_leaves_out(i, 5))
            continue;
        struct rig_matmul p = {.format = *nib_format_get((enum nib_format_id)i),
                               .activation = activations[has_all_modes ? i % 3 : 0],
                               .rows = rows[i % 5],
                               .n_inputs = inputs[i % 4],
                               .is_apart = i % 2 == 0,
                               .has_bias = i % 3 == 1};
        p.cols = p.format.super ? 512 : 352;
        check(device, &p, tolerance_of(variant));
    }
    rig_close(device);
}

/// Groups of every kind, the last one short, with columns out of order.
static void check_groups(const char *variant)
{
    static const uint32_t groups[] = {0, 16, 20, 32, 64, 100, 128};
    static const uint32_t cols[] = {33, 130, 257, 321};
    static const enum nib_format_id ids[] = {NIB_FORMAT_INT4_ZERO, NIB_FORMAT_INT8_ZERO,
                                             NIB_FORMAT_INT8, NIB_FORMAT_INT4};
    static const enum nib_scale_type types[] = {NIB_SCALE_F32, NIB_SCALE_F16, NIB_SCALE_BF16};
    void *device = rig_open_variant(variant);
    for (uint32_t i = 0; i < 2 * sizeof groups / sizeof groups[0]; i++) {
        if (rig_leaves_out(i, 5))
            continue;
        struct rig_matmul p = {.format = *nib_format_get(ids[i % 4]),
                               .activation = NIB_ACTIVATION_INT8_GROUP,
                               .rows = cols[i % 4] < 131 ? cols[i % 4] : 131,
                               .cols = cols[i % 4],
                               .n_inputs = 70,
                               .has_permutation = i % 3 == 0};
        p.format.group = groups[i / 2];
        p.format.scale = types[i % 3];
        check(device, &p, tolerance_of(variant));
    }
    rig_close(device);
}

static void check_extremes(const char *variant)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_0,      NIB_FORMAT_Q4_1,
                                             NIB_FORMAT_INT4_ZERO, NIB_FORMAT_Q8_0,
                                             NIB_FORMAT_INT8_ZERO, NIB_FORMAT_Q6_K};
    void *device = rig_open_variant(variant);
    for (uint32_t i = 0; i < RIG_EXTREMES * sizeof ids / sizeof ids[0]; i++) {
        if (rig_leaves_out(i, 7))
            continue;
        struct rig_matmul p = {.format = *nib_format_get(ids[i / RIG_EXTREMES]),
                               .activation = NIB_ACTIVATION_INT8_GROUP,
                               .rows = 77,
                               .cols = 768,
                               .n_inputs = 66,
                               .is_apart = true,
                               .extreme = (enum rig_extreme)(i % RIG_EXTREMES)};
        if (p.format.group == 0)
            p.format.group = 64;
        check(device, &p, tolerance_of(variant));
    }
    rig_close(device);
}

Test(vulkan_coop, bytes_of_every_format)
{
    check_formats("coop8");
}

Test(vulkan_coop, bytes_of_every_group)
{
    check_groups("coop8");
}

Test(vulkan_coop, bytes_at_the_ends_of_their_ranges)
{
    check_extremes("coop8");
}

Test(vulkan_coop, halves_of_every_format)
{
    check_formats("coop16");
}

Test(vulkan_coop, halves_of_every_group)
{
    check_groups("coop16");
}

Test(vulkan_coop, halves_at_the_ends_of_their_ranges)
{
    check_extremes("coop16");
}

Test(vulkan_coop, numbers_of_every_format)
{
    check_formats("half");
}

Test(vulkan_coop, numbers_of_every_group)
{
    check_groups("half");
}

Test(vulkan_coop, numbers_at_the_ends_of_their_ranges)
{
    check_extremes("half");
}

/// Blocks that shapes as small as these would not choose.
Test(vulkan_coop, numbers_in_every_block)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_0, NIB_FORMAT_Q8_0, NIB_FORMAT_Q4_K,
                                             NIB_FORMAT_Q6_K};
    struct nib_vk_device *device = rig_open_variant("half");
    const struct nib_vk_matmul_blocks all = device->plan.blocks;
    for (uint32_t i = 0; i < 4 * all.n; i++) {
        device->plan.blocks = (struct nib_vk_matmul_blocks){.n = 1, .each = {all.each[i / 4]}};
        struct rig_matmul p = {.format = *nib_format_get(ids[i % 4]),
                               .activation = NIB_ACTIVATION_INT8_GROUP,
                               .rows = i % 2 ? 300 : 256,
                               .cols = 768,
                               .n_inputs = 130,
                               .is_apart = i / 2 % 2 == 0,
                               .has_bias = i % 3 == 1};
        check(device, &p, TOLERANCE_OF_NUMBERS);
    }
    rig_close(device);
}

/// The peak of products of tiles is measured where they are chosen, and is not below that of fp32.
static void check_measure(const char *variant)
{
    void *device = rig_open_variant(variant);
    struct nib_device_limits limits;
    struct nib_error error;
    cr_assert_eq(nib_vulkan_backend.measure(device, &limits, &error), NIB_OK, "%s", error.message);
    cr_expect(limits.read_bytes > 1e6);
    cr_expect(limits.f32_macs > 1e6 && limits.int8_macs >= limits.f32_macs);
    rig_close(device);
}

Test(vulkan_coop, measures_bytes)
{
    check_measure("coop8");
}

Test(vulkan_coop, measures_halves)
{
    check_measure("coop16");
}
