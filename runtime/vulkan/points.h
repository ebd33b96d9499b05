/// Timeline points of the host that a step waits for and signals.
#ifndef RUNTIME_VULKAN_POINTS_H
#define RUNTIME_VULKAN_POINTS_H

#include "runtime/ops/backend.h"
#include "runtime/vulkan/device.h"
#include <nibble/vulkan.h>

struct nib_vk_instance;

/// (semaphore, value) pairs, as a submission takes them.
struct nib_vk_points {
    VkSemaphore *semaphores;      ///< [n + 1]: the last place is for the clock
    uint64_t *values;             ///< the same
    VkPipelineStageFlags *stages; ///< the same; that wait
    uint32_t n;
};
/// A zeroed struct is accepted.
void nib_vk_points_free(struct nib_vk_points *points);

/// Submits command buffers in order, as nib_vk_submit, behind all points that the instance's next
/// step waits for, which are forgotten then. Errors: device lost, memory.
enum nib_status nib_vk_submit_waiting(struct nib_vk_instance *instance,
                                      const VkCommandBuffer *buffers, uint32_t n_buffers,
                                      struct nib_error *err);

/// As nib_backend.synchronize and end_step.
enum nib_status nib_vk_synchronize(void *self, const struct nib_step_points *points,
                                   struct nib_error *err);
enum nib_status nib_vk_end_step(void *self, struct nib_error *err);

#endif
