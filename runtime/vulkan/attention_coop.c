// Attention over prompts by cooperative matrices.
#include "runtime/base/checked.h"
#include "runtime/vulkan/passes.h"

/// Subgroups of a workgroup, each with rows of its own.
#define SUBGROUPS 4u
/// What tiles of a head's outputs and queries take of registers ends here.
#define MAX_DIM 128u
/// Parts that a row's scores are cut into, at most.
#define MAX_SPLIT 4u
/// As attention_coop.comp has them: bytes of a unit, units of a row's scores and weights, and what
/// else it shares for each row and invocation.
#define UNIT_BYTES 16u
#define ROW_UNITS 14u
#define OTHER_BYTES 4u
/// Rows of a step from which on each tile's pages go to one workgroup, and there are enough to fill
/// tiles.
#define LEAST_ROWS 32u

/// Sets the constants of the kernel for heads that its tiles divide. Returns whether there is one.
static bool make_kernel(const struct builder *b, const struct nib_vk_kernel *usual, uint32_t group,
                        struct nib_vk_kernel *out_kernel)
{
    const struct nib_vk_snapshot *s = &b->self->device->snapshot;
    const struct nib_vk_device_plan *plan = &b->self->device->plan;
    const struct nib_vk_tile *tile = &plan->tiles[NIB_VK_ELEMENT_HALF][0];
    uint32_t subgroup = plan->cooperative_subgroup, threads = SUBGROUPS * subgroup;
    uint32_t key_dim = usual->specs[NIB_ATTENTION_KEY_DIM];
    uint32_t value_dim = usual->specs[NIB_ATTENTION_VALUE_DIM], rows = SUBGROUPS * tile->m;
    if (tile->m == 0 || tile->n % 8 || NIB_KV_PAGE_TOKENS % tile->n || tile->k % 8 ||
        NIB_KV_PAGE_TOKENS % tile->k || subgroup % tile->m || subgroup / tile->m > MAX_SPLIT ||
        key_dim % tile->k || value_dim % NIB_KV_PAGE_TOKENS || key_dim > MAX_DIM ||
        value_dim > MAX_DIM || group > rows || threads > s->max_invocations)
        return false;
    uint32_t key_units = key_dim / 8 + 1, value_units = value_dim / 8 + 1;
    uint32_t page_units = NIB_KV_PAGE_TOKENS * (key_units + value_units);
    // Queries lie where pages do later.
    if (rows * key_units > page_units ||
        (page_units + rows * ROW_UNITS) * UNIT_BYTES + (rows + threads) * OTHER_BYTES >
            s->max_shared_memory)
        return false;
    *out_kernel = (struct nib_vk_kernel){.shader = "attention_coop",
                                         .specs = {[NIB_ATTENTION_KEY_DIM] = key_dim,
                                                   [NIB_ATTENTION_VALUE_DIM] = value_dim,
                                                   [NIB_ATTENTION_ROWS] = rows,
                                                   [NIB_ATTENTION_HEADS] = group,
                                                   [NIB_SPEC_TILE_M] = tile->m,
                                                   [NIB_SPEC_TILE_N] = tile->n,
                                                   [NIB_SPEC_TILE_K] = tile->k,
                                                   [NIB_SPEC_SUBGROUP] = subgroup,
                                                   [NIB_SPEC_THREADS] = threads}};
    return true;
}

enum nib_status nib_vk_take_attention_coop(struct builder *b, const struct nib_op_attention *op,
                                           const struct nib_vk_kernel *usual,
                                           struct nib_vk_pass *pass, struct nib_error *err)
{
    struct nib_vk_instance *self = b->self;
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    uint32_t group = op->n_heads / layer->n_heads;
    struct nib_vk_kernel kernel;
    if (!self->device->plan.has_attention_coop || self->precise ||
        self->choices.distrusted & NIB_VK_KERNEL_ATTENTION_COOP ||
        usual->specs[NIB_ATTENTION_KEY_FORMAT] != NIB_KV_CODE_F16 ||
        usual->specs[NIB_ATTENTION_VALUE_FORMAT] != NIB_KV_CODE_F16 ||
        !usual->specs[NIB_ATTENTION_IS_ALIGNED] || !make_kernel(b, usual, group, &kernel))
        return NIB_OK;
    uint32_t tile_rows = kernel.specs[NIB_ATTENTION_ROWS] / group;
    for (uint32_t i = 0; i < NIB_VK_MAX_BUCKETS; i++) {
        uint32_t rows = 1u << i, most = rows < self->max_sequences ? rows : self->max_sequences;
        if (rows < LEAST_ROWS || rows > self->max_rows || pass->depth[i] > 1)
            continue;
        uint32_t tiles = (uint32_t)nib_ceil_div_u64(rows, tile_rows) + most - 1;
        pass->groups[i] = layer->n_heads;
        pass->height[i] = tiles < rows ? tiles : rows;
        enum nib_status status =
            nib_vk_device_pipeline(self->device, &kernel, &pass->pipelines[i], err);
        if (status != NIB_OK)
            return status;
        self->kernels |= NIB_VK_KERNEL_ATTENTION_COOP;
    }
    return NIB_OK;
}
