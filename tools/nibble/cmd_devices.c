#include "tools/nibble/commands.h"
#include "tools/nibble/device_checks.h"
#include "tools/nibble/device_limits.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *type_name(enum nib_device_type type)
{
    static const char *const names[] = {"cpu", "discrete", "integrated", "virtual", "other"};
    return (unsigned)type < sizeof names / sizeof names[0] ? names[type] : "other";
}

/// What is told of the devices besides; each may be NULL.
struct extras {
    const struct device_checks *checks;
    const struct device_limits *limits;
    uint32_t n_limits;
};

/// Writes the features apart, or the reason why the device cannot be used as one text.
static void write_features(struct json_out *json, const struct nib_device_info *info)
{
    const char *separator = info->backend == NIB_BACKEND_CPU ? " " : "; ";
    json_open_array(json, "features");
    for (const char *feature = info->features; *feature;) {
        const char *end = info->is_usable ? strstr(feature, separator) : NULL;
        size_t size = end ? (size_t)(end - feature) : strlen(feature);
        if (size > 0)
            json_put_text(json, NULL, feature, size);
        feature += size + (end ? strlen(separator) : 0);
    }
    json_close_array(json);
}

static void write_json(const struct nib_device_info *infos, uint32_t count,
                       const struct extras *extras)
{
    struct json_out json = json_begin(stdout);
    json_open_array(&json, "devices");
    for (uint32_t i = 0; i < count; i++) {
        const struct nib_device_info *info = &infos[i];
        char flag[DEVICE_FLAG_SIZE];
        device_flag(info, flag);
        json_open_object(&json, NULL);
        json_put_string(&json, "device", flag);
        json_put_string(&json, "backend", info->backend == NIB_BACKEND_CPU ? "cpu" : "vulkan");
        json_put_string(&json, "type", type_name(info->type));
        json_put_boolean(&json, "usable", info->is_usable);
        json_put_string(&json, "name", info->name);
        json_put_string(&json, "driver", info->driver);
        write_features(&json, info);
        json_put_size(&json, "threads", info->threads);
        json_put_size(&json, "memory_bytes", info->memory_bytes);
        json_close_object(&json);
    }
    json_close_array(&json);
    if (extras->checks)
        device_checks_write(extras->checks, &json);
    if (extras->limits)
        device_limits_write(extras->limits, extras->n_limits, &json);
    json_end(&json);
}

static void print_table(const struct nib_device_info *infos, uint32_t count)
{
    printf("%-10s %-10s %7s %10s  %s\n", "device", "type", "threads", "memory", "name");
    for (uint32_t i = 0; i < count; i++) {
        const struct nib_device_info *info = &infos[i];
        char flag[DEVICE_FLAG_SIZE], memory[TEXT_NUMBER_SIZE], threads[16] = "-";
        device_flag(info, flag);
        if (info->threads > 0)
            snprintf(threads, sizeof threads, "%" PRIu32, info->threads);
        printf("%-10s %-10s %7s %10s  %s%s%s\n", flag, type_name(info->type), threads,
               text_bytes(memory, info->memory_bytes), info->name, info->driver[0] ? ", " : "",
               info->driver);
        if (info->features[0])
            printf("%-10s %s\n", "", info->features);
    }
}

/// Measures the devices that can be used, and prints them unless JSON is wanted. One that fails
/// leaves a gap.
static enum nib_status measure(const struct options *options, const struct nib_device_info *infos,
                               uint32_t count, struct device_limits **out_limits,
                               uint32_t *out_count, struct nib_error *err)
{
    struct device_limits *limits = calloc((size_t)count + 1, sizeof *limits);
    *out_limits = limits;
    *out_count = 0;
    if (!limits)
        return fail_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        struct device_limits *next = &limits[*out_count];
        if (!infos[i].is_usable)
            continue;
        if (system_interrupted())
            return fail_with(err, NIB_ERROR_CANCELLED, "interrupted");
        struct nib_error error;
        if (device_limits_measure(options, &infos[i], next, &error) != NIB_OK)
            message_print("%s is not measured: %s", next->device, error.message);
        (*out_count)++;
        if (!options->json)
            device_limits_print(next, next->device, stdout);
    }
    return NIB_OK;
}

enum nib_status command_devices(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t count = 0, listed = 0;
    struct nib_device_info *infos = NULL;
    struct device_checks checks = {0};
    struct device_limits *limits = NULL;
    uint32_t n_limits = 0;
    TRY(nib_devices_list(NULL, 0, &count, err));
    infos = calloc((size_t)count + 1, sizeof *infos);
    if (!infos)
        TRY(fail_memory(err));
    TRY(nib_devices_list(infos, count, &listed, err));
    // One may have come since they were counted.
    count = listed < count ? listed : count;
    bool wants_checks = options->self_test == NIB_SELF_TEST_FULL;
    if (!options->json)
        print_table(infos, count);
    if (wants_checks)
        TRY(device_checks_run(options, infos, count, &checks, err));
    if (options->measure)
        TRY(measure(options, infos, count, &limits, &n_limits, err));
    if (options->json)
        write_json(infos, count,
                   &(struct extras){.checks = wants_checks ? &checks : NULL,
                                    .limits = limits,
                                    .n_limits = n_limits});
    if (checks.n_failed > 0)
        TRY(fail_with(err, NIB_ERROR_UNSUPPORTED, "%" PRIu32 " kernels compute wrong results",
                      checks.n_failed));

fail:
    device_checks_free(&checks);
    free(limits);
    free(infos);
    return status;
}
