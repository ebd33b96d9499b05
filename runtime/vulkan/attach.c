#include "runtime/vulkan/attach.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/features.h"

static bool is_listed(const char *const *names, uint32_t n, const char *name)
{
    for (uint32_t i = 0; names && i < n; i++) {
        if (names[i] && strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

void nib_vk_enabled_read(const struct nib_attach_params *params, struct nib_vk_enabled *out)
{
    const char *const *device = params->device_extensions;
    uint32_t n = params->n_device_extensions;
    *out = (struct nib_vk_enabled){
        .api_version = params->api_version,
        .queue_family = params->queue_family,
        .has_timeline_extension = is_listed(device, n, VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME),
        .has_integer_dot_extension =
            is_listed(device, n, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME),
        .has_debug_utils = is_listed(params->instance_extensions, params->n_instance_extensions,
                                     VK_EXT_DEBUG_UTILS_EXTENSION_NAME),
    };
    struct nib_vk_features f =
        nib_vk_features_find((VkPhysicalDeviceFeatures2 *)(uintptr_t)params->features);
    out->has_timeline_semaphore = f.timeline_semaphore && *f.timeline_semaphore;
    out->has_integer_dot = f.integer_dot && *f.integer_dot;
    out->cooperative = (struct nib_vk_cooperative){
        .has_extension = is_listed(device, n, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME),
        .has_matrices =
            f.cooperative_matrix && *f.cooperative_matrix && f.memory_model && *f.memory_model,
        .has_bytes = f.int8 && *f.int8,
        .has_halves = f.float16 && *f.float16};
    out->subgroups = (struct nib_vk_subgroups){
        .has_size_extension = is_listed(device, n, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME),
        .has_size_control = f.size_control && *f.size_control,
        .has_full = f.full_subgroups && *f.full_subgroups};
}

/// The same of subgroups and cooperative matrices.
static void limit_subgroups(const struct nib_vk_enabled *enabled, struct nib_vk_snapshot *s)
{
    bool has_sizes = enabled->subgroups.has_size_extension || s->api_version >= VK_API_VERSION_1_3;
    s->subgroups.has_size_control =
        s->subgroups.has_size_control && enabled->subgroups.has_size_control && has_sizes;
    s->subgroups.has_full = s->subgroups.has_full && enabled->subgroups.has_full && has_sizes;
    if (!enabled->cooperative.has_extension || !enabled->cooperative.has_matrices)
        s->cooperative = (struct nib_vk_cooperative){0};
    s->cooperative.has_bytes = s->cooperative.has_bytes && enabled->cooperative.has_bytes;
    s->cooperative.has_halves = s->cooperative.has_halves && enabled->cooperative.has_halves;
}

void nib_vk_snapshot_limit(const struct nib_vk_enabled *enabled, struct nib_vk_snapshot *snapshot)
{
    struct nib_vk_snapshot *s = snapshot;
    s->api_version = enabled->api_version < s->api_version ? enabled->api_version : s->api_version;
    s->has_timeline_extension = s->has_timeline_extension && enabled->has_timeline_extension;
    s->has_timeline_semaphore = s->has_timeline_semaphore && enabled->has_timeline_semaphore &&
                                (s->api_version >= VK_API_VERSION_1_2 || s->has_timeline_extension);
    s->has_integer_dot_extension =
        s->has_integer_dot_extension && enabled->has_integer_dot_extension;
    s->has_integer_dot = s->has_integer_dot && enabled->has_integer_dot &&
                         (s->api_version >= VK_API_VERSION_1_3 || s->has_integer_dot_extension);
    s->has_fast_integer_dot = s->has_fast_integer_dot && s->has_integer_dot;
    s->has_fast_mixed_dot = s->has_fast_mixed_dot && s->has_integer_dot;
    limit_subgroups(enabled, s);
    s->has_host_family = true;
    s->host_family = enabled->queue_family;
}

static enum nib_status check_params(const struct nib_attach_params *params, struct nib_error *err)
{
    const char *missing = !params->get_instance_proc_addr ? "get_instance_proc_addr"
                          : !params->instance             ? "instance"
                          : !params->physical_device      ? "physical_device"
                          : !params->device               ? "device"
                          : !params->queue                ? "queue"
                                                          : NULL;
    if (missing)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "nib_attach_params.%s is not set", missing);
    if (!params->lock_queue || !params->unlock_queue) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "nib_attach_params.%s is not set; both callbacks are needed, since loading "
                        "submits on a thread of its own",
                        params->lock_queue ? "unlock_queue" : "lock_queue");
    }
    if (params->api_version < VK_API_VERSION_1_1) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the host's instance is of Vulkan %u.%u; make it with "
                        "VkApplicationInfo.apiVersion VK_API_VERSION_1_1 or later, and say so in "
                        "nib_attach_params.api_version",
                        params->api_version ? VK_API_VERSION_MAJOR(params->api_version) : 1,
                        VK_API_VERSION_MINOR(params->api_version));
    }
    return NIB_OK;
}

/// Says what the host must enable. What the device itself lacks is left to its plan.
static enum nib_status check_enabled(const struct nib_vk_snapshot *snapshot,
                                     const struct nib_vk_enabled *enabled, struct nib_error *err)
{
    uint32_t version =
        snapshot->api_version < enabled->api_version ? snapshot->api_version : enabled->api_version;
    if (!snapshot->has_timeline_semaphore)
        return NIB_OK;
    if (version < VK_API_VERSION_1_2 && !enabled->has_timeline_extension) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the host's device was made without " //
                        VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME
                        "; enable what nib_vulkan_required_extensions lists, and name it in "
                        "nib_attach_params.device_extensions");
    }
    if (!enabled->has_timeline_semaphore) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the host's device was made without the feature timelineSemaphore; set it "
                        "by nib_vulkan_required_features before vkCreateDevice, and pass the same "
                        "chain as nib_attach_params.features");
    }
    return NIB_OK;
}

static enum nib_status check_family(const struct nib_vk_snapshot *snapshot, uint32_t family,
                                    struct nib_error *err)
{
    if (family >= snapshot->n_families) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "nib_attach_params.queue_family is %u, but %s has %u families", family,
                        snapshot->name, snapshot->n_families);
    }
    if (!(snapshot->families[family].queueFlags & VK_QUEUE_COMPUTE_BIT)) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "queue family %u of %s has no compute; lend a queue of a family with "
                        "VK_QUEUE_COMPUTE_BIT",
                        family, snapshot->name);
    }
    return NIB_OK;
}

/// Looks at the host's physical device and decides what is used of it.
static enum nib_status look(struct nib_vk_device *d, const struct nib_attach_params *params,
                            struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_enabled enabled;
    nib_vk_enabled_read(params, &enabled);
    if (enabled.has_debug_utils)
        nib_vk_debug_load(params->get_instance_proc_addr, params->instance, &d->debug);
    d->physical = params->physical_device;
    NIB_TRY(nib_vk_snapshot_take(&d->host.table, d->physical, &d->snapshot, err));
    NIB_TRY(check_family(&d->snapshot, params->queue_family, err));
    NIB_TRY(check_enabled(&d->snapshot, &enabled, err));
    nib_vk_snapshot_limit(&enabled, &d->snapshot);
    nib_vk_device_plan_make(&d->snapshot, &d->plan);
    if (!d->plan.is_usable) {
        status = nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s cannot be used: %s", d->snapshot.name,
                          d->plan.reason);
    }
fail:
    return status;
}

/// Finds the number of the host's physical device; one that is not listed is 0.
static uint32_t find_index(const struct nib_vk_device *d, VkInstance instance)
{
    VkPhysicalDevice physical[32];
    uint32_t n = sizeof physical / sizeof physical[0];
    VkResult result = d->host.table.EnumeratePhysicalDevices(instance, &n, physical);
    for (uint32_t i = 0; result >= 0 && i < n; i++) {
        if (physical[i] == d->physical)
            return i;
    }
    return 0;
}

enum nib_status nib_vk_device_attach(const struct nib_attach_params *params, void **out_device,
                                     struct nib_error *err)
{
    *out_device = NULL;
    enum nib_status status = check_params(params, err);
    if (status != NIB_OK)
        return status;
    struct nib_vk_device *d = calloc(1, sizeof *d);
    if (!d)
        return nib_fail_memory(err);
    d->log = params->log;
    d->is_attached = true;
    d->self_test = params->self_test;
    d->lock_queue = params->lock_queue;
    d->unlock_queue = params->unlock_queue;
    d->lock_user = params->user;
    d->most_submit_ns = params->submit_ns ? params->submit_ns : NIB_VK_HOST_SUBMIT_NS;
    d->limits_rows = params->submit_ns != 0;
    NIB_TRY(nib_vk_instance_table_load(params->get_instance_proc_addr, params->instance,
                                       &d->host.table, err));
    NIB_TRY(look(d, params, err));
    NIB_TRY(
        nib_vk_device_table_load(d->host.table.GetDeviceProcAddr, params->device, &d->table, err));
    d->index = find_index(d, params->instance);
    d->device = params->device;
    d->queue = params->queue;
    NIB_TRY(nib_vk_device_finish(d, params->cache_dir, err));
    *out_device = d;
    return NIB_OK;

fail:
    nib_vk_device_close(d);
    return status;
}
