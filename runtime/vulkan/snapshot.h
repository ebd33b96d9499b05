/// What a physical device says of itself, as a plain struct, and the plan made from it by a pure
/// function.
#ifndef RUNTIME_VULKAN_SNAPSHOT_H
#define RUNTIME_VULKAN_SNAPSHOT_H

#include "runtime/vulkan/matmul_block.h"
#include <nibble/device.h>

#define NIB_VK_MAX_FAMILIES 16

/// Capabilities and limits.
struct nib_vk_snapshot {
    char name[256];
    char driver[256]; ///< name and version
    uint32_t api_version;
    uint32_t vendor_id;
    uint32_t device_id;
    uint32_t driver_version;
    VkDriverId driver_id;
    uint8_t cache_uuid[VK_UUID_SIZE]; ///< changes where compiled pipelines do
    VkPhysicalDeviceType type;
    bool is_software;             ///< it runs on the CPU, also where `type` is capped
    bool has_timeline_semaphore;  ///< the feature
    bool has_timeline_extension;  ///< VK_KHR_timeline_semaphore is listed
    bool has_memory_budget;       ///< VK_EXT_memory_budget is listed
    uint32_t max_storage_range;   ///< bytes of one storage binding
    uint32_t max_storage_buffers; ///< a stage
    uint32_t max_texels;          ///< elements of a texel buffer
    uint32_t max_push_constants;  ///< bytes
    uint32_t max_invocations;     ///< of a workgroup
    uint32_t max_shared_memory;   ///< bytes
    uint32_t max_workgroups;      ///< the least of the first two dimensions
    uint64_t storage_alignment;   ///< of a binding's offset
    uint64_t max_allocation;      ///< bytes of one VkDeviceMemory
    uint32_t subgroup_size;
    bool has_integer_dot;           ///< the feature, of packed bytes
    bool has_integer_dot_extension; ///< VK_KHR_shader_integer_dot_product is listed
    bool has_fast_integer_dot;      ///< and what it does to signed bytes is accelerated
    bool has_fast_mixed_dot;        ///< and to signed times unsigned ones
    bool has_shuffles;              ///< an invocation reads of others in its subgroup
    struct nib_vk_subgroups subgroups;
    struct nib_vk_cooperative cooperative;
    float timestamp_ns;   ///< a tick of the queue's clock
    bool has_host_family; ///< the queue is a host's, of `host_family`
    uint32_t host_family;
    uint32_t n_families;
    VkQueueFamilyProperties families[NIB_VK_MAX_FAMILIES];
    VkPhysicalDeviceMemoryProperties memory;
    uint64_t budget[VK_MAX_MEMORY_HEAPS]; ///< what this process may take; 0: unknown
};

/// Asks a physical device. Errors: memory.
enum nib_status nib_vk_snapshot_take(const struct nib_vk_instance_table *table,
                                     VkPhysicalDevice physical,
                                     struct nib_vk_snapshot *out_snapshot, struct nib_error *err);

/// Asks anew what memory there is and what of it this process may take. A capped snapshot stays so.
void nib_vk_snapshot_refresh(const struct nib_vk_instance_table *table, VkPhysicalDevice physical,
                             struct nib_vk_snapshot *snapshot);

/// Numbers of rows of input that there may be kernels for: the powers of two below 2^7.
#define NIB_VK_MAX_COLUMNS 7

/// Kernels of matmuls, made for one kind of device each.
enum nib_vk_family {
    NIB_VK_FAMILY_WIDE,   ///< many invocations of few rows; runs everywhere
    NIB_VK_FAMILY_DOT,    ///< the same with dot products of packed bytes
    NIB_VK_FAMILY_TALL,   ///< few invocations of many rows; runs everywhere
    NIB_VK_FAMILY_TEXEL,  ///< the same through texel buffers
    NIB_VK_FAMILY_SINGLE, ///< the same, a single row being prepared by the matmul
    NIB_VK_FAMILY_SUB,    ///< as dot, few rows of input being summed by shuffles
    NIB_VK_FAMILY_COOP8,  ///< many rows of input by cooperative matrices of bytes
    NIB_VK_FAMILY_COOP16, ///< the same of halves
    NIB_VK_FAMILY_HALF,   ///< the same of halves that are numbers, not codes
    NIB_VK_FAMILY_COUNT
};

/// What is made of a device.
struct nib_vk_device_plan {
    bool is_usable;
    char reason[160]; ///< why it is not
    uint32_t queue_family;
    bool needs_timeline_extension;
    uint32_t device_memory_type;
    uint32_t upload_memory_type;   ///< written by the host, read by copies
    uint32_t readback_memory_type; ///< read by the host
    bool is_direct;                ///< the host writes device memory itself
    uint64_t memory_bytes;         ///< that weights, cache and buffers may take
    // Matmuls.
    bool has_texels;               ///< texel buffers are bound beside storage buffers
    bool has_integer_dot;          ///< the feature is enabled
    bool has_sizes;                ///< the features of subgroups' sizes are enabled, if there
    uint32_t matmul_subgroup;      ///< invocations of a subgroup of kernels for few rows of input
    bool has_cooperative;          ///< the features of cooperative matrices are enabled
    uint32_t cooperative_subgroup; ///< invocations of a subgroup of their kernels
    struct nib_vk_tile tiles[NIB_VK_ELEMENT_COUNT][2]; ///< of whole granules and of halves
    struct nib_vk_matmul_blocks blocks;                ///< of products of numbers
    bool is_forced;                                    ///< `forced_family` goes first
    enum nib_vk_family forced_family;
    enum nib_vk_family families[NIB_VK_FAMILY_COUNT]; ///< the best first
    uint32_t n_families;
    bool has_codes;         ///< codes are multiplied as integers, not as the numbers they stand for
    uint32_t prepare_quads; ///< of a granule of input that an invocation makes ready: 1 or 8
    uint32_t prepare_parts; ///< workgroups that make matmuls' inputs ready, about, at least
    uint32_t matmul_lanes;  ///< invocations that share a row of the weight, at least
    uint32_t most_lanes;    ///< and at most
    uint32_t single_granules; ///< of a row that a matmul for GPUs prepares itself, at most
    uint32_t matmul_columns;  ///< binary logarithm of the most rows of input a workgroup: 0 to 6
    uint32_t matmul_width;    ///< invocations that have rows of their own
    // Attention.
    uint32_t attention_units;   ///< of 8 numbers of a head that an invocation has, at least
    uint32_t attention_numbers; ///< of queries and outputs that it keeps, at most
    uint32_t attention_parts;   ///< of a sequence's pages, times rows: a power of two
    bool has_attention_coop;    ///< tiles of halves serve for prompts
};

/// Caps a snapshot to the least device that must run: what `vulkan_mask` "baseline" means.
void nib_vk_snapshot_cap(struct nib_vk_snapshot *snapshot);
/// Returns the bytes of heap `heap` that may be taken, where `taken` are ours already: what the
/// driver's budget leaves, and no more than nine tenths of the heap in all.
uint64_t nib_vk_memory_budget(const struct nib_vk_snapshot *snapshot, uint32_t heap,
                              uint64_t taken);
/// Decides. Pure.
void nib_vk_device_plan_make(const struct nib_vk_snapshot *snapshot,
                             struct nib_vk_device_plan *out_plan);
/// Lets one family of kernels go first, whatever the device would choose. Errors: unsupported (no
/// such family, or the device lacks what it needs, which is named).
enum nib_status nib_vk_device_plan_force(const struct nib_vk_snapshot *snapshot, const char *name,
                                         struct nib_vk_device_plan *plan, struct nib_error *err);
/// Describes the device as `nibble devices` lists it, but for its index.
void nib_vk_describe(const struct nib_vk_snapshot *snapshot, const struct nib_vk_device_plan *plan,
                     struct nib_device_info *out_info);

#endif
