#include "runtime/vulkan/pipeline_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/shaders.h"

/// "NIBPIPE1", then the key, the size of the data and its hash, 8 bytes each.
#define MAGIC 0x3145504950424931ull
#define HEADER_SIZE 32u
/// A cache that has grown beyond this is begun anew.
#define MOST_BYTES (64u << 20)

/// Fowler, Noll and Vo's hash 1a of 64 bits, going on from `hash`.
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const uint8_t *b = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ b[i]) * 0x100000001b3ull;
    return hash;
}
#define HASH_BEGIN 0xcbf29ce484222325ull

/// What a cache is good for: one device, driver and set of shaders.
static uint64_t find_key(const struct nib_vk_device *device)
{
    const struct nib_vk_snapshot *s = &device->snapshot;
    uint64_t hash = hash_bytes(HASH_BEGIN, s->cache_uuid, sizeof s->cache_uuid);
    hash = hash_bytes(hash, &s->vendor_id, sizeof s->vendor_id);
    hash = hash_bytes(hash, &s->device_id, sizeof s->device_id);
    hash = hash_bytes(hash, &s->driver_version, sizeof s->driver_version);
    for (uint32_t i = 0; i < nib_vk_shader_count; i++)
        hash = hash_bytes(hash, nib_vk_shaders[i].words, *nib_vk_shaders[i].size);
    return hash;
}

/// Returns the data in a mapped file, or NULL where the file is not a whole cache under `key`.
static const uint8_t *find_data(const struct nib_file_map *map, uint64_t key, size_t *out_size)
{
    *out_size = 0;
    if (map->size < HEADER_SIZE || map->size > MOST_BYTES || nib_load_u64(map->data) != MAGIC ||
        nib_load_u64(map->data + 8) != key ||
        nib_load_u64(map->data + 16) != map->size - HEADER_SIZE)
        return NULL;
    const uint8_t *data = map->data + HEADER_SIZE;
    size_t size = map->size - HEADER_SIZE;
    if (nib_load_u64(map->data + 24) != hash_bytes(HASH_BEGIN, data, size))
        return NULL;
    *out_size = size;
    return data;
}

static char *make_path(const char *folder, uint64_t key)
{
    size_t size = strlen(folder) + 40;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%s/pipelines-%016llx.bin", folder, (unsigned long long)key);
    return path;
}

enum nib_status nib_vk_pipeline_cache_open(struct nib_vk_device *device, const char *folder,
                                           struct nib_error *err)
{
    struct nib_file_map map = {0};
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    if (folder && *folder) {
        uint64_t key = find_key(device);
        device->cache_path = make_path(folder, key);
        if (!device->cache_path)
            return nib_fail_memory(err);
        if (nib_path_kind(device->cache_path) == NIB_PATH_FILE &&
            nib_file_map_open(device->cache_path, &map, NULL) == NIB_OK)
            info.pInitialData = find_data(&map, key, &info.initialDataSize);
    }
    VkResult result =
        device->table.CreatePipelineCache(device->device, &info, NULL, &device->cache);
    if (result == VK_SUCCESS)
        nib_vk_name(device, VK_OBJECT_TYPE_PIPELINE_CACHE, (uint64_t)device->cache, "kernels");
    device->cache_size = info.initialDataSize;
    nib_file_map_close(&map);
    return nib_vk_check(result, "vkCreatePipelineCache", err);
}

static enum nib_status write_file(const struct nib_vk_device *device, const uint8_t *data,
                                  size_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_file_writer *writer = NULL;
    uint8_t header[HEADER_SIZE];
    nib_store_u64(header, MAGIC);
    nib_store_u64(header + 8, find_key(device));
    nib_store_u64(header + 16, size);
    nib_store_u64(header + 24, hash_bytes(HASH_BEGIN, data, size));
    NIB_TRY(nib_file_writer_open(device->cache_path, &writer, err));
    NIB_TRY(nib_file_writer_append(writer, header, sizeof header, err));
    NIB_TRY(nib_file_writer_append(writer, data, size, err));
    return nib_file_writer_commit(&writer, err);

fail:
    nib_file_writer_destroy(&writer);
    return status;
}

void nib_vk_pipeline_cache_save(struct nib_vk_device *device)
{
    size_t size = 0;
    if (!device->cache_path || !device->cache ||
        device->table.GetPipelineCacheData(device->device, device->cache, &size, NULL) !=
            VK_SUCCESS ||
        size == device->cache_size || size > MOST_BYTES - HEADER_SIZE)
        return;
    uint8_t *data = malloc(size ? size : 1);
    struct nib_error error;
    if (data &&
        device->table.GetPipelineCacheData(device->device, device->cache, &size, data) ==
            VK_SUCCESS &&
        write_file(device, data, size, &error) != NIB_OK)
        nib_log_write(&device->log, NIB_LOG_WARNING, "compiled kernels are not kept: %s",
                      error.message);
    free(data);
}
