#include "runtime/vulkan/pipeline_cache.h"

#include <stdlib.h>

#include "runtime/base/os_file.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/cache_file.h"

/// "NIBPIPE1"
#define MAGIC 0x314550495042494eull

enum nib_status nib_vk_pipeline_cache_open(struct nib_vk_device *device, const char *folder,
                                           struct nib_error *err)
{
    struct nib_file_map map = {0};
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    if (folder && *folder) {
        device->cache_path = nib_vk_cache_path(device, folder, "pipelines");
        device->verdict_path = nib_vk_cache_path(device, folder, "kernels");
        if (!device->cache_path || !device->verdict_path)
            return nib_fail_memory(err);
        info.pInitialData =
            nib_vk_cache_read(device, device->cache_path, MAGIC, &map, &info.initialDataSize);
    }
    VkResult result =
        device->table.CreatePipelineCache(device->device, &info, NULL, &device->cache);
    if (result == VK_SUCCESS)
        nib_vk_name(device, VK_OBJECT_TYPE_PIPELINE_CACHE, (uint64_t)device->cache, "kernels");
    device->cache_size = info.initialDataSize;
    nib_file_map_close(&map);
    return nib_vk_check(result, "vkCreatePipelineCache", err);
}

void nib_vk_pipeline_cache_save(struct nib_vk_device *device)
{
    size_t size = 0;
    if (!device->cache_path || !device->cache ||
        device->table.GetPipelineCacheData(device->device, device->cache, &size, NULL) !=
            VK_SUCCESS ||
        size == device->cache_size)
        return;
    if (size > NIB_VK_CACHE_MOST_BYTES) {
        nib_os_remove(device->cache_path);
        return;
    }
    uint8_t *data = malloc(size ? size : 1);
    struct nib_error error;
    if (data &&
        device->table.GetPipelineCacheData(device->device, device->cache, &size, data) ==
            VK_SUCCESS &&
        nib_vk_cache_write(device, device->cache_path, MAGIC, data, size, &error) != NIB_OK)
        nib_log_write(&device->log, NIB_LOG_WARNING, "compiled kernels are not kept: %s",
                      error.message);
    free(data);
}
