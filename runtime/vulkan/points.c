#include "runtime/vulkan/points.h"

#include <stdlib.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/instance.h"

/// Makes room for `n` more points, and the clock. Errors: memory; nothing has changed then.
static enum nib_status reserve(struct nib_vk_points *points, uint32_t n, struct nib_error *err)
{
    size_t count = (size_t)points->n + n + 1;
    VkSemaphore *semaphores = realloc(points->semaphores, count * sizeof *semaphores);
    points->semaphores = semaphores ? semaphores : points->semaphores;
    uint64_t *values = realloc(points->values, count * sizeof *values);
    points->values = values ? values : points->values;
    VkPipelineStageFlags *stages = realloc(points->stages, count * sizeof *stages);
    points->stages = stages ? stages : points->stages;
    return semaphores && values && stages ? NIB_OK : nib_fail_memory(err);
}

/// Appends points that room was made for.
static void append(struct nib_vk_points *points, const struct nib_timeline_point *more, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        points->semaphores[points->n] = more[i].semaphore;
        points->values[points->n] = more[i].value;
        points->stages[points->n++] = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
    }
}

void nib_vk_points_free(struct nib_vk_points *points)
{
    free(points->semaphores);
    free(points->values);
    free(points->stages);
    *points = (struct nib_vk_points){0};
}

/// Submits behind the points waited for; signals `signals` and the clock, whose place is the last.
static enum nib_status submit(struct nib_vk_instance *instance, const VkCommandBuffer *buffers,
                              uint32_t n_buffers, struct nib_vk_points *signals,
                              struct nib_error *err)
{
    struct nib_vk_points *waits = &instance->waits;
    struct nib_vk_clock *clock = &instance->clock;
    signals->semaphores[signals->n] = clock->semaphore;
    signals->values[signals->n] = clock->value + 1;
    VkTimelineSemaphoreSubmitInfo timeline = {.sType =
                                                  VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                              .waitSemaphoreValueCount = waits->n,
                                              .pWaitSemaphoreValues = waits->values,
                                              .signalSemaphoreValueCount = signals->n + 1,
                                              .pSignalSemaphoreValues = signals->values};
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .pNext = &timeline,
                         .waitSemaphoreCount = waits->n,
                         .pWaitSemaphores = waits->semaphores,
                         .pWaitDstStageMask = waits->stages,
                         .commandBufferCount = n_buffers,
                         .pCommandBuffers = buffers,
                         .signalSemaphoreCount = signals->n + 1,
                         .pSignalSemaphores = signals->semaphores};
    enum nib_status status = nib_vk_queue_submit(instance->device, &info, err);
    if (status != NIB_OK)
        return status;
    clock->value++;
    waits->n = 0;
    signals->n = 0;
    return NIB_OK;
}

enum nib_status nib_vk_submit_waiting(struct nib_vk_instance *instance,
                                      const VkCommandBuffer *buffers, uint32_t n_buffers,
                                      struct nib_error *err)
{
    VkSemaphore semaphore;
    uint64_t value;
    struct nib_vk_points clock = {.semaphores = &semaphore, .values = &value};
    return submit(instance, buffers, n_buffers, &clock, err);
}

enum nib_status nib_vk_synchronize(void *self, const struct nib_step_points *points,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    if (!instance->device->is_attached)
        return nib_fail(err, NIB_ERROR_STATE, "the device is not attached");
    NIB_TRY(reserve(&instance->waits, points->n_waits, err));
    NIB_TRY(reserve(&instance->signals, points->n_signals, err));
    append(&instance->waits, points->waits, points->n_waits);
    append(&instance->signals, points->signals, points->n_signals);
fail:
    return status;
}

enum nib_status nib_vk_end_step(void *self, struct nib_error *err)
{
    struct nib_vk_instance *instance = self;
    if (instance->waits.n == 0 && instance->signals.n == 0)
        return NIB_OK;
    enum nib_status status = reserve(&instance->signals, 0, err);
    return status == NIB_OK ? submit(instance, NULL, 0, &instance->signals, err) : status;
}
