/// The features that are used, by their places in a host's chain. A header of its own, since builds
/// without the backend have the public functions too.
#ifndef RUNTIME_VULKAN_FEATURES_H
#define RUNTIME_VULKAN_FEATURES_H

#include "runtime/vulkan/vk_compat.h"

/// NULL where the chain has no struct for a feature.
struct nib_vk_features {
    VkBool32 *timeline_semaphore;
    VkBool32 *integer_dot;
    VkBool32 *cooperative_matrix;
    VkBool32 *memory_model;
    VkBool32 *float16;
    VkBool32 *int8;
    VkBool32 *size_control;
    VkBool32 *full_subgroups;
};

/// Takes the features of one struct of a chain.
static inline void nib_vk_features_take(VkBaseOutStructure *link, struct nib_vk_features *out)
{
    void *features = link;
    switch ((int)link->sType) {
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES:
        out->timeline_semaphore =
            &((VkPhysicalDeviceTimelineSemaphoreFeatures *)features)->timelineSemaphore;
        break;
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES:
        out->integer_dot =
            &((VkPhysicalDeviceShaderIntegerDotProductFeatures *)features)->shaderIntegerDotProduct;
        break;
    case (int)VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR:
        out->cooperative_matrix =
            &((VkPhysicalDeviceCooperativeMatrixFeaturesKHR *)features)->cooperativeMatrix;
        break;
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES:
        out->memory_model =
            &((VkPhysicalDeviceVulkanMemoryModelFeatures *)features)->vulkanMemoryModel;
        break;
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES:
        out->float16 = &((VkPhysicalDeviceShaderFloat16Int8Features *)features)->shaderFloat16;
        out->int8 = &((VkPhysicalDeviceShaderFloat16Int8Features *)features)->shaderInt8;
        break;
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES: {
        VkPhysicalDeviceSubgroupSizeControlFeatures *f = features;
        out->size_control = &f->subgroupSizeControl;
        out->full_subgroups = &f->computeFullSubgroups;
        break;
    }
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES: {
        VkPhysicalDeviceVulkan12Features *f = features;
        out->timeline_semaphore = &f->timelineSemaphore;
        out->memory_model = &f->vulkanMemoryModel;
        out->float16 = &f->shaderFloat16;
        out->int8 = &f->shaderInt8;
        break;
    }
    case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES: {
        VkPhysicalDeviceVulkan13Features *f = features;
        out->integer_dot = &f->shaderIntegerDotProduct;
        out->size_control = &f->subgroupSizeControl;
        out->full_subgroups = &f->computeFullSubgroups;
        break;
    }
    default:
        break;
    }
}

/// Finds them in a chain, which may be NULL.
static inline struct nib_vk_features nib_vk_features_find(VkPhysicalDeviceFeatures2 *chain)
{
    struct nib_vk_features found = {0};
    for (VkBaseOutStructure *link = (VkBaseOutStructure *)chain; link; link = link->pNext)
        nib_vk_features_take(link, &found);
    return found;
}

#endif
