/// What becomes of a device that fails: states, not crashes.
#ifndef RUNTIME_VULKAN_LOSS_H
#define RUNTIME_VULKAN_LOSS_H

#include "runtime/vulkan/device.h"

/// As nib_vk_check, and notes a lost device, of which nothing more is asked.
enum nib_status nib_vk_device_check(struct nib_vk_device *device, VkResult result, const char *call,
                                    struct nib_error *err);
/// Returns NIB_OK unless the device was lost or has hung.
enum nib_status nib_vk_check_alive(const struct nib_vk_device *device, struct nib_error *err);
/// Returns whether all that was submitted under `clock` has ended, so that what it used may be
/// destroyed. Where it has not, after as long as a step may take, it never may: the device is
/// abandoned, and what Vulkan holds stays with the process.
bool nib_vk_is_idle(struct nib_vk_device *device, const struct nib_vk_clock *clock);

#endif
