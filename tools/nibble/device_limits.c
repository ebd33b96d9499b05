#include "tools/nibble/device_limits.h"
#include "tools/nibble/message.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void device_flag(const struct nib_device_info *info, char out[DEVICE_FLAG_SIZE])
{
    if (info->backend == NIB_BACKEND_CPU)
        snprintf(out, DEVICE_FLAG_SIZE, "cpu");
    else
        snprintf(out, DEVICE_FLAG_SIZE, "vulkan:%" PRIu32, info->index);
}

enum nib_status device_limits_measure(const struct options *options,
                                      const struct nib_device_info *info,
                                      struct device_limits *out_limits, struct nib_error *err)
{
    struct nib_device *device = NULL;
    bool is_cpu = info->backend == NIB_BACKEND_CPU;
    const struct nib_device_params *params =
        nib_device_params(.log = message_log(), .backend = info->backend, .index = info->index,
                          .cpu_mask = options->cpu_mask,
                          .vulkan_mask = is_cpu ? NULL : options->vulkan_mask,
                          .self_test = NIB_SELF_TEST_OFF);
    *out_limits = (struct device_limits){0};
    device_flag(info, out_limits->device);
    enum nib_status status = nib_device_open(params, &device, err);
    if (status == NIB_OK)
        status = nib_device_measure(device, &out_limits->limits, err);
    if (status != NIB_OK)
        out_limits->limits = (struct nib_device_limits){0};
    nib_device_destroy(&device);
    return status;
}

enum nib_status device_limits_read(const struct nib_engine *engine,
                                   struct device_limits **out_limits, uint32_t *out_count,
                                   struct nib_error *err)
{
    struct nib_engine_info info;
    nib_engine_get_info(engine, &info);
    struct device_limits *limits = calloc((size_t)info.n_placements + 1, sizeof *limits);
    *out_limits = limits;
    *out_count = 0;
    if (!limits)
        return fail_memory(err);
    for (uint32_t i = 0; i < info.n_placements; i++) {
        struct nib_engine_placement placement;
        struct device_limits *next = &limits[*out_count];
        if (nib_engine_get_placement(engine, i, &placement, NULL) != NIB_OK)
            continue;
        device_flag(&placement.device, next->device);
        next->limits = placement.limits;
        bool is_new = true;
        for (uint32_t k = 0; k < *out_count; k++)
            is_new = is_new && strcmp(limits[k].device, next->device) != 0;
        *out_count += is_new;
    }
    return NIB_OK;
}

/// JSON and tables have a gap where nothing was measured.
static double known(double rate)
{
    return rate > 0 ? rate : NAN;
}

void device_limits_write(const struct device_limits *limits, uint32_t count, struct json_out *json)
{
    json_open_array(json, "limits");
    for (uint32_t i = 0; i < count; i++) {
        json_open_object(json, NULL);
        json_put_string(json, "device", limits[i].device);
        json_put_real(json, "read_bytes_per_s", known(limits[i].limits.read_bytes));
        json_put_real(json, "int8_macs_per_s", known(limits[i].limits.int8_macs));
        json_put_real(json, "f32_macs_per_s", known(limits[i].limits.f32_macs));
        json_close_object(json);
    }
    json_close_array(json);
}

void device_limits_print(const struct device_limits *limits, const char *head, FILE *file)
{
    const struct nib_device_limits *l = &limits->limits;
    if (l->read_bytes > 0)
        fprintf(file, "%s reads %.1f GB/s, multiplies %.1f GMAC/s of int8, %.1f of fp32\n", head,
                l->read_bytes / 1e9, l->int8_macs / 1e9, l->f32_macs / 1e9);
    else
        fprintf(file, "%s not measured\n", head);
}
