/// The registry of backends: the only place that knows which there are.
/// Thread-safety: safe.
#ifndef RUNTIME_ENGINE_REGISTRY_H
#define RUNTIME_ENGINE_REGISTRY_H

#include "runtime/ops/backend.h"

/// Returns the backend of `kind`, or NULL where this build has none.
const struct nib_backend *nib_registry_find(enum nib_backend_kind kind);

/// nib_devices_list and nib_device_open, with params of this version.
enum nib_status nib_registry_list(struct nib_device_info *out_infos, uint32_t capacity,
                                  uint32_t *out_count, struct nib_error *err);
enum nib_status nib_registry_open(const struct nib_device_params *params,
                                  struct nib_device **out_device, struct nib_error *err);
/// nib_device_attach, with params of this version.
enum nib_status nib_registry_attach(const struct nib_attach_params *params,
                                    struct nib_device **out_device, struct nib_error *err);

/// nib_device_measure.
enum nib_status nib_registry_measure(struct nib_device *device,
                                     struct nib_device_limits *out_limits, struct nib_error *err);
/// Returns what the device was measured to do, or zeros.
struct nib_device_limits nib_device_known_limits(const struct nib_device *device);
/// nib_device_self_test.
enum nib_status nib_registry_self_test(struct nib_device *device, nib_kernel_check_fn *on_check,
                                       void *user, struct nib_error *err);

/// Adds and drops a reference to a device; the last one closes it.
void nib_device_retain(struct nib_device *device);
void nib_device_release(struct nib_device *device);

#endif
