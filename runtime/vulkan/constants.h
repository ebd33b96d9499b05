/// Specialization constants that are set in the code of a shader instead of by the driver.
#ifndef RUNTIME_VULKAN_CONSTANTS_H
#define RUNTIME_VULKAN_CONSTANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// What is known of an id of a module.
struct nib_vk_constant {
    uint32_t spec; ///< number of the specialization constant + 1; 0: none
    bool is_known;
    uint32_t value; ///< of a constant of 32 bits or of type bool
};

/// Makes each specialization constant `i` < n_values of the SPIR-V module words[n_words] a plain
/// constant, of 32 bits or, where it is of type bool, true unless 0, and what is computed from
/// such constants too (SPIR-V 1.6, section 2.9). `ids` has room for words[3]. Returns how many
/// words are left, at most n_words; the same, with nothing changed, for what is no SPIR-V.
size_t nib_vk_set_constants(uint32_t *words, size_t n_words, const uint32_t *values,
                            uint32_t n_values, struct nib_vk_constant *ids);

#endif
