#include <stdlib.h>
#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/instance.h"

static void describe(const void *device, struct nib_device_info *out_info)
{
    (void)device;
    *out_info = (struct nib_device_info){
        .backend = NIB_BACKEND_CPU,
        .type = NIB_DEVICE_TYPE_CPU,
        .is_usable = true,
        .threads = nib_cpu_cores(),
        .memory_bytes = nib_memory_size(),
    };
    nib_cpu_name(out_info->name, sizeof out_info->name);
    nib_cpu_features(out_info->features, sizeof out_info->features);
}

static enum nib_status list(struct nib_device_info *out_infos, uint32_t capacity,
                            uint32_t *out_count, struct nib_error *err)
{
    (void)err;
    *out_count = 1;
    if (capacity > 0)
        describe(NULL, &out_infos[0]);
    return NIB_OK;
}

static void close_device(void *device)
{
    struct nib_cpu_device *d = device;
    if (!d)
        return;
    nib_thread_pool_destroy(&d->pool);
    free(d);
}

static enum nib_status open_device(const struct nib_device_params *params, void **out_device,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    enum nib_cpu_level level;
    *out_device = NULL;
    if (params->index != 0) {
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "there is no CPU %u; the only one is 0",
                        params->index);
    }
    struct nib_cpu_device *device = calloc(1, sizeof *device);
    if (!device)
        return nib_fail_memory(err);
    NIB_TRY(nib_cpu_level_find(params->cpu_mask, &level, err));
    nib_cpu_kernels_init(&device->kernels, level);
    uint32_t n_threads = params->threads ? params->threads : nib_cpu_cores();
    NIB_TRY(nib_thread_pool_create(n_threads, params->pin_threads, &device->pool, err));
    *out_device = device;
    return NIB_OK;

fail:
    close_device(device);
    return status;
}

static enum nib_status supports(const void *device, const struct nib_plan *plan, uint32_t op,
                                struct nib_error *err)
{
    (void)device;
    enum nib_op_kind kind = plan->ops[op].kind;
    if (kind == NIB_OP_ROUTE || kind == NIB_OP_REDUCE ||
        (kind == NIB_OP_MATMUL && plan->ops[op].matmul.experts != NIB_NO_WEIGHT)) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the CPU backend has no mixtures of experts and no sums over devices (%s)",
                        nib_op_name(kind));
    }
    return NIB_OK;
}

static void count(const void *self, struct nib_instance_counters *out_counters)
{
    const struct nib_cpu_instance *instance = self;
    // A call of a kernel prepares nothing and is submitted to nobody: host_ns stays 0.
    *out_counters = (struct nib_instance_counters){.dispatches = instance->n_dispatches};
}

static void profile(const void *self, struct nib_op_times *times)
{
    const struct nib_cpu_instance *instance = self;
    const struct nib_segment *segments = instance->plan->segments;
    if (!instance->profile_ns || instance->n_segments == 0)
        return;
    const struct nib_segment *last = &segments[instance->first_segment + instance->n_segments - 1];
    uint32_t first = segments[instance->first_segment].first_op;
    uint32_t end = last->first_op + last->n_ops;
    memcpy(times->calls + first, instance->profile_calls + first,
           (end - first) * sizeof *times->calls);
    memcpy(times->ns + first, instance->profile_ns + first, (end - first) * sizeof *times->ns);
}

static uint32_t count_draws(const void *self)
{
    (void)self;
    return 1; // a run is done when it returns
}

const struct nib_backend nib_cpu_backend = {
    .name = "cpu",
    .device_list = list,
    .device_open = open_device,
    .device_close = close_device,
    .device_info = describe,
    .measure = nib_cpu_measure,
    .predict_scratch = nib_cpu_predict_scratch,
    .supports = supports,
    .create = nib_cpu_instance_create,
    .destroy = nib_cpu_instance_destroy,
    .pack = nib_cpu_instance_pack,
    .run = nib_cpu_run,
    .most_runs = count_draws,
    .draws_likeliest_only = true,
    .kv_copy = nib_cpu_kv_copy,
    .kv_export = nib_cpu_kv_export,
    .kv_import = nib_cpu_kv_import,
    .memory = nib_cpu_instance_memory,
    .counters = count,
    .profile = profile,
};
