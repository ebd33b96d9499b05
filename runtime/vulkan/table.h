/// The Vulkan functions that are called, in tables of their own: one for each instance and one for
/// each device, so that two devices, or a host with its own loader, never share pointers.
#ifndef RUNTIME_VULKAN_TABLE_H
#define RUNTIME_VULKAN_TABLE_H

#include "runtime/vulkan/vk_compat.h"
#include <nibble/base.h>

#define NIB_VK_INSTANCE_FUNCTIONS(X)          \
    X(DestroyInstance)                        \
    X(EnumeratePhysicalDevices)               \
    X(GetPhysicalDeviceProperties2)           \
    X(GetPhysicalDeviceFeatures2)             \
    X(GetPhysicalDeviceMemoryProperties2)     \
    X(GetPhysicalDeviceQueueFamilyProperties) \
    X(EnumerateDeviceExtensionProperties)     \
    X(CreateDevice)                           \
    X(GetDeviceProcAddr)

#define NIB_VK_DEVICE_FUNCTIONS(X) \
    X(DestroyDevice)               \
    X(GetDeviceQueue)              \
    X(QueueSubmit)                 \
    X(AllocateMemory)              \
    X(FreeMemory)                  \
    X(MapMemory)                   \
    X(CreateBuffer)                \
    X(DestroyBuffer)               \
    X(CreateBufferView)            \
    X(DestroyBufferView)           \
    X(GetBufferMemoryRequirements) \
    X(BindBufferMemory)            \
    X(CreateSemaphore)             \
    X(DestroySemaphore)            \
    X(WaitSemaphores)              \
    X(CreateShaderModule)          \
    X(DestroyShaderModule)         \
    X(CreatePipelineCache)         \
    X(GetPipelineCacheData)        \
    X(DestroyPipelineCache)        \
    X(CreateComputePipelines)      \
    X(DestroyPipeline)             \
    X(CreatePipelineLayout)        \
    X(DestroyPipelineLayout)       \
    X(CreateDescriptorSetLayout)   \
    X(DestroyDescriptorSetLayout)  \
    X(CreateDescriptorPool)        \
    X(DestroyDescriptorPool)       \
    X(AllocateDescriptorSets)      \
    X(UpdateDescriptorSets)        \
    X(CreateCommandPool)           \
    X(DestroyCommandPool)          \
    X(AllocateCommandBuffers)      \
    X(BeginCommandBuffer)          \
    X(EndCommandBuffer)            \
    X(CmdBindPipeline)             \
    X(CmdBindDescriptorSets)       \
    X(CmdPushConstants)            \
    X(CmdDispatch)                 \
    X(CmdCopyBuffer)               \
    X(CmdFillBuffer)               \
    X(CmdPipelineBarrier)          \
    X(CreateQueryPool)             \
    X(DestroyQueryPool)            \
    X(GetQueryPoolResults)         \
    X(CmdResetQueryPool)           \
    X(CmdWriteTimestamp)

struct nib_vk_instance_table {
#define X(name) PFN_vk##name name;
    NIB_VK_INSTANCE_FUNCTIONS(X)
#undef X
    /// May be NULL; only for devices with the extension.
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR
        GetPhysicalDeviceCooperativeMatrixPropertiesKHR;
};

struct nib_vk_device_table {
#define X(name) PFN_vk##name name;
    NIB_VK_DEVICE_FUNCTIONS(X)
#undef X
};

/// Fills the table of `instance` from the loader's vkGetInstanceProcAddr. Errors: unsupported (the
/// function that lacks is named).
enum nib_status nib_vk_instance_table_load(PFN_vkGetInstanceProcAddr get, VkInstance instance,
                                           struct nib_vk_instance_table *out_table,
                                           struct nib_error *err);
/// Fills the table of `device`, taking a function of Vulkan 1.2 under its KHR name where the device
/// has it as an extension. Errors: unsupported.
enum nib_status nib_vk_device_table_load(PFN_vkGetDeviceProcAddr get, VkDevice device,
                                         struct nib_vk_device_table *out_table,
                                         struct nib_error *err);

/// Returns NIB_OK for VK_SUCCESS, else fails naming the call: device lost, device memory, memory,
/// or unsupported for everything else.
enum nib_status nib_vk_check(VkResult result, const char *call, struct nib_error *err);

#endif
