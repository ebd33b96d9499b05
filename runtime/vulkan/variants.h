/// Which kernel makes a matmul: a pure function of what the device can do and what is multiplied.
#ifndef RUNTIME_VULKAN_VARIANTS_H
#define RUNTIME_VULKAN_VARIANTS_H

#include "runtime/vulkan/snapshot.h"

/// A matmul for so many rows of input, with so many rows of the weight an invocation.
struct nib_vk_variant {
    const char *shader; ///< NULL: the one for fewer rows of input serves
    uint32_t rows;
    bool has_lanes;      ///< invocations share rows of the weight
    bool has_size;       ///< its subgroups have a known size
    bool is_single;      ///< prepares its row of input itself
    bool is_cooperative; ///< and its constants name a tile
    bool has_blocks;     ///< and a block of the device plan, which takes the place of `rows`
};

struct nib_vk_family_info {
    const char *name;
    struct nib_vk_variant variants[NIB_VK_MAX_COLUMNS]; ///< [c]: for 2^c rows of input
    /// For one row of input that it prepares itself, where that can be (shader NULL: nowhere).
    struct nib_vk_variant single;
};
/// Returns what is known of a family; static.
const struct nib_vk_family_info *nib_vk_family_get(enum nib_vk_family family);
/// Finds a family by its name. Errors: unsupported, naming those there are.
enum nib_status nib_vk_family_find(const char *name, enum nib_vk_family *out_family,
                                   struct nib_error *err);

/// Returns whether its kernels for many rows of input work with cooperative matrices.
static inline bool nib_vk_family_is_cooperative(enum nib_vk_family family)
{
    return family == NIB_VK_FAMILY_COOP8 || family == NIB_VK_FAMILY_COOP16 ||
           family == NIB_VK_FAMILY_HALF;
}
/// Returns the elements of its tiles, where it is one of cooperative matrices.
static inline enum nib_vk_element nib_vk_family_element(enum nib_vk_family family)
{
    return family == NIB_VK_FAMILY_COOP8 ? NIB_VK_ELEMENT_BYTE : NIB_VK_ELEMENT_HALF;
}
/// Returns whether it has kernels that must know the size of their subgroups.
static inline bool nib_vk_family_has_sizes(enum nib_vk_family family)
{
    return family == NIB_VK_FAMILY_SUB || nib_vk_family_is_cooperative(family);
}
#define NIB_VK_VENDOR_INTEL 0x8086u
/// Returns the size of the subgroups that add up by shuffles on the device.
uint32_t nib_vk_matmul_subgroup(const struct nib_vk_snapshot *snapshot);
/// Returns the size of those that multiply cooperative matrices.
uint32_t nib_vk_tile_subgroup(const struct nib_vk_snapshot *snapshot);
/// Returns the tile that they multiply, of granules cut into `halves` (1 or 2); m is 0: none fits.
struct nib_vk_tile nib_vk_tile_choose(const struct nib_vk_snapshot *snapshot,
                                      enum nib_vk_element element, uint32_t halves);

/// Works out the blocks of products of numbers.
void nib_vk_matmul_blocks_find(const struct nib_vk_snapshot *snapshot,
                               struct nib_vk_matmul_blocks *out_blocks);

/// Returns what the device lacks to run the family's kernels, or NULL.
const char *nib_vk_family_missing(const struct nib_vk_snapshot *snapshot,
                                  enum nib_vk_family family);

/// What a matmul multiplies.
struct nib_vk_matmul_need {
    uint32_t bits;      ///< of a weight, as NIB_SPEC_CODE_BITS has it
    bool has_book;      ///< weights are looked up
    bool has_codes;     ///< the input is int8 codes
    bool has_groups;    ///< the mode has a scale for each group of the input
    bool has_outliers;  ///< some columns of it are numbers
    bool has_halves;    ///< groups are half a granule
    bool may_be_single; ///< a single row of input can be prepared by the matmul itself
    bool adds_words;    ///< the output is added to numbers that do not come in whole texels
};
/// Bits of kernels that others can replace: 1 << family, attention through texel buffers, those
/// that draw tokens, which the host can do, attention by cooperative matrices, and that which turns
/// and stores a single row.
#define NIB_VK_KERNEL_ATTENTION_TEXEL (1u << NIB_VK_FAMILY_COUNT)
#define NIB_VK_KERNEL_DRAW (1u << (NIB_VK_FAMILY_COUNT + 1))
#define NIB_VK_KERNEL_ATTENTION_COOP (1u << (NIB_VK_FAMILY_COUNT + 2))
#define NIB_VK_KERNEL_ATTENTION_OWN (1u << (NIB_VK_FAMILY_COUNT + 3))
#define NIB_VK_KERNEL_COUNT (NIB_VK_FAMILY_COUNT + 4)
/// Returns the name of kernel `bit` in reports: "matmul single"; static.
const char *nib_vk_kernel_name(uint32_t bit);

/// What is chosen from besides the device plan's order.
struct nib_vk_choices {
    bool is_forced; ///< `forced_family` goes first
    enum nib_vk_family forced_family;
    uint32_t distrusted; ///< kernels that are not taken where there is another
};
/// Chooses the family: the forced one where it serves, else the best that runs and is trusted. One
/// of cooperative matrices is for many rows of input, and nib_vk_family_few goes with it.
enum nib_vk_family nib_vk_family_choose(const struct nib_vk_device_plan *plan,
                                        const struct nib_vk_choices *choices,
                                        const struct nib_vk_matmul_need *need);
/// Returns the family that multiplies codes, or numbers, for few rows of input beside cooperative
/// matrices.
enum nib_vk_family nib_vk_family_few(const struct nib_vk_device_plan *plan,
                                     const struct nib_vk_choices *choices, bool has_codes);

#endif
