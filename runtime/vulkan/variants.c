#include "runtime/vulkan/variants.h"

#include <string.h>

#include "runtime/base/status.h"

#define TEXEL_BYTES 16u

static const struct nib_vk_family_info families[NIB_VK_FAMILY_COUNT] = {
    [NIB_VK_FAMILY_WIDE] = {"wide",
                            {{"matmul_2x1", 2},
                             {"matmul_2x2", 2},
                             {"matmul_4x4", 4},
                             {"matmul_4x8", 4},
                             [6] = {"matmul_tile", 8}}},
    [NIB_VK_FAMILY_DOT] = {"dot",
                           {{"matmul_dot_2x1", 2},
                            {"matmul_dot_2x2", 2},
                            {"matmul_dot_4x4", 4},
                            {"matmul_dot_4x8", 4},
                            [6] = {"matmul_dot_tile", 16}}},
    [NIB_VK_FAMILY_TALL] = {"tall", {{"matmul_8x1", 8}, {"matmul_8x2", 8}}},
    [NIB_VK_FAMILY_TEXEL] =
        {"texel", {{"matmul_texel_x1", 8}, {"matmul_texel_x2", 8}, {"matmul_texel_x4", 8}}},
    [NIB_VK_FAMILY_SINGLE] =
        {"single", {{"matmul_texel_single", 8}, {"matmul_texel_x2", 8}, {"matmul_texel_x4", 8}}},
};

const struct nib_vk_family_info *nib_vk_family_get(enum nib_vk_family family)
{
    return &families[family];
}

enum nib_status nib_vk_family_find(const char *name, enum nib_vk_family *out_family,
                                   struct nib_error *err)
{
    for (uint32_t i = 0; i < NIB_VK_FAMILY_COUNT; i++) {
        if (strcmp(families[i].name, name) == 0) {
            *out_family = (enum nib_vk_family)i;
            return NIB_OK;
        }
    }
    return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                    "Vulkan variant '%s'; there are wide, dot, tall, texel and single", name);
}

const char *nib_vk_family_missing(const struct nib_vk_snapshot *snapshot, enum nib_vk_family family)
{
    bool has_texels = snapshot->max_texels >= snapshot->max_storage_range / TEXEL_BYTES;
    switch (family) {
    case NIB_VK_FAMILY_DOT:
        return snapshot->has_integer_dot ? NULL : "no integer dot products";
    case NIB_VK_FAMILY_SINGLE:
        if (snapshot->subgroup_size != 8)
            return "no subgroups of 8";
        if (!snapshot->has_subgroups)
            return "no reductions in subgroups";
        return has_texels ? NULL : "small texel buffers";
    case NIB_VK_FAMILY_TEXEL:
        return has_texels ? NULL : "small texel buffers";
    default:
        return NULL;
    }
}

/// Returns whether the family has kernels for such a matmul.
static bool serves(enum nib_vk_family family, const struct nib_vk_matmul_need *need)
{
    bool is_plain = !need->has_book && !need->has_outliers && (need->bits == 4 || need->bits == 8);
    switch (family) {
    case NIB_VK_FAMILY_DOT:
        return need->has_codes;
    case NIB_VK_FAMILY_TEXEL:
        return is_plain;
    case NIB_VK_FAMILY_SINGLE:
        return is_plain && need->has_codes && need->may_be_single;
    default:
        return true;
    }
}

const char *nib_vk_kernel_name(uint32_t bit)
{
    static const char *const names[NIB_VK_KERNEL_COUNT] = {
        [NIB_VK_FAMILY_WIDE] = "matmul wide",     [NIB_VK_FAMILY_DOT] = "matmul dot",
        [NIB_VK_FAMILY_TALL] = "matmul tall",     [NIB_VK_FAMILY_TEXEL] = "matmul texel",
        [NIB_VK_FAMILY_SINGLE] = "matmul single", [NIB_VK_FAMILY_COUNT] = "attention texel",
    };
    return names[bit];
}

enum nib_vk_family nib_vk_family_choose(const struct nib_vk_device_plan *plan,
                                        const struct nib_vk_choices *choices,
                                        const struct nib_vk_matmul_need *need)
{
    uint32_t distrusted = choices->distrusted;
    if (choices->is_forced && serves(choices->forced_family, need) &&
        !(distrusted & 1u << choices->forced_family))
        return choices->forced_family;
    for (uint32_t i = 0; i < plan->n_families; i++) {
        if (serves(plan->families[i], need) && !(distrusted & 1u << plan->families[i]))
            return plan->families[i];
    }
    return distrusted & 1u << NIB_VK_FAMILY_WIDE && !(distrusted & 1u << NIB_VK_FAMILY_TALL)
               ? NIB_VK_FAMILY_TALL
               : NIB_VK_FAMILY_WIDE;
}
