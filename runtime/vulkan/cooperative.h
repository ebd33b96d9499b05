/// Subgroups and cooperative matrices: what a device says of them, and what is used of it.
#ifndef RUNTIME_VULKAN_COOPERATIVE_H
#define RUNTIME_VULKAN_COOPERATIVE_H

#include "runtime/vulkan/table.h"

/// Elements of the factors. Products of codes are exact in both.
enum nib_vk_element {
    NIB_VK_ELEMENT_BYTE, ///< int8, summed in int32
    NIB_VK_ELEMENT_HALF, ///< fp16, summed in fp32
    NIB_VK_ELEMENT_COUNT
};

/// A tile that a subgroup multiplies at once.
struct nib_vk_tile {
    uint32_t m; ///< rows of the weight; 0: there is no such tile
    uint32_t n; ///< rows of input
    uint32_t k; ///< weights of a row
    enum nib_vk_element element;
};

#define NIB_VK_MAX_TILES 16

/// What a device says of subgroups whose size a kernel can know.
struct nib_vk_subgroups {
    bool has_size_extension; ///< VK_EXT_subgroup_size_control is listed
    bool has_size_control;   ///< a kernel can require a size
    bool has_full;           ///< and that no subgroup is short of invocations
    uint32_t least;          ///< sizes that it can require
    uint32_t greatest;
};

/// What it says of cooperative matrices.
struct nib_vk_cooperative {
    bool has_extension; ///< VK_KHR_cooperative_matrix is listed
    bool has_matrices;  ///< the feature, with that of the memory model that it needs
    bool has_bytes;     ///< shaders may have int8
    bool has_halves;    ///< and fp16
    uint32_t n_tiles;
    struct nib_vk_tile tiles[NIB_VK_MAX_TILES]; ///< those of our elements
};

/// Features of cooperative matrices, as a chain to ask for them or to enable them.
struct nib_vk_cooperative_features {
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices;
    VkPhysicalDeviceVulkanMemoryModelFeatures memory_model;
    VkPhysicalDeviceShaderFloat16Int8Features types;
};
/// Links the structs, where the device knows them, before `next`, and returns the first.
void *nib_vk_cooperative_chain(struct nib_vk_cooperative_features *features,
                               const struct nib_vk_cooperative *cooperative, void *next);
/// Reads what a chain says, and asks the device for its tiles; it has none of what it does not say.
void nib_vk_cooperative_take(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                             const struct nib_vk_cooperative_features *features,
                             struct nib_vk_cooperative *cooperative);
/// Fills a chain with what is enabled of it.
void nib_vk_cooperative_enable(const struct nib_vk_cooperative *cooperative,
                               struct nib_vk_cooperative_features *out_features);

/// Returns the subgroup that kernels are made for: as near to `wanted` as the device lets them
/// require, or else its `usual` one.
uint32_t nib_vk_subgroup_choose(const struct nib_vk_subgroups *subgroups, uint32_t wanted,
                                uint32_t usual);
/// Returns the largest tile for such a subgroup that divides blocks of `rows` rows, and granules
/// cut into `halves`; its m is 0 where there is none.
struct nib_vk_tile nib_vk_cooperative_tile(const struct nib_vk_cooperative *cooperative,
                                           enum nib_vk_element element, uint32_t subgroup,
                                           uint32_t rows, uint32_t halves);

#endif
