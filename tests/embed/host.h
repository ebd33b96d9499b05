/// A host application: it makes its own instance and device, draws an image over and over on a
/// thread of its own, checks every pixel, and lends the queue to Nibble.
#ifndef TESTS_EMBED_HOST_H
#define TESTS_EMBED_HOST_H

#include <nibble/vulkan.h>
#include <pthread.h>
#include <stdatomic.h>

#define HOST_SIDE 32u

#define HOST_INSTANCE_FUNCTIONS(X)            \
    X(EnumeratePhysicalDevices)               \
    X(GetPhysicalDeviceProperties)            \
    X(GetPhysicalDeviceFeatures2)             \
    X(GetPhysicalDeviceMemoryProperties)      \
    X(GetPhysicalDeviceQueueFamilyProperties) \
    X(CreateDevice)                           \
    X(DestroyInstance)                        \
    X(GetDeviceProcAddr)

#define HOST_DEVICE_FUNCTIONS(X)   \
    X(DestroyDevice)               \
    X(GetDeviceQueue)              \
    X(QueueSubmit)                 \
    X(DeviceWaitIdle)              \
    X(CreateImage)                 \
    X(DestroyImage)                \
    X(GetImageMemoryRequirements)  \
    X(BindImageMemory)             \
    X(CreateImageView)             \
    X(DestroyImageView)            \
    X(CreateBuffer)                \
    X(DestroyBuffer)               \
    X(GetBufferMemoryRequirements) \
    X(BindBufferMemory)            \
    X(AllocateMemory)              \
    X(FreeMemory)                  \
    X(MapMemory)                   \
    X(CreateRenderPass)            \
    X(DestroyRenderPass)           \
    X(CreateFramebuffer)           \
    X(DestroyFramebuffer)          \
    X(CreateCommandPool)           \
    X(DestroyCommandPool)          \
    X(AllocateCommandBuffers)      \
    X(BeginCommandBuffer)          \
    X(EndCommandBuffer)            \
    X(CmdExecuteCommands)          \
    X(CmdBeginRenderPass)          \
    X(CmdClearAttachments)         \
    X(CmdEndRenderPass)            \
    X(CmdPipelineBarrier)          \
    X(CmdCopyImageToBuffer)        \
    X(CreateFence)                 \
    X(DestroyFence)                \
    X(ResetFences)                 \
    X(WaitForFences)               \
    X(CreateSemaphore)             \
    X(DestroySemaphore)

/// How a host is made; zeroed: as it should be.
struct host_params {
    uint32_t api_version; ///< of the instance; 0: 1.2
    bool lacks_feature;   ///< timelineSemaphore stays off
    bool lacks_extension; ///< VK_KHR_timeline_semaphore is not enabled
    bool has_names;       ///< VK_EXT_debug_utils is enabled
};

struct host {
    void *library;
    PFN_vkGetInstanceProcAddr get;
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    uint32_t family;
    VkQueue queue;
    uint32_t api_version;
    const char *instance_extensions[1];
    uint32_t n_instance_extensions;
    const char *device_extensions[8];
    uint32_t n_device_extensions;
    VkPhysicalDeviceTimelineSemaphoreFeatures timeline;
    VkPhysicalDeviceFeatures2 features;
    pthread_mutex_t queue_lock;
    _Atomic uint64_t lock_owner; ///< of the lock as Nibble takes it: 0 or 1
#define X(name) PFN_vk##name name;
    HOST_INSTANCE_FUNCTIONS(X)
    HOST_DEVICE_FUNCTIONS(X)
#undef X
    // What is drawn.
    VkImage image;
    VkDeviceMemory image_memory;
    VkImageView view;
    VkBuffer pixels;
    VkDeviceMemory pixels_memory;
    const uint8_t *mapped;
    VkRenderPass pass;
    VkFramebuffer frame;
    VkCommandPool pool;
    VkCommandBuffer commands;
    VkFence fence;
    // The thread that draws.
    pthread_t thread;
    _Atomic bool stops;
    _Atomic uint32_t n_frames;
    _Atomic uint32_t n_wrong; ///< frames with a wrong pixel, and calls that failed
};

/// Opens a host on the first device with a queue for graphics and compute; skips the test where
/// there is none.
void host_open(struct host *host, const struct host_params *params);
/// Keeps lavapipe's code loaded until the end: what it keeps would count as a leak without. Part of
/// host_open.
void host_keep_driver(void);
/// Destroys all that the host made; waits for its device first.
void host_close(struct host *host);

/// Fills what nib_device_attach takes.
struct nib_attach_params host_attach_params(struct host *host);

/// Begins a command buffer of the host's pool.
VkResult host_begin(const struct host *host, VkCommandBuffer commands);
/// Records a frame into it: drawing, and reading back.
void host_record(const struct host *host, VkCommandBuffer commands, uint32_t number);
/// Submits under the lock, and waits for the fence.
VkResult host_submit(struct host *host, const VkCommandBuffer *commands, uint32_t n);
/// Returns whether every pixel of the frame that was drawn last is right.
bool host_check(const struct host *host, uint32_t number);
/// Draws one frame, reads it back and returns whether every pixel is right.
bool host_draw(struct host *host, uint32_t number);
/// Draws on a thread until host_stop, which checks that all frames were right and that there were
/// some.
void host_start(struct host *host);
void host_stop(struct host *host);

#endif
