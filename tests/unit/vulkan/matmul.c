// Matmuls of every format and activation mode against the scalar code, on shapes that do not fit.
#include <criterion/criterion.h>

#include "rig.h"

/// Sums are in another order; a rounding of an int8 activation may also fall to the other side.
#define TOLERANCE_F32 3e-6
#define TOLERANCE_INT8 2e-5

/// LLM.int8: such codes may differ as well, but their scale divides the largest number by 127.
#define TOLERANCE_LLM 1e-4

static void check(void *device, const struct rig_matmul *p)
{
    double worst = rig_compare(device, p);
    double limit = p->activation == NIB_ACTIVATION_F32        ? TOLERANCE_F32
                   : p->activation == NIB_ACTIVATION_LLM_INT8 ? TOLERANCE_LLM
                                                              : TOLERANCE_INT8;
    cr_expect(worst <= limit, "%s group %u, %s, %u x %u, %u inputs%s: off by %g", p->format.name,
              p->format.group, nib_activation_name(p->activation), p->rows, p->cols, p->n_inputs,
              p->has_permutation ? ", permuted" : "", worst);
}

/// Each format on one shape, in one mode; where few are wanted, each one in one of the modes.
static void check_formats(enum nib_activation activation)
{
    void *device = rig_open("baseline");
    for (uint32_t id = 0; id < NIB_FORMAT_COUNT; id++) {
        if (rig_leaves_out(id + (uint32_t)activation, 5))
            continue;
        struct rig_matmul p = {.format = *nib_format_get((enum nib_format_id)id),
                               .activation = activation,
                               .rows = 37,
                               .n_inputs = 3,
                               .has_bias = true};
        p.cols = p.format.super ? 512 : 96;
        check(device, &p);
    }
    rig_close(device);
}

Test(vulkan_matmul, every_format_with_f32)
{
    check_formats(NIB_ACTIVATION_F32);
}

Test(vulkan_matmul, every_format_with_int8_groups)
{
    check_formats(NIB_ACTIVATION_INT8_GROUP);
}

Test(vulkan_matmul, every_format_with_int8_tokens)
{
    check_formats(NIB_ACTIVATION_INT8_TOKEN);
}

Test(vulkan_matmul, every_format_with_static_int8)
{
    check_formats(NIB_ACTIVATION_INT8_STATIC);
}

Test(vulkan_matmul, every_format_with_llm_int8)
{
    check_formats(NIB_ACTIVATION_LLM_INT8);
}

Test(vulkan_matmul, outliers_stay_with_their_sequence)
{
    static const uint32_t inputs[] = {1, 2, 5, 33};
    void *device = rig_open(NULL);
    for (uint32_t i = 0; i < 8; i++) {
        struct rig_matmul p = {.format = *nib_format_get(NIB_FORMAT_INT8),
                               .activation = NIB_ACTIVATION_LLM_INT8,
                               .rows = 40,
                               .cols = 130,
                               .n_inputs = inputs[i % 4],
                               .n_sequences = (inputs[i % 4] + 1) / 2,
                               .is_apart = i < 4,
                               .has_permutation = i % 2 == 1};
        check(device, &p);
    }
    rig_close(device);
}

Test(vulkan_matmul, odd_groups)
{
    static const uint32_t groups[] = {0, 1, 7, 16, 20, 24, 32, 48, 64, 100, 128};
    static const uint32_t cols[] = {1, 16, 31, 33, 40, 100, 130, 257};
    static const enum nib_format_id ids[] = {NIB_FORMAT_INT4_ZERO, NIB_FORMAT_INT8, NIB_FORMAT_NF4};
    void *device = rig_open(NULL);
    for (uint32_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        for (uint32_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
            if (rig_leaves_out(5 * g + c, 11))
                continue;
            struct rig_matmul p = {.format = *nib_format_get(ids[(g + c) % 3]),
                                   .activation = (g + c / 2) % 2 ? NIB_ACTIVATION_INT8_GROUP
                                                                 : NIB_ACTIVATION_F32,
                                   .rows = cols[c] < 19 ? cols[c] : 19,
                                   .cols = cols[c],
                                   .n_inputs = 1 + c % 3,
                                   .has_permutation = c % 2 == 1};
            p.format.group = groups[g];
            check(device, &p);
        }
    }
    rig_close(device);
}

static void check_inputs(const char *mask)
{
    static const uint32_t inputs[] = {1, 2, 3, 4, 5, 8, 9, 16, 33, 512};
    void *device = rig_open(mask);
    for (uint32_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        struct rig_matmul p = {.format = *nib_format_get(NIB_FORMAT_Q4_1),
                               .activation = NIB_ACTIVATION_INT8_GROUP,
                               .rows = 40,
                               .cols = 64,
                               .n_inputs = inputs[i]};
        check(device, &p);
        if (rig_leaves_out(i, 4))
            continue;
        p.format = *nib_format_get(NIB_FORMAT_Q6_K);
        p.activation = NIB_ACTIVATION_F32;
        p.cols = 512;
        check(device, &p);
    }
    rig_close(device);
}

Test(vulkan_matmul, every_number_of_inputs)
{
    check_inputs(NULL);
}

Test(vulkan_matmul, every_number_of_inputs_on_the_least_device)
{
    check_inputs("baseline");
}

/// A variant on formats of every kind, for all numbers of rows that it has kernels for.
static void check_variant(const char *variant)
{
    static const enum nib_format_id ids[] = {NIB_FORMAT_Q4_1,      NIB_FORMAT_Q8_0, NIB_FORMAT_Q4_K,
                                             NIB_FORMAT_INT4_ZERO, NIB_FORMAT_INT8, NIB_FORMAT_Q6_K,
                                             NIB_FORMAT_IQ4_NL};
    static const uint32_t inputs[] = {64, 2, 4, 100, 8};
    void *device = rig_open_variant(variant);
    for (uint32_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        if (rig_leaves_out(i, 3))
            continue;
        struct rig_matmul p = {.format = *nib_format_get(ids[i]),
                               .activation =
                                   i == 3 ? NIB_ACTIVATION_F32 : NIB_ACTIVATION_INT8_GROUP,
                               .rows = 133,
                               .n_inputs = inputs[i % 5],
                               .is_apart = true,
                               .has_bias = i % 2 == 1};
        p.cols = p.format.super ? 512 : 160;
        check(device, &p);
        p.n_inputs = 1;
        p.is_apart = false;
        check(device, &p);
    }
    rig_close(device);
}

Test(vulkan_matmul, wide_variant)
{
    check_variant("wide");
}

Test(vulkan_matmul, dot_variant)
{
    check_variant("dot");
}

Test(vulkan_matmul, tall_variant)
{
    check_variant("tall");
}

Test(vulkan_matmul, texel_variant)
{
    check_variant("texel");
}

Test(vulkan_matmul, single_variant)
{
    check_variant("single");
}

Test(vulkan_matmul, sub_variant)
{
    check_variant("sub");
}

Test(vulkan_matmul, coop8_variant)
{
    check_variant("coop8");
}

Test(vulkan_matmul, coop16_variant)
{
    check_variant("coop16");
}

Test(vulkan_matmul, scale_types)
{
    static const enum nib_scale_type types[] = {NIB_SCALE_F32, NIB_SCALE_F16, NIB_SCALE_BF16};
    void *device = rig_open(NULL);
    for (uint32_t i = 0; i < 3; i++) {
        struct rig_matmul p = {.format = *nib_format_get(NIB_FORMAT_INT8_ZERO),
                               .activation = NIB_ACTIVATION_INT8_GROUP,
                               .rows = 33,
                               .cols = 128,
                               .n_inputs = 2};
        p.format.scale = types[i];
        check(device, &p);
    }
    rig_close(device);
}
