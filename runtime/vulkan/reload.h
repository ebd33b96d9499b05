/// Shaders of a folder instead of those that are built in, and their reloading when they are
/// edited.
#ifndef RUNTIME_VULKAN_RELOAD_H
#define RUNTIME_VULKAN_RELOAD_H

#include "runtime/vulkan/instance.h"
#include "runtime/vulkan/shaders.h"

/// Makes the device take its shaders from `folder` (NULL: those that are built in). Errors:
/// unsupported (a build without a compiler), io, memory.
enum nib_status nib_vk_shaders_open(struct nib_vk_device *device, const char *folder,
                                    struct nib_error *err);
/// Frees what was replaced. A device whose shaders are built in is accepted.
void nib_vk_shaders_close(struct nib_vk_device *device);

/// Returns a shader's words, and memory of theirs to be freed, or NULL, in `*out_memory`. Errors:
/// those of the compiler.
enum nib_status nib_vk_shader_words(const struct nib_vk_device *device,
                                    const struct nib_vk_shader *shader, const uint32_t **out_words,
                                    size_t *out_size, uint32_t **out_memory, struct nib_error *err);
/// Compiles what has been edited, from time to time, and records the instance's segments anew where
/// its kernels have changed, when nothing of them runs any more. What cannot be compiled stays as
/// it was, and a line goes to the log. Errors: memory, those of the device.
enum nib_status nib_vk_reload(struct nib_vk_instance *instance, struct nib_error *err);

#endif
