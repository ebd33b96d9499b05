/// Files of the cache folder, one of each kind for every device, driver and set of shaders.
#ifndef RUNTIME_VULKAN_CACHE_FILE_H
#define RUNTIME_VULKAN_CACHE_FILE_H

#include "runtime/vulkan/device.h"

/// A cache that has grown beyond this is begun anew.
#define NIB_VK_CACHE_MOST_BYTES ((64u << 20) - 32)

/// Fowler, Noll and Vo's hash 1a of 64 bits, going on from `hash`.
#define NIB_VK_HASH_BEGIN 0xcbf29ce484222325ull
uint64_t nib_vk_hash(uint64_t hash, const void *bytes, size_t size);

/// Returns the path of the file of a kind, from malloc, or NULL where memory has run out.
char *nib_vk_cache_path(const struct nib_vk_device *device, const char *folder, const char *kind);
/// Returns the data of a file, mapped by `*out_map`, which the caller closes; NULL where the file
/// is absent, damaged or another driver's.
const uint8_t *nib_vk_cache_read(const struct nib_vk_device *device, const char *path,
                                 uint64_t magic, struct nib_file_map *out_map, size_t *out_size);
/// Writes a file, replacing the one there is at once, so that processes do not disturb each other.
/// Errors: io, memory.
enum nib_status nib_vk_cache_write(const struct nib_vk_device *device, const char *path,
                                   uint64_t magic, const void *data, size_t size,
                                   struct nib_error *err);

#endif
