/// Which kernel makes a matmul: a pure function of what the device can do and what is multiplied.
#ifndef RUNTIME_VULKAN_VARIANTS_H
#define RUNTIME_VULKAN_VARIANTS_H

#include "runtime/vulkan/snapshot.h"

/// A matmul for so many rows of input, with so many rows of the weight an invocation.
struct nib_vk_variant {
    const char *shader; ///< NULL: the one for fewer rows of input serves
    uint32_t rows;
};

struct nib_vk_family_info {
    const char *name;
    struct nib_vk_variant variants[NIB_VK_MAX_COLUMNS]; ///< [c]: for 2^c rows of input
};
/// Returns what is known of a family; static.
const struct nib_vk_family_info *nib_vk_family_get(enum nib_vk_family family);
/// Finds a family by its name. Errors: unsupported, naming those there are.
enum nib_status nib_vk_family_find(const char *name, enum nib_vk_family *out_family,
                                   struct nib_error *err);

/// Returns what the device lacks to run the family's kernels, or NULL.
const char *nib_vk_family_missing(const struct nib_vk_snapshot *snapshot,
                                  enum nib_vk_family family);

/// What a matmul multiplies.
struct nib_vk_matmul_need {
    uint32_t bits;      ///< of a weight, as NIB_SPEC_CODE_BITS has it
    bool has_book;      ///< weights are looked up
    bool has_codes;     ///< the input is int8 codes
    bool has_outliers;  ///< some columns of it are numbers
    bool may_be_single; ///< a single row of input can be prepared by the matmul itself
};
/// Chooses the family: the device plan's forced one where it serves, else the best that runs.
enum nib_vk_family nib_vk_family_choose(const struct nib_vk_device_plan *plan,
                                        const struct nib_vk_matmul_need *need);

#endif
