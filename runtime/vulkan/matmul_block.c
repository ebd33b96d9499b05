#include "runtime/vulkan/matmul_block.h"

#include "runtime/base/checked.h"
#include "shaders/shared/kernels.h"

/// Workgroups that keep a large GPU busy.
#define ENOUGH_WORKGROUPS 128u
/// As matmul_half.comp has them: bytes of a granule's numbers, of the gap behind a row's, and of
/// what else it shares for each row and column of the block.
#define GRANULE_BYTES 64u
#define GAP_BYTES 16u
#define OTHER_BYTES 8u
#define BOOK_BYTES 64u

static uint32_t shared_bytes(const struct nib_vk_matmul_block *b)
{
    uint32_t line = b->depth * GRANULE_BYTES + GAP_BYTES;
    return (b->rows + b->cols) * (line + OTHER_BYTES) + BOOK_BYTES;
}

/// Cuts the block into as nearly square parts for its subgroups as tiles allow. Returns whether
/// they do.
static bool divide(struct nib_vk_matmul_block *b, const struct nib_vk_tile *tile, uint32_t subgroup)
{
    uint32_t n = subgroup ? b->threads / subgroup : 0, best = UINT32_MAX;
    b->tile = *tile;
    if (n == 0 || b->threads % subgroup || tile->m == 0 || tile->n == 0 || tile->k % 8 ||
        tile->k == 0 || NIB_GRANULE * b->depth % tile->k || b->rows * b->depth % b->threads ||
        b->cols * b->depth % b->threads)
        return false;
    for (uint32_t across = 1; across <= n; across++) {
        if (n % across || b->rows % (across * tile->m) || b->cols % (n / across * tile->n))
            continue;
        uint32_t sides = b->rows / across + b->cols / (n / across);
        if (sides < best) {
            best = sides;
            b->across = across;
        }
    }
    // Behind the last product each subgroup leaves a tile of sums in shared memory.
    uint32_t lines = b->rows + b->cols;
    return best < UINT32_MAX && n * tile->m * tile->n * (uint32_t)sizeof(float) <=
                                    lines * (b->depth * GRANULE_BYTES + GAP_BYTES);
}

/// Finds the largest tile that fits. Returns whether there is one.
static bool complete(const struct nib_vk_cooperative *cooperative,
                     const struct nib_vk_workgroup_limits *limits,
                     struct nib_vk_matmul_block *block)
{
    uint32_t largest = 0;
    struct nib_vk_matmul_block best;
    if (block->threads > limits->invocations || shared_bytes(block) > limits->shared_memory)
        return false;
    for (uint32_t i = 0; i < cooperative->n_tiles; i++) {
        const struct nib_vk_tile *tile = &cooperative->tiles[i];
        uint32_t size = tile->m * tile->n * tile->k;
        if (tile->element != NIB_VK_ELEMENT_HALF || size <= largest ||
            !divide(block, tile, limits->subgroup))
            continue;
        largest = size;
        best = *block;
    }
    if (largest)
        *block = best;
    return largest > 0;
}

void nib_vk_matmul_blocks_make(const struct nib_vk_cooperative *cooperative,
                               const struct nib_vk_workgroup_limits *limits,
                               struct nib_vk_matmul_blocks *out_blocks)
{
    static const struct nib_vk_matmul_block all[] = {
        {.rows = 128, .cols = 128, .threads = 256, .depth = 2},
        {.rows = 64, .cols = 128, .threads = 128, .depth = 2},
        {.rows = 64, .cols = 64, .threads = 128, .depth = 2},
    };
    *out_blocks = (struct nib_vk_matmul_blocks){0};
    for (uint32_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct nib_vk_matmul_block block = all[i];
        if (complete(cooperative, limits, &block))
            out_blocks->each[out_blocks->n++] = block;
    }
    // The last one is for as few as 64 input rows.
    if (out_blocks->n > 0 && out_blocks->each[out_blocks->n - 1].cols > 64)
        out_blocks->n = 0;
}

const struct nib_vk_matmul_block *
nib_vk_matmul_block_choose(const struct nib_vk_matmul_blocks *blocks, uint64_t rows, uint32_t cols)
{
    for (uint32_t i = 0; i + 1 < blocks->n; i++) {
        const struct nib_vk_matmul_block *b = &blocks->each[i];
        if (b->cols <= cols &&
            nib_ceil_div_u64(rows, b->rows) * (cols / b->cols) >= ENOUGH_WORKGROUPS)
            return b;
    }
    return &blocks->each[blocks->n - 1];
}
