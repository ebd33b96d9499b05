#include "runtime/vulkan/profile.h"

#include <stdlib.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/loss.h"

/// Queries of a segment: one before its first pass and one behind each.
static uint32_t first_query(const struct nib_vk_instance *instance,
                            const struct nib_vk_segment *segment)
{
    return segment->first_pass + (uint32_t)(segment - instance->segments);
}

enum nib_status nib_vk_profile_create(struct nib_vk_instance *instance, struct nib_error *err)
{
    struct nib_vk_device *d = instance->device;
    uint32_t n = nib_vk_draw_count() + nib_vk_count_passes(instance) + instance->n_segments;
    if (!instance->profile || !d->snapshot.families[d->plan.queue_family].timestampValidBits)
        return NIB_OK;
    instance->op_calls = calloc(instance->plan->n_ops + 1ull, sizeof *instance->op_calls);
    instance->op_ns = calloc(instance->plan->n_ops + 1ull, sizeof *instance->op_ns);
    instance->timestamps = calloc(n, sizeof *instance->timestamps);
    instance->op_counted_as = calloc(instance->plan->n_ops + 1ull, sizeof(uint32_t));
    if (!instance->op_calls || !instance->op_ns || !instance->op_counted_as ||
        !instance->timestamps)
        return nib_fail_memory(err);
    VkQueryPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                  .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                  .queryCount = n};
    VkResult result = d->table.CreateQueryPool(d->device, &info, NULL, &instance->queries);
    if (result == VK_SUCCESS)
        nib_vk_name(d, VK_OBJECT_TYPE_QUERY_POOL, (uint64_t)instance->queries, "timestamps");
    return nib_vk_check(result, "vkCreateQueryPool", err);
}

void nib_vk_profile_fuse(struct nib_vk_instance *instance, uint32_t first, uint32_t last,
                         uint32_t counted_as)
{
    for (uint32_t i = first; instance->op_counted_as && i <= last; i++)
        instance->op_counted_as[i] = counted_as;
}

void nib_vk_profile_begin(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                          const struct nib_vk_segment *segment)
{
    uint32_t first = first_query(instance, segment);
    const struct nib_vk_device_table *table = &instance->device->table;
    if (!instance->queries)
        return;
    table->CmdResetQueryPool(buffer, instance->queries, first, segment->n_passes + 1);
    table->CmdWriteTimestamp(buffer, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, instance->queries,
                             first);
}

void nib_vk_profile_mark(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                         const struct nib_vk_segment *segment, uint32_t pass)
{
    if (instance->queries) {
        instance->device->table.CmdWriteTimestamp(buffer, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
                                                  instance->queries,
                                                  first_query(instance, segment) + pass + 1);
    }
}

enum nib_status nib_vk_profile_collect(struct nib_vk_instance *instance,
                                       const struct nib_vk_segment *segment, struct nib_error *err)
{
    const struct nib_vk_device *d = instance->device;
    uint32_t n = segment->n_passes + 1;
    if (!instance->queries)
        return NIB_OK;
    uint64_t *times = instance->timestamps;
    VkResult result = d->table.GetQueryPoolResults(
        d->device, instance->queries, first_query(instance, segment), n, n * sizeof *times, times,
        sizeof *times, VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
    enum nib_status status =
        nib_vk_device_check(instance->device, result, "vkGetQueryPoolResults", err);
    if (status != NIB_OK)
        return status;
    uint32_t bits = d->snapshot.families[d->plan.queue_family].timestampValidBits;
    uint64_t mask = bits < 64 ? (UINT64_C(1) << bits) - 1 : UINT64_MAX;
    for (uint32_t i = 0; i + 1 < n; i++) {
        const struct nib_vk_pass *pass = &instance->passes[segment->first_pass + i];
        double ticks = (double)((times[i + 1] - times[i]) & mask);
        instance->op_ns[pass->op] += (uint64_t)(ticks * (double)d->snapshot.timestamp_ns);
        // An op of several passes counts once.
        instance->op_calls[pass->op] += i == 0 || pass[-1].op != pass->op;
    }
    return NIB_OK;
}
