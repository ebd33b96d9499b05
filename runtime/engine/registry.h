/// The registry of backends: the only place that knows which there are.
#ifndef RUNTIME_ENGINE_REGISTRY_H
#define RUNTIME_ENGINE_REGISTRY_H

#include "runtime/ops/backend.h"

/// Returns the backend of `kind`, or NULL where this build has none.
const struct nib_backend *nib_registry_backend(enum nib_backend_kind kind);

/// Adds and drops a reference to a device; the last one closes it. Thread-safety: safe.
void nib_device_retain(struct nib_device *device);
void nib_device_release(struct nib_device *device);

#endif
