#include "runtime/engine/registry.h"

#include "runtime/base/status.h"
#include "runtime/cpu/cpu_backend.h"
#ifdef NIB_HAVE_VULKAN
#include "runtime/vulkan/vulkan_backend.h"
#endif
#include <stdlib.h>

/// In the order of nib_devices_list.
static const enum nib_backend_kind kinds[] = {NIB_BACKEND_CPU, NIB_BACKEND_VULKAN};

const struct nib_backend *nib_registry_find(enum nib_backend_kind kind)
{
    switch (kind) {
    case NIB_BACKEND_CPU:
        return &nib_cpu_backend;
#ifdef NIB_HAVE_VULKAN
    case NIB_BACKEND_VULKAN:
        return &nib_vulkan_backend;
#endif
    default:
        return NULL;
    }
}

enum nib_status nib_registry_list(struct nib_device_info *out_infos, uint32_t capacity,
                                  uint32_t *out_count, struct nib_error *err)
{
    *out_count = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct nib_backend *backend = nib_registry_find(kinds[i]);
        if (!backend)
            continue;
        uint32_t place = *out_count < capacity ? *out_count : capacity;
        uint32_t count = 0;
        enum nib_status status = backend->device_list(capacity > place ? out_infos + place : NULL,
                                                      capacity - place, &count, err);
        if (status != NIB_OK) {
            *out_count = 0;
            return status;
        }
        *out_count += count;
    }
    return NIB_OK;
}

static enum nib_status find_vulkan(const struct nib_backend **out_backend, struct nib_error *err)
{
    *out_backend = nib_registry_find(NIB_BACKEND_VULKAN);
    return *out_backend ? NIB_OK
                        : nib_fail(err, NIB_ERROR_UNSUPPORTED,
                                   "this build of nibble has no Vulkan backend; use --device cpu");
}

enum nib_status nib_registry_self_test(struct nib_device *device, nib_kernel_check_fn *on_check,
                                       void *user, struct nib_error *err)
{
    const struct nib_backend *backend = device->backend;
    return backend->self_test
               ? backend->self_test(device->impl, &nib_cpu_backend, on_check, user, err)
               : NIB_OK;
}

enum nib_status nib_registry_measure(struct nib_device *device,
                                     struct nib_device_limits *out_limits, struct nib_error *err)
{
    *out_limits = (struct nib_device_limits){0};
    enum nib_status status = device->backend->measure(device->impl, out_limits, err);
    uint32_t none = NIB_LIMITS_NONE;
    if (status == NIB_OK &&
        atomic_compare_exchange_strong(&device->limits_state, &none, NIB_LIMITS_WRITING)) {
        device->limits = *out_limits;
        atomic_store(&device->limits_state, NIB_LIMITS_THERE);
    }
    return status;
}

struct nib_device_limits nib_device_known_limits(const struct nib_device *device)
{
    return atomic_load(&device->limits_state) == NIB_LIMITS_THERE ? device->limits
                                                                  : (struct nib_device_limits){0};
}

/// Takes over `impl`, which is closed where that fails.
static enum nib_status wrap(const struct nib_backend *backend, void *impl,
                            struct nib_device **out_device, struct nib_error *err)
{
    enum nib_status status = backend->trust ? backend->trust(impl, &nib_cpu_backend, err) : NIB_OK;
    struct nib_device *device = status == NIB_OK ? calloc(1, sizeof *device) : NULL;
    if (!device) {
        backend->device_close(impl);
        return status == NIB_OK ? nib_fail_memory(err) : status;
    }
    device->backend = backend;
    device->impl = impl;
    atomic_init(&device->references, 1);
    *out_device = device;
    return NIB_OK;
}

enum nib_status nib_registry_open(const struct nib_device_params *params,
                                  struct nib_device **out_device, struct nib_error *err)
{
    void *impl = NULL;
    *out_device = NULL;
    if ((unsigned)params->backend > NIB_BACKEND_VULKAN)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "there is no backend %u",
                        (unsigned)params->backend);
    const struct nib_backend *backend = nib_registry_find(params->backend);
    enum nib_status status = backend ? NIB_OK : find_vulkan(&backend, err);
    if (status == NIB_OK)
        status = backend->device_open(params, &impl, err);
    return status == NIB_OK ? wrap(backend, impl, out_device, err) : status;
}

enum nib_status nib_registry_attach(const struct nib_attach_params *params,
                                    struct nib_device **out_device, struct nib_error *err)
{
    void *impl = NULL;
    *out_device = NULL;
    const struct nib_backend *backend;
    enum nib_status status = find_vulkan(&backend, err);
    if (status == NIB_OK)
        status = backend->device_attach(params, &impl, err);
    return status == NIB_OK ? wrap(backend, impl, out_device, err) : status;
}

void nib_device_retain(struct nib_device *device)
{
    atomic_fetch_add_explicit(&device->references, 1, memory_order_relaxed);
}

void nib_device_release(struct nib_device *device)
{
    if (atomic_fetch_sub_explicit(&device->references, 1, memory_order_acq_rel) != 1)
        return;
    device->backend->device_close(device->impl);
    free(device);
}
