#include "runtime/vulkan/measure.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/memory.h"

/// Workgroups of a dispatch, and their invocations.
#define GROUPS 1024u
#define THREADS 128u
/// What is read is larger than caches, as far as it can be bound.
#define MOST_READ (512ull << 20)
/// A measurement grows until it takes so long.
#define LONG_NS 20000000u
/// Or so many rounds, on drivers that execute nothing.
#define MOST_ROUNDS (1u << 20)
#define MOST_COPIES (1u << 12)
/// Measurements of that length, of which the best counts.
#define REPEATS 3
/// No result of any kernel here, or hardly ever.
#define UNLIKELY 0x9e3779b9u

/// A buffer, and commands that are recorded anew for each measurement.
struct rig {
    struct nib_vk_device *device;
    struct nib_vk_pool memory;
    struct nib_vk_range buffer;
    struct nib_vk_range copy; ///< as large as half of it
    VkDescriptorPool sets;
    VkDescriptorSet set;
    VkCommandPool pool;
    VkCommandBuffer commands;
    struct nib_vk_clock clock;
};

/// One kind of work, of which `rounds` rounds are `rounds * amount`.
struct work {
    struct nib_vk_kernel kernel; ///< shader NULL: a copy
    double amount;
    uint32_t factor;
};

static enum nib_status take_memory(struct rig *rig, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_device *d = rig->device;
    const uint64_t piece = 16ull * NIB_MEASURE_PIECE;
    uint64_t size = MOST_READ, left = nib_vk_memory_left(d) / 2;
    size = size < d->snapshot.max_storage_range ? size : d->snapshot.max_storage_range;
    size = size < left ? size : left;
    size -= size % (2 * piece);
    if (size == 0)
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY, "%s has no memory left to measure",
                        d->snapshot.name);
    nib_vk_pool_init(&rig->memory, d, "measurement", d->plan.device_memory_type, false);
    NIB_TRY(nib_vk_pool_reserve(&rig->memory, size, &rig->buffer, err));
    NIB_TRY(nib_vk_pool_take(&rig->memory, err));
    rig->copy = rig->buffer;
    rig->copy.size = size / 2;
fail:
    return status;
}

static enum nib_status make_set(struct rig *rig, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_device *d = rig->device;
    VkDescriptorPoolSize sizes[2] = {
        {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .descriptorCount = NIB_BINDINGS},
        {.type = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER, .descriptorCount = NIB_TEXEL_BINDINGS}};
    VkDescriptorPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                       .maxSets = 1,
                                       .poolSizeCount = d->plan.has_texels ? 2 : 1,
                                       .pPoolSizes = sizes};
    NIB_TRY(nib_vk_check(d->table.CreateDescriptorPool(d->device, &pool, NULL, &rig->sets),
                         "vkCreateDescriptorPool", err));
    nib_vk_name(d, VK_OBJECT_TYPE_DESCRIPTOR_POOL, (uint64_t)rig->sets, "measurement");
    VkDescriptorSetAllocateInfo set = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                       .descriptorPool = rig->sets,
                                       .descriptorSetCount = 1,
                                       .pSetLayouts = &d->set_layout};
    NIB_TRY(nib_vk_check(d->table.AllocateDescriptorSets(d->device, &set, &rig->set),
                         "vkAllocateDescriptorSets", err));
    VkDescriptorBufferInfo info = {.buffer = nib_vk_pool_buffer(&rig->buffer),
                                   .offset = rig->buffer.offset,
                                   .range = rig->buffer.size};
    VkWriteDescriptorSet writes[NIB_BINDINGS];
    for (uint32_t i = 0; i < NIB_BINDINGS; i++) {
        writes[i] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                           .dstSet = rig->set,
                                           .dstBinding = i,
                                           .descriptorCount = 1,
                                           .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                           .pBufferInfo = &info};
    }
    d->table.UpdateDescriptorSets(d->device, NIB_BINDINGS, writes, 0, NULL);
fail:
    return status;
}

static enum nib_status make_commands(struct rig *rig, struct nib_error *err)
{
    static const char name[] = "measurement";
    enum nib_status status =
        nib_vk_commands_create(rig->device, name, &rig->pool, &rig->commands, err);
    return status == NIB_OK ? nib_vk_clock_create(rig->device, name, &rig->clock, err) : status;
}

/// Nothing of it is under way, or the device is given up.
static void close_rig(struct rig *rig)
{
    struct nib_vk_device *d = rig->device;
    if (!nib_vk_is_idle(d, &rig->clock))
        return;
    if (rig->pool)
        d->table.DestroyCommandPool(d->device, rig->pool, NULL);
    if (rig->sets)
        d->table.DestroyDescriptorPool(d->device, rig->sets, NULL);
    nib_vk_clock_destroy(d, &rig->clock);
    nib_vk_pool_destroy(&rig->memory);
}

static void record_copies(const struct rig *rig, uint32_t rounds)
{
    const struct nib_vk_device *d = rig->device;
    const struct nib_vk_range *half = &rig->copy;
    VkBuffer buffer = nib_vk_pool_buffer(half);
    for (uint32_t r = 0; r < rounds; r++) {
        VkBufferCopy region = {.srcOffset = half->offset + (r % 2) * half->size,
                               .dstOffset = half->offset + (1 - r % 2) * half->size,
                               .size = half->size};
        d->table.CmdCopyBuffer(rig->commands, buffer, buffer, 1, &region);
        nib_vk_barrier_all(d, rig->commands);
    }
}

static void record_kernel(const struct rig *rig, const struct work *work, VkPipeline pipeline,
                          uint32_t rounds)
{
    const struct nib_vk_device *d = rig->device;
    const struct nib_measure_args args = {
        .n_rounds = rounds,
        .n_pieces = (uint32_t)(rig->buffer.size / (16ull * NIB_MEASURE_PIECE)),
        .factor = work->factor,
        .unlikely = UNLIKELY};
    d->table.CmdBindPipeline(rig->commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    d->table.CmdBindDescriptorSets(rig->commands, VK_PIPELINE_BIND_POINT_COMPUTE, d->layout, 0, 1,
                                   &rig->set, 0, NULL);
    d->table.CmdPushConstants(rig->commands, d->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof args,
                              &args);
    d->table.CmdDispatch(rig->commands, GROUPS, 1, 1);
}

/// Does `rounds` rounds, or with 0 fills the buffer. `*out_ns` is the time until they were done.
static enum nib_status run(struct rig *rig, const struct work *work, VkPipeline pipeline,
                           uint32_t rounds, uint64_t *out_ns, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_device *d = rig->device;
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    NIB_TRY(nib_vk_check(d->table.BeginCommandBuffer(rig->commands, &info), "vkBeginCommandBuffer",
                         err));
    nib_vk_barrier_all(d, rig->commands);
    if (rounds == 0) // memory that was never written may not be there
        d->table.CmdFillBuffer(rig->commands, nib_vk_pool_buffer(&rig->buffer), rig->buffer.offset,
                               rig->buffer.size, 0x3f3f3f3fu);
    else if (work->kernel.shader)
        record_kernel(rig, work, pipeline, rounds);
    else
        record_copies(rig, rounds);
    nib_vk_barrier_all(d, rig->commands);
    NIB_TRY(nib_vk_check(d->table.EndCommandBuffer(rig->commands), "vkEndCommandBuffer", err));
    uint64_t start_ns = nib_clock_ns();
    NIB_TRY(nib_vk_submit(d, &rig->clock, &rig->commands, 1, err));
    NIB_TRY(nib_vk_wait(d, &rig->clock, err));
    *out_ns = nib_clock_ns() - start_ns;
fail:
    return status;
}

/// Raises `*best` to the rate of `work` a second, where its kernel can be made.
static enum nib_status measure(struct rig *rig, const struct work *work, double *best,
                               struct nib_error *err)
{
    struct nib_vk_device *d = rig->device;
    VkPipeline pipeline = VK_NULL_HANDLE;
    uint64_t long_ns = d->most_submit_ns / 2 < LONG_NS ? d->most_submit_ns / 2 : LONG_NS;
    struct nib_error reason;
    enum nib_status status = NIB_OK;
    if (work->kernel.shader)
        status = nib_vk_device_pipeline(d, &work->kernel, &pipeline, &reason);
    if (status == NIB_ERROR_UNSUPPORTED)
        return NIB_OK;
    if (status != NIB_OK)
        return nib_fail(err, status, "%s", reason.message);
    uint32_t most = work->kernel.shader ? MOST_ROUNDS : MOST_COPIES;
    uint64_t ns = 0;
    for (uint32_t rounds = 1, n_long = 0; n_long < REPEATS;) {
        status = run(rig, work, pipeline, rounds, &ns, err);
        if (status != NIB_OK)
            return status;
        double rate = work->amount * rounds / (double)(ns + 1) * 1e9;
        bool is_long = ns >= long_ns / 2 || rounds == most;
        *best = is_long && rate > *best ? rate : *best;
        n_long += is_long;
        rounds *= is_long ? 1 : 2;
    }
    return NIB_OK;
}

/// Multiply-adds of codes that are products of whole tiles.
static enum nib_status measure_tiles(struct rig *rig, enum nib_vk_element element, double *best,
                                     struct nib_error *err)
{
    const struct nib_vk_device_plan *plan = &rig->device->plan;
    const struct nib_vk_tile *tile = &plan->tiles[element][0];
    if (!plan->has_cooperative || tile->m == 0)
        return NIB_OK;
    struct work work = {
        .kernel = {.shader = element == NIB_VK_ELEMENT_BYTE ? "measure_coop8" : "measure_coop16"},
        .amount = (double)GROUPS * (THREADS / plan->cooperative_subgroup) * NIB_MEASURE_TILES *
                  tile->m * tile->n * tile->k,
        .factor = 1,
    };
    work.kernel.specs[NIB_SPEC_TILE_M] = tile->m;
    work.kernel.specs[NIB_SPEC_TILE_N] = tile->n;
    work.kernel.specs[NIB_SPEC_TILE_K] = tile->k;
    work.kernel.specs[NIB_SPEC_SUBGROUP] = plan->cooperative_subgroup;
    return measure(rig, &work, best, err);
}

enum nib_status nib_vk_measure(void *device, struct nib_device_limits *out_limits,
                               struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct rig rig = {.device = device};
    const double chains = (double)GROUPS * THREADS * NIB_MEASURE_SUMS * NIB_MEASURE_STEPS;
    struct nib_device_limits limits = {0};
    uint64_t ns;
    *out_limits = limits;
    NIB_TRY(take_memory(&rig, err));
    NIB_TRY(make_set(&rig, err));
    NIB_TRY(make_commands(&rig, err));
    NIB_TRY(run(&rig, NULL, VK_NULL_HANDLE, 0, &ns, err));

    const struct work read = {.kernel.shader = "measure_read",
                              .amount = 16.0 * NIB_MEASURE_PIECE * GROUPS};
    const struct work copy = {.amount = (double)rig.buffer.size};
    const struct work floats = {
        .kernel.shader = "measure_macs", .amount = chains, .factor = 0x3f000000u}; // 0.5
    const struct work dots = {.kernel.shader = "measure_dot", .amount = 4 * chains, .factor = 1};
    NIB_TRY(measure(&rig, &read, &limits.read_bytes, err));
    NIB_TRY(measure(&rig, &copy, &limits.read_bytes, err));
    NIB_TRY(measure(&rig, &floats, &limits.f32_macs, err));
    limits.int8_macs = limits.f32_macs; // numbers that codes stand for are multiplied as well
    if (rig.device->plan.has_integer_dot)
        NIB_TRY(measure(&rig, &dots, &limits.int8_macs, err));
    NIB_TRY(measure_tiles(&rig, NIB_VK_ELEMENT_BYTE, &limits.int8_macs, err));
    NIB_TRY(measure_tiles(&rig, NIB_VK_ELEMENT_HALF, &limits.int8_macs, err));
    *out_limits = limits;
fail:
    close_rig(&rig);
    return status;
}
