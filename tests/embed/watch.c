#include "tests/embed/watch.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OBJECTS 65536

struct watch_counts watch;

static struct host *host;
static pthread_mutex_t objects_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    uint64_t handle; ///< 0: gone
    bool is_named;
} objects[MAX_OBJECTS];
static uint32_t n_objects;
static PFN_vkGetDeviceProcAddr next_get;

/// Returns the function below this layer.
static PFN_vkVoidFunction below(const char *name)
{
    PFN_vkVoidFunction function = next_get(host->device, name);
    return function ? function : host->get(host->instance, name);
}

static void add(uint64_t handle)
{
    pthread_mutex_lock(&objects_lock);
    if (n_objects < MAX_OBJECTS)
        objects[n_objects].handle = handle;
    n_objects++;
    pthread_mutex_unlock(&objects_lock);
    atomic_fetch_add(&watch.made, 1);
}

static void remove_object(uint64_t handle)
{
    if (handle == 0) // nothing, which may be destroyed
        return;
    pthread_mutex_lock(&objects_lock);
    uint32_t i = n_objects;
    while (i > 0 && objects[i - 1].handle != handle)
        i--;
    if (i > 0)
        objects[i - 1].handle = 0;
    pthread_mutex_unlock(&objects_lock);
    atomic_fetch_add(i > 0 ? &watch.destroyed : &watch.foreign, 1);
}

static void name_object(uint64_t handle)
{
    pthread_mutex_lock(&objects_lock);
    for (uint32_t i = 0; i < n_objects && i < MAX_OBJECTS; i++) {
        if (objects[i].handle == handle)
            objects[i].is_named = true;
    }
    pthread_mutex_unlock(&objects_lock);
    atomic_fetch_add(&watch.named, 1);
}

// Objects that are made one at a time.
#define WATCHED(X)                                          \
    X(Buffer, VkBufferCreateInfo)                           \
    X(BufferView, VkBufferViewCreateInfo)                   \
    X(Semaphore, VkSemaphoreCreateInfo)                     \
    X(ShaderModule, VkShaderModuleCreateInfo)               \
    X(PipelineCache, VkPipelineCacheCreateInfo)             \
    X(PipelineLayout, VkPipelineLayoutCreateInfo)           \
    X(DescriptorSetLayout, VkDescriptorSetLayoutCreateInfo) \
    X(DescriptorPool, VkDescriptorPoolCreateInfo)           \
    X(CommandPool, VkCommandPoolCreateInfo)                 \
    X(QueryPool, VkQueryPoolCreateInfo)

#define X(type, info_type)                                                           \
    static VkResult VKAPI_CALL create_##type(VkDevice device, const info_type *info, \
                                             const VkAllocationCallbacks *allocator, \
                                             Vk##type *out)                          \
    {                                                                                \
        PFN_vkCreate##type next = (PFN_vkCreate##type)below("vkCreate" #type);       \
        VkResult result = next(device, info, allocator, out);                        \
        if (result == VK_SUCCESS)                                                    \
            add((uint64_t)*out);                                                     \
        return result;                                                               \
    }                                                                                \
    static void VKAPI_CALL destroy_##type(VkDevice device, Vk##type object,          \
                                          const VkAllocationCallbacks *allocator)    \
    {                                                                                \
        remove_object((uint64_t)object);                                             \
        ((PFN_vkDestroy##type)below("vkDestroy" #type))(device, object, allocator);  \
    }
WATCHED(X)
#undef X

static VkResult VKAPI_CALL allocate_memory(VkDevice device, const VkMemoryAllocateInfo *info,
                                           const VkAllocationCallbacks *allocator,
                                           VkDeviceMemory *out)
{
    PFN_vkAllocateMemory next = (PFN_vkAllocateMemory)below("vkAllocateMemory");
    VkResult result = next(device, info, allocator, out);
    if (result == VK_SUCCESS)
        add((uint64_t)*out);
    return result;
}

static void VKAPI_CALL free_memory(VkDevice device, VkDeviceMemory memory,
                                   const VkAllocationCallbacks *allocator)
{
    remove_object((uint64_t)memory);
    ((PFN_vkFreeMemory)below("vkFreeMemory"))(device, memory, allocator);
}

static VkResult VKAPI_CALL create_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                            const VkComputePipelineCreateInfo *infos,
                                            const VkAllocationCallbacks *allocator, VkPipeline *out)
{
    PFN_vkCreateComputePipelines next =
        (PFN_vkCreateComputePipelines)below("vkCreateComputePipelines");
    VkResult result = next(device, cache, n, infos, allocator, out);
    for (uint32_t i = 0; result == VK_SUCCESS && i < n; i++)
        add((uint64_t)out[i]);
    return result;
}

static void VKAPI_CALL destroy_pipeline(VkDevice device, VkPipeline pipeline,
                                        const VkAllocationCallbacks *allocator)
{
    remove_object((uint64_t)pipeline);
    ((PFN_vkDestroyPipeline)below("vkDestroyPipeline"))(device, pipeline, allocator);
}

static void VKAPI_CALL destroy_device(VkDevice device, const VkAllocationCallbacks *allocator)
{
    (void)device;
    (void)allocator;
    atomic_fetch_add(&watch.foreign, 1);
}

static void VKAPI_CALL destroy_instance(VkInstance instance, const VkAllocationCallbacks *allocator)
{
    (void)instance;
    (void)allocator;
    atomic_fetch_add(&watch.foreign, 1);
}

static VkResult VKAPI_CALL wait_queue(VkQueue queue)
{
    (void)queue;
    atomic_fetch_add(&watch.idle, 1);
    return VK_SUCCESS;
}

static VkResult VKAPI_CALL wait_device(VkDevice device)
{
    (void)device;
    atomic_fetch_add(&watch.idle, 1);
    return VK_SUCCESS;
}

/// Returns how many submissions that signal the same timeline are under way with this one.
static uint64_t count_under_way(const VkSubmitInfo *info)
{
    const VkTimelineSemaphoreSubmitInfo *timeline = info->pNext;
    uint32_t last = info->signalSemaphoreCount - 1;
    uint64_t now = 0;
    PFN_vkGetSemaphoreCounterValue get = (PFN_vkGetSemaphoreCounterValue)next_get(
        host->device, host->api_version < VK_API_VERSION_1_2 ? "vkGetSemaphoreCounterValueKHR"
                                                             : "vkGetSemaphoreCounterValue");
    cr_assert_eq(get(host->device, info->pSignalSemaphores[last], &now), VK_SUCCESS);
    return timeline->pSignalSemaphoreValues[last] - now;
}

static VkResult VKAPI_CALL submit(VkQueue queue, uint32_t n, const VkSubmitInfo *infos,
                                  VkFence fence)
{
    atomic_fetch_add(&watch.submits, 1);
    if (!atomic_load(&host->lock_owner) || queue != host->queue)
        atomic_fetch_add(&watch.unlocked, 1);
    if (n != 1 || count_under_way(infos) > 2)
        atomic_fetch_add(&watch.crowded, 1);
    return ((PFN_vkQueueSubmit)below("vkQueueSubmit"))(queue, n, infos, fence);
}

static VkResult VKAPI_CALL set_name(VkDevice device, const VkDebugUtilsObjectNameInfoEXT *info)
{
    cr_assert(info->pObjectName && strncmp(info->pObjectName, "nibble", 6) == 0);
    name_object(info->objectHandle);
    return ((PFN_vkSetDebugUtilsObjectNameEXT)below("vkSetDebugUtilsObjectNameEXT"))(device, info);
}

static void VKAPI_CALL begin_label(VkCommandBuffer buffer, const VkDebugUtilsLabelEXT *label)
{
    atomic_fetch_add(&watch.labels, 1);
    atomic_fetch_add(&watch.labelled, 1);
    ((PFN_vkCmdBeginDebugUtilsLabelEXT)below("vkCmdBeginDebugUtilsLabelEXT"))(buffer, label);
}

static void VKAPI_CALL end_label(VkCommandBuffer buffer)
{
    atomic_fetch_sub(&watch.labels, 1);
    ((PFN_vkCmdEndDebugUtilsLabelEXT)below("vkCmdEndDebugUtilsLabelEXT"))(buffer);
}

static PFN_vkVoidFunction get_device_function(VkDevice device, const char *name);

#define FUNCTION(name, function)                  \
    {                                             \
        "vk" name, (PFN_vkVoidFunction)(function) \
    }
static const struct {
    const char *name;
    PFN_vkVoidFunction function;
} watched[] = {
#define X(type, info_type) \
    FUNCTION("Create" #type, create_##type), FUNCTION("Destroy" #type, destroy_##type),
    WATCHED(X)
#undef X
        FUNCTION("AllocateMemory", allocate_memory),
    FUNCTION("FreeMemory", free_memory),
    FUNCTION("CreateComputePipelines", create_pipelines),
    FUNCTION("DestroyPipeline", destroy_pipeline),
    FUNCTION("DestroyDevice", destroy_device),
    FUNCTION("DestroyInstance", destroy_instance),
    FUNCTION("QueueWaitIdle", wait_queue),
    FUNCTION("DeviceWaitIdle", wait_device),
    FUNCTION("QueueSubmit", submit),
    FUNCTION("SetDebugUtilsObjectNameEXT", set_name),
    FUNCTION("CmdBeginDebugUtilsLabelEXT", begin_label),
    FUNCTION("CmdEndDebugUtilsLabelEXT", end_label),
    FUNCTION("GetDeviceProcAddr", get_device_function),
};

static PFN_vkVoidFunction find(const char *name)
{
    for (size_t i = 0; i < sizeof watched / sizeof watched[0]; i++) {
        if (strcmp(watched[i].name, name) == 0)
            return watched[i].function;
    }
    return NULL;
}

/// Functions that do not exist below are not made up here.
static PFN_vkVoidFunction VKAPI_CALL get_device_function(VkDevice device, const char *name)
{
    PFN_vkVoidFunction function = next_get(device, name), own = find(name);
    return function && own ? own : function;
}

static PFN_vkVoidFunction VKAPI_CALL get_instance_function(VkInstance instance, const char *name)
{
    PFN_vkVoidFunction function = host->get(instance, name), own = find(name);
    return function && own ? own : function;
}

PFN_vkGetInstanceProcAddr watch_begin(struct host *watched_host)
{
    host = watched_host;
    next_get = host->GetDeviceProcAddr;
    return get_instance_function;
}

bool watch_all_named(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_objects && i < MAX_OBJECTS; i++) {
        if (objects[i].handle && !objects[i].is_named)
            return false;
        n += objects[i].handle != 0;
    }
    return n > 0;
}

void watch_end(void)
{
    cr_assert_gt(watch.submits, 0);
    cr_assert_eq(watch.made, watch.destroyed);
    cr_assert_eq(watch.foreign, 0);
    cr_assert_eq(watch.idle, 0);
    cr_assert_eq(watch.unlocked, 0);
    cr_assert_eq(watch.crowded, 0);
    cr_assert_eq(watch.labels, 0);
}
