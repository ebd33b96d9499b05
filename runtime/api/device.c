#include <nibble/device.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/engine/registry.h"

enum nib_status nib_devices_list(struct nib_device_info *out_infos, uint32_t capacity,
                                 uint32_t *out_count, struct nib_error *err)
{
    return nib_registry_list(out_infos, capacity, out_count, err);
}

enum nib_status nib_device_open(const struct nib_device_params *params,
                                struct nib_device **out_device, struct nib_error *err)
{
    *out_device = NULL;
    struct nib_device_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    return status == NIB_OK ? nib_registry_open(&current, out_device, err) : status;
}

void nib_device_destroy(struct nib_device **device)
{
    if (!device || !*device)
        return;
    nib_device_release(*device);
    *device = NULL;
}

void nib_device_get_info(const struct nib_device *device, struct nib_device_info *out_info)
{
    device->backend->device_info(device->impl, out_info);
}

enum nib_status nib_device_self_test(struct nib_device *device, nib_kernel_check_fn *on_check,
                                     void *user, struct nib_error *err)
{
    if (!device || !on_check)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", device ? "on_check" : "device");
    return nib_registry_self_test(device, on_check, user, err);
}

enum nib_status nib_device_measure(struct nib_device *device, struct nib_device_limits *out_limits,
                                   struct nib_error *err)
{
    if (!device || !out_limits)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", device ? "out_limits" : "device");
    return nib_registry_measure(device, out_limits, err);
}
