#include "runtime/vulkan/variants.h"

#include <string.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/quirks.h"
#include "runtime/vulkan/shaders.h"

#define TEXEL_BYTES 16u
/// With smaller subgroups AMD's matrix units need fewer registers for as many products.
#define TILE_SUBGROUP 32u
#define INTEL_SUBGROUP 16u

#define PLAIN(name, n)                                   \
    {                                                    \
        .shader = (name), .rows = (n), .has_lanes = true \
    }
#define SIZED(name, n)                                                     \
    {                                                                      \
        .shader = (name), .rows = (n), .has_lanes = true, .has_size = true \
    }
#define SINGLE(name, n)                                                     \
    {                                                                       \
        .shader = (name), .rows = (n), .has_lanes = true, .is_single = true \
    }
#define TILE(name, n)                 \
    {                                 \
        .shader = (name), .rows = (n) \
    }
#define COOPERATIVE(name, n)                                                    \
    {                                                                           \
        .shader = (name), .rows = (n), .has_size = true, .is_cooperative = true \
    }

static const struct nib_vk_family_info families[NIB_VK_FAMILY_COUNT] = {
    [NIB_VK_FAMILY_WIDE] = {.name = "wide",
                            .variants = {PLAIN("matmul_2x1", 2), PLAIN("matmul_2x2", 2),
                                         PLAIN("matmul_4x4", 4),
                                         PLAIN("matmul_4x8", 4), [6] = TILE("matmul_tile", 8)}},
    [NIB_VK_FAMILY_DOT] =
        {.name = "dot",
         .variants = {PLAIN("matmul_dot_2x1", 2), PLAIN("matmul_dot_2x2", 2),
                      PLAIN("matmul_dot_4x4", 4),
                      PLAIN("matmul_dot_4x8", 4), [6] = TILE("matmul_dot_tile", 16)}},
    [NIB_VK_FAMILY_TALL] = {.name = "tall",
                            .variants = {PLAIN("matmul_8x1", 8), PLAIN("matmul_8x2", 8)}},
    [NIB_VK_FAMILY_TEXEL] = {.name = "texel",
                             .variants = {PLAIN("matmul_texel_x1", 8), PLAIN("matmul_texel_x2", 8),
                                          PLAIN("matmul_texel_x4", 8),
                                          PLAIN("matmul_texel_x8", 8)}},
    [NIB_VK_FAMILY_SINGLE] = {.name = "single",
                              .variants = {SINGLE("matmul_texel_single", 8),
                                           PLAIN("matmul_texel_x2", 8), PLAIN("matmul_texel_x4", 8),
                                           PLAIN("matmul_texel_x8", 8)}},
    [NIB_VK_FAMILY_SUB] =
        {.name = "sub",
         .variants = {SIZED("matmul_sub_2x1", 2), SIZED("matmul_sub_2x2", 2),
                      SIZED("matmul_sub_4x4", 4),
                      SIZED("matmul_sub_4x8", 4), [6] = TILE("matmul_dot_tile", 16)},
         .single = {.shader = "matmul_sub_single",
                    .rows = 2,
                    .has_lanes = true,
                    .has_size = true,
                    .is_single = true}},
    [NIB_VK_FAMILY_COOP8] = {.name = "coop8", .variants = {[6] = COOPERATIVE("matmul_coop8", 16)}},
    [NIB_VK_FAMILY_COOP16] = {.name = "coop16",
                              .variants = {[6] = COOPERATIVE("matmul_coop16", 8)}},
    [NIB_VK_FAMILY_HALF] = {.name = "half",
                            .variants = {[6] = {.shader = "matmul_half",
                                                .has_size = true,
                                                .is_cooperative = true,
                                                .has_blocks = true}}},
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
    return nib_fail(
        err, NIB_ERROR_UNSUPPORTED,
        "Vulkan variant '%s'; there are wide, dot, tall, texel, single, sub, coop8, coop16 and "
        "half",
        name);
}

uint32_t nib_vk_tile_subgroup(const struct nib_vk_snapshot *snapshot)
{
    const struct nib_vk_subgroups *subgroups = &snapshot->subgroups;
    // Intel's units are as wide as the smallest subgroup.
    uint32_t wanted = snapshot->vendor_id == NIB_VK_VENDOR_INTEL ? subgroups->least : TILE_SUBGROUP;
    return nib_vk_subgroup_choose(subgroups, wanted, snapshot->subgroup_size);
}

uint32_t nib_vk_matmul_subgroup(const struct nib_vk_snapshot *snapshot)
{
    // Intel's compilers fill the registers of larger ones.
    uint32_t usual = snapshot->subgroup_size;
    uint32_t wanted = snapshot->vendor_id == NIB_VK_VENDOR_INTEL ? INTEL_SUBGROUP : usual;
    return nib_vk_subgroup_choose(&snapshot->subgroups, wanted, usual);
}

static const char *missing_for_shuffles(const struct nib_vk_snapshot *s)
{
    uint32_t size = nib_vk_matmul_subgroup(s);
    if (!s->has_integer_dot)
        return "no integer dot products";
    if (!s->has_shuffles)
        return "no shuffles in subgroups";
    // Invocations are told apart by their subgroup: there must be no gaps.
    if (!s->subgroups.has_full)
        return "subgroups may be short of invocations";
    if (size < 8 || size > 64 || (size & (size - 1)))
        return "no subgroups of 8 to 64";
    return nib_vk_quirk_find(s, NIB_VK_FAMILY_SUB);
}

static enum nib_vk_family family_of(enum nib_vk_element element)
{
    return element == NIB_VK_ELEMENT_BYTE ? NIB_VK_FAMILY_COOP8 : NIB_VK_FAMILY_COOP16;
}

struct nib_vk_tile nib_vk_tile_choose(const struct nib_vk_snapshot *snapshot,
                                      enum nib_vk_element element, uint32_t halves)
{
    uint32_t rows = 8 * families[family_of(element)].variants[NIB_VK_MAX_COLUMNS - 1].rows;
    return nib_vk_cooperative_tile(&snapshot->cooperative, element, nib_vk_tile_subgroup(snapshot),
                                   rows, halves);
}

void nib_vk_matmul_blocks_find(const struct nib_vk_snapshot *snapshot,
                               struct nib_vk_matmul_blocks *out_blocks)
{
    const struct nib_vk_workgroup_limits limits = {.invocations = snapshot->max_invocations,
                                                   .shared_memory = snapshot->max_shared_memory,
                                                   .subgroup = nib_vk_tile_subgroup(snapshot)};
    nib_vk_matmul_blocks_make(&snapshot->cooperative, &limits, out_blocks);
}

const struct nib_vk_shader *nib_vk_shader_find(const char *name)
{
    for (uint32_t i = 0; i < nib_vk_shader_count; i++) {
        if (strcmp(nib_vk_shaders[i].name, name) == 0 && *nib_vk_shaders[i].size > 0)
            return &nib_vk_shaders[i];
    }
    return NULL;
}

/// Returns whether this build's compiler could compile the family's kernel for many rows of input.
static bool is_built(enum nib_vk_family family)
{
    return nib_vk_shader_find(families[family].variants[NIB_VK_MAX_COLUMNS - 1].shader) != NULL;
}

/// Returns whether there is a tile, or a block of tiles, for the family.
static bool has_shape(const struct nib_vk_snapshot *s, enum nib_vk_family family,
                      enum nib_vk_element element)
{
    struct nib_vk_matmul_blocks blocks;
    if (family != NIB_VK_FAMILY_HALF)
        return nib_vk_tile_choose(s, element, 1).m > 0;
    nib_vk_matmul_blocks_find(s, &blocks);
    return blocks.n > 0;
}

static const char *missing_for_tiles(const struct nib_vk_snapshot *s, enum nib_vk_family family)
{
    const struct nib_vk_cooperative *cooperative = &s->cooperative;
    enum nib_vk_element element = nib_vk_family_element(family);
    if (!is_built(family))
        return "the shader compiler of this build was too old";
    if (!cooperative->has_matrices || s->api_version < VK_API_VERSION_1_2)
        return "no cooperative matrices";
    if (element == NIB_VK_ELEMENT_BYTE ? !cooperative->has_bytes : !cooperative->has_halves)
        return element == NIB_VK_ELEMENT_BYTE ? "no int8 in shaders" : "no fp16 in shaders";
    if (!has_shape(s, family, element))
        return "no cooperative matrix of a shape that fits";
    return nib_vk_quirk_find(s, family);
}

const char *nib_vk_family_missing(const struct nib_vk_snapshot *snapshot, enum nib_vk_family family)
{
    bool has_texels = snapshot->max_texels >= snapshot->max_storage_range / TEXEL_BYTES;
    switch (family) {
    case NIB_VK_FAMILY_DOT:
        return snapshot->has_integer_dot ? NULL : "no integer dot products";
    case NIB_VK_FAMILY_SINGLE:
    case NIB_VK_FAMILY_TEXEL:
        if (snapshot->subgroup_size != 8)
            return "no subgroups of 8";
        if (!snapshot->has_shuffles)
            return "no shuffles in subgroups";
        return has_texels ? NULL : "small texel buffers";
    case NIB_VK_FAMILY_SUB:
        return missing_for_shuffles(snapshot);
    case NIB_VK_FAMILY_COOP8:
    case NIB_VK_FAMILY_COOP16:
    case NIB_VK_FAMILY_HALF:
        return missing_for_tiles(snapshot, family);
    default:
        return NULL;
    }
}

/// Returns whether the family has kernels for such a matmul.
static bool serves(const struct nib_vk_device_plan *plan, enum nib_vk_family family,
                   const struct nib_vk_matmul_need *need)
{
    bool is_plain = !need->has_book && !need->has_outliers && (need->bits == 4 || need->bits == 8);
    switch (family) {
    case NIB_VK_FAMILY_DOT:
    case NIB_VK_FAMILY_SUB:
        return need->has_codes;
    case NIB_VK_FAMILY_TEXEL:
        return is_plain && !need->adds_words;
    case NIB_VK_FAMILY_SINGLE:
        return is_plain && !need->adds_words && need->has_codes && need->may_be_single;
    case NIB_VK_FAMILY_HALF:
        return need->has_groups && need->bits <= 8 && plan->blocks.n > 0;
    // Other modes' numbers would lose digits in fp16.
    case NIB_VK_FAMILY_COOP8:
        return need->has_codes && !need->has_outliers &&
               plan->tiles[NIB_VK_ELEMENT_BYTE][need->has_halves].m > 0;
    case NIB_VK_FAMILY_COOP16:
        return need->has_codes && !need->has_outliers &&
               plan->tiles[NIB_VK_ELEMENT_HALF][need->has_halves].m > 0;
    default:
        return true;
    }
}

const char *nib_vk_kernel_name(uint32_t bit)
{
    static const char *const names[NIB_VK_KERNEL_COUNT] = {
        [NIB_VK_FAMILY_WIDE] = "matmul wide",        [NIB_VK_FAMILY_DOT] = "matmul dot",
        [NIB_VK_FAMILY_TALL] = "matmul tall",        [NIB_VK_FAMILY_TEXEL] = "matmul texel",
        [NIB_VK_FAMILY_SINGLE] = "matmul single",    [NIB_VK_FAMILY_SUB] = "matmul sub",
        [NIB_VK_FAMILY_COOP8] = "matmul coop8",      [NIB_VK_FAMILY_COOP16] = "matmul coop16",
        [NIB_VK_FAMILY_HALF] = "matmul half",        [NIB_VK_FAMILY_COUNT] = "attention texel",
        [NIB_VK_FAMILY_COUNT + 1] = "draw",          [NIB_VK_FAMILY_COUNT + 2] = "attention coop",
        [NIB_VK_FAMILY_COUNT + 3] = "attention own",
    };
    return names[bit];
}

enum nib_vk_family nib_vk_family_choose(const struct nib_vk_device_plan *plan,
                                        const struct nib_vk_choices *choices,
                                        const struct nib_vk_matmul_need *need)
{
    uint32_t distrusted = choices->distrusted;
    if (choices->is_forced && serves(plan, choices->forced_family, need) &&
        !(distrusted & 1u << choices->forced_family))
        return choices->forced_family;
    for (uint32_t i = 0; i < plan->n_families; i++) {
        if (serves(plan, plan->families[i], need) && !(distrusted & 1u << plan->families[i]))
            return plan->families[i];
    }
    return nib_vk_family_few(plan, choices, false);
}

enum nib_vk_family nib_vk_family_few(const struct nib_vk_device_plan *plan,
                                     const struct nib_vk_choices *choices, bool has_codes)
{
    uint32_t distrusted = choices->distrusted;
    for (uint32_t i = 0; i < plan->n_families; i++) {
        enum nib_vk_family family = plan->families[i];
        bool is_dot = family == NIB_VK_FAMILY_SUB || family == NIB_VK_FAMILY_DOT;
        if (is_dot && has_codes && !(distrusted & 1u << family))
            return family;
    }
    return distrusted & 1u << NIB_VK_FAMILY_WIDE && !(distrusted & 1u << NIB_VK_FAMILY_TALL)
               ? NIB_VK_FAMILY_TALL
               : NIB_VK_FAMILY_WIDE;
}
