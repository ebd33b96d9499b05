/// The Vulkan backend's entry: the only header of this folder that others include.
#ifndef RUNTIME_VULKAN_VULKAN_BACKEND_H
#define RUNTIME_VULKAN_VULKAN_BACKEND_H

#include "runtime/ops/backend.h"

extern const struct nib_backend nib_vulkan_backend;

#endif
