#include "runtime/vulkan/table.h"

#include <stdio.h>

#include "runtime/base/status.h"

enum nib_status nib_vk_instance_table_load(PFN_vkGetInstanceProcAddr get, VkInstance instance,
                                           struct nib_vk_instance_table *out_table,
                                           struct nib_error *err)
{
    const char *missing = NULL;
#define X(name)                                                                \
    out_table->name = (PFN_vk##name)(void (*)(void))get(instance, "vk" #name); \
    if (!out_table->name)                                                      \
        missing = "vk" #name;
    NIB_VK_INSTANCE_FUNCTIONS(X)
#undef X
    out_table->GetPhysicalDeviceCooperativeMatrixPropertiesKHR =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(void (*)(void))get(
            instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    if (missing)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "the Vulkan loader has no %s", missing);
    return NIB_OK;
}

static PFN_vkVoidFunction find(PFN_vkGetDeviceProcAddr get, VkDevice device, const char *name)
{
    PFN_vkVoidFunction function = get(device, name);
    if (function)
        return function;
    char extended[64];
    snprintf(extended, sizeof extended, "%sKHR", name);
    return get(device, extended);
}

enum nib_status nib_vk_device_table_load(PFN_vkGetDeviceProcAddr get, VkDevice device,
                                         struct nib_vk_device_table *out_table,
                                         struct nib_error *err)
{
    const char *missing = NULL;
#define X(name)                                                    \
    out_table->name = (PFN_vk##name)find(get, device, "vk" #name); \
    if (!out_table->name)                                          \
        missing = "vk" #name;
    NIB_VK_DEVICE_FUNCTIONS(X)
#undef X
    if (missing)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "the Vulkan driver has no %s", missing);
    return NIB_OK;
}

enum nib_status nib_vk_check(VkResult result, const char *call, struct nib_error *err)
{
    switch (result) {
    case VK_SUCCESS:
        return NIB_OK;
    case VK_ERROR_DEVICE_LOST:
        return nib_fail(err, NIB_ERROR_DEVICE_LOST,
                        "%s: the Vulkan device was lost; --device cpu does without it", call);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY,
                        "%s: out of device memory; try fewer --gpu-layers or a shorter --ctx",
                        call);
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return nib_fail_memory(err);
    default:
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s failed with VkResult %d", call,
                        (int)result);
    }
}
