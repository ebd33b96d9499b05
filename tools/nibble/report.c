#include "tools/nibble/report.h"
#include "tools/nibble/system.h"
#include <math.h>

double report_rate(uint64_t count, uint64_t ns)
{
    return ns > 0 ? (double)count * 1e9 / (double)ns : NAN;
}

double report_decode_rate(const struct nib_generation *generation)
{
    return generation->n_generated > 1
               ? report_rate(generation->n_generated - 1, generation->decode_ns)
               : NAN;
}

static void write_strings(struct json_out *json, const char *key, const char *const *strings,
                          uint32_t count)
{
    json_open_array(json, key);
    for (uint32_t i = 0; i < count; i++)
        json_put_string(json, NULL, strings[i]);
    json_close_array(json);
}

static void write_devices(struct json_out *json, const struct nib_engine *engine, uint32_t count)
{
    struct nib_engine_placement placement;
    struct nib_error error;
    json_open_array(json, "devices");
    for (uint32_t i = 0; i < count; i++) {
        if (nib_engine_get_placement(engine, i, &placement, &error) != NIB_OK)
            continue;
        json_open_object(json, NULL);
        json_put_string(json, "name", placement.device.name);
        json_put_size(json, "layers", placement.layers);
        json_close_object(json);
    }
    json_close_array(json);
}

void report_execution(struct json_out *json, const struct nib_engine *engine)
{
    struct nib_engine_info info;
    nib_engine_get_info(engine, &info);
    const struct nib_execution *execution = &info.execution;
    json_open_object(json, "execution");
    write_devices(json, engine, info.n_placements);
    json_put_size(json, "gpu_layers", execution->gpu_layers);
    json_put_size(json, "cpu_layers", execution->cpu_layers);
    json_put_size(json, "dispatches", execution->dispatches);
    write_strings(json, "replaced", execution->replaced, execution->n_replaced);
    write_strings(json, "fallbacks", execution->fallbacks, execution->n_fallbacks);
    json_close_object(json);
}

void report_memory(struct json_out *json, const struct nib_engine_info *info)
{
    json_open_object(json, "memory");
    json_put_size(json, "weights_bytes", info->memory.weights_bytes);
    json_put_size(json, "kv_bytes", info->memory.kv_bytes);
    json_put_size(json, "scratch_bytes", info->memory.scratch_bytes);
    json_put_size(json, "device_bytes", info->device_bytes);
    json_put_size(json, "peak_rss_bytes", system_peak_rss());
    json_close_object(json);
}
