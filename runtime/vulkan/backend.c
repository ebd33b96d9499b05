#include "runtime/base/status.h"
#include "runtime/vulkan/attach.h"
#include "runtime/vulkan/measure.h"
#include "runtime/vulkan/self_test.h"
#include "runtime/vulkan/vulkan_backend.h"

static enum nib_status list(struct nib_device_info *out_infos, uint32_t capacity,
                            uint32_t *out_count, struct nib_error *err)
{
    struct nib_vk_host host;
    *out_count = 0;
    // No loader or no driver means no devices.
    if (nib_vk_host_open(&host, NULL) != NIB_OK)
        return NIB_OK;
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < host.n_physical && i < capacity; i++) {
        struct nib_vk_snapshot snapshot;
        struct nib_vk_device_plan plan;
        NIB_TRY(nib_vk_snapshot_take(&host.table, host.physical[i], &snapshot, err));
        nib_vk_device_plan_make(&snapshot, &plan);
        nib_vk_describe(&snapshot, &plan, &out_infos[i]);
        out_infos[i].index = i;
    }
    *out_count = host.n_physical;
fail:
    nib_vk_host_close(&host);
    return status;
}

static void describe(const void *device, struct nib_device_info *out_info)
{
    const struct nib_vk_device *d = device;
    nib_vk_describe(&d->snapshot, &d->plan, out_info);
    out_info->index = d->index;
}

static uint64_t memory_left(void *device)
{
    return nib_vk_memory_left(device);
}

static enum nib_status supports_matmul(const struct nib_vk_device *d, const struct nib_plan *plan,
                                       const struct nib_op_matmul *op, struct nib_error *err)
{
    const struct nib_weight *weight = &plan->weights[op->weight];
    struct nib_vk_layout layout;
    if (op->experts != NIB_NO_WEIGHT)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the Vulkan backend has no mixtures of experts");
    if (op->tap != NIB_NO_WEIGHT)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the Vulkan backend shows no inputs of matmuls; calibrate on the CPU");
    return nib_vk_layout_make(&weight->format, weight->rows, weight->cols,
                              d->snapshot.max_storage_range, &layout, err);
}

static enum nib_status supports_cache(const struct nib_plan *plan, uint32_t kv_layer,
                                      struct nib_error *err)
{
    const struct nib_kv_layer *layer = &plan->kv_layers[kv_layer];
    if (layer->key_dim > NIB_ATTENTION_MAX_DIM || layer->value_dim > NIB_ATTENTION_MAX_DIM) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the Vulkan backend has attention for heads of up to %d numbers, not %u",
                        NIB_ATTENTION_MAX_DIM, layer->key_dim);
    }
    if ((plan->key_format == NIB_KV_F16 && layer->key_dim % 2) ||
        (plan->value_format == NIB_KV_F16 && layer->value_dim % 2)) {
        return nib_fail(
            err, NIB_ERROR_UNSUPPORTED,
            "the Vulkan backend keeps no heads of odd size in f16; use --kv f32, i8 or i4");
    }
    if (nib_plan_keeps_f16(plan) && (layer->key_dim | layer->value_dim) % 2) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the Vulkan backend keeps no newest or first tokens of heads of odd size "
                        "in f16; use --kv with recent=0,first=0");
    }
    return NIB_OK;
}

static enum nib_status supports(const void *device, const struct nib_plan *plan, uint32_t op,
                                struct nib_error *err)
{
    const struct nib_op *o = &plan->ops[op];
    switch (o->kind) {
    case NIB_OP_MATMUL:
        return supports_matmul(device, plan, &o->matmul, err);
    case NIB_OP_KV_STORE:
        return supports_cache(plan, o->kv_store.kv_layer, err);
    case NIB_OP_ATTENTION:
        return supports_cache(plan, o->attention.kv_layer, err);
    case NIB_OP_ROUTE:
    case NIB_OP_REDUCE:
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "the Vulkan backend has no op %s",
                        nib_op_name(o->kind));
    default:
        return NIB_OK;
    }
}

static uint32_t most_rows(const void *self)
{
    const struct nib_vk_instance *instance = self;
    const struct nib_vk_device *d = instance->device;
    uint64_t rows = d->limits_rows && instance->row_ns ? d->most_submit_ns / instance->row_ns
                                                       : NIB_STEP_MAX_ROWS;
    uint32_t bucket = 1;
    while (bucket < NIB_STEP_MAX_ROWS && 2 * bucket <= rows)
        bucket *= 2;
    return bucket;
}

static void checks(const void *self, uint32_t *out_done, uint32_t *out_total)
{
    const struct nib_vk_instance *instance = self;
    *out_done = instance->n_checked + instance->next_probe;
    *out_total = instance->n_checked + instance->n_probes;
}

/// A host that shares the queue has to wait for what is under way; a profile needs runs apart.
static uint32_t most_runs(const void *self)
{
    const struct nib_vk_instance *instance = self;
    if (!instance->has_draw)
        return 0;
    return instance->device->is_attached || instance->queries ? 1 : NIB_VK_SLOTS;
}

static void memory(const void *self, struct nib_instance_memory *out_memory)
{
    const struct nib_vk_instance *instance = self;
    *out_memory = (struct nib_instance_memory){
        .weights = instance->weights_bytes,
        .kv = instance->kv_bytes,
        .scratch = instance->memory.size - instance->weights_bytes - instance->kv_bytes +
                   instance->upload.size + instance->readback.size +
                   instance->transfer.staging.size,
        .device = instance->memory.size,
    };
}

static void count(const void *self, struct nib_instance_counters *out_counters)
{
    const struct nib_vk_instance *instance = self;
    *out_counters = (struct nib_instance_counters){.dispatches = instance->n_dispatches,
                                                   .host_ns = instance->host_ns,
                                                   .n_replaced = instance->n_replaced,
                                                   .replaced = instance->replaced};
}

static void profile(const void *self, struct nib_op_times *times)
{
    const struct nib_vk_instance *instance = self;
    for (uint32_t i = 0; instance->op_ns && i < instance->plan->n_ops; i++) {
        uint32_t segment = instance->plan->ops[i].segment;
        if (segment - instance->first_segment < instance->n_segments) {
            times->calls[i] = instance->op_calls[i];
            times->ns[i] = instance->op_ns[i];
            times->counted_as[i] = instance->op_counted_as[i];
        }
    }
}

const struct nib_backend nib_vulkan_backend = {
    .name = "vulkan",
    .device_list = list,
    .device_open = nib_vk_device_open,
    .device_attach = nib_vk_device_attach,
    .device_close = nib_vk_device_close,
    .device_info = describe,
    .memory_left = memory_left,
    .measure = nib_vk_measure,
    .trust = nib_vk_trust_open,
    .self_test = nib_vk_self_test_all,
    .supports = supports,
    .create = nib_vk_instance_create,
    .destroy = nib_vk_instance_destroy,
    .pack = nib_vk_instance_pack,
    .ready = nib_vk_instance_ready,
    .checks = checks,
    .run = nib_vk_run,
    .wait = nib_vk_wait_oldest,
    .synchronize = nib_vk_synchronize,
    .end_step = nib_vk_end_step,
    .host_step_begin = nib_vk_host_step_begin,
    .host_step_record = nib_vk_host_step_record,
    .host_step_end = nib_vk_host_step_end,
    .most_rows = most_rows,
    .most_runs = most_runs,
    .kv_copy = nib_vk_kv_copy,
    .kv_export = nib_vk_kv_export,
    .kv_import = nib_vk_kv_import,
    .memory = memory,
    .counters = count,
    .profile = profile,
};
