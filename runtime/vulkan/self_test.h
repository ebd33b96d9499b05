/// Trust: kernels are compared with the scalar CPU code before an instance uses them, and replaced
/// where they are wrong.
#ifndef RUNTIME_VULKAN_SELF_TEST_H
#define RUNTIME_VULKAN_SELF_TEST_H

#include "runtime/vulkan/instance.h"

/// As nib_backend.trust: makes device->trust, with what earlier runs found where it was kept.
enum nib_status nib_vk_trust_open(void *device, const struct nib_backend *reference,
                                  struct nib_error *err);
/// A device that has none is accepted.
void nib_vk_trust_close(struct nib_vk_device *device);

/// Checks what the instance's ops choose, until `end_ns` (0: to the end); then `choices` stand, and
/// `is_trusted` tells so. Errors: unsupported (a kernel fails and there is no other), those of the
/// device.
enum nib_status nib_vk_self_test(struct nib_vk_instance *instance, uint64_t end_ns,
                                 struct nib_error *err);
/// As nib_backend.self_test.
enum nib_status nib_vk_self_test_all(void *device, const struct nib_backend *reference,
                                     nib_kernel_check_fn *on_check, void *user,
                                     struct nib_error *err);

#endif
