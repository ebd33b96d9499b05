/// Shaders compiled while running, from a folder like shaders/: builds with NIB_RUNTIME_COMPILE.
#ifndef RUNTIME_VULKAN_COMPILE_H
#define RUNTIME_VULKAN_COMPILE_H

#include "runtime/vulkan/shaders.h"
#include <nibble/base.h>

/// Returns in `*out_hash` what tells an edited shader from the one before, the files that it
/// includes among it. Errors: io, format (too many includes), memory.
enum nib_status nib_vk_source_hash(const char *folder, const struct nib_vk_shader *shader,
                                   uint64_t *out_hash, struct nib_error *err);
/// Compiles a shader to `*out_words`, to be freed. Errors: as above; format, with the compiler's
/// first message, file and line.
enum nib_status nib_vk_compile(const char *folder, const struct nib_vk_shader *shader,
                               uint32_t **out_words, size_t *out_size, struct nib_error *err);

#endif
