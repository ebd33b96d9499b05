/// Devices of a host application: what it enabled, and what is made of it.
#ifndef RUNTIME_VULKAN_ATTACH_H
#define RUNTIME_VULKAN_ATTACH_H

#include "runtime/vulkan/device.h"
#include <nibble/vulkan.h>

/// What a host enabled, of what matters.
struct nib_vk_enabled {
    uint32_t api_version; ///< of the instance
    bool has_timeline_semaphore;
    bool has_timeline_extension;
    bool has_integer_dot;
    bool has_integer_dot_extension;
    struct nib_vk_subgroups subgroups;     ///< without sizes
    struct nib_vk_cooperative cooperative; ///< without tiles
    bool has_debug_utils;
    uint32_t queue_family;
};

/// Reads it out of the host's lists and chain of features.
void nib_vk_enabled_read(const struct nib_attach_params *params, struct nib_vk_enabled *out);
/// Limits what a device says of itself to what the host enabled. Pure.
void nib_vk_snapshot_limit(const struct nib_vk_enabled *enabled, struct nib_vk_snapshot *snapshot);

/// As nib_backend.device_attach.
enum nib_status nib_vk_device_attach(const struct nib_attach_params *params, void **out_device,
                                     struct nib_error *err);

#endif
