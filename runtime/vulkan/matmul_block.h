/// Blocks of outputs that a workgroup of matmul_half.comp makes.
#ifndef RUNTIME_VULKAN_MATMUL_BLOCK_H
#define RUNTIME_VULKAN_MATMUL_BLOCK_H

#include "runtime/vulkan/cooperative.h"

#define NIB_VK_MAX_MATMUL_BLOCKS 4

/// A block, and how its workgroup goes about it.
struct nib_vk_matmul_block {
    uint32_t rows;    ///< of the weight
    uint32_t cols;    ///< rows of input, a power of two
    uint32_t threads; ///< invocations of the workgroup
    uint32_t across;  ///< subgroups that have rows of the weight of their own
    uint32_t depth;   ///< granules that are in shared memory at once
    uint32_t buffers; ///< 2: while one is multiplied the next one is written
    struct nib_vk_tile tile;
};

/// Blocks that a device can make, the largest first.
struct nib_vk_matmul_blocks {
    uint32_t n;
    struct nib_vk_matmul_block each[NIB_VK_MAX_MATMUL_BLOCKS];
};

/// What a device gives a workgroup.
struct nib_vk_workgroup_limits {
    uint32_t invocations;
    uint32_t shared_memory; ///< bytes
    uint32_t subgroup;      ///< invocations of a subgroup
};

/// Works out which blocks a device can make; there may be none.
void nib_vk_matmul_blocks_make(const struct nib_vk_cooperative *cooperative,
                               const struct nib_vk_workgroup_limits *limits,
                               struct nib_vk_matmul_blocks *out_blocks);
/// Returns the block for `rows` rows of a weight and `cols` rows of input, at least as many as the
/// smallest block has: the largest one of which there are enough to fill a GPU.
const struct nib_vk_matmul_block *
nib_vk_matmul_block_choose(const struct nib_vk_matmul_blocks *blocks, uint64_t rows, uint32_t cols);

#endif
