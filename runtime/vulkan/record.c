// Commands, recorded once for each bucket of rows and submitted again for each step.
#include <stdlib.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/profile.h"

/// Accesses since the last barrier that are remembered; a barrier comes where they are more.
#define MAX_DIRTY 64

static uint32_t n_row_buckets(const struct nib_vk_instance *instance)
{
    return nib_vk_bucket(instance->max_rows) + 1;
}

static uint32_t n_line_buckets(const struct nib_vk_instance *instance)
{
    return nib_vk_bucket(instance->max_lines) + 1;
}

static bool gathers(const struct nib_vk_instance *instance, uint32_t segment)
{
    const struct nib_segment *s = &instance->plan->segments[instance->first_segment + segment];
    for (uint32_t i = 0; i < s->n_ops; i++) {
        if (instance->plan->ops[s->first_op + i].kind == NIB_OP_GATHER)
            return true;
    }
    return false;
}

static void name_command(const struct nib_vk_instance *instance, uint32_t command, const char *what,
                         uint32_t number)
{
    nib_vk_name(instance->device, VK_OBJECT_TYPE_COMMAND_BUFFER,
                (uint64_t)(uintptr_t)instance->commands[command], "%s %u", what, number);
}

static void name_commands(const struct nib_vk_instance *instance)
{
    for (uint32_t s = 0; s < instance->n_segments; s++) {
        uint32_t first = instance->segments[s].first_command;
        uint32_t end = s + 1 < instance->n_segments ? instance->segments[s + 1].first_command
                                                    : instance->first_step_command;
        for (uint32_t i = first; i < end; i++)
            name_command(instance, i, "segment", instance->first_segment + s);
    }
    uint32_t rows = n_row_buckets(instance), lines = n_line_buckets(instance);
    for (uint32_t i = 0; i < NIB_VK_SLOTS * rows; i++)
        name_command(instance, instance->first_step_command + i, "advance", 1u << i % rows);
    for (uint32_t i = 0; i < lines; i++)
        name_command(instance, instance->first_logits_command + i, "logits out", 1u << i);
    for (uint32_t i = 0; i < 2 * lines; i++)
        name_command(instance, instance->first_draw_command + i, "draw", 1u << i % lines);
    for (uint32_t b = 0; b < rows; b++) {
        name_command(instance, instance->first_hidden_in_command + b, "hidden states in", 1u << b);
        name_command(instance, instance->first_hidden_out_command + b, "hidden states out",
                     1u << b);
    }
}

static enum nib_status take_commands(struct nib_vk_instance *instance, struct nib_error *err)
{
    uint32_t n = 0, rows = n_row_buckets(instance), lines = n_line_buckets(instance);
    for (uint32_t s = 0; s < instance->n_segments; s++) {
        struct nib_vk_segment *segment = &instance->segments[s];
        segment->has_lines = gathers(instance, s);
        segment->first_command = n;
        n += rows * (segment->has_lines ? lines : 1);
    }
    instance->first_step_command = n;
    instance->first_hidden_in_command = n + NIB_VK_SLOTS * rows;
    instance->first_hidden_out_command = instance->first_hidden_in_command + rows;
    instance->first_logits_command = instance->first_hidden_out_command + rows;
    instance->first_draw_command = instance->first_logits_command + lines;
    n = instance->first_draw_command + 2 * lines;
    VkCommandBuffer *commands = calloc(n, sizeof *commands);
    if (!commands)
        return nib_fail_memory(err);
    VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                        .commandPool = instance->command_pool,
                                        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                        .commandBufferCount = n};
    struct nib_vk_device *d = instance->device;
    enum nib_status status =
        nib_vk_check(d->table.AllocateCommandBuffers(d->device, &info, commands),
                     "vkAllocateCommandBuffers", err);
    if (status != NIB_OK) {
        free(commands);
        return status;
    }
    instance->commands = commands;
    instance->n_commands = n;
    name_commands(instance);
    return NIB_OK;
}

static enum nib_status begin(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                             struct nib_error *err)
{
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT};
    return nib_vk_check(instance->device->table.BeginCommandBuffer(buffer, &info),
                        "vkBeginCommandBuffer", err);
}

static enum nib_status end(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                           struct nib_error *err)
{
    return nib_vk_check(instance->device->table.EndCommandBuffer(buffer), "vkEndCommandBuffer",
                        err);
}

/// Copies `size` bytes at `offset` of both ranges.
static void copy(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                 const struct nib_vk_range *from, const struct nib_vk_range *to, uint64_t offset,
                 uint64_t size)
{
    VkBufferCopy region = {
        .srcOffset = from->offset + offset, .dstOffset = to->offset + offset, .size = size};
    if (size > 0)
        instance->device->table.CmdCopyBuffer(buffer, nib_vk_pool_buffer(from),
                                              nib_vk_pool_buffer(to), 1, &region);
}

// Header and rows by a kernel, which knows the tokens drawn; sequences, page tables, draws and
// angles as they are.
void nib_vk_record_advance(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                           uint32_t slot, uint32_t row_bucket)
{
    uint32_t rows = 1u << row_bucket;
    const struct nib_vk_step_layout *l = &instance->step_layout;
    const struct nib_vk_range *from = &instance->step_upload[slot], *to = &instance->step;
    uint64_t at = sizeof(struct nib_step_header) + NIB_STEP_MAX_ROWS * sizeof(struct nib_step_row);
    nib_vk_barrier_all(instance->device, buffer);
    nib_vk_record_rows(instance, buffer, slot, rows);
    copy(instance, buffer, from, to, at, 4ull * l->angles_at);
    at += 4ull * l->angles_at;
    for (uint32_t t = 0; t < instance->plan->n_ropes; t++) {
        uint64_t dims = instance->plan->ropes[t].dims;
        copy(instance, buffer, from, to, at, 4 * rows * dims);
        at += 4 * instance->max_rows * dims;
    }
    nib_vk_barrier_all(instance->device, buffer);
}

static enum nib_status record_hidden(struct nib_vk_instance *instance, uint32_t row_bucket,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vk_range *hidden = &instance->values[NIB_VALUE_HIDDEN];
    uint64_t size = (1ull << row_bucket) * instance->plan->hidden_size * sizeof(float);
    VkCommandBuffer buffer = instance->commands[instance->first_hidden_in_command + row_bucket];
    NIB_TRY(begin(instance, buffer, err));
    if (instance->hidden_upload.size > 0)
        copy(instance, buffer, &instance->hidden_upload, hidden, 0, size);
    nib_vk_barrier_all(instance->device, buffer);
    NIB_TRY(end(instance, buffer, err));

    buffer = instance->commands[instance->first_hidden_out_command + row_bucket];
    NIB_TRY(begin(instance, buffer, err));
    nib_vk_barrier_all(instance->device, buffer);
    copy(instance, buffer, hidden, &instance->hidden_readback, 0, size);
    nib_vk_barrier_all(instance->device, buffer);
    NIB_TRY(end(instance, buffer, err));
fail:
    return status;
}

/// What becomes of 2^line_bucket lines of logits: they are read back, or tokens are drawn.
static enum nib_status record_lines(struct nib_vk_instance *instance, uint32_t line_bucket,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    VkCommandBuffer buffer = instance->commands[instance->first_logits_command + line_bucket];
    if (instance->logits_readback.size == 0)
        return NIB_OK;
    NIB_TRY(begin(instance, buffer, err));
    nib_vk_record_logits(instance, line_bucket, buffer);
    NIB_TRY(end(instance, buffer, err));
    for (uint32_t i = 0; i < 2 && instance->has_draw; i++) {
        uint32_t command =
            instance->first_draw_command + i * n_line_buckets(instance) + line_bucket;
        buffer = instance->commands[command];
        NIB_TRY(begin(instance, buffer, err));
        nib_vk_record_draw(instance, buffer, i == 1, line_bucket);
        NIB_TRY(end(instance, buffer, err));
    }
fail:
    return status;
}

enum nib_status nib_vk_record_copies(struct nib_vk_instance *instance, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (!instance->commands)
        NIB_TRY(take_commands(instance, err));
    uint32_t rows = n_row_buckets(instance);
    for (uint32_t i = 0; i < NIB_VK_SLOTS * rows; i++) {
        VkCommandBuffer buffer = instance->commands[instance->first_step_command + i];
        NIB_TRY(begin(instance, buffer, err));
        nib_vk_record_advance(instance, buffer, i / rows, i % rows);
        NIB_TRY(end(instance, buffer, err));
    }
    for (uint32_t b = 0; b < rows; b++)
        NIB_TRY(record_hidden(instance, b, err));
    for (uint32_t l = 0; l < n_line_buckets(instance); l++)
        NIB_TRY(record_lines(instance, l, err));
fail:
    return status;
}

/// What was read and written since the last barrier.
struct dirty {
    struct nib_vk_access accesses[MAX_DIRTY];
    uint32_t n;
};

static bool conflicts(const struct dirty *dirty, const struct nib_vk_access *a)
{
    for (uint32_t i = 0; i < dirty->n; i++) {
        const struct nib_vk_access *b = &dirty->accesses[i];
        if (a->resource == b->resource && a->begin < b->end && b->begin < a->end &&
            (a->is_write || b->is_write))
            return true;
    }
    return false;
}

void nib_vk_record_barrier(const struct nib_vk_instance *instance, VkCommandBuffer buffer)
{
    const VkAccessFlags access = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = access,
                               .dstAccessMask = access};
    instance->device->table.CmdPipelineBarrier(buffer, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                                               VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier,
                                               0, NULL, 0, NULL);
}

/// Puts a barrier where the pass touches what an earlier one has touched, and remembers the pass.
static void synchronize(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        const struct nib_vk_pass *pass, struct dirty *dirty)
{
    bool needs_barrier = dirty->n + pass->n_accesses > MAX_DIRTY || instance->queries;
    for (uint32_t i = 0; i < pass->n_accesses; i++)
        needs_barrier = needs_barrier || conflicts(dirty, &pass->accesses[i]);
    if (needs_barrier) {
        nib_vk_record_barrier(instance, buffer);
        dirty->n = 0;
    }
    for (uint32_t i = 0; i < pass->n_accesses; i++)
        dirty->accesses[dirty->n++] = pass->accesses[i];
}

void nib_vk_record_pass(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        const struct nib_vk_pass *pass, uint32_t bucket)
{
    const struct nib_vk_device_table *table = &instance->device->table;
    if (pass->name)
        nib_vk_label_begin(instance->device, buffer, "%s", pass->name);
    else
        nib_vk_label_begin(instance->device, buffer, "op %u, %s", pass->op,
                           nib_op_name(instance->plan->ops[pass->op].kind));
    table->CmdBindPipeline(buffer, VK_PIPELINE_BIND_POINT_COMPUTE, pass->pipelines[bucket]);
    table->CmdBindDescriptorSets(buffer, VK_PIPELINE_BIND_POINT_COMPUTE, instance->device->layout,
                                 0, 1, &pass->set, 0, NULL);
    table->CmdPushConstants(buffer, instance->device->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                            pass->push_size, pass->push);
    table->CmdDispatch(buffer, pass->groups[bucket], pass->height[bucket], pass->depth[bucket]);
    nib_vk_label_end(instance->device, buffer);
}

void nib_vk_record(const struct nib_vk_instance *instance, uint32_t index, uint32_t row_bucket,
                   uint32_t line_bucket, VkCommandBuffer buffer)
{
    const struct nib_vk_segment *segment = &instance->segments[index];
    struct dirty dirty = {.n = 0};
    nib_vk_label_begin(instance->device, buffer, "nibble segment %u",
                       instance->first_segment + index);
    nib_vk_profile_begin(instance, buffer, segment);
    for (uint32_t i = 0; i < segment->n_passes; i++) {
        const struct nib_vk_pass *pass = &instance->passes[segment->first_pass + i];
        uint32_t bucket = pass->is_lines ? line_bucket : row_bucket;
        if (pass->height[bucket] > 0) {
            synchronize(instance, buffer, pass, &dirty);
            nib_vk_record_pass(instance, buffer, pass, bucket);
        }
        nib_vk_profile_mark(instance, buffer, segment, i);
    }
    // Behind the head tokens are drawn or copied.
    if (segment->has_lines)
        nib_vk_barrier_all(instance->device, buffer);
    else
        nib_vk_record_barrier(instance, buffer);
    nib_vk_label_end(instance->device, buffer);
}

void nib_vk_record_logits(const struct nib_vk_instance *instance, uint32_t line_bucket,
                          VkCommandBuffer buffer)
{
    uint64_t size = (1ull << line_bucket) * instance->plan->vocabulary * sizeof(float);
    copy(instance, buffer, &instance->values[instance->plan->logits_value],
         &instance->logits_readback, 0, size);
    nib_vk_barrier_all(instance->device, buffer);
}

enum nib_status nib_vk_record_segment(struct nib_vk_instance *instance, uint32_t segment,
                                      struct nib_error *err)
{
    const struct nib_vk_segment *s = &instance->segments[segment];
    uint32_t lines = s->has_lines ? n_line_buckets(instance) : 1;
    for (uint32_t r = 0; r < n_row_buckets(instance); r++) {
        for (uint32_t l = 0; l < lines; l++) {
            VkCommandBuffer buffer = instance->commands[s->first_command + r * lines + l];
            enum nib_status status = begin(instance, buffer, err);
            if (status != NIB_OK)
                return status;
            nib_vk_record(instance, segment, r, l, buffer);
            status = end(instance, buffer, err);
            if (status != NIB_OK)
                return status;
        }
    }
    return NIB_OK;
}
