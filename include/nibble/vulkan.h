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

/// What the host enabled and lends. Everything lent must outlive the nib_device made from it; the
/// library never destroys it and never waits the device idle.
struct nib_attach_params {
    uint32_t struct_size;
    struct nib_log log;
    PFN_vkGetInstanceProcAddr get_instance_proc_addr; ///< the host's loader
    uint32_t api_version; ///< of VkApplicationInfo, as the instance was made with
    VkInstance instance;
    VkPhysicalDevice physical_device;
    VkDevice device;
    uint32_t queue_family; ///< must have compute
    VkQueue queue;
    const char *const *instance_extensions; ///< that the host enabled
    uint32_t n_instance_extensions;
    const char *const *device_extensions; ///< that the host enabled
    uint32_t n_device_extensions;
    const VkPhysicalDeviceFeatures2 *features; ///< that the host enabled, with their pNext chain
    /// Taken around every use of `queue`; NULL where the host uses it from the engine's thread
    /// alone.
    void (*lock_queue)(void *user);
    void (*unlock_queue)(void *user);
    void *user;
    enum nib_self_test self_test;
    const char *cache_dir; ///< as in nib_device_params
};
#define nib_attach_params(...) \
    (&(struct nib_attach_params){.struct_size = sizeof(struct nib_attach_params), __VA_ARGS__})

/// Attaches to the host's device. Errors: argument, unsupported (what is missing is named; also in
/// a build without Vulkan), memory.
NIB_API enum nib_status nib_device_attach(const struct nib_attach_params *params,
                                          struct nib_device **out_device, struct nib_error *err);

/// Device extensions without which attaching fails, and those that make it faster; NULL-terminated
/// static lists.
NIB_API const char *const *nib_vulkan_required_extensions(void);
NIB_API const char *const *nib_vulkan_recommended_extensions(void);
/// Sets in the chain that begins at `features` each feature that Nibble would use and that
/// `supported` (the same chain, filled by vkGetPhysicalDeviceFeatures2) has.
NIB_API void nib_vulkan_recommended_features(const VkPhysicalDeviceFeatures2 *supported,
                                             VkPhysicalDeviceFeatures2 *features);

/// A timeline semaphore and a value of it.
struct nib_timeline_point {
    VkSemaphore semaphore;
    uint64_t value;
};
/// Makes the engine's next step wait for `waits` and signal `signals`, besides its own clock.
/// The arrays are copied. Errors: state (no placement of the engine is attached), memory.
NIB_API enum nib_status nib_engine_synchronize(struct nib_engine *engine,
                                               const struct nib_timeline_point *waits,
                                               uint32_t n_waits,
                                               const struct nib_timeline_point *signals,
                                               uint32_t n_signals, struct nib_error *err);

#ifdef __cplusplus
}
#endif
#endif
