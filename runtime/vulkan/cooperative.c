#include "runtime/vulkan/cooperative.h"

#include <stdlib.h>

#include "shaders/shared/kernels.h"

// As matmul_coop.comp has them.
#define THREADS 128u
#define BLOCK_COLS 64u
/// Outputs of all subgroups that are in shared memory at once.
#define MOST_RESULTS 1024u

void *nib_vk_cooperative_chain(struct nib_vk_cooperative_features *features,
                               const struct nib_vk_cooperative *cooperative, void *next)
{
    *features = (struct nib_vk_cooperative_features){
        .matrices.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR,
        .memory_model.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES,
        .types.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES};
    if (!cooperative->has_extension)
        return next;
    features->types.pNext = next;
    features->memory_model.pNext = &features->types;
    features->matrices.pNext = &features->memory_model;
    return &features->matrices;
}

/// Returns whether products of codes can be taken in such tiles, and in which.
static bool read_tile(const VkCooperativeMatrixPropertiesKHR *p, struct nib_vk_tile *out_tile)
{
    *out_tile = (struct nib_vk_tile){.m = p->MSize, .n = p->NSize, .k = p->KSize};
    if (p->scope != VK_SCOPE_SUBGROUP_KHR || p->saturatingAccumulation || p->AType != p->BType ||
        p->CType != p->ResultType)
        return false;
    out_tile->element =
        p->AType == VK_COMPONENT_TYPE_SINT8_KHR ? NIB_VK_ELEMENT_BYTE : NIB_VK_ELEMENT_HALF;
    return (p->AType == VK_COMPONENT_TYPE_SINT8_KHR && p->CType == VK_COMPONENT_TYPE_SINT32_KHR) ||
           (p->AType == VK_COMPONENT_TYPE_FLOAT16_KHR && p->CType == VK_COMPONENT_TYPE_FLOAT32_KHR);
}

static void take_tiles(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                       struct nib_vk_cooperative *cooperative)
{
    uint32_t n = 0;
    if (table->GetPhysicalDeviceCooperativeMatrixPropertiesKHR(physical, &n, NULL) != VK_SUCCESS)
        return;
    VkCooperativeMatrixPropertiesKHR *properties = calloc(n + 1ull, sizeof *properties);
    for (uint32_t i = 0; properties && i < n; i++)
        properties[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    VkResult result =
        properties
            ? table->GetPhysicalDeviceCooperativeMatrixPropertiesKHR(physical, &n, properties)
            : VK_ERROR_OUT_OF_HOST_MEMORY;
    for (uint32_t i = 0; result >= 0 && i < n; i++) {
        struct nib_vk_tile tile;
        if (read_tile(&properties[i], &tile) && cooperative->n_tiles < NIB_VK_MAX_TILES)
            cooperative->tiles[cooperative->n_tiles++] = tile;
    }
    free(properties);
}

void nib_vk_cooperative_take(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                             const struct nib_vk_cooperative_features *features,
                             struct nib_vk_cooperative *cooperative)
{
    cooperative->has_matrices =
        features->matrices.cooperativeMatrix && features->memory_model.vulkanMemoryModel;
    cooperative->has_bytes = features->types.shaderInt8;
    cooperative->has_halves = features->types.shaderFloat16;
    if (cooperative->has_matrices && table->GetPhysicalDeviceCooperativeMatrixPropertiesKHR)
        take_tiles(table, physical, cooperative);
}

void nib_vk_cooperative_enable(const struct nib_vk_cooperative *cooperative,
                               struct nib_vk_cooperative_features *out_features)
{
    out_features->matrices.cooperativeMatrix = VK_TRUE;
    out_features->memory_model.vulkanMemoryModel = VK_TRUE;
    out_features->types.shaderInt8 = cooperative->has_bytes;
    out_features->types.shaderFloat16 = cooperative->has_halves;
}

uint32_t nib_vk_subgroup_choose(const struct nib_vk_subgroups *subgroups, uint32_t wanted,
                                uint32_t usual)
{
    uint32_t least = subgroups->least, greatest = subgroups->greatest;
    if (!subgroups->has_size_control || least > greatest)
        return usual;
    return greatest < wanted ? greatest : least > wanted ? least : wanted;
}

/// Returns whether the subgroups of a workgroup share its block evenly.
static bool fits(const struct nib_vk_tile *tile, uint32_t subgroup, uint32_t rows, uint32_t halves)
{
    uint32_t n_subgroups = subgroup ? THREADS / subgroup : 0;
    if (n_subgroups == 0 || tile->m == 0 || tile->n == 0 || tile->k == 0 || THREADS % subgroup ||
        rows % tile->m || BLOCK_COLS % tile->n || NIB_GRANULE / halves % tile->k ||
        n_subgroups * tile->m * tile->n > MOST_RESULTS)
        return false;
    uint32_t tiles = rows / tile->m, across = n_subgroups < tiles ? n_subgroups : tiles;
    return n_subgroups % across == 0 && tiles % across == 0 &&
           BLOCK_COLS / tile->n % (n_subgroups / across) == 0;
}

struct nib_vk_tile nib_vk_cooperative_tile(const struct nib_vk_cooperative *cooperative,
                                           enum nib_vk_element element, uint32_t subgroup,
                                           uint32_t rows, uint32_t halves)
{
    struct nib_vk_tile best = {.element = element};
    for (uint32_t i = 0; i < cooperative->n_tiles; i++) {
        const struct nib_vk_tile *tile = &cooperative->tiles[i];
        if (tile->element == element && fits(tile, subgroup, rows, halves) &&
            tile->m * tile->n * tile->k > best.m * best.n * best.k)
            best = *tile;
    }
    return best;
}
