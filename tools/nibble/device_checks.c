#include "tools/nibble/device_checks.h"
#include "tools/nibble/message.h"
#include "tools/nibble/progress.h"
#include <stdio.h>
#include <stdlib.h>

/// Of one device, while it is checked.
struct run {
    struct device_checks *checks;
    uint32_t index;
    bool is_out_of_memory;
    struct progress progress;
};

static void print_check(const struct device_check *check)
{
    printf("%-7s %-16s %8.1e %8.1e %6.0f ms  %s\n", check->passed ? "passed" : "FAILED",
           check->kernel, check->error, check->limit, (double)check->ns / 1e6, check->work);
}

static bool report(void *user, const struct nib_kernel_check *check)
{
    struct run *run = user;
    struct device_checks *checks = run->checks;
    // Room comes in powers of two.
    if ((checks->count & (checks->count + 1)) == 0) {
        struct device_check *items =
            realloc(checks->items, (2 * (size_t)checks->count + 1) * sizeof *items);
        run->is_out_of_memory = !items;
        if (!items)
            return false;
        checks->items = items;
    }
    struct device_check *item = &checks->items[checks->count++];
    *item = (struct device_check){.index = run->index,
                                  .error = check->error,
                                  .limit = check->limit,
                                  .passed = check->passed,
                                  .ns = check->ns};
    snprintf(item->kernel, sizeof item->kernel, "%s", check->kernel);
    snprintf(item->work, sizeof item->work, "%s", check->work);
    checks->n_failed += !check->passed;
    progress_end(&run->progress);
    if (checks->is_table)
        print_check(item);
    fflush(stdout);
    struct nib_progress hook = progress_hook(&run->progress);
    return hook.report(hook.user, "check kernels", check->done, check->total);
}

static enum nib_status check_device(const struct options *options,
                                    const struct nib_device_info *info,
                                    struct device_checks *checks, struct nib_error *err)
{
    struct run run = {.checks = checks, .index = info->index, .progress.unit = PROGRESS_KERNELS};
    struct nib_device *device = NULL;
    const struct nib_device_params *params =
        nib_device_params(.log = message_log(), .backend = NIB_BACKEND_VULKAN, .index = info->index,
                          .vulkan_mask = options->vulkan_mask, .self_test = NIB_SELF_TEST_OFF);
    enum nib_status status = nib_device_open(params, &device, err);
    if (status == NIB_ERROR_UNSUPPORTED) {
        message_print("vulkan:%u: not checked: %s", (unsigned)info->index, err->message);
        return NIB_OK;
    }
    if (status == NIB_OK && checks->is_table)
        printf("\nvulkan:%u, %s\n%-7s %-16s %8s %8s %9s  %s\n", (unsigned)info->index, info->name,
               "result", "kernel", "error", "limit", "time", "work");
    if (status == NIB_OK)
        status = nib_device_self_test(device, report, &run, err);
    progress_end(&run.progress);
    nib_device_destroy(&device);
    return run.is_out_of_memory ? fail_memory(err) : status;
}

enum nib_status device_checks_run(const struct options *options,
                                  const struct nib_device_info *infos, uint32_t count,
                                  struct device_checks *out_checks, struct nib_error *err)
{
    *out_checks = (struct device_checks){.is_table = !options->json};
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < count && status == NIB_OK; i++) {
        if (infos[i].backend == NIB_BACKEND_VULKAN)
            status = check_device(options, &infos[i], out_checks, err);
    }
    if (out_checks->is_table)
        printf("\n%u of %u checks passed\n", (unsigned)(out_checks->count - out_checks->n_failed),
               (unsigned)out_checks->count);
    return status;
}

void device_checks_free(struct device_checks *checks)
{
    free(checks->items);
    *checks = (struct device_checks){0};
}

void device_checks_write(const struct device_checks *checks, struct json_out *json)
{
    json_open_array(json, "checks");
    for (uint32_t i = 0; i < checks->count; i++) {
        const struct device_check *check = &checks->items[i];
        char flag[32];
        snprintf(flag, sizeof flag, "vulkan:%u", (unsigned)check->index);
        json_open_object(json, NULL);
        json_put_string(json, "device", flag);
        json_put_string(json, "kernel", check->kernel);
        json_put_string(json, "work", check->work);
        json_put_real(json, "error", check->error);
        json_put_real(json, "limit", check->limit);
        json_put_boolean(json, "passed", check->passed);
        json_put_real(json, "seconds", (double)check->ns / 1e9);
        json_close_object(json);
    }
    json_close_array(json);
}
