/// Names of objects and labels of passes, for debuggers and validation layers: VK_EXT_debug_utils.
#ifndef RUNTIME_VULKAN_NAMES_H
#define RUNTIME_VULKAN_NAMES_H

#include <nibble/base.h>
#include <vulkan/vulkan_core.h>

struct nib_vk_device;

/// The extension's functions; all NULL where the instance was made without it.
struct nib_vk_debug {
    PFN_vkSetDebugUtilsObjectNameEXT set_name;
    PFN_vkCmdBeginDebugUtilsLabelEXT begin_label;
    PFN_vkCmdEndDebugUtilsLabelEXT end_label;
};
/// Finds the functions of an instance that was made with the extension.
void nib_vk_debug_load(PFN_vkGetInstanceProcAddr get, VkInstance instance,
                       struct nib_vk_debug *out_debug);

/// Names an object "nibble ...". Names are cut at 120 bytes. Does nothing without the extension.
void nib_vk_name(const struct nib_vk_device *device, VkObjectType type, uint64_t handle,
                 const char *format, ...) NIB_PRINTF(4, 5);
/// Puts commands between these under a label. Does nothing without the extension.
void nib_vk_label_begin(const struct nib_vk_device *device, VkCommandBuffer buffer,
                        const char *format, ...) NIB_PRINTF(3, 4);
void nib_vk_label_end(const struct nib_vk_device *device, VkCommandBuffer buffer);

#endif
