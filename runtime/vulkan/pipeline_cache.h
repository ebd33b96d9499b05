/// Compiled pipelines on disk, in a file of the cache folder for each device, driver and build.
#ifndef RUNTIME_VULKAN_PIPELINE_CACHE_H
#define RUNTIME_VULKAN_PIPELINE_CACHE_H

#include "runtime/vulkan/device.h"

/// Makes the device's pipeline cache from what `folder` (may be NULL) holds for it, and names the
/// file of its verdict on kernels. A file that is
/// absent, damaged or another driver's counts as empty. Errors: those of the device.
enum nib_status nib_vk_pipeline_cache_open(struct nib_vk_device *device, const char *folder,
                                           struct nib_error *err);
/// Writes the cache back where pipelines were added, replacing the file at once, so that processes
/// do not disturb each other. What fails is logged.
void nib_vk_pipeline_cache_save(struct nib_vk_device *device);

#endif
