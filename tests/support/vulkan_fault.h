/// Stands between the library and the Vulkan loader: makes calls fail, counts objects and memory,
/// and shrinks heaps. Works in programs that nib_use_vulkan_fault (tests/support/CMakeLists.txt)
/// links so that the library finds our vkGetInstanceProcAddr in place of the loader's; every
/// function that the tables get then passes through here.
/// Thread-safety: one thread at a time.
#ifndef TESTS_SUPPORT_VULKAN_FAULT_H
#define TESTS_SUPPORT_VULKAN_FAULT_H

#include <nibble/base.h>
#include <vulkan/vulkan_core.h>

/// The functions that can fail, of those that are called.
#define VULKAN_FALLIBLE(X)                \
    X(CreateInstance)                     \
    X(EnumeratePhysicalDevices)           \
    X(EnumerateDeviceExtensionProperties) \
    X(CreateDevice)                       \
    X(QueueSubmit)                        \
    X(AllocateMemory)                     \
    X(MapMemory)                          \
    X(CreateBuffer)                       \
    X(CreateBufferView)                   \
    X(BindBufferMemory)                   \
    X(CreateSemaphore)                    \
    X(WaitSemaphores)                     \
    X(CreateShaderModule)                 \
    X(CreatePipelineCache)                \
    X(GetPipelineCacheData)               \
    X(CreateComputePipelines)             \
    X(CreatePipelineLayout)               \
    X(CreateDescriptorSetLayout)          \
    X(CreateDescriptorPool)               \
    X(AllocateDescriptorSets)             \
    X(CreateCommandPool)                  \
    X(AllocateCommandBuffers)             \
    X(BeginCommandBuffer)                 \
    X(EndCommandBuffer)                   \
    X(CreateQueryPool)                    \
    X(GetQueryPoolResults)

enum vulkan_function {
#define X(name) VULKAN_##name,
    VULKAN_FALLIBLE(X)
#undef X
        VULKAN_FUNCTION_COUNT
};

/// Lets `n` calls of a function pass and the next one return `result`, without being made; those
/// after it pass again.
void vulkan_fault_after(enum vulkan_function function, uint32_t n, VkResult result);
/// Returns whether it has struck since.
bool vulkan_fault_struck(void);
/// Lets all calls pass again, and forgets that one did not.
void vulkan_fault_off(void);
/// "vkCreateBuffer"
const char *vulkan_function_name(enum vulkan_function function);

/// Returns the number of Vulkan objects that are alive, the instance included.
int64_t vulkan_fault_objects(void);
/// Returns the most that vkAllocateMemory had given out at a time since the last call.
uint64_t vulkan_fault_peak_memory(void);
/// Makes every heap `bytes` large, and budgets as large; 0: as they are.
void vulkan_fault_shrink_heaps(uint64_t bytes);
/// Lets the modules that are made from this SPIR-V add floats where they should multiply them;
/// NULL: none.
void vulkan_fault_break_shader(const uint32_t *words);
/// Leaves out barrier `n`, from 0 on, of those between dispatches that are recorded from now on;
/// UINT32_MAX: none. Begins to count them.
void vulkan_fault_drop_barrier(uint32_t n);
/// Returns how many were recorded or left out.
uint32_t vulkan_fault_barriers(void);
/// Returns the label of the pass behind the one left out; "" where that is the end of a segment.
const char *vulkan_fault_dropped_before(void);

#endif
