// Passes of the ops that read or write the cache.
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/passes.h"

/// Keys or values of a layer.
struct plane {
    const struct nib_vk_range *range;
    const struct nib_vk_range *scales;
    const struct nib_view *view;
    uint32_t dim;
    uint32_t page_size;
    uint32_t scale_page_size;
    enum nib_kv_format format;
    bool is_key;
    bool is_transformed;
    uint32_t resource;
};

/// Returns the format's number as kernels have it.
static uint32_t kernel_format(enum nib_kv_format format)
{
    return format == NIB_KV_F32          ? NIB_KV_CODE_F32
           : format == NIB_KV_I8         ? NIB_KV_CODE_I8
           : format == NIB_KV_I4         ? NIB_KV_CODE_I4
           : format == NIB_KV_I4_CHANNEL ? NIB_KV_CODE_I4_CHANNEL
                                         : NIB_KV_CODE_F16;
}

/// Returns the words of one head of one token in a format without codes.
static uint32_t head_words(enum nib_kv_format format, uint32_t dim)
{
    return format == NIB_KV_F32 ? dim : dim / 2;
}

static enum nib_status add_store(struct builder *b, const struct plane *plane,
                                 const struct pass_params *params, struct nib_error *err)
{
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, plane->view);
    add_access(pass, plane->resource, 0, 1, true);
    return NIB_OK;
}

/// Where pages of tokens in f16 lie in a plane that has `n_pages` pages of codes.
static struct nib_kv_recent_args recent_args(const struct builder *b, uint32_t n_pages,
                                             uint32_t page_size)
{
    if (!nib_plan_keeps_f16(b->plan))
        return (struct nib_kv_recent_args){.at = 0};
    return (struct nib_kv_recent_args){.at = n_pages * (page_size / 4),
                                       .kv_class = b->plan->n_kv_classes - 1};
}

static enum nib_status store_codes(struct builder *b, const struct nib_kv_layer *layer,
                                   const struct plane *plane, struct nib_error *err)
{
    struct nib_kv_store_codes_args args = {
        .in_at = plane->view->offset,
        .in_stride = stride_of(b, plane->view),
        .n_heads = layer->n_heads,
        .page_words = plane->page_size / 4,
        .scale_page_words = plane->scale_page_size / 4,
        .kv_class = layer->kv_class,
        .window = layer->window,
        .sequences_at = b->self->step_layout.sequences_at,
        .tables_at = b->self->step_layout.tables_at,
        .recent = recent_args(b, b->self->n_pages[layer->kv_class], plane->page_size),
    };
    uint64_t n = (uint64_t)layer->n_heads * nib_kv_scale_words(NIB_KV_I8, plane->dim);
    struct pass_params params = {
        .kernel = {.shader = "kv_store_codes",
                   .specs = {[NIB_KV_STORE_FORMAT] = kernel_format(plane->format),
                             [NIB_KV_STORE_IS_KEY] = plane->is_key,
                             [NIB_KV_STORE_DIM] = plane->dim,
                             [NIB_KV_STORE_HAS_RECENT] = nib_plan_keeps_f16(b->plan),
                             [NIB_KV_STORE_TRANSFORMS] = plane->is_transformed,
                             [NIB_KV_STORE_FIRST_ALONE] =
                                 b->plan->recent_pages > 0 ? 0 : b->plan->first_pages}},
        .bind.range = {[NIB_BIND_IN] = value_of(b, plane->view),
                       [NIB_BIND_MATRIX] = plane->range,
                       [NIB_BIND_INPUT] = plane->scales},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(n, 64),
    };
    return add_store(b, plane, &params, err);
}

/// Packs keys channel by channel where their pages are whole, behind the pass that stores them.
static enum nib_status pack_channels(struct builder *b, const struct nib_kv_layer *layer,
                                     const struct plane *plane, struct nib_error *err)
{
    struct nib_kv_pack_args args = {
        .n_heads = layer->n_heads,
        .page_words = plane->page_size / 4,
        .scale_page_words = plane->scale_page_size / 4,
        .kv_class = layer->kv_class,
        .sequences_at = b->self->step_layout.sequences_at,
        .tables_at = b->self->step_layout.tables_at,
        .recent = recent_args(b, b->self->n_pages[layer->kv_class], plane->page_size),
    };
    uint64_t n = (uint64_t)layer->n_heads * nib_kv_groups(plane->dim) * (NIB_KV_GROUP / 8);
    struct pass_params params = {
        .kernel = {.shader = "kv_pack", .specs = {[NIB_KV_STORE_DIM] = plane->dim}},
        .bind.range = {[NIB_BIND_MATRIX] = plane->range, [NIB_BIND_INPUT] = plane->scales},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(n, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    add_access(pass, plane->resource, 0, 1, false);
    add_access(pass, plane->resource, 0, 1, true);
    return NIB_OK;
}

/// Returns where a view begins in a binding of `range`.
static uint32_t place_of(const struct builder *b, const struct nib_view *view,
                         const struct nib_vk_range *range)
{
    uint64_t begin = (value_of(b, view)->offset - range->offset) / sizeof(float);
    return (uint32_t)begin + view->offset;
}

static struct nib_kv_store_part store_part(const struct builder *b, const struct plane *plane,
                                           const struct nib_vk_range *range)
{
    return (struct nib_kv_store_part){
        .at = place_of(b, plane->view, range),
        .stride = stride_of(b, plane->view),
        .head_words = head_words(plane->format, plane->dim),
        .page_words = plane->page_size / 4,
    };
}

/// What a pass stores: keys, values or both, and queries, which may be NULL.
struct store {
    const struct nib_vk_range *range; ///< holds all that is read
    const struct plane *keys;
    const struct plane *values;
    const struct nib_op_rope *queries; ///< turned in place, and the keys on the way
};

/// Returns whether what is stored consists of whole texels: halves, of heads that are turned as a
/// whole.
static bool is_whole(const struct store *store, const struct nib_kv_store_args *args)
{
    const struct plane *keys = store->keys, *values = store->values;
    return keys && values && store->queries && keys->format == NIB_KV_F16 &&
           values->format == NIB_KV_F16 && values->dim % 8 == 0 &&
           2 * args->half_dims == args->head_dim && args->half_dims % 4 == 0 &&
           (args->keys.at | args->keys.stride | args->values.at | args->values.stride |
            args->queries.at | args->queries.stride | args->angles_at) %
                   4 ==
               0;
}

static enum nib_status store_floats(struct builder *b, const struct nib_kv_layer *layer,
                                    const struct store *store, struct nib_error *err)
{
    const struct plane *keys = store->keys, *values = store->values;
    const struct nib_op_rope *queries = store->queries;
    struct nib_kv_store_args args = {
        .n_heads = layer->n_heads,
        .kv_class = layer->kv_class,
        .sequences_at = b->self->step_layout.sequences_at,
        .tables_at = b->self->step_layout.tables_at,
        .head_dim = layer->key_dim,
    };
    if (keys)
        args.keys = store_part(b, keys, store->range);
    if (values)
        args.values = store_part(b, values, store->range);
    if (queries) {
        args.queries = nib_vk_rope_part(b, queries, store->range);
        args.half_dims = b->plan->ropes[queries->table].dims / 2;
        args.angles_at = nib_vk_angles_at(b, queries->table);
    }
    uint64_t n = (uint64_t)args.n_heads * (args.keys.head_words + args.values.head_words) +
                 (uint64_t)args.queries.n_heads * args.half_dims;
    bool has_texels = b->self->device->plan.has_texels && is_whole(store, &args) &&
                      !(b->self->choices.distrusted & NIB_VK_KERNEL_ATTENTION_TEXEL);
    // An invocation has eight numbers, else two.
    n = has_texels ? nib_ceil_div_u64(n, 4) : n;
    struct pass_params params = {
        .kernel = {.shader = has_texels ? "kv_store_texel" : "kv_store",
                   .specs = {[NIB_KV_STORE_KEY_IS_HALF] = keys && keys->format != NIB_KV_F32,
                             [NIB_KV_STORE_VALUE_IS_HALF] = values && values->format != NIB_KV_F32,
                             [NIB_KV_STORE_INTERLEAVED] = queries && queries->interleaved}},
        .bind = {.range = {[NIB_BIND_OUT] = store->range,
                           [NIB_BIND_IN] = has_texels ? store->range : NULL,
                           [NIB_BIND_MATRIX] = (keys ? keys : values)->range,
                           [NIB_BIND_INPUT] = (values ? values : keys)->range},
                 .has_texels = has_texels},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(n, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    if (queries)
        writes(b, pass, &queries->x);
    for (int i = 0; i < 2; i++) {
        const struct plane *plane = i == 0 ? keys : values;
        if (plane) {
            reads(pass, plane->view);
            // Queries could be turned anywhere in the value, for all that validation layers see, so
            // that nothing else, such as a store of codes, may read it meanwhile.
            const struct nib_view whole = {.value = plane->view->value,
                                           .width = stride_of(b, plane->view)};
            if (!queries)
                writes(b, pass, &whole);
            add_access(pass, plane->resource, 0, 1, true);
        }
    }
    b->stored_by = queries ? pass : NULL;
    b->stored_queries = queries;
    return NIB_OK;
}

/// Finds what holds keys and values, and queries, which may be NULL; returns whether they can be
/// bound at once.
static bool find_stored_range(const struct builder *b, const struct nib_op_kv_store *op,
                              const struct nib_op_rope *queries, struct nib_vk_range *out_range)
{
    uint64_t most = b->self->device->snapshot.max_storage_range;
    *out_range = *value_of(b, &op->key);
    return nib_vk_range_widen(out_range, value_of(b, &op->value), most) &&
           (!queries || nib_vk_range_widen(out_range, value_of(b, &queries->x), most));
}

bool nib_vk_store_turns(const struct builder *b, const struct nib_op_kv_store *op,
                        const struct nib_op_rope *keys, const struct nib_op_rope *queries)
{
    struct nib_vk_range range;
    return !nib_kv_has_codes(b->plan->key_format) && !nib_kv_has_codes(b->plan->value_format) &&
           is_same_view(&keys->x, &op->key) &&
           keys->head_dim == b->plan->kv_layers[op->kv_layer].key_dim &&
           !views_overlap(&queries->x, &op->key) && !views_overlap(&queries->x, &op->value) &&
           find_stored_range(b, op, queries, &range);
}

enum nib_status nib_vk_build_kv_store(struct builder *b, const struct nib_op_kv_store *op,
                                      const struct nib_op_rope *queries, struct nib_error *err)
{
    const struct nib_vk_cache *cache = &b->self->caches[op->kv_layer];
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    const struct plane keys = {&cache->keys,
                               &cache->key_scales,
                               &op->key,
                               layer->key_dim,
                               layer->key_page_size,
                               layer->key_scale_page_size,
                               b->plan->key_format,
                               true,
                               nib_kv_transforms_keys(layer, b->plan->key_format),
                               NIB_VK_CACHES + 2 * op->kv_layer};
    const struct plane values = {&cache->values,
                                 &cache->value_scales,
                                 &op->value,
                                 layer->value_dim,
                                 layer->value_page_size,
                                 layer->value_scale_page_size,
                                 b->plan->value_format,
                                 false,
                                 nib_kv_transforms_values(layer, b->plan->value_format),
                                 NIB_VK_CACHES + 2 * op->kv_layer + 1};
    struct nib_vk_range range;
    struct store store = {&range, &keys, &values, queries};
    if (!nib_kv_has_codes(keys.format) && !nib_kv_has_codes(values.format) &&
        find_stored_range(b, op, queries, &range))
        return store_floats(b, layer, &store, err);
    store = (struct store){.range = value_of(b, &op->key), .keys = &keys};
    enum nib_status status = nib_kv_has_codes(keys.format) ? store_codes(b, layer, &keys, err)
                                                           : store_floats(b, layer, &store, err);
    if (status == NIB_OK && keys.format == NIB_KV_I4_CHANNEL)
        status = pack_channels(b, layer, &keys, err);
    if (status != NIB_OK)
        return status;
    store = (struct store){.range = value_of(b, &op->value), .values = &values};
    return nib_kv_has_codes(values.format) ? store_codes(b, layer, &values, err)
                                           : store_floats(b, layer, &store, err);
}

/// How attention is cut into workgroups.
struct tiling {
    uint32_t width; ///< tokens that are looked at side by side
    uint32_t lanes; ///< invocations that share a token
    uint32_t heads; ///< of a KV head's group that a tile has
    uint32_t rows;  ///< query rows of a tile, `heads` for each row of the step
    uint32_t chunk; ///< quads of an invocation's output that are added up at once
};

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/// Tokens of a page that are looked at side by side.
#define WIDTH 16u
/// Where that is one subgroup of a driver that runs it in a CPU's vectors: nothing is shared.
#define SUBGROUP_WIDTH 8u
/// With these a workgroup has 128 invocations and takes 14 KiB of shared memory.
#define MAX_LANES 8u
#define MAX_ROWS 8u
/// Chunks of all rows' outputs: what the kernel's code has been written out for.
#define MAX_ITEMS 8u
/// What a workgroup has of shared memory for outputs that it adds up.
#define POOL_QUADS 256u
/// All that it has.
#define SHARED_QUADS 1024u

/// Returns how many numbers of a head of `dim` go to an invocation of `lanes`.
static uint32_t share_of(enum nib_kv_format format, uint32_t dim, uint32_t lanes)
{
    uint32_t unit = nib_kv_has_codes(format) ? NIB_KV_GROUP : 8;
    return unit * ceil_div(ceil_div(dim, unit), lanes);
}

/// Cuts attention into tiles of one row of the step, or of neighbours of the same sequence.
static struct tiling make_tiling(const struct nib_vk_device_plan *plan,
                                 const struct nib_plan *model, const struct nib_kv_layer *layer,
                                 uint32_t group, bool has_neighbours)
{
    bool codes = nib_kv_has_codes(model->key_format) || nib_kv_has_codes(model->value_format);
    uint32_t dim = layer->key_dim > layer->value_dim ? layer->key_dim : layer->value_dim;
    uint32_t least = 8 * plan->attention_units;
    least = codes && least < NIB_KV_GROUP ? NIB_KV_GROUP : least;
    // Where no invocations share a token all read the same query, and the same scales of a channel,
    // which AMD's compiler then keeps in scalar registers: gfx1150's has too few for both.
    struct tiling t = {.lanes = model->key_format == NIB_KV_I4_CHANNEL ? 2 : 1};
    while (t.lanes < MAX_LANES && t.lanes * least < dim)
        t.lanes *= 2;
    t.width = t.lanes == 1 && plan->has_texels ? SUBGROUP_WIDTH : WIDTH;
    // An invocation keeps its share of a query and of an output.
    uint32_t value_share = share_of(model->value_format, layer->value_dim, t.lanes);
    uint32_t share = share_of(model->key_format, layer->key_dim, t.lanes) + value_share;
    uint32_t quads = value_share / 4;
    t.chunk = nib_min_u32(quads, POOL_QUADS / (t.width * t.lanes));
    while (quads % t.chunk)
        t.chunk--;
    uint32_t most = nib_min_u32(plan->attention_numbers / share, MAX_ROWS);
    most = nib_min_u32(most, MAX_ITEMS / (quads / t.chunk));
    // Nor has it any for a second row of a query that all read.
    most = most && (t.lanes > 1 || !codes) ? most : 1;
    // As many tiles of as even a size as it takes.
    t.heads = ceil_div(group, ceil_div(group, most));
    t.rows = has_neighbours ? most / t.heads * t.heads : t.heads;
    return t;
}

static const struct nib_vk_range *scales_or_none(const struct nib_vk_range *scales)
{
    return scales->size > 0 ? scales : NULL;
}

/// What attention does itself, instead of the pass before it, where the step has one row.
struct own_row {
    const struct nib_op_kv_store *store; ///< NULL: nothing
    struct nib_vk_range range;           ///< holds queries, key and value
    uint32_t quads;                      ///< of one workgroup
};

/// Finds what attention can turn and store: whole quads, in heads of whole units, that fit beside
/// the rest of a workgroup's shared memory.
static struct own_row find_own_row(const struct builder *b, const struct nib_op_attention *op,
                                   const struct tiling *tiling)
{
    const struct nib_op_rope *queries = b->stored_queries;
    if (!b->stored_by || b->plan->ops[b->op - 1].kind != NIB_OP_KV_STORE ||
        b->self->choices.distrusted & NIB_VK_KERNEL_ATTENTION_OWN)
        return (struct own_row){.store = NULL};
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    struct own_row own = {.store = &b->plan->ops[b->op - 1].kv_store,
                          .quads = ((tiling->heads + 1) * layer->key_dim + layer->value_dim) / 4};
    find_stored_range(b, own.store, queries, &own.range);
    uint32_t half_dims = b->plan->ropes[queries->table].dims / 2;
    uint32_t offsets = place_of(b, &op->query, &own.range) |
                       place_of(b, &own.store->key, &own.range) |
                       place_of(b, &own.store->value, &own.range);
    uint32_t pool = tiling->chunk * tiling->width * tiling->lanes;
    uint32_t scores = tiling->rows * NIB_KV_PAGE_TOKENS * (tiling->lanes + 1) / 4;
    bool is_whole = layer->key_dim % 8 == 0 && layer->value_dim % 8 == 0 && half_dims >= 4 &&
                    (offsets | half_dims) % 4 == 0;
    if (own.store->kv_layer != op->kv_layer || !is_same_view(&op->query, &queries->x) ||
        !is_whole || own.quads + pool + scores > SHARED_QUADS)
        own.store = NULL;
    return own;
}

/// Fills in where the row's queries, key and value lie in the own row's range.
static void take_places(const struct builder *b, const struct nib_op_attention *op,
                        const struct own_row *own, struct nib_attention_args *args)
{
    if (!own->store)
        return;
    args->query_at = place_of(b, &op->query, &own->range);
    args->key_at = place_of(b, &own->store->key, &own->range);
    args->value_at = place_of(b, &own->store->value, &own->range);
    args->half_dims = b->plan->ropes[b->stored_queries->table].dims / 2;
    args->angles_at = nib_vk_angles_at(b, b->stored_queries->table);
}

/// Has the step's only row done by attention, which is `kernel` for more rows.
static enum nib_status take_own_row(struct builder *b, const struct own_row *own,
                                    const struct nib_vk_kernel *kernel, struct nib_vk_pass *pass,
                                    struct nib_error *err)
{
    struct nib_vk_kernel joined = *kernel;
    bool has_texels = strcmp(kernel->shader, "attention_texel") == 0;
    joined.shader = has_texels ? "attention_own_texel" : "attention_own";
    joined.specs[NIB_ATTENTION_OWN] = own->quads;
    joined.specs[NIB_ATTENTION_INTERLEAVED] = b->stored_queries->interleaved;
    reads(pass, &own->store->key);
    reads(pass, &own->store->value);
    b->stored_by->height[0] = 0;
    b->self->kernels |= NIB_VK_KERNEL_ATTENTION_OWN;
    return nib_vk_device_pipeline(b->self->device, &joined, &pass->pipelines[0], err);
}

static enum nib_status add_attention(struct builder *b, const struct nib_op_attention *op,
                                     const struct nib_attention_args *planned, uint32_t tile,
                                     struct nib_error *err)
{
    struct nib_vk_instance *self = b->self;
    bool has_neighbours = tile == NIB_ATTENTION_TILE_NEIGHBOURS;
    const struct nib_vk_device_plan *plan = &self->device->plan;
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    const struct nib_vk_cache *cache = &self->caches[op->kv_layer];
    uint32_t group = planned->heads_per_kv_head;
    struct tiling tiling = make_tiling(plan, b->plan, layer, group, has_neighbours);
    struct own_row own = {.store = NULL};
    struct nib_attention_args args = *planned;
    if (!has_neighbours) {
        own = find_own_row(b, op, &tiling);
        take_places(b, op, &own, &args);
    }
    bool has_texels =
        plan->has_texels && !(self->choices.distrusted & NIB_VK_KERNEL_ATTENTION_TEXEL);
    bool is_aligned = (args.query_at | args.query_stride | layer->key_dim) % 4 == 0;
    struct pass_params params = {
        .kernel = {.shader = has_texels ? "attention_texel" : "attention",
                   .specs = {[NIB_ATTENTION_KEY_FORMAT] = kernel_format(b->plan->key_format),
                             [NIB_ATTENTION_VALUE_FORMAT] = kernel_format(b->plan->value_format),
                             [NIB_ATTENTION_KEY_DIM] = layer->key_dim,
                             [NIB_ATTENTION_VALUE_DIM] = layer->value_dim,
                             [NIB_ATTENTION_ROWS] = tiling.rows,
                             [NIB_ATTENTION_HEADS] = tiling.heads,
                             [NIB_ATTENTION_LANES] = tiling.lanes,
                             [NIB_ATTENTION_THREADS] = tiling.width * tiling.lanes,
                             [NIB_ATTENTION_TILE] = tile,
                             [NIB_ATTENTION_CHUNK] = tiling.chunk,
                             [NIB_ATTENTION_IS_ALIGNED] = is_aligned,
                             [NIB_ATTENTION_RECENT] = b->plan->recent_pages,
                             [NIB_ATTENTION_FIRST] = b->plan->first_pages}},
        .bind = {.range = {[NIB_BIND_IN] = own.store ? &own.range : value_of(b, &op->query),
                           [NIB_BIND_IN_2] = &self->partials,
                           [NIB_BIND_OUT] = value_of(b, &op->out),
                           [NIB_BIND_MATRIX] = &cache->keys,
                           [NIB_BIND_INPUT] = &cache->values,
                           [NIB_BIND_SUMS] = scales_or_none(&cache->key_scales),
                           [NIB_BIND_TABLE] = scales_or_none(&cache->value_scales)},
                 .has_texels = has_texels},
        .push = &args,
        .push_size = sizeof args,
        .groups = layer->n_heads * ceil_div(group, tiling.heads),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    for (uint32_t i = 0; i < NIB_VK_MAX_BUCKETS; i++) {
        uint32_t rows = 1u << i, most = nib_min_u32(rows, self->max_sequences);
        uint32_t tiles = ceil_div(rows, tiling.rows / tiling.heads) + most - 1;
        // One row cannot belong to a sequence that has more.
        pass->height[i] = tile == NIB_ATTENTION_TILE_ROW      ? rows
                          : tile == NIB_ATTENTION_TILE_SINGLE ? most
                          : rows > 1                          ? nib_min_u32(tiles, rows)
                                                              : 0;
        pass->depth[i] = rows < plan->attention_parts ? plan->attention_parts / rows : 1;
    }
    self->kernels |= has_texels ? NIB_VK_KERNEL_ATTENTION_TEXEL : 0;
    // Each of the two writes rows of its own.
    if (has_neighbours)
        return nib_vk_take_attention_coop(b, op, &params.kernel, pass, err);
    bool has_own = own.store != NULL;
    reads(pass, &op->query);
    add_access(pass, NIB_VK_CACHES + 2 * op->kv_layer, 0, 1, has_own);
    add_access(pass, NIB_VK_CACHES + 2 * op->kv_layer + 1, 0, 1, has_own);
    add_access(pass, NIB_VK_PARTIALS, 0, 1, true);
    writes(b, pass, &op->out);
    return has_own ? take_own_row(b, &own, &params.kernel, pass, err) : NIB_OK;
}

/// Adds attention over rows that are alone in their sequence, then over others. Where a tile has no
/// room for a second row they are all alike.
static enum nib_status add_attentions(struct builder *b, const struct nib_op_attention *op,
                                      const struct nib_attention_args *args, struct nib_error *err)
{
    const struct nib_vk_device_plan *plan = &b->self->device->plan;
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    struct tiling tiling = make_tiling(plan, b->plan, layer, args->heads_per_kv_head, true);
    if (tiling.rows == tiling.heads && !plan->has_attention_coop)
        return add_attention(b, op, args, NIB_ATTENTION_TILE_ROW, err);
    enum nib_status status = add_attention(b, op, args, NIB_ATTENTION_TILE_SINGLE, err);
    return status != NIB_OK ? status
                            : add_attention(b, op, args, NIB_ATTENTION_TILE_NEIGHBOURS, err);
}

static enum nib_status add_merge(struct builder *b, const struct nib_op_attention *op,
                                 struct nib_error *err)
{
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    uint32_t parts = b->self->device->plan.attention_parts;
    struct nib_attention_merge_args args = {
        .out_at = op->out.offset,
        .out_stride = stride_of(b, &op->out),
        .n_heads = op->n_heads,
        .value_dim = layer->value_dim,
        .parts = parts,
    };
    struct pass_params params = {
        .kernel.shader = "attention_merge",
        .bind
            .range = {[NIB_BIND_IN_2] = &b->self->partials, [NIB_BIND_OUT] = value_of(b, &op->out)},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64((uint64_t)args.n_heads * args.value_dim, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    for (uint32_t i = 0; i < NIB_VK_MAX_BUCKETS; i++)
        pass->height[i] = 2u << i <= parts ? pass->height[i] : 0;
    add_access(pass, NIB_VK_PARTIALS, 0, 1, false);
    writes(b, pass, &op->out);
    return NIB_OK;
}

/// Transforms queries, or outputs, of `n_heads` heads in place.
static enum nib_status add_transform(struct builder *b, const struct nib_view *view,
                                     uint32_t n_heads, struct nib_error *err)
{
    struct nib_kv_transform_args args = {
        .at = view->offset,
        .stride = stride_of(b, view),
        .n_heads = n_heads,
        .head_dim = view->width / n_heads,
        .n_groups = view->width / n_heads / NIB_KV_GROUP,
    };
    struct pass_params params = {
        .kernel.shader = "kv_transform",
        .bind.range = {[NIB_BIND_OUT] = value_of(b, view)},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64((uint64_t)n_heads * args.n_groups, 64),
    };
    if (args.n_groups == 0)
        return NIB_OK;
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    // The validation layer takes what a pass binds for what it writes, and keys that are being
    // stored may lie beside the queries.
    const struct nib_view whole = {.value = view->value, .width = args.stride};
    writes(b, pass, &whole);
    return NIB_OK;
}

enum nib_status nib_vk_build_attention(struct builder *b, const struct nib_op_attention *op,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    struct nib_attention_args args = {
        .query_at = op->query.offset,
        .query_stride = stride_of(b, &op->query),
        .out_at = op->out.offset,
        .out_stride = stride_of(b, &op->out),
        .n_heads = op->n_heads,
        .heads_per_kv_head = op->n_heads / layer->n_heads,
        .key_words = head_words(b->plan->key_format, layer->key_dim),
        .value_words = head_words(b->plan->value_format, layer->value_dim),
        .key_page_words = layer->key_page_size / 4,
        .value_page_words = layer->value_page_size / 4,
        .key_scale_page_words = layer->key_scale_page_size / 4,
        .value_scale_page_words = layer->value_scale_page_size / 4,
        .window = layer->window,
        .kv_class = layer->kv_class,
        .sequences_at = b->self->step_layout.sequences_at,
        .tables_at = b->self->step_layout.tables_at,
        .scale = op->scale,
        .softcap = op->softcap,
        .recent_keys = recent_args(b, b->self->n_pages[layer->kv_class], layer->key_page_size),
        .recent_values = recent_args(b, b->self->n_pages[layer->kv_class], layer->value_page_size),
    };
    if (nib_kv_transforms_keys(layer, b->plan->key_format))
        NIB_TRY(add_transform(b, &op->query, op->n_heads, err));
    NIB_TRY(add_attentions(b, op, &args, err));
    NIB_TRY(add_merge(b, op, err));
    if (nib_kv_transforms_values(layer, b->plan->value_format))
        NIB_TRY(add_transform(b, &op->out, op->n_heads, err));
    b->stored_by = NULL;
fail:
    return status;
}

uint64_t nib_vk_attention_partials(const struct nib_vk_instance *instance)
{
    const struct nib_plan *plan = instance->plan;
    uint64_t most = 4;
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->kind != NIB_OP_ATTENTION ||
            op->segment - instance->first_segment >= instance->n_segments)
            continue;
        uint64_t dim = plan->kv_layers[op->attention.kv_layer].value_dim;
        uint64_t size = op->attention.n_heads * (dim + 2) * sizeof(float);
        most = size > most ? size : most;
    }
    return most * instance->device->plan.attention_parts;
}
