#include "runtime/vulkan/memory.h"

#include <string.h>

#include "runtime/base/status.h"

/// A block ends when it has this size, so that memory comes in pieces that drivers find.
#define BLOCK_SIZE (256ull << 20)
/// Through which memory that the host does not see is written and read.
#define STAGING_SIZE (8ull << 20)

void nib_vk_pool_init(struct nib_vk_pool *pool, struct nib_vk_device *device, const char *name,
                      uint32_t memory_type, bool is_mapped)
{
    *pool = (struct nib_vk_pool){
        .device = device, .name = name, .memory_type = memory_type, .is_mapped = is_mapped};
}

enum nib_status nib_vk_pool_reserve(struct nib_vk_pool *pool, uint64_t size,
                                    struct nib_vk_range *out_range, struct nib_error *err)
{
    *out_range = (struct nib_vk_range){0};
    uint64_t most = pool->device->snapshot.max_allocation;
    uint64_t rounded = (size + NIB_VK_ALIGNMENT - 1) / NIB_VK_ALIGNMENT * NIB_VK_ALIGNMENT;
    if (rounded < size || (most && rounded > most)) {
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY, "%s cannot allocate %llu MiB at once",
                        pool->device->snapshot.name, (unsigned long long)(size >> 20));
    }
    bool is_new = pool->n_blocks == pool->n_taken ||
                  pool->blocks[pool->n_blocks - 1].size + rounded > BLOCK_SIZE;
    if (is_new && pool->n_blocks == NIB_VK_MAX_BLOCKS) {
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY,
                        "the model takes more than %d blocks of device memory; try --gpu-layers N",
                        NIB_VK_MAX_BLOCKS);
    }
    if (is_new)
        pool->blocks[pool->n_blocks++] = (struct nib_vk_block){0};
    struct nib_vk_block *block = &pool->blocks[pool->n_blocks - 1];
    *out_range = (struct nib_vk_range){
        .pool = pool, .block = pool->n_blocks - 1, .offset = block->size, .size = size};
    block->size += rounded;
    pool->size += rounded;
    return NIB_OK;
}

/// Adds to what the device's pools hold of the heap that models lie in.
static void count_taken(const struct nib_vk_pool *pool, int64_t bytes)
{
    struct nib_vk_device *d = pool->device;
    const VkMemoryType *types = d->snapshot.memory.memoryTypes;
    if (types[pool->memory_type].heapIndex == types[d->plan.device_memory_type].heapIndex)
        atomic_fetch_add(&d->taken, (uint64_t)bytes);
}

uint64_t nib_vk_memory_left(struct nib_vk_device *device)
{
    struct nib_vk_snapshot now = device->snapshot;
    uint32_t heap = now.memory.memoryTypes[device->plan.device_memory_type].heapIndex;
    nib_vk_snapshot_refresh(&device->host.table, device->physical, &now);
    return nib_vk_memory_budget(&now, heap, atomic_load(&device->taken));
}

static enum nib_status take_block(struct nib_vk_pool *pool, struct nib_vk_block *block,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vk_device *d = pool->device;
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = block->size ? block->size : NIB_VK_ALIGNMENT,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    NIB_TRY(nib_vk_check(d->table.CreateBuffer(d->device, &info, NULL, &block->buffer),
                         "vkCreateBuffer", err));
    uint32_t number = (uint32_t)(block - pool->blocks);
    nib_vk_name(d, VK_OBJECT_TYPE_BUFFER, (uint64_t)block->buffer, "%s %u", pool->name, number);
    VkMemoryRequirements needs;
    d->table.GetBufferMemoryRequirements(d->device, block->buffer, &needs);
    if (!(needs.memoryTypeBits & 1u << pool->memory_type)) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s puts no buffers into memory of type %u",
                        d->snapshot.name, pool->memory_type);
    }
    VkMemoryAllocateInfo allocation = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                       .allocationSize = needs.size,
                                       .memoryTypeIndex = pool->memory_type};
    NIB_TRY(nib_vk_check(d->table.AllocateMemory(d->device, &allocation, NULL, &block->memory),
                         "vkAllocateMemory", err));
    count_taken(pool, (int64_t)needs.size);
    block->taken = needs.size;
    nib_vk_name(d, VK_OBJECT_TYPE_DEVICE_MEMORY, (uint64_t)block->memory, "%s %u", pool->name,
                number);
    NIB_TRY(nib_vk_check(d->table.BindBufferMemory(d->device, block->buffer, block->memory, 0),
                         "vkBindBufferMemory", err));
    if (pool->is_mapped) {
        void *mapped = NULL;
        NIB_TRY(
            nib_vk_check(d->table.MapMemory(d->device, block->memory, 0, VK_WHOLE_SIZE, 0, &mapped),
                         "vkMapMemory", err));
        block->mapped = mapped;
    }
fail:
    return status;
}

enum nib_status nib_vk_pool_take(struct nib_vk_pool *pool, struct nib_error *err)
{
    for (; pool->n_taken < pool->n_blocks; pool->n_taken++) {
        enum nib_status status = take_block(pool, &pool->blocks[pool->n_taken], err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

void nib_vk_pool_destroy(struct nib_vk_pool *pool)
{
    for (uint32_t i = 0; i < pool->n_blocks; i++) {
        const struct nib_vk_device *d = pool->device;
        d->table.DestroyBuffer(d->device, pool->blocks[i].buffer, NULL);
        d->table.FreeMemory(d->device, pool->blocks[i].memory, NULL);
        count_taken(pool, -(int64_t)pool->blocks[i].taken);
    }
    *pool = (struct nib_vk_pool){0};
}

VkBuffer nib_vk_pool_buffer(const struct nib_vk_range *range)
{
    return range->pool->blocks[range->block].buffer;
}

void *nib_vk_pool_mapped(const struct nib_vk_range *range)
{
    uint8_t *mapped = range->pool->blocks[range->block].mapped;
    return mapped ? mapped + range->offset : NULL;
}

enum nib_status nib_vk_transfer_create(struct nib_vk_device *device,
                                       struct nib_vk_transfer *out_transfer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_transfer *t = out_transfer;
    *t = (struct nib_vk_transfer){.device = device};
    // Where the host sees all memory nothing is staged.
    uint64_t size = device->plan.is_direct ? NIB_VK_ALIGNMENT : STAGING_SIZE;
    nib_vk_pool_init(&t->staging, device, "staging", device->plan.readback_memory_type, true);
    NIB_TRY(nib_vk_clock_create(device, "transfer clock", &t->clock, err));
    NIB_TRY(nib_vk_pool_reserve(&t->staging, size, &t->range, err));
    NIB_TRY(nib_vk_pool_take(&t->staging, err));
    NIB_TRY(nib_vk_commands_create(device, "transfers", &t->commands, &t->buffer, err));
    return NIB_OK;

fail:
    nib_vk_transfer_destroy(t);
    return status;
}

void nib_vk_transfer_destroy(struct nib_vk_transfer *transfer)
{
    if (!transfer->device)
        return;
    const struct nib_vk_device *d = transfer->device;
    d->table.DestroyCommandPool(d->device, transfer->commands, NULL);
    nib_vk_pool_destroy(&transfer->staging);
    nib_vk_clock_destroy(transfer->device, &transfer->clock);
    *transfer = (struct nib_vk_transfer){0};
}

void nib_vk_barrier_all(const struct nib_vk_device *device, VkCommandBuffer buffer)
{
    const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT |
                                        VK_PIPELINE_STAGE_TRANSFER_BIT | VK_PIPELINE_STAGE_HOST_BIT;
    const VkAccessFlags access = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                                 VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT |
                                 VK_ACCESS_HOST_READ_BIT | VK_ACCESS_HOST_WRITE_BIT;
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = access,
                               .dstAccessMask = access};
    device->table.CmdPipelineBarrier(buffer, stages, stages, 0, 1, &barrier, 0, NULL, 0, NULL);
}

static enum nib_status begin(struct nib_vk_transfer *t, struct nib_error *err)
{
    if (t->is_recording)
        return NIB_OK;
    // A flush whose wait failed has left the buffer in use.
    enum nib_status status = t->is_pending ? nib_vk_wait(t->device, &t->clock, err) : NIB_OK;
    if (status != NIB_OK)
        return status;
    t->is_pending = false;
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    status = nib_vk_check(t->device->table.BeginCommandBuffer(t->buffer, &info),
                          "vkBeginCommandBuffer", err);
    if (status != NIB_OK)
        return status;
    t->is_recording = true;
    nib_vk_barrier_all(t->device, t->buffer);
    return NIB_OK;
}

enum nib_status nib_vk_transfer_flush(struct nib_vk_transfer *transfer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_device *d = transfer->device;
    if (!transfer->is_recording)
        return NIB_OK;
    transfer->is_recording = false;
    transfer->used = 0;
    nib_vk_barrier_all(d, transfer->buffer);
    NIB_TRY(nib_vk_check(d->table.EndCommandBuffer(transfer->buffer), "vkEndCommandBuffer", err));
    NIB_TRY(nib_vk_submit(d, &transfer->clock, &transfer->buffer, 1, err));
    transfer->is_pending = true;
    NIB_TRY(nib_vk_wait(d, &transfer->clock, err));
    transfer->is_pending = false;
fail:
    return status;
}

enum nib_status nib_vk_transfer_write(struct nib_vk_transfer *transfer,
                                      const struct nib_vk_range *range, uint64_t offset,
                                      const void *bytes, uint64_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint8_t *mapped = nib_vk_pool_mapped(range);
    if (mapped) {
        memcpy(mapped + offset, bytes, size);
        return NIB_OK;
    }
    uint8_t *staged = nib_vk_pool_mapped(&transfer->range);
    for (uint64_t done = 0, n; done < size; done += n) {
        if (transfer->used == transfer->range.size)
            NIB_TRY(nib_vk_transfer_flush(transfer, err));
        NIB_TRY(begin(transfer, err));
        uint64_t room = transfer->range.size - transfer->used;
        n = size - done < room ? size - done : room;
        memcpy(staged + transfer->used, (const uint8_t *)bytes + done, n);
        VkBufferCopy copy = {.srcOffset = transfer->range.offset + transfer->used,
                             .dstOffset = range->offset + offset + done,
                             .size = n};
        transfer->device->table.CmdCopyBuffer(transfer->buffer,
                                              nib_vk_pool_buffer(&transfer->range),
                                              nib_vk_pool_buffer(range), 1, &copy);
        transfer->used += n;
    }
fail:
    return status;
}

enum nib_status nib_vk_transfer_read(struct nib_vk_transfer *transfer,
                                     const struct nib_vk_range *range, uint64_t offset, void *bytes,
                                     uint64_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const uint8_t *mapped = nib_vk_pool_mapped(range);
    if (mapped) {
        memcpy(bytes, mapped + offset, size);
        return NIB_OK;
    }
    NIB_TRY(nib_vk_transfer_flush(transfer, err));
    const uint8_t *staged = nib_vk_pool_mapped(&transfer->range);
    for (uint64_t done = 0, n; done < size; done += n) {
        NIB_TRY(begin(transfer, err));
        n = size - done < transfer->range.size ? size - done : transfer->range.size;
        VkBufferCopy copy = {.srcOffset = range->offset + offset + done,
                             .dstOffset = transfer->range.offset,
                             .size = n};
        transfer->device->table.CmdCopyBuffer(transfer->buffer, nib_vk_pool_buffer(range),
                                              nib_vk_pool_buffer(&transfer->range), 1, &copy);
        NIB_TRY(nib_vk_transfer_flush(transfer, err));
        memcpy((uint8_t *)bytes + done, staged, n);
    }
fail:
    return status;
}

enum nib_status nib_vk_transfer_copy(struct nib_vk_transfer *transfer,
                                     const struct nib_vk_range *range, uint64_t from, uint64_t to,
                                     uint64_t size, struct nib_error *err)
{
    enum nib_status status = begin(transfer, err);
    if (status != NIB_OK)
        return status;
    VkBufferCopy copy = {
        .srcOffset = range->offset + from, .dstOffset = range->offset + to, .size = size};
    VkBuffer buffer = nib_vk_pool_buffer(range);
    transfer->device->table.CmdCopyBuffer(transfer->buffer, buffer, buffer, 1, &copy);
    return NIB_OK;
}
