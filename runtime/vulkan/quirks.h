/// What is known of drivers that promise what they do not keep.
#ifndef RUNTIME_VULKAN_QUIRKS_H
#define RUNTIME_VULKAN_QUIRKS_H

#include "runtime/vulkan/snapshot.h"

/// Returns why the driver's promise of the family's features is not to be trusted, or NULL. Static.
const char *nib_vk_quirk_find(const struct nib_vk_snapshot *snapshot, enum nib_vk_family family);

/// Returns whether the driver's compiler looks at specialization constants only after it has
/// unrolled loops, so that they are set in the code that it gets.
bool nib_vk_quirk_is_late(const struct nib_vk_snapshot *snapshot);

#endif
