/// What a device can do at most, measured: as nib_backend.measure.
#ifndef RUNTIME_VULKAN_MEASURE_H
#define RUNTIME_VULKAN_MEASURE_H

#include "runtime/vulkan/loss.h"

enum nib_status nib_vk_measure(void *device, struct nib_device_limits *out_limits,
                               struct nib_error *err);

#endif
