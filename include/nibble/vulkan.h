/// Vulkan interoperation: run inside a VkDevice that the host application owns.
/// The only public header that names Vulkan types; not part of <nibble/nibble.h>.
#ifndef NIBBLE_VULKAN_H
#define NIBBLE_VULKAN_H

#include <nibble/base.h>
#include <nibble/device.h>
#include <nibble/engine.h>
#include <vulkan/vulkan_core.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What the host enabled and lends. Everything lent must outlive the nib_device made from it and
/// the engines on it; the library never destroys it and never waits for the queue or the device to
/// become idle. Its own objects are made from the same VkDevice, and are gone when the nib_device
/// and its engines are. Debug names are given to them where the host enabled VK_EXT_debug_utils.
struct nib_attach_params {
    uint32_t struct_size;
    struct nib_log log;
    PFN_vkGetInstanceProcAddr get_instance_proc_addr; ///< the host's loader
    uint32_t api_version; ///< of VkApplicationInfo, as the instance was made with: 1.1 or later
    VkInstance instance;
    VkPhysicalDevice physical_device;
    VkDevice device;
    uint32_t queue_family; ///< of `queue`; must have compute
    VkQueue queue;
    const char *const *instance_extensions; ///< that the host enabled
    uint32_t n_instance_extensions;
    const char *const *device_extensions; ///< that the host enabled
    uint32_t n_device_extensions;
    /// That the host enabled, with the pNext chain that vkCreateDevice got. Only read by the call;
    /// no kernel needs a feature or an extension that is not named.
    const VkPhysicalDeviceFeatures2 *features;
    /// Called around every vkQueueSubmit on `queue`, on the thread of the engine's caller or of its
    /// loading; the host holds the same lock where it submits to, presents on or waits for the
    /// queue. Nothing else is done under the lock. Both are needed.
    void (*lock_queue)(void *user);
    void (*unlock_queue)(void *user);
    void *user;
    enum nib_self_test self_test;
    const char *cache_dir; ///< as in nib_device_params
    /// Nanoseconds that one submission may keep the queue, at most two being under way, so that the
    /// host's own come between; 0: 4 ms. A submission is a layer at least. With a number, steps
    /// also take fewer rows of a prompt until a layer of them takes no longer (within rounding,
    /// results may then depend on the machine's speed).
    uint64_t submit_ns;
};
#define nib_attach_params(...) \
    (&(struct nib_attach_params){.struct_size = sizeof(struct nib_attach_params), __VA_ARGS__})

/// Attaches to the host's device. Errors: argument (what is not set, or no such queue family),
/// unsupported (the extension, feature or limit that is missing is named with the remedy; also in a
/// build without Vulkan), memory, device memory.
NIB_API enum nib_status nib_device_attach(const struct nib_attach_params *params,
                                          struct nib_device **out_device, struct nib_error *err);

/// Device extensions without which attaching fails, and those that make it faster where the device
/// has them; NULL-terminated static lists. `api_version` is the lower one of the instance's
/// (VkApplicationInfo) and the physical device's, since later versions contain some of them.
NIB_API const char *const *nib_vulkan_required_extensions(uint32_t api_version);
NIB_API const char *const *nib_vulkan_recommended_extensions(uint32_t api_version);
/// Sets in the chain that begins at `features` each feature without which attaching fails.
/// Errors: argument (the chain lacks the struct that has the feature; it is named).
NIB_API enum nib_status nib_vulkan_required_features(VkPhysicalDeviceFeatures2 *features,
                                                     struct nib_error *err);
/// Sets in the chain that begins at `features` each feature that makes Nibble faster and that
/// `supported` (the same chain, filled by vkGetPhysicalDeviceFeatures2) has. Those that the chain
/// has no struct for are left out.
NIB_API void nib_vulkan_recommended_features(const VkPhysicalDeviceFeatures2 *supported,
                                             VkPhysicalDeviceFeatures2 *features);

/// A timeline semaphore of the host's device and a value of it.
struct nib_timeline_point {
    VkSemaphore semaphore;
    uint64_t value;
};
/// Makes the device's work of the engine's next step wait for `waits`, and signals `signals` behind
/// it when the step has ended, however it did: also where it failed or had nothing to do. The
/// arrays are copied, and those of several calls add up. A step returns when its work is done, so
/// what signals `waits` must be under way, or come from another thread. With several attached
/// devices it is the first one's.
/// Errors: argument, state (no placement of the engine is attached, or called from a callback),
/// memory.
NIB_API enum nib_status nib_engine_synchronize(struct nib_engine *engine,
                                               const struct nib_timeline_point *waits,
                                               uint32_t n_waits,
                                               const struct nib_timeline_point *signals,
                                               uint32_t n_signals, struct nib_error *err);

// A step that the host submits itself, in place of nib_engine_step, so that it runs in the host's
// own command buffers and under its own fences and semaphores. The calls, in this order:
//   nib_engine_begin_step       chooses the step's rows and writes them where the device reads them
//   nib_engine_record_segments  once or more: into one command buffer, or some into each frame's
//   the host submits, and waits for the end: a fence, a semaphore
//   nib_engine_end_step         gives tokens and logits to the sessions
// From the first to the last of them (or nib_engine_drop_step), functions that run a step or change
// the engine's sessions return NIB_ERROR_STATE; nib_session_cancel, whose generation ends with the
// next step, and nib_session_destroy may be called. Points of nib_engine_synchronize wait for the
// next nib_engine_step. Without nib_engine_step Nibble does not learn how long a layer takes:
// nib_attach_params.submit_ns and its shorter steps do not apply, and the host chooses how many
// segments it submits at once, and nib_engine_params.max_rows.
// Thread-safety: that of the engine.

/// Begins a step over whatever the sessions wait for, as nib_engine_step does. `*out_segments` is
/// the number of segments to be recorded; 0: there is no work, and no step is open. All of the
/// engine's segments must be on one device of nib_device_attach. Prepares the engine first where
/// that is still due, and may copy pages of the cache on the device's queue, under its lock.
/// Errors: state (another step is open, called from a callback, or the engine's placement is not
/// one attached device, or no longer, since the CPU has taken over: use nib_engine_step), KV full,
/// those of the devices; the sessions keep their work then.
NIB_API enum nib_status nib_engine_begin_step(struct nib_engine *engine, uint32_t *out_segments,
                                              struct nib_error *err);
/// Records the next `n_segments` segments of the open step, or all that are left where these are
/// fewer or `n_segments` is 0, into `buffer`. `*out_left` is how many are left then.
///
/// `buffer` is being recorded, primary or secondary, outside a render pass, and of the queue family
/// nib_attach_params.queue_family. Recording binds a compute pipeline, descriptor set 0 and push
/// constants of the compute bind point, and leaves everything else of the buffer's state alone. It
/// begins and ends with barriers between compute, copies and the host; no image and no resource of
/// the host's is touched, so what the host records before and behind needs no barrier for it.
/// Command buffers that hold segments are submitted once, in the order in which they were recorded,
/// to queues of that family; where they go to several queues, semaphores keep that order. They must
/// not be submitted, nor be pending, once the step has ended or was dropped.
/// Errors: state (no step is open, or all its segments are recorded), argument.
NIB_API enum nib_status nib_engine_record_segments(struct nib_engine *engine,
                                                   VkCommandBuffer buffer, uint32_t n_segments,
                                                   uint32_t *out_left, struct nib_error *err);
/// Ends the open step, whose command buffers the device has finished, as the host knows by a fence
/// or semaphore that it has waited for: tokens and logits are delivered, and callbacks run inside
/// the call, as in nib_engine_step. `*out_active` (may be NULL) is the number of sessions that
/// still have work, also where the call fails. Where more than 32 rows want logits, those behind
/// the first 32 are computed inside the call, on the device's queue.
/// Errors: state (no step is open, or segments are not recorded, or not executed yet: the step
/// stays open), those of nib_engine_step.
NIB_API enum nib_status nib_engine_end_step(struct nib_engine *engine, uint32_t *out_active,
                                            struct nib_error *err);
/// Forgets the open step, if there is one: sessions keep their work and compute its rows again. For
/// a host that does not submit after all, or whose submission has failed; after a lost device the
/// next nib_engine_step tells, or lets the CPU go on. Does nothing inside a callback.
NIB_API void nib_engine_drop_step(struct nib_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
