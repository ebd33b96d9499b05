#include "runtime/vulkan/names.h"

#include <stdarg.h>
#include <stdio.h>

#include "runtime/vulkan/device.h"

#define NAME_SIZE 128

void nib_vk_debug_load(PFN_vkGetInstanceProcAddr get, VkInstance instance,
                       struct nib_vk_debug *out_debug)
{
    struct nib_vk_debug d = {
        .set_name = (PFN_vkSetDebugUtilsObjectNameEXT)(void (*)(void))get(
            instance, "vkSetDebugUtilsObjectNameEXT"),
        .begin_label = (PFN_vkCmdBeginDebugUtilsLabelEXT)(void (*)(void))get(
            instance, "vkCmdBeginDebugUtilsLabelEXT"),
        .end_label = (PFN_vkCmdEndDebugUtilsLabelEXT)(void (*)(void))get(
            instance, "vkCmdEndDebugUtilsLabelEXT"),
    };
    bool is_complete = d.set_name && d.begin_label && d.end_label;
    *out_debug = is_complete ? d : (struct nib_vk_debug){0};
}

void nib_vk_name(const struct nib_vk_device *device, VkObjectType type, uint64_t handle,
                 const char *format, ...)
{
    char name[NAME_SIZE];
    if (!device->debug.set_name || handle == 0)
        return;
    va_list args;
    va_start(args, format);
    int used = snprintf(name, sizeof name, "nibble ");
    vsnprintf(name + used, sizeof name - (size_t)used, format, args);
    va_end(args);
    VkDebugUtilsObjectNameInfoEXT info = {.sType =
                                              VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT,
                                          .objectType = type,
                                          .objectHandle = handle,
                                          .pObjectName = name};
    // What fails has no name, which is no reason to stop.
    (void)device->debug.set_name(device->device, &info);
}

void nib_vk_label_begin(const struct nib_vk_device *device, VkCommandBuffer buffer,
                        const char *format, ...)
{
    char text[NAME_SIZE];
    if (!device->debug.begin_label)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    VkDebugUtilsLabelEXT label = {.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_LABEL_EXT,
                                  .pLabelName = text};
    device->debug.begin_label(buffer, &label);
}

void nib_vk_label_end(const struct nib_vk_device *device, VkCommandBuffer buffer)
{
    if (device->debug.end_label)
        device->debug.end_label(buffer);
}
