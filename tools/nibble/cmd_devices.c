#include "tools/nibble/commands.h"
#include "tools/nibble/device_checks.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *type_name(enum nib_device_type type)
{
    static const char *const names[] = {"cpu", "discrete", "integrated", "virtual", "other"};
    return (unsigned)type < sizeof names / sizeof names[0] ? names[type] : "other";
}

/// Writes what `--device` calls the device.
static void device_flag(const struct nib_device_info *info, char out[32])
{
    if (info->backend == NIB_BACKEND_CPU)
        snprintf(out, 32, "cpu");
    else
        snprintf(out, 32, "vulkan:%" PRIu32, info->index);
}

/// `checks` may be NULL.
static void write_json(const struct nib_device_info *infos, uint32_t count,
                       const struct device_checks *checks)
{
    struct json_out json = json_begin(stdout);
    json_open_array(&json, "devices");
    for (uint32_t i = 0; i < count; i++) {
        const struct nib_device_info *info = &infos[i];
        char flag[32];
        device_flag(info, flag);
        json_open_object(&json, NULL);
        json_put_string(&json, "device", flag);
        json_put_string(&json, "backend", info->backend == NIB_BACKEND_CPU ? "cpu" : "vulkan");
        json_put_string(&json, "type", type_name(info->type));
        json_put_boolean(&json, "usable", info->is_usable);
        json_put_string(&json, "name", info->name);
        json_put_string(&json, "driver", info->driver);
        json_open_array(&json, "features");
        for (const char *word = info->features; *word; word += strspn(word, " ")) {
            size_t size = strcspn(word, " ");
            if (size > 0)
                json_put_text(&json, NULL, word, size);
            word += size;
        }
        json_close_array(&json);
        json_put_size(&json, "threads", info->threads);
        json_put_size(&json, "memory_bytes", info->memory_bytes);
        json_close_object(&json);
    }
    json_close_array(&json);
    if (checks)
        device_checks_write(checks, &json);
    json_end(&json);
}

static void print_table(const struct nib_device_info *infos, uint32_t count)
{
    printf("%-10s %-10s %7s %10s  %s\n", "device", "type", "threads", "memory", "name");
    for (uint32_t i = 0; i < count; i++) {
        const struct nib_device_info *info = &infos[i];
        char flag[32], memory[TEXT_NUMBER_SIZE], threads[16] = "-";
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

enum nib_status command_devices(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t count = 0, listed = 0;
    struct nib_device_info *infos = NULL;
    struct device_checks checks = {0};
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
    if (options->json)
        write_json(infos, count, wants_checks ? &checks : NULL);
    else if (checks.n_failed > 0)
        TRY(fail_with(err, NIB_ERROR_UNSUPPORTED, "%" PRIu32 " kernels compute wrong results",
                      checks.n_failed));

fail:
    device_checks_free(&checks);
    free(infos);
    return status;
}
