#include "tests/support/vulkan_fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/os.h"

typedef void library_function(void);
library_function *__wrap_nib_library_function(const struct nib_library *library, const char *name);
library_function *__real_nib_library_function(const struct nib_library *library, const char *name);

/// Functions that are looked at besides those that can fail.
#define WATCHED(X)                        \
    X(CmdPipelineBarrier)                 \
    X(CmdBeginDebugUtilsLabelEXT)         \
    X(CmdEndDebugUtilsLabelEXT)           \
    X(GetPhysicalDeviceMemoryProperties2) \
    X(DestroyInstance)                    \
    X(DestroyDevice)                      \
    X(FreeMemory)                         \
    X(DestroyBuffer)                      \
    X(DestroyBufferView)                  \
    X(DestroySemaphore)                   \
    X(DestroyShaderModule)                \
    X(DestroyPipelineCache)               \
    X(DestroyPipeline)                    \
    X(DestroyPipelineLayout)              \
    X(DestroyDescriptorSetLayout)         \
    X(DestroyDescriptorPool)              \
    X(DestroyCommandPool)                 \
    X(DestroyQueryPool)

/// The loader's and the driver's own.
static struct {
    PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
    PFN_vkGetDeviceProcAddr GetDeviceProcAddr;
#define X(name) PFN_vk##name name;
    VULKAN_FALLIBLE(X)
    WATCHED(X)
#undef X
} real;

static struct {
    bool is_armed;
    bool has_struck;
    enum vulkan_function function;
    uint32_t left;
    VkResult result;
} fault;

#define MAX_ALLOCATIONS 1024
static struct {
    VkDeviceMemory memory;
    uint64_t size;
} allocations[MAX_ALLOCATIONS];
static int64_t n_objects;
static uint64_t peak;
static uint64_t heap_size;
static const uint32_t *broken_words;
static struct {
    uint32_t dropped;
    uint32_t count;
    bool is_next; ///< the label that comes next is of the pass behind it
    char label[64];
} barriers = {.dropped = UINT32_MAX};

void vulkan_fault_after(enum vulkan_function function, uint32_t n, VkResult result)
{
    fault.is_armed = true;
    fault.has_struck = false;
    fault.function = function;
    fault.left = n;
    fault.result = result;
}

bool vulkan_fault_struck(void)
{
    return fault.has_struck;
}

void vulkan_fault_off(void)
{
    fault.is_armed = false;
    fault.has_struck = false;
}

const char *vulkan_function_name(enum vulkan_function function)
{
    static const char *const names[] = {
#define X(name) "vk" #name,
        VULKAN_FALLIBLE(X)
#undef X
    };
    return names[function];
}

int64_t vulkan_fault_objects(void)
{
    return n_objects;
}

uint64_t vulkan_fault_peak_memory(void)
{
    uint64_t last = peak;
    peak = 0;
    return last;
}

void vulkan_fault_shrink_heaps(uint64_t bytes)
{
    heap_size = bytes;
}

void vulkan_fault_break_shader(const uint32_t *words)
{
    broken_words = words;
}

void vulkan_fault_drop_barrier(uint32_t n)
{
    barriers.dropped = n;
    barriers.count = 0;
    barriers.is_next = false;
    barriers.label[0] = '\0';
}

uint32_t vulkan_fault_barriers(void)
{
    return barriers.count;
}

const char *vulkan_fault_dropped_before(void)
{
    return barriers.label;
}

/// Returns the result that a call has to return, or VK_SUCCESS where it is to be made.
static VkResult strike(enum vulkan_function function)
{
    if (!fault.is_armed || fault.has_struck || fault.function != function || fault.left-- > 0)
        return VK_SUCCESS;
    fault.has_struck = true;
    return fault.result;
}

/// A function of which a call that succeeds makes `n_made` objects.
#define FALLIBLE(name, n_made, parameters, arguments)                \
    static VKAPI_ATTR VkResult VKAPI_CALL stand_in_##name parameters \
    {                                                                \
        VkResult result = strike(VULKAN_##name);                     \
        if (result == VK_SUCCESS) {                                  \
            result = real.name arguments;                            \
            n_objects += result == VK_SUCCESS ? (n_made) : 0;        \
        }                                                            \
        return result;                                               \
    }
/// vkCreate... of a device's object.
#define CREATE(name, info, object)                                                               \
    FALLIBLE(                                                                                    \
        name, 1,                                                                                 \
        (VkDevice device, const info *create, const VkAllocationCallbacks *memory, object *out), \
        (device, create, memory, out))
#define DESTROY(name, object)                                                              \
    static VKAPI_ATTR void VKAPI_CALL stand_in_##name(VkDevice device, object handle,      \
                                                      const VkAllocationCallbacks *memory) \
    {                                                                                      \
        n_objects -= handle != VK_NULL_HANDLE;                                             \
        real.name(device, handle, memory);                                                 \
    }

FALLIBLE(CreateInstance, 1,
         (const VkInstanceCreateInfo *info, const VkAllocationCallbacks *memory, VkInstance *out),
         (info, memory, out))
FALLIBLE(EnumeratePhysicalDevices, 0,
         (VkInstance instance, uint32_t *count, VkPhysicalDevice *devices),
         (instance, count, devices))
FALLIBLE(EnumerateDeviceExtensionProperties, 0,
         (VkPhysicalDevice device, const char *layer, uint32_t *count,
          VkExtensionProperties *properties),
         (device, layer, count, properties))
FALLIBLE(CreateDevice, 1,
         (VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
          const VkAllocationCallbacks *memory, VkDevice *out),
         (physical, info, memory, out))
FALLIBLE(QueueSubmit, 0, (VkQueue queue, uint32_t count, const VkSubmitInfo *infos, VkFence fence),
         (queue, count, infos, fence))
FALLIBLE(MapMemory, 0,
         (VkDevice device, VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size,
          VkMemoryMapFlags flags, void **out),
         (device, memory, offset, size, flags, out))
FALLIBLE(BindBufferMemory, 0,
         (VkDevice device, VkBuffer buffer, VkDeviceMemory memory, VkDeviceSize offset),
         (device, buffer, memory, offset))
FALLIBLE(WaitSemaphores, 0, (VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout),
         (device, info, timeout))
FALLIBLE(GetPipelineCacheData, 0,
         (VkDevice device, VkPipelineCache cache, size_t *size, void *data),
         (device, cache, size, data))
FALLIBLE(CreateComputePipelines, count,
         (VkDevice device, VkPipelineCache cache, uint32_t count,
          const VkComputePipelineCreateInfo *infos, const VkAllocationCallbacks *memory,
          VkPipeline *out),
         (device, cache, count, infos, memory, out))
FALLIBLE(AllocateDescriptorSets, 0,
         (VkDevice device, const VkDescriptorSetAllocateInfo *info, VkDescriptorSet *out),
         (device, info, out))
FALLIBLE(AllocateCommandBuffers, 0,
         (VkDevice device, const VkCommandBufferAllocateInfo *info, VkCommandBuffer *out),
         (device, info, out))
FALLIBLE(BeginCommandBuffer, 0, (VkCommandBuffer buffer, const VkCommandBufferBeginInfo *info),
         (buffer, info))
FALLIBLE(EndCommandBuffer, 0, (VkCommandBuffer buffer), (buffer))
FALLIBLE(GetQueryPoolResults, 0,
         (VkDevice device, VkQueryPool pool, uint32_t first, uint32_t count, size_t size,
          void *data, VkDeviceSize stride, VkQueryResultFlags flags),
         (device, pool, first, count, size, data, stride, flags))
CREATE(CreateBuffer, VkBufferCreateInfo, VkBuffer)
CREATE(CreateBufferView, VkBufferViewCreateInfo, VkBufferView)
CREATE(CreateSemaphore, VkSemaphoreCreateInfo, VkSemaphore)
CREATE(CreatePipelineCache, VkPipelineCacheCreateInfo, VkPipelineCache)
CREATE(CreatePipelineLayout, VkPipelineLayoutCreateInfo, VkPipelineLayout)
CREATE(CreateDescriptorSetLayout, VkDescriptorSetLayoutCreateInfo, VkDescriptorSetLayout)
CREATE(CreateDescriptorPool, VkDescriptorPoolCreateInfo, VkDescriptorPool)
CREATE(CreateCommandPool, VkCommandPoolCreateInfo, VkCommandPool)
CREATE(CreateQueryPool, VkQueryPoolCreateInfo, VkQueryPool)

DESTROY(DestroyBuffer, VkBuffer)
DESTROY(DestroyBufferView, VkBufferView)
DESTROY(DestroySemaphore, VkSemaphore)
DESTROY(DestroyShaderModule, VkShaderModule)
DESTROY(DestroyPipelineCache, VkPipelineCache)
DESTROY(DestroyPipeline, VkPipeline)
DESTROY(DestroyPipelineLayout, VkPipelineLayout)
DESTROY(DestroyDescriptorSetLayout, VkDescriptorSetLayout)
DESTROY(DestroyDescriptorPool, VkDescriptorPool)
DESTROY(DestroyCommandPool, VkCommandPool)
DESTROY(DestroyQueryPool, VkQueryPool)

static VKAPI_ATTR void VKAPI_CALL stand_in_DestroyInstance(VkInstance instance,
                                                           const VkAllocationCallbacks *memory)
{
    n_objects -= instance != VK_NULL_HANDLE;
    real.DestroyInstance(instance, memory);
}

static VKAPI_ATTR void VKAPI_CALL stand_in_DestroyDevice(VkDevice device,
                                                         const VkAllocationCallbacks *memory)
{
    n_objects -= device != VK_NULL_HANDLE;
    real.DestroyDevice(device, memory);
}

/// Adds an allocation, or takes it off where `size` is 0.
static void count_memory(VkDeviceMemory memory, uint64_t size)
{
    uint64_t sum = 0;
    for (int i = 0; i < MAX_ALLOCATIONS; i++) {
        if (size > 0 && allocations[i].memory == VK_NULL_HANDLE) {
            allocations[i].memory = memory;
            allocations[i].size = size;
            break;
        }
        if (size == 0 && allocations[i].memory == memory)
            allocations[i].memory = VK_NULL_HANDLE;
    }
    for (int i = 0; i < MAX_ALLOCATIONS; i++)
        sum += allocations[i].memory != VK_NULL_HANDLE ? allocations[i].size : 0;
    peak = sum > peak ? sum : peak;
}

static VKAPI_ATTR VkResult VKAPI_CALL stand_in_AllocateMemory(VkDevice device,
                                                              const VkMemoryAllocateInfo *info,
                                                              const VkAllocationCallbacks *memory,
                                                              VkDeviceMemory *out)
{
    VkResult result = strike(VULKAN_AllocateMemory);
    if (result == VK_SUCCESS)
        result = real.AllocateMemory(device, info, memory, out);
    if (result == VK_SUCCESS) {
        n_objects++;
        count_memory(*out, info->allocationSize);
    }
    return result;
}

static VKAPI_ATTR void VKAPI_CALL stand_in_FreeMemory(VkDevice device, VkDeviceMemory handle,
                                                      const VkAllocationCallbacks *memory)
{
    if (handle != VK_NULL_HANDLE) {
        n_objects--;
        count_memory(handle, 0);
    }
    real.FreeMemory(device, handle, memory);
}

#define SPIRV_HEADER 5u
#define SPIRV_OP_FADD 129u
#define SPIRV_OP_FMUL 133u

/// Returns a copy of the code, from malloc, with other arithmetic.
static uint32_t *break_code(const VkShaderModuleCreateInfo *info)
{
    uint32_t *words = malloc(info->codeSize);
    if (!words)
        abort();
    memcpy(words, info->pCode, info->codeSize);
    for (size_t i = SPIRV_HEADER; i < info->codeSize / 4; i += words[i] >> 16) {
        if ((words[i] & 0xffff) == SPIRV_OP_FMUL)
            words[i] = (words[i] & 0xffff0000) | SPIRV_OP_FADD;
    }
    return words;
}

static VKAPI_ATTR VkResult VKAPI_CALL
stand_in_CreateShaderModule(VkDevice device, const VkShaderModuleCreateInfo *info,
                            const VkAllocationCallbacks *memory, VkShaderModule *out)
{
    VkResult result = strike(VULKAN_CreateShaderModule);
    if (result != VK_SUCCESS)
        return result;
    VkShaderModuleCreateInfo changed = *info;
    uint32_t *code = broken_words && info->pCode == broken_words ? break_code(info) : NULL;
    if (code)
        changed.pCode = code;
    result = real.CreateShaderModule(device, &changed, memory, out);
    free(code);
    n_objects += result == VK_SUCCESS;
    return result;
}

static VKAPI_ATTR void VKAPI_CALL stand_in_CmdPipelineBarrier(
    VkCommandBuffer buffer, VkPipelineStageFlags before, VkPipelineStageFlags behind,
    VkDependencyFlags flags, uint32_t n_all, const VkMemoryBarrier *all, uint32_t n_buffers,
    const VkBufferMemoryBarrier *buffers, uint32_t n_images, const VkImageMemoryBarrier *images)
{
    const VkPipelineStageFlags compute = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    if (before == compute && behind == compute && barriers.count++ == barriers.dropped)
        barriers.is_next = true;
    else
        real.CmdPipelineBarrier(buffer, before, behind, flags, n_all, all, n_buffers, buffers,
                                n_images, images);
}

static VKAPI_ATTR void VKAPI_CALL
stand_in_CmdBeginDebugUtilsLabelEXT(VkCommandBuffer buffer, const VkDebugUtilsLabelEXT *label)
{
    if (barriers.is_next)
        snprintf(barriers.label, sizeof barriers.label, "%s", label->pLabelName);
    barriers.is_next = false;
    real.CmdBeginDebugUtilsLabelEXT(buffer, label);
}

static VKAPI_ATTR void VKAPI_CALL stand_in_CmdEndDebugUtilsLabelEXT(VkCommandBuffer buffer)
{
    barriers.is_next = false;
    real.CmdEndDebugUtilsLabelEXT(buffer);
}

static VKAPI_ATTR void VKAPI_CALL stand_in_GetPhysicalDeviceMemoryProperties2(
    VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties2 *properties)
{
    real.GetPhysicalDeviceMemoryProperties2(device, properties);
    if (heap_size == 0)
        return;
    for (uint32_t i = 0; i < properties->memoryProperties.memoryHeapCount; i++)
        properties->memoryProperties.memoryHeaps[i].size = heap_size;
    VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget = properties->pNext;
    for (uint32_t i = 0; budget && i < VK_MAX_MEMORY_HEAPS; i++) {
        budget->heapBudget[i] = heap_size;
        budget->heapUsage[i] = 0;
    }
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device(VkDevice device, const char *name);

/// Returns our function of that name, having kept `found`, or `found`.
static PFN_vkVoidFunction substitute(const char *name, PFN_vkVoidFunction found)
{
    char plain[64];
    size_t size = strlen(name);
    if (!found || size >= sizeof plain)
        return found;
    memcpy(plain, name, size + 1);
    if (size > 3 && strcmp(plain + size - 3, "KHR") == 0)
        plain[size - 3] = '\0';
    if (strcmp(plain, "vkGetDeviceProcAddr") == 0) {
        real.GetDeviceProcAddr = (PFN_vkGetDeviceProcAddr)found;
        return (PFN_vkVoidFunction)get_device;
    }
#define X(function)                                     \
    if (strcmp(plain, "vk" #function) == 0) {           \
        real.function = (PFN_vk##function)found;        \
        return (PFN_vkVoidFunction)stand_in_##function; \
    }
    VULKAN_FALLIBLE(X)
    WATCHED(X)
#undef X
    return found;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device(VkDevice device, const char *name)
{
    return substitute(name, real.GetDeviceProcAddr(device, name));
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_instance(VkInstance instance, const char *name)
{
    return substitute(name, real.GetInstanceProcAddr(instance, name));
}

library_function *__wrap_nib_library_function(const struct nib_library *library, const char *name)
{
    library_function *found = __real_nib_library_function(library, name);
    if (!found || strcmp(name, "vkGetInstanceProcAddr") != 0)
        return found;
    real.GetInstanceProcAddr = (PFN_vkGetInstanceProcAddr)found;
    return (library_function *)get_instance;
}
