/// Memory: ranges are reserved first, then taken in few large blocks, a buffer each.
#ifndef RUNTIME_VULKAN_MEMORY_H
#define RUNTIME_VULKAN_MEMORY_H

#include "runtime/vulkan/device.h"

/// Every range begins at a multiple of this, enough for any device that the plan lets through.
#define NIB_VK_ALIGNMENT 256u
/// Room for 256 GiB in blocks that are full.
#define NIB_VK_MAX_BLOCKS 1024

struct nib_vk_pool;
/// Part of a pool's block; of size 0: nothing.
struct nib_vk_range {
    const struct nib_vk_pool *pool; ///< NULL: nothing
    uint32_t block;
    uint64_t offset;
    uint64_t size; ///< bytes
};

struct nib_vk_block {
    uint64_t size;
    VkBuffer buffer;
    VkDeviceMemory memory;
    uint64_t taken;  ///< bytes of `memory`
    uint8_t *mapped; ///< NULL: the host cannot see it
};

/// Blocks of one memory type. Thread-safety: one thread at a time.
struct nib_vk_pool {
    struct nib_vk_device *device;
    const char *name; ///< for debuggers; static
    uint32_t memory_type;
    bool is_mapped;
    struct nib_vk_block blocks[NIB_VK_MAX_BLOCKS];
    uint32_t n_blocks;
    uint32_t n_taken; ///< blocks that have memory
    uint64_t size;    ///< bytes of all blocks
};

void nib_vk_pool_init(struct nib_vk_pool *pool, struct nib_vk_device *device, const char *name,
                      uint32_t memory_type, bool is_mapped);
/// Reserves `size` bytes, which have no memory before nib_vk_pool_take. Errors: device memory (more
/// than one allocation can hold, or too many blocks).
enum nib_status nib_vk_pool_reserve(struct nib_vk_pool *pool, uint64_t size,
                                    struct nib_vk_range *out_range, struct nib_error *err);
/// Takes memory for all that is reserved; later reservations go to new blocks. Errors: device
/// memory, memory, unsupported.
enum nib_status nib_vk_pool_take(struct nib_vk_pool *pool, struct nib_error *err);
/// Frees everything, which the device must not use any more; a zeroed pool is accepted.
void nib_vk_pool_destroy(struct nib_vk_pool *pool);

/// Returns the bytes of device memory that may still be taken, as the driver says now.
uint64_t nib_vk_memory_left(struct nib_vk_device *device);

VkBuffer nib_vk_pool_buffer(const struct nib_vk_range *range);
/// Returns the range in the host's memory, or NULL where it does not lie there.
void *nib_vk_pool_mapped(const struct nib_vk_range *range);

/// Copies between a pool and the host, through a staging buffer where the host cannot see the pool.
struct nib_vk_transfer {
    struct nib_vk_device *device;
    struct nib_vk_clock clock;
    VkCommandPool commands;
    VkCommandBuffer buffer;
    struct nib_vk_pool staging;
    struct nib_vk_range range;
    uint64_t used; ///< staged bytes that are not submitted
    bool is_recording;
    bool is_pending; ///< submitted, and not waited for
};
enum nib_status nib_vk_transfer_create(struct nib_vk_device *device,
                                       struct nib_vk_transfer *out_transfer, struct nib_error *err);
/// Nothing of it may be under way (nib_vk_is_idle). A zeroed transfer is accepted.
void nib_vk_transfer_destroy(struct nib_vk_transfer *transfer);
/// Writes `size` bytes, a multiple of 4, at `offset` of `range`; they are there after the flush.
enum nib_status nib_vk_transfer_write(struct nib_vk_transfer *transfer,
                                      const struct nib_vk_range *range, uint64_t offset,
                                      const void *bytes, uint64_t size, struct nib_error *err);
/// Copies `size` bytes, a multiple of 4, from one offset of `range` to another; done after the
/// flush.
enum nib_status nib_vk_transfer_copy(struct nib_vk_transfer *transfer,
                                     const struct nib_vk_range *range, uint64_t from, uint64_t to,
                                     uint64_t size, struct nib_error *err);
/// Ends all writes and waits for them.
enum nib_status nib_vk_transfer_flush(struct nib_vk_transfer *transfer, struct nib_error *err);
/// Reads `size` bytes, a multiple of 4, at `offset` of `range`.
enum nib_status nib_vk_transfer_read(struct nib_vk_transfer *transfer,
                                     const struct nib_vk_range *range, uint64_t offset, void *bytes,
                                     uint64_t size, struct nib_error *err);

/// Records a barrier between everything before and everything after it: kernels, copies, the host.
void nib_vk_barrier_all(const struct nib_vk_device *device, VkCommandBuffer buffer);

#endif
