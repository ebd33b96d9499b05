#include "tools/nibble/report.h"
#include "tools/nibble/message.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

enum nib_status report_read_profile(const struct nib_engine *engine,
                                    struct nib_op_profile **out_profiles, uint32_t *out_count,
                                    struct nib_error *err)
{
    *out_profiles = NULL;
    enum nib_status status = nib_engine_get_profile(engine, NULL, 0, out_count, err);
    if (status != NIB_OK)
        return status;
    struct nib_op_profile *profiles = calloc((size_t)*out_count + 1, sizeof *profiles);
    if (!profiles)
        return fail_memory(err);
    status = nib_engine_get_profile(engine, profiles, *out_count, out_count, err);
    if (status != NIB_OK) {
        free(profiles);
        return status;
    }
    *out_profiles = profiles;
    return NIB_OK;
}

void report_profile(struct json_out *json, const struct nib_op_profile *profiles, uint32_t count)
{
    json_open_array(json, "profile");
    for (uint32_t i = 0; i < count; i++) {
        json_open_object(json, NULL);
        json_put_string(json, "name", profiles[i].name);
        json_put_size(json, "calls", profiles[i].calls);
        json_put_real(json, "seconds", (double)profiles[i].ns / 1e9);
        json_put_size(json, "bytes", profiles[i].bytes);
        json_put_size(json, "macs", profiles[i].macs);
        json_close_object(json);
    }
    json_close_array(json);
}

/// Returns an op's name without the number of its layer.
static const char *kind_of(const char *name)
{
    static const char prefix[] = "layer ";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return name;
    const char *end = name + sizeof prefix - 1;
    end += strspn(end, "0123456789");
    return *end == ' ' ? end + 1 : name;
}

/// Adds `from` to the sum of its kind, or begins one.
static uint32_t add_profile(struct nib_op_profile *sums, uint32_t count,
                            const struct nib_op_profile *from)
{
    const char *kind = kind_of(from->name);
    uint32_t i = 0;
    while (i < count && strcmp(sums[i].name, kind) != 0)
        i++;
    if (i == count)
        sums[count++] = (struct nib_op_profile){.name = kind};
    sums[i].calls += from->calls;
    sums[i].ns += from->ns;
    sums[i].bytes += from->bytes;
    sums[i].macs += from->macs;
    return count;
}

static int compare_time(const void *left, const void *right)
{
    const struct nib_op_profile *a = left, *b = right;
    return (a->ns < b->ns) - (a->ns > b->ns);
}

enum nib_status report_print_profile(const struct nib_op_profile *profiles, uint32_t count,
                                     struct nib_error *err)
{
    struct nib_op_profile *sums = calloc((size_t)count + 1, sizeof *sums);
    if (!sums)
        return fail_memory(err);
    uint32_t n_sums = 0;
    uint64_t total_ns = 0;
    for (uint32_t i = 0; i < count; i++) {
        n_sums = add_profile(sums, n_sums, &profiles[i]);
        total_ns += profiles[i].ns;
    }
    qsort(sums, n_sums, sizeof *sums, compare_time);
    fprintf(stderr, "%-36s %9s %11s %11s %8s %8s %7s\n", "op", "calls", "ms", "bytes", "GB/s",
            "GMAC/s", "share");
    for (uint32_t i = 0; i < n_sums; i++) {
        char bytes[TEXT_NUMBER_SIZE];
        double ns = sums[i].ns > 0 ? (double)sums[i].ns : 1;
        fprintf(stderr, "%-36s %9" PRIu64 " %11.2f %11s %8.2f %8.2f %5.1f %%\n", sums[i].name,
                sums[i].calls, ns / 1e6, text_bytes(bytes, sums[i].bytes),
                (double)sums[i].bytes / ns, (double)sums[i].macs / ns,
                total_ns > 0 ? 100.0 * (double)sums[i].ns / (double)total_ns : 0.0);
    }
    free(sums);
    return NIB_OK;
}
