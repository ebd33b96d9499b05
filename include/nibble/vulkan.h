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

#ifdef __cplusplus
}
#endif
#endif
