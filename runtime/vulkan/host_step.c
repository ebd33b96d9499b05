// Steps that the host of an attached device submits, in command buffers of its own.
#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/instance.h"
#include "runtime/vulkan/loss.h"

enum nib_status nib_vk_host_step_begin(void *self, uint32_t last, const struct nib_step *step,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    struct nib_vk_host_step *h = &instance->host_step;
    uint32_t slot, number = h->number + 1;
    if (instance->receipts.size == 0)
        return nib_fail(err, NIB_ERROR_STATE, "the device is not attached");
    NIB_TRY(nib_vk_check_alive(instance->device, err));
    NIB_TRY(nib_vk_run_begin(instance, 0, last, step, &slot, err));
    *h = (struct nib_vk_host_step){
        .slot = slot,
        .row_bucket = nib_vk_bucket(step->header.n_used_rows),
        .line_bucket = nib_vk_bucket(step->header.n_logits ? step->header.n_logits : 1),
        .is_drawn = step->draws != NULL,
        .is_sampled = nib_vk_is_sampled(step),
        .number = number ? number : 1};
    memset(nib_vk_pool_mapped(&instance->receipts), 0, instance->n_segments * sizeof(uint32_t));
fail:
    return status;
}

/// What becomes of the lines behind the last segment.
static void record_lines(struct nib_vk_instance *instance, VkCommandBuffer buffer)
{
    const struct nib_vk_host_step *h = &instance->host_step;
    if (!h->is_drawn) {
        nib_vk_record_logits(instance, h->line_bucket, buffer);
        return;
    }
    nib_vk_record_draw(instance, buffer, h->is_sampled, h->line_bucket);
    nib_vk_count_draw(instance, h->is_sampled);
}

/// Leaves the step's number where the host's memory shows that the piece was executed.
static void record_receipt(const struct nib_vk_instance *instance, VkCommandBuffer buffer)
{
    const struct nib_vk_host_step *h = &instance->host_step;
    const struct nib_vk_range *receipts = &instance->receipts;
    nib_vk_barrier_all(instance->device, buffer);
    instance->device->table.CmdFillBuffer(buffer, nib_vk_pool_buffer(receipts),
                                          receipts->offset + h->n_pieces * sizeof(uint32_t),
                                          sizeof(uint32_t), h->number);
    nib_vk_barrier_all(instance->device, buffer);
}

void nib_vk_host_step_record(void *self, uint32_t first, uint32_t last, VkCommandBuffer buffer)
{
    struct nib_vk_instance *instance = self;
    struct nib_vk_host_step *h = &instance->host_step;
    uint64_t start_ns = nib_clock_ns();
    nib_vk_label_begin(instance->device, buffer, "nibble step");
    if (first == 0)
        nib_vk_record_advance(instance, buffer, h->slot, h->row_bucket);
    for (uint32_t s = first; s <= last; s++) {
        nib_vk_record(instance, s, h->row_bucket, h->line_bucket, buffer);
        nib_vk_count_segment(instance, s, h->row_bucket, h->line_bucket);
        if (instance->segments[s].has_lines)
            record_lines(instance, buffer);
    }
    record_receipt(instance, buffer);
    nib_vk_label_end(instance->device, buffer);
    h->n_pieces++;
    instance->host_ns += nib_clock_ns() - start_ns;
}

enum nib_status nib_vk_host_step_end(void *self, struct nib_error *err)
{
    struct nib_vk_instance *instance = self;
    const struct nib_vk_host_step *h = &instance->host_step;
    const volatile uint32_t *receipts = nib_vk_pool_mapped(&instance->receipts);
    enum nib_status status = nib_vk_check_alive(instance->device, err);
    if (status != NIB_OK)
        return status;
    for (uint32_t i = 0; i < h->n_pieces; i++) {
        if (receipts[i] != h->number)
            return nib_fail(err, NIB_ERROR_STATE,
                            "command buffer %u of the step has not been executed; submit all %u, "
                            "wait for them, and end the step then, or drop it",
                            i + 1, h->n_pieces);
    }
    return nib_vk_run_end(instance, h->slot, err);
}
