/// Loader, instance and device.
#ifndef RUNTIME_VULKAN_DEVICE_H
#define RUNTIME_VULKAN_DEVICE_H

#include "runtime/base/os.h"
#include "runtime/vulkan/names.h"
#include "runtime/vulkan/snapshot.h"
#include "shaders/shared/kernels.h"
#include <stdatomic.h>

/// The loader's library and an instance of our own.
struct nib_vk_host {
    struct nib_library *library;
    VkInstance instance;
    struct nib_vk_instance_table table;
    struct nib_vk_debug debug;
    uint32_t n_physical;
    VkPhysicalDevice physical[32];
};
/// Loads the loader and makes an instance. Errors: not found (no loader, or no driver), unsupported
/// (Vulkan 1.0), memory.
enum nib_status nib_vk_host_open(struct nib_vk_host *out_host, struct nib_error *err);
/// A zeroed host is accepted.
void nib_vk_host_close(struct nib_vk_host *host);

/// Longer submissions make watchdogs and desktops impatient; those to the queue of a host that
/// draws must fit into its frames.
#define NIB_VK_SUBMIT_NS 100000000u
#define NIB_VK_HOST_SUBMIT_NS 4000000u

/// A shader with its specialization constants.
struct nib_vk_kernel {
    const char *shader; ///< name in shaders/variants.txt; static
    uint32_t specs[NIB_SPECS];
};

struct nib_vk_pipeline {
    struct nib_vk_kernel kernel;
    VkPipeline pipeline;
    uint64_t source_hash; ///< of a shader from a folder; 0: not looked at yet
};

struct nib_vk_trust;
struct nib_vk_shader_folder;

/// A device that is open for engines. Thread-safety: safe.
struct nib_vk_device {
    struct nib_vk_host host; ///< of an attached device the table alone
    struct nib_log log;
    VkPhysicalDevice physical;
    struct nib_vk_snapshot snapshot;
    struct nib_vk_device_plan plan;
    uint32_t index;
    VkDevice device;
    struct nib_vk_device_table table;
    VkQueue queue;
    struct nib_vk_debug debug;
    bool is_attached;               ///< device and queue are the host's
    void (*lock_queue)(void *user); ///< the host's, where attached
    void (*unlock_queue)(void *user);
    void *lock_user;
    uint64_t most_submit_ns;       ///< that one submission should take
    bool limits_rows;              ///< steps are cut so that a segment takes no longer
    struct nib_mutex *queue_mutex; ///< of the queue, where it is ours
    struct nib_mutex *mutex;       ///< of the pipelines
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout layout;
    VkPipelineCache cache;
    char *verdict_path;                ///< file of what is known of the kernels, or NULL
    char *cache_path;                  ///< file of the pipeline cache, or NULL
    size_t cache_size;                 ///< bytes that it held
    struct nib_vk_pipeline *pipelines; ///< those made so far
    size_t n_pipelines;
    size_t pipelines_capacity;
    struct nib_vk_shader_folder *folder; ///< that shaders come from; NULL: they are built in
    enum nib_self_test self_test;
    struct nib_vk_trust *trust; ///< what is known of its kernels; NULL: they are taken as they are
    uint32_t hang_ms;           ///< after which a submission counts as hung; 0: the default
    _Atomic bool is_lost;       ///< nothing more is submitted
    _Atomic bool is_hung;       ///< and something that was may be running still
    _Atomic bool is_abandoned;  ///< for good: nothing of it may be destroyed
    _Atomic uint64_t taken;     ///< bytes of device memory that our pools hold
};

/// As nib_backend.device_open and device_close.
enum nib_status nib_vk_device_open(const struct nib_device_params *params, void **out_device,
                                   struct nib_error *err);
void nib_vk_device_close(void *device);
/// Makes what a device needs of its own, when `device`, `queue` and plan are there. Errors: memory,
/// device.
enum nib_status nib_vk_device_finish(struct nib_vk_device *device, const char *cache_dir,
                                     struct nib_error *err);

/// Returns the pipeline of a kernel in `*out_pipeline`, making it where it is new; it lives as long
/// as the device. Errors: unsupported (the build or the driver cannot compile it), memory, device.
enum nib_status nib_vk_device_pipeline(struct nib_vk_device *device,
                                       const struct nib_vk_kernel *kernel, VkPipeline *out_pipeline,
                                       struct nib_error *err);

/// Makes a pipeline that is the caller's. Errors: as above, those of the compiler.
enum nib_status nib_vk_pipeline_create(const struct nib_vk_device *device,
                                       const struct nib_vk_kernel *kernel, VkPipeline *out_pipeline,
                                       struct nib_error *err);

/// Makes a command pool and one buffer of it, both called `name`; the pool's owner destroys them,
/// also after an error. Errors: memory, device.
enum nib_status nib_vk_commands_create(const struct nib_vk_device *device, const char *name,
                                       VkCommandPool *out_pool, VkCommandBuffer *out_buffer,
                                       struct nib_error *err);

/// A timeline semaphore and the last value that a submission signals.
struct nib_vk_clock {
    VkSemaphore semaphore;
    uint64_t value;
};
/// Makes one called `name`. Errors: memory, device.
enum nib_status nib_vk_clock_create(struct nib_vk_device *device, const char *name,
                                    struct nib_vk_clock *out_clock, struct nib_error *err);
void nib_vk_clock_destroy(struct nib_vk_device *device, struct nib_vk_clock *clock);
/// vkQueueSubmit of one submission, under the queue's lock. Errors: device lost, memory.
enum nib_status nib_vk_queue_submit(struct nib_vk_device *device, const VkSubmitInfo *info,
                                    struct nib_error *err);
/// Submits command buffers in order; the clock moves on by one. Errors: device lost, memory.
enum nib_status nib_vk_submit(struct nib_vk_device *device, struct nib_vk_clock *clock,
                              const VkCommandBuffer *buffers, uint32_t n_buffers,
                              struct nib_error *err);
/// Waits until all that was submitted under `clock` is done. Errors: device lost (also where
/// nothing ends for as long as nib_device_params.hang_ms says).
enum nib_status nib_vk_wait(struct nib_vk_device *device, const struct nib_vk_clock *clock,
                            struct nib_error *err);

#endif
