/// The SPIR-V that is built into the library; the tables are made from shaders/variants.txt.
#ifndef RUNTIME_VULKAN_SHADERS_H
#define RUNTIME_VULKAN_SHADERS_H

#include <stddef.h>
#include <stdint.h>

/// One shader.
struct nib_vk_shader {
    const char *name; ///< static
    const uint32_t *words;
    const size_t *size; ///< bytes; 0: the compiler of this build was too old for it
    const char *source; ///< file in shaders/
    const char *macros; ///< "ROWS=2 HAS_DOT"
};
extern const struct nib_vk_shader nib_vk_shaders[];
extern const uint32_t nib_vk_shader_count;
/// Returns the shader of this name that is built in, or NULL.
const struct nib_vk_shader *nib_vk_shader_find(const char *name);

#endif
