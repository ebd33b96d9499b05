#include "runtime/vulkan/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/status.h"

/// Notes the extensions that matter.
static enum nib_status take_extensions(const struct nib_vk_instance_table *table,
                                       VkPhysicalDevice physical, struct nib_vk_snapshot *snapshot,
                                       struct nib_error *err)
{
    uint32_t count = 0;
    if (table->EnumerateDeviceExtensionProperties(physical, NULL, &count, NULL) != VK_SUCCESS)
        return NIB_OK; // a driver that cannot say has none
    VkExtensionProperties *extensions = calloc(count + 1, sizeof *extensions);
    if (!extensions)
        return nib_fail_memory(err);
    VkResult result = table->EnumerateDeviceExtensionProperties(physical, NULL, &count, extensions);
    for (uint32_t i = 0; result >= 0 && i < count; i++) {
        const char *name = extensions[i].extensionName;
        if (strcmp(name, VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME) == 0)
            snapshot->has_timeline_extension = true;
        else if (strcmp(name, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME) == 0)
            snapshot->has_memory_budget = true;
        else if (strcmp(name, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME) == 0)
            snapshot->has_integer_dot_extension = true;
        else if (strcmp(name, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME) == 0)
            snapshot->cooperative.has_extension = true;
        else if (strcmp(name, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME) == 0)
            snapshot->subgroups.has_size_extension = true;
    }
    free(extensions);
    return NIB_OK;
}

static void take_limits(const VkPhysicalDeviceProperties *properties,
                        struct nib_vk_snapshot *snapshot)
{
    const VkPhysicalDeviceLimits *limits = &properties->limits;
    snapshot->api_version = properties->apiVersion;
    snapshot->vendor_id = properties->vendorID;
    snapshot->device_id = properties->deviceID;
    snapshot->driver_version = properties->driverVersion;
    memcpy(snapshot->cache_uuid, properties->pipelineCacheUUID, sizeof snapshot->cache_uuid);
    snapshot->type = properties->deviceType;
    snapshot->is_software = properties->deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
    snapshot->max_storage_range = limits->maxStorageBufferRange;
    snapshot->max_storage_buffers = nib_min_u32(limits->maxPerStageDescriptorStorageBuffers,
                                                limits->maxDescriptorSetStorageBuffers);
    snapshot->timestamp_ns = limits->timestampPeriod;
    snapshot->max_texels = limits->maxTexelBufferElements;
    snapshot->max_push_constants = limits->maxPushConstantsSize;
    snapshot->max_invocations =
        nib_min_u32(limits->maxComputeWorkGroupInvocations, limits->maxComputeWorkGroupSize[0]);
    snapshot->max_shared_memory = limits->maxComputeSharedMemorySize;
    snapshot->max_workgroups =
        nib_min_u32(limits->maxComputeWorkGroupCount[0], limits->maxComputeWorkGroupCount[1]);
    snapshot->storage_alignment = limits->minStorageBufferOffsetAlignment;
    snprintf(snapshot->name, sizeof snapshot->name, "%s", properties->deviceName);
}

void nib_vk_snapshot_refresh(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                             struct nib_vk_snapshot *snapshot)
{
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 memory = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
        .pNext = snapshot->has_memory_budget ? &budget : NULL};
    table->GetPhysicalDeviceMemoryProperties2(physical, &memory);
    snapshot->memory = memory.memoryProperties;
    for (uint32_t i = 0; i < snapshot->memory.memoryHeapCount; i++) {
        uint64_t used = budget.heapUsage[i], all = budget.heapBudget[i];
        snapshot->budget[i] = all > used ? all - used : 0;
    }
}

/// Asks for limits and properties. Structs of extensions that a device lacks stay as they are.
static void take_properties(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                            struct nib_vk_snapshot *s)
{
    VkPhysicalDeviceDriverProperties driver = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
    VkPhysicalDeviceShaderIntegerDotProductProperties dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES,
        .pNext = &driver};
    VkPhysicalDeviceSubgroupProperties subgroup = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES,
        .pNext = s->has_integer_dot_extension ? (void *)&dot : (void *)&driver};
    VkPhysicalDeviceSubgroupSizeControlProperties sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES,
        .pNext = &subgroup};
    VkPhysicalDeviceMaintenance3Properties maintenance = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES,
        .pNext = s->subgroups.has_size_extension ? (void *)&sizes : (void *)&subgroup};
    VkPhysicalDeviceProperties2 properties = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &maintenance};
    table->GetPhysicalDeviceProperties2(physical, &properties);
    take_limits(&properties.properties, s);
    s->max_allocation = maintenance.maxMemoryAllocationSize;
    s->subgroup_size = subgroup.subgroupSize;
    bool is_in_compute = subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT;
    s->has_shuffles =
        is_in_compute && (subgroup.supportedOperations & VK_SUBGROUP_FEATURE_SHUFFLE_BIT);
    s->subgroups.least = sizes.minSubgroupSize;
    s->subgroups.greatest = sizes.maxSubgroupSize;
    s->subgroups.has_size_control = sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT;
    s->has_fast_integer_dot = dot.integerDotProduct4x8BitPackedSignedAccelerated;
    s->has_fast_mixed_dot = dot.integerDotProduct4x8BitPackedMixedSignednessAccelerated;
    s->driver_id = driver.driverID;
    snprintf(s->driver, sizeof s->driver, "%.120s %.120s", driver.driverName, driver.driverInfo);
}

/// Asks for features, and takes away properties of those that are missing.
static void take_features(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                          struct nib_vk_snapshot *s)
{
    VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES};
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES,
        .pNext = &timeline};
    void *chain = s->has_integer_dot_extension ? (void *)&dot : (void *)&timeline;
    VkPhysicalDeviceSubgroupSizeControlFeatures sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES, .pNext = chain};
    chain = s->subgroups.has_size_extension ? &sizes : chain;
    struct nib_vk_cooperative_features cooperative;
    VkPhysicalDeviceFeatures2 features = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
        .pNext = nib_vk_cooperative_chain(&cooperative, &s->cooperative, chain)};
    table->GetPhysicalDeviceFeatures2(physical, &features);
    s->has_timeline_semaphore = timeline.timelineSemaphore;
    s->has_integer_dot = dot.shaderIntegerDotProduct;
    s->has_fast_integer_dot = s->has_fast_integer_dot && s->has_integer_dot;
    s->has_fast_mixed_dot = s->has_fast_mixed_dot && s->has_integer_dot;
    s->subgroups.has_size_control = s->subgroups.has_size_control && sizes.subgroupSizeControl;
    s->subgroups.has_full = sizes.computeFullSubgroups;
    nib_vk_cooperative_take(table, physical, &cooperative, &s->cooperative);
}

enum nib_status nib_vk_snapshot_take(const struct nib_vk_instance_table *table,
                                     VkPhysicalDevice physical,
                                     struct nib_vk_snapshot *out_snapshot, struct nib_error *err)
{
    *out_snapshot = (struct nib_vk_snapshot){0};
    enum nib_status status = take_extensions(table, physical, out_snapshot, err);
    if (status != NIB_OK)
        return status;
    take_properties(table, physical, out_snapshot);
    take_features(table, physical, out_snapshot);
    out_snapshot->n_families = NIB_VK_MAX_FAMILIES;
    table->GetPhysicalDeviceQueueFamilyProperties(physical, &out_snapshot->n_families,
                                                  out_snapshot->families);
    nib_vk_snapshot_refresh(table, physical, out_snapshot);
    return NIB_OK;
}
