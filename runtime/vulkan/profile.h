/// Times of single ops, from timestamps around every pass.
#ifndef RUNTIME_VULKAN_PROFILE_H
#define RUNTIME_VULKAN_PROFILE_H

#include "runtime/vulkan/instance.h"

/// Takes queries for all passes. Without --profile, or where the queue has no timestamps, it does
/// nothing. Errors: memory, device.
enum nib_status nib_vk_profile_create(struct nib_vk_instance *instance, struct nib_error *err);

/// Notes that the time of ops [first, last] is that of op `counted_as`.
void nib_vk_profile_fuse(struct nib_vk_instance *instance, uint32_t first, uint32_t last,
                         uint32_t counted_as);

/// Records the time before the first pass of a segment, and behind pass `pass` of it, counted from
/// its first. Passes must not overlap.
void nib_vk_profile_begin(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                          const struct nib_vk_segment *segment);
void nib_vk_profile_mark(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                         const struct nib_vk_segment *segment, uint32_t pass);

/// Adds up the times of a segment that has run. Errors: device lost, memory.
enum nib_status nib_vk_profile_collect(struct nib_vk_instance *instance,
                                       const struct nib_vk_segment *segment, struct nib_error *err);

#endif
