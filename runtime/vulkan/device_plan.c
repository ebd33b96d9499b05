#include <stdio.h>

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/variants.h"
#include "shaders/shared/kernels.h"

// The least device that must run; every kernel keeps to these.
#define LEAST_STORAGE_RANGE (128u << 20)
#define LEAST_TEXELS (64u << 10)
#define LEAST_PUSH_CONSTANTS 128u
#define LEAST_INVOCATIONS 128u
#define LEAST_SHARED_MEMORY (16u << 10)
#define LEAST_ALIGNMENT 256u
/// Invocations of a GPU that share a row of a weight, at least and at most.
#define GPU_LANES 8u
#define GPU_MOST_LANES 32u
#define MATMUL_WIDTH 8u
/// What matmuls that prepare a row share: codes, scale and sums of a granule, and beside them a
/// book, sums of squares and of lanes.
#define SINGLE_GRANULE_BYTES (32u + 4u + 8u)
#define SINGLE_OTHER_BYTES 4096u
/// Workgroups that fill a GPU with a short pass.
#define GPU_PREPARE_PARTS 64u
/// Parts of a sequence's pages that fill a GPU.
#define GPU_PARTS 32u
/// Of a heap without a budget, what is left to others.
#define HEAD_ROOM_NUMERATOR 9
#define HEAD_ROOM_DENOMINATOR 10

void nib_vk_snapshot_cap(struct nib_vk_snapshot *snapshot)
{
    snapshot->max_storage_range = nib_min_u32(snapshot->max_storage_range, LEAST_STORAGE_RANGE);
    snapshot->max_storage_buffers = nib_min_u32(snapshot->max_storage_buffers, NIB_BINDINGS);
    snapshot->max_texels = nib_min_u32(snapshot->max_texels, LEAST_TEXELS);
    snapshot->max_push_constants = nib_min_u32(snapshot->max_push_constants, LEAST_PUSH_CONSTANTS);
    snapshot->max_invocations = nib_min_u32(snapshot->max_invocations, LEAST_INVOCATIONS);
    snapshot->max_shared_memory = nib_min_u32(snapshot->max_shared_memory, LEAST_SHARED_MEMORY);
    snapshot->subgroup_size = 1;
    snapshot->has_shuffles = false;
    snapshot->subgroups = (struct nib_vk_subgroups){0};
    snapshot->has_integer_dot = false;
    snapshot->has_fast_integer_dot = false;
    snapshot->has_fast_mixed_dot = false;
    snapshot->cooperative = (struct nib_vk_cooperative){0};
    // What is known of the class of device would choose kernels that others do not get.
    snapshot->type = VK_PHYSICAL_DEVICE_TYPE_OTHER;
}

/// Finds the memory type with all of `wanted` and none of `unwanted`, on the largest heap. Returns
/// whether there is one.
static bool find_type(const struct nib_vk_snapshot *s, VkMemoryPropertyFlags wanted,
                      VkMemoryPropertyFlags unwanted, uint32_t *out_type)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < s->memory.memoryTypeCount; i++) {
        const VkMemoryType *type = &s->memory.memoryTypes[i];
        uint64_t size = s->memory.memoryHeaps[type->heapIndex].size;
        if ((type->propertyFlags & wanted) != wanted || (type->propertyFlags & unwanted) ||
            size <= most)
            continue;
        most = size;
        *out_type = i;
    }
    return most > 0;
}

static bool has_unified_memory(const struct nib_vk_snapshot *s)
{
    return s->type == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU ||
           s->type == VK_PHYSICAL_DEVICE_TYPE_CPU;
}

/// Chooses the three types of memory. Types for lazy, protected and AMD's uncached memory stay out.
static bool choose_memory(const struct nib_vk_snapshot *s, struct nib_vk_device_plan *plan)
{
    const VkMemoryPropertyFlags host =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    const VkMemoryPropertyFlags cached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    const VkMemoryPropertyFlags odd = VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT |
                                      VK_MEMORY_PROPERTY_PROTECTED_BIT |
                                      VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD;
    plan->is_direct =
        has_unified_memory(s) && find_type(s, local | host, odd, &plan->device_memory_type);
    // On a discrete device the heap that the host sees may be a small window.
    if (!plan->is_direct &&
        !find_type(s, local, odd | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
                   &plan->device_memory_type) &&
        !find_type(s, local, odd, &plan->device_memory_type))
        return false;
    if (!find_type(s, host, odd | local, &plan->upload_memory_type) &&
        !find_type(s, host, odd, &plan->upload_memory_type))
        return false;
    return find_type(s, host | cached, odd, &plan->readback_memory_type) ||
           find_type(s, host, odd, &plan->readback_memory_type);
}

/// The host's family, if it has compute; else one with compute, of which one without graphics is
/// left to compute alone and is preferred.
static bool choose_family(const struct nib_vk_snapshot *s, uint32_t *out_family)
{
    bool has_any = false;
    for (uint32_t i = 0; i < s->n_families; i++) {
        if (s->has_host_family && i != s->host_family)
            continue;
        VkQueueFlags flags = s->families[i].queueFlags;
        if (!(flags & VK_QUEUE_COMPUTE_BIT) || s->families[i].queueCount == 0)
            continue;
        if (!has_any || !(flags & VK_QUEUE_GRAPHICS_BIT))
            *out_family = i;
        has_any = true;
        if (!(flags & VK_QUEUE_GRAPHICS_BIT))
            break;
    }
    return has_any;
}

/// Returns the limit that the device does not reach, or NULL.
static const char *find_missing(const struct nib_vk_snapshot *s)
{
    if (s->api_version < VK_API_VERSION_1_1)
        return "Vulkan 1.1";
    if (!s->has_timeline_semaphore)
        return "timeline semaphores";
    if (s->max_storage_range < LEAST_STORAGE_RANGE)
        return "storage buffers of 128 MiB";
    if (s->max_storage_buffers < NIB_BINDINGS)
        return "8 storage buffers a stage";
    if (s->max_push_constants < LEAST_PUSH_CONSTANTS)
        return "128 bytes of push constants";
    if (s->max_invocations < LEAST_INVOCATIONS)
        return "workgroups of 128 invocations";
    if (s->max_shared_memory < LEAST_SHARED_MEMORY)
        return "16 KiB of shared memory";
    if (s->storage_alignment > LEAST_ALIGNMENT)
        return "storage buffers at multiples of 256 bytes";
    return NULL;
}

/// Adds a family behind those that are better, if the device can run it.
static void add_family(const struct nib_vk_snapshot *snapshot, enum nib_vk_family family,
                       struct nib_vk_device_plan *plan)
{
    if (nib_vk_family_missing(snapshot, family))
        return;
    plan->families[plan->n_families++] = family;
    plan->has_texels = plan->has_texels || family == NIB_VK_FAMILY_TEXEL;
    plan->has_integer_dot =
        plan->has_integer_dot || family == NIB_VK_FAMILY_DOT || family == NIB_VK_FAMILY_SUB;
    plan->has_cooperative = plan->has_cooperative || nib_vk_family_is_cooperative(family);
    plan->has_sizes = plan->has_sizes || nib_vk_family_has_sizes(family);
}

/// Chooses the tiles of cooperative matrices.
static void choose_tiles(const struct nib_vk_snapshot *s, struct nib_vk_device_plan *plan)
{
    plan->cooperative_subgroup = nib_vk_tile_subgroup(s);
    for (uint32_t e = 0; e < NIB_VK_ELEMENT_COUNT; e++) {
        plan->tiles[e][0] = nib_vk_tile_choose(s, (enum nib_vk_element)e, 1);
        plan->tiles[e][1] = nib_vk_tile_choose(s, (enum nib_vk_element)e, 2);
    }
    nib_vk_matmul_blocks_find(s, &plan->blocks);
}

uint64_t nib_vk_memory_budget(const struct nib_vk_snapshot *snapshot, uint32_t heap, uint64_t taken)
{
    uint64_t all =
        snapshot->memory.memoryHeaps[heap].size / HEAD_ROOM_DENOMINATOR * HEAD_ROOM_NUMERATOR;
    uint64_t left = all > taken ? all - taken : 0;
    // The driver's budget counts what is taken itself.
    if (snapshot->has_memory_budget && snapshot->budget[heap] < left)
        left = snapshot->budget[heap];
    return left;
}

/// Returns the granules of a row of input that a workgroup's shared memory holds.
static uint32_t single_granules(const struct nib_vk_snapshot *snapshot)
{
    return (snapshot->max_shared_memory - SINGLE_OTHER_BYTES) / SINGLE_GRANULE_BYTES;
}

static uint32_t most_lanes(const struct nib_vk_snapshot *snapshot)
{
    return nib_min_u32(GPU_MOST_LANES, snapshot->max_invocations / MATMUL_WIDTH);
}

static bool has_family(const struct nib_vk_device_plan *plan, enum nib_vk_family family)
{
    for (uint32_t i = 0; i < plan->n_families; i++) {
        if (plan->families[i] == family)
            return true;
    }
    return false;
}

void nib_vk_device_plan_make(const struct nib_vk_snapshot *snapshot,
                             struct nib_vk_device_plan *out_plan)
{
    *out_plan = (struct nib_vk_device_plan){0};
    const char *missing = find_missing(snapshot);
    if (!missing && !choose_family(snapshot, &out_plan->queue_family))
        missing = "a queue for compute";
    if (!missing && !choose_memory(snapshot, out_plan))
        missing = "memory that both the host and the device can use";
    if (missing) {
        snprintf(out_plan->reason, sizeof out_plan->reason, "the device has no %s", missing);
        return;
    }
    out_plan->is_usable = true;
    out_plan->needs_timeline_extension =
        snapshot->api_version < VK_API_VERSION_1_2 && snapshot->has_timeline_extension;
    uint32_t heap = snapshot->memory.memoryTypes[out_plan->device_memory_type].heapIndex;
    out_plan->memory_bytes = nib_vk_memory_budget(snapshot, heap, 0);
    // A driver on the CPU pays for each load of each invocation, and for barriers: many rows share
    // the loads of the input, and nothing is shared between invocations. One with vectors of four
    // (SwiftShader) takes minutes to compile the larger kernels.
    bool is_cpu = snapshot->type == VK_PHYSICAL_DEVICE_TYPE_CPU;
    bool is_narrow = is_cpu && snapshot->subgroup_size < 8;
    static const enum nib_vk_family of_cpus[] = {NIB_VK_FAMILY_SINGLE, NIB_VK_FAMILY_TEXEL,
                                                 NIB_VK_FAMILY_TALL};
    for (uint32_t i = 0; is_cpu && !is_narrow && i < sizeof of_cpus / sizeof of_cpus[0]; i++)
        add_family(snapshot, of_cpus[i], out_plan);
    choose_tiles(snapshot, out_plan);
    // Those of Intel's GPUs before Xe2, whose subgroups may have 8, lose against dot products.
    bool is_old_intel =
        snapshot->vendor_id == NIB_VK_VENDOR_INTEL && snapshot->subgroups.least < 16;
    if (!is_cpu && !is_old_intel) {
        add_family(snapshot, NIB_VK_FAMILY_HALF, out_plan);
        add_family(snapshot, NIB_VK_FAMILY_COOP8, out_plan);
        add_family(snapshot, NIB_VK_FAMILY_COOP16, out_plan);
    }
    out_plan->matmul_subgroup = nib_vk_matmul_subgroup(snapshot);
    if (!is_cpu && snapshot->has_fast_integer_dot) {
        add_family(snapshot, NIB_VK_FAMILY_SUB, out_plan);
        add_family(snapshot, NIB_VK_FAMILY_DOT, out_plan);
    }
    add_family(snapshot, NIB_VK_FAMILY_WIDE, out_plan);
    // A CPU's driver pays for barriers.
    out_plan->prepare_quads = is_cpu ? 8 : 1;
    out_plan->prepare_parts = is_cpu ? 1 : GPU_PREPARE_PARTS;
    out_plan->matmul_lanes = is_cpu ? 1 : GPU_LANES;
    out_plan->single_granules = single_granules(snapshot);
    out_plan->most_lanes = is_cpu ? 1 : most_lanes(snapshot);
    out_plan->matmul_columns = is_narrow ? 0 : is_cpu ? 3 : NIB_VK_MAX_COLUMNS - 1;
    // Taking bytes apart costs a GPU without dot products more than numbers do.
    out_plan->has_codes = is_cpu || snapshot->has_fast_integer_dot;
    out_plan->matmul_width = MATMUL_WIDTH;
    // Such a driver neither keeps numbers in registers nor gains by sharing a token.
    out_plan->attention_units = is_cpu ? 8 : 1;
    out_plan->attention_numbers = is_cpu ? 512 : 128;
    // A dispatch that puts parts together costs a CPU more than a few cores gain by them.
    out_plan->attention_parts = is_cpu ? 1 : GPU_PARTS;
    out_plan->has_attention_coop = has_family(out_plan, NIB_VK_FAMILY_HALF);
}

enum nib_status nib_vk_device_plan_force(const struct nib_vk_snapshot *snapshot, const char *name,
                                         struct nib_vk_device_plan *plan, struct nib_error *err)
{
    enum nib_status status = nib_vk_family_find(name, &plan->forced_family, err);
    if (status != NIB_OK)
        return status;
    const char *missing = nib_vk_family_missing(snapshot, plan->forced_family);
    if (missing) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s cannot run the Vulkan variant %s: %s",
                        snapshot->name, name, missing);
    }
    plan->is_forced = true;
    // Kernels made for GPUs run as they do there.
    bool is_cooperative = nib_vk_family_is_cooperative(plan->forced_family);
    if (plan->forced_family == NIB_VK_FAMILY_WIDE || plan->forced_family == NIB_VK_FAMILY_DOT ||
        nib_vk_family_has_sizes(plan->forced_family)) {
        plan->prepare_quads = 1;
        plan->prepare_parts = GPU_PREPARE_PARTS;
        plan->matmul_lanes = GPU_LANES;
        plan->most_lanes = most_lanes(snapshot);
        plan->matmul_columns = NIB_VK_MAX_COLUMNS - 1;
        plan->attention_parts = GPU_PARTS;
    }
    plan->has_texels = plan->has_texels || plan->forced_family == NIB_VK_FAMILY_TEXEL ||
                       plan->forced_family == NIB_VK_FAMILY_SINGLE;
    plan->has_integer_dot = plan->has_integer_dot || plan->forced_family == NIB_VK_FAMILY_DOT ||
                            plan->forced_family == NIB_VK_FAMILY_SUB;
    plan->has_sizes = plan->has_sizes || nib_vk_family_has_sizes(plan->forced_family);
    plan->has_cooperative = plan->has_cooperative || is_cooperative;
    plan->has_attention_coop =
        plan->has_attention_coop || plan->forced_family == NIB_VK_FAMILY_HALF;
    return NIB_OK;
}

/// Writes which kernels of matmuls run, and why others do not.
static void describe_families(const struct nib_vk_snapshot *snapshot,
                              const struct nib_vk_device_plan *plan, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "baseline; matmuls");
    for (uint32_t i = 0; i < plan->n_families && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s %s", i ? "," : "",
                                 nib_vk_family_get(plan->families[i])->name);
    for (uint32_t i = 0; i < NIB_VK_FAMILY_COUNT && used < size; i++) {
        enum nib_vk_family family = (enum nib_vk_family)i;
        const char *missing = nib_vk_family_missing(snapshot, family);
        const char *name = nib_vk_family_get(family)->name;
        if (!has_family(plan, family))
            used += (size_t)snprintf(text + used, size - used, "; not %s: %s", name,
                                     missing ? missing : "others are faster here");
    }
}

void nib_vk_describe(const struct nib_vk_snapshot *snapshot, const struct nib_vk_device_plan *plan,
                     struct nib_device_info *out_info)
{
    static const enum nib_device_type types[] = {
        [VK_PHYSICAL_DEVICE_TYPE_OTHER] = NIB_DEVICE_TYPE_OTHER,
        [VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU] = NIB_DEVICE_TYPE_INTEGRATED,
        [VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU] = NIB_DEVICE_TYPE_DISCRETE,
        [VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU] = NIB_DEVICE_TYPE_VIRTUAL,
        [VK_PHYSICAL_DEVICE_TYPE_CPU] = NIB_DEVICE_TYPE_CPU,
    };
    bool is_known = (uint32_t)snapshot->type < sizeof types / sizeof types[0];
    *out_info = (struct nib_device_info){
        .backend = NIB_BACKEND_VULKAN,
        .type = is_known ? types[snapshot->type] : NIB_DEVICE_TYPE_OTHER,
        .is_usable = plan->is_usable,
        .memory_bytes = plan->memory_bytes,
    };
    snprintf(out_info->name, sizeof out_info->name, "%s", snapshot->name);
    snprintf(out_info->driver, sizeof out_info->driver, "%s", snapshot->driver);
    if (plan->is_usable)
        describe_families(snapshot, plan, out_info->features, sizeof out_info->features);
    else
        snprintf(out_info->features, sizeof out_info->features, "%s", plan->reason);
}
