#include "runtime/vulkan/cache_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/shaders.h"

/// The kind's magic number, the key, the size of the data and its hash, 8 bytes each.
#define HEADER_SIZE 32u

uint64_t nib_vk_hash(uint64_t hash, const void *bytes, size_t size)
{
    const uint8_t *b = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ b[i]) * 0x100000001b3ull;
    return hash;
}

/// What a cache is good for: one device, driver and set of shaders.
static uint64_t find_key(const struct nib_vk_device *device)
{
    const struct nib_vk_snapshot *s = &device->snapshot;
    uint64_t hash = nib_vk_hash(NIB_VK_HASH_BEGIN, s->cache_uuid, sizeof s->cache_uuid);
    hash = nib_vk_hash(hash, &s->vendor_id, sizeof s->vendor_id);
    hash = nib_vk_hash(hash, &s->device_id, sizeof s->device_id);
    hash = nib_vk_hash(hash, &s->driver_version, sizeof s->driver_version);
    for (uint32_t i = 0; i < nib_vk_shader_count; i++)
        hash = nib_vk_hash(hash, nib_vk_shaders[i].words, *nib_vk_shaders[i].size);
    return hash;
}

char *nib_vk_cache_path(const struct nib_vk_device *device, const char *folder, const char *kind)
{
    size_t size = strlen(folder) + strlen(kind) + 32;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%s/%s-%016llx.bin", folder, kind,
                 (unsigned long long)find_key(device));
    return path;
}

const uint8_t *nib_vk_cache_read(const struct nib_vk_device *device, const char *path,
                                 uint64_t magic, struct nib_file_map *out_map, size_t *out_size)
{
    *out_map = (struct nib_file_map){0};
    *out_size = 0;
    if (nib_path_kind(path) != NIB_PATH_FILE || nib_file_map_open(path, out_map, NULL) != NIB_OK)
        return NULL;
    const struct nib_file_map *map = out_map;
    if (map->size < HEADER_SIZE || map->size > NIB_VK_CACHE_MOST_BYTES + HEADER_SIZE ||
        nib_load_u64(map->data) != magic || nib_load_u64(map->data + 8) != find_key(device) ||
        nib_load_u64(map->data + 16) != map->size - HEADER_SIZE)
        return NULL;
    const uint8_t *data = map->data + HEADER_SIZE;
    size_t size = map->size - HEADER_SIZE;
    if (nib_load_u64(map->data + 24) != nib_vk_hash(NIB_VK_HASH_BEGIN, data, size))
        return NULL;
    *out_size = size;
    return data;
}

enum nib_status nib_vk_cache_write(const struct nib_vk_device *device, const char *path,
                                   uint64_t magic, const void *data, size_t size,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_file_writer *writer = NULL;
    uint8_t header[HEADER_SIZE];
    nib_store_u64(header, magic);
    nib_store_u64(header + 8, find_key(device));
    nib_store_u64(header + 16, size);
    nib_store_u64(header + 24, nib_vk_hash(NIB_VK_HASH_BEGIN, data, size));
    NIB_TRY(nib_file_writer_open(path, &writer, err));
    NIB_TRY(nib_file_writer_append(writer, header, sizeof header, err));
    NIB_TRY(nib_file_writer_append(writer, data, size, err));
    return nib_file_writer_commit(&writer, err);

fail:
    nib_file_writer_destroy(&writer);
    return status;
}
