// From the plan's ops to passes: which kernel, which buffers, which arguments.
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/instance.h"

/// Buffers that a pass binds; those left at size 0 are bound to the step block.
struct bindings {
    const struct nib_vk_range *range[NIB_BINDINGS];
};

/// The segment that is being built.
struct builder {
    struct nib_vk_instance *self;
    const struct nib_plan *plan;
    struct nib_vk_segment *segment;
    uint32_t op;
    bool is_lines; ///< a gather stands before
    /// What the prepared input holds, if anything.
    bool has_prepared;
    struct nib_view prepared_view;
    struct nib_vk_kernel prepared_kernel;
    float prepared_scale;
};

/// What a pass is made of.
struct pass_params {
    struct nib_vk_kernel kernel;
    struct bindings bind;
    const void *push;
    uint32_t push_size;
    uint64_t groups; ///< workgroups; of a matmul tiles
    bool is_matmul;
};

/// A matmul for 1, 2, 4 or 8 rows of input, with so many rows of the weight an invocation.
struct matmul_variant {
    const char *shader;
    uint32_t rows;
};
/// For devices with registers to spare for many invocations, and for those that run them in turn.
static const struct matmul_variant matmul_variants[2][4] = {
    {{"matmul_2x1", 2}, {"matmul_2x2", 2}, {"matmul_4x4", 4}, {"matmul_4x8", 4}},
    {{"matmul_8x1", 8}, {"matmul_8x2", 8}}, // the plan takes no more columns
};

static enum nib_status make_set(struct builder *b, const struct bindings *bind,
                                VkDescriptorSet *out_set, struct nib_error *err)
{
    struct nib_vk_device *d = b->self->device;
    VkDescriptorSetAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                        .descriptorPool = b->self->sets,
                                        .descriptorSetCount = 1,
                                        .pSetLayouts = &d->set_layout};
    enum nib_status status =
        nib_vk_check(d->table.AllocateDescriptorSets(d->device, &info, out_set),
                     "vkAllocateDescriptorSets", err);
    if (status != NIB_OK)
        return status;
    VkDescriptorBufferInfo buffers[NIB_BINDINGS];
    VkWriteDescriptorSet writes[NIB_BINDINGS];
    for (uint32_t i = 0; i < NIB_BINDINGS; i++) {
        const struct nib_vk_range *range = bind->range[i] ? bind->range[i] : &b->self->step;
        buffers[i] = (VkDescriptorBufferInfo){
            .buffer = nib_vk_pool_buffer(range), .offset = range->offset, .range = range->size};
        writes[i] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                           .dstSet = *out_set,
                                           .dstBinding = i,
                                           .descriptorCount = 1,
                                           .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                           .pBufferInfo = &buffers[i]};
    }
    d->table.UpdateDescriptorSets(d->device, NIB_BINDINGS, writes, 0, NULL);
    return NIB_OK;
}

static enum nib_status make_pipelines(struct builder *b, const struct pass_params *params,
                                      struct nib_vk_pass *pass, struct nib_error *err)
{
    struct nib_vk_kernel kernel = params->kernel;
    const struct nib_vk_device *d = b->self->device;
    uint32_t most = pass->is_lines ? b->self->max_lines : b->self->max_rows;
    for (uint32_t i = 0; i < 4; i++) {
        pass->groups[i] = (uint32_t)params->groups;
        if (params->is_matmul) {
            // Buckets beyond the largest are never recorded; they get its pipeline.
            uint32_t columns = i < d->plan.matmul_columns ? i : d->plan.matmul_columns;
            columns = 1u << columns <= most ? columns : nib_vk_bucket(most);
            const struct matmul_variant *variant =
                &matmul_variants[d->plan.has_tall_matmul][columns];
            uint32_t tiles = d->plan.matmul_width * variant->rows / NIB_TILE_ROWS;
            kernel.shader = variant->shader;
            pass->groups[i] = (uint32_t)nib_ceil_div_u64(params->groups, tiles);
        }
        enum nib_status status =
            nib_vk_device_pipeline(b->self->device, &kernel, &pass->pipelines[i], err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

/// Appends a pass; its accesses are added by the caller. `*out_pass` stays valid.
static enum nib_status add_pass(struct builder *b, const struct pass_params *params,
                                struct nib_vk_pass **out_pass, struct nib_error *err)
{
    struct nib_vk_instance *self = b->self;
    struct nib_vk_pass *pass = &self->passes[self->n_passes];
    *out_pass = NULL;
    if (params->groups > self->device->snapshot.max_workgroups) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s needs %llu workgroups",
                        params->kernel.shader, (unsigned long long)params->groups);
    }
    *pass = (struct nib_vk_pass){.op = b->op,
                                 .is_matmul = params->is_matmul,
                                 .is_lines = b->is_lines,
                                 .push_size = params->push_size};
    memcpy(pass->push, params->push, params->push_size);
    enum nib_status status = make_pipelines(b, params, pass, err);
    if (status == NIB_OK)
        status = make_set(b, &params->bind, &pass->set, err);
    if (status != NIB_OK)
        return status;
    self->n_passes++;
    b->segment->n_passes++;
    *out_pass = pass;
    return NIB_OK;
}

static void add_access(struct nib_vk_pass *pass, uint32_t resource, uint32_t begin, uint32_t end,
                       bool is_write)
{
    pass->accesses[pass->n_accesses++] = (struct nib_vk_access){resource, begin, end, is_write};
}

static void reads(struct nib_vk_pass *pass, const struct nib_view *view)
{
    add_access(pass, view->value, view->offset, view->offset + view->width, false);
}

/// Notes a write, after which a prepared input made of these columns is out of date.
static void writes(struct builder *b, struct nib_vk_pass *pass, const struct nib_view *view)
{
    uint32_t end = view->offset + view->width;
    add_access(pass, view->value, view->offset, end, true);
    const struct nib_view *p = &b->prepared_view;
    if (p->value == view->value && p->offset < end && view->offset < p->offset + p->width)
        b->has_prepared = false;
}

static const struct nib_vk_range *value_of(const struct builder *b, const struct nib_view *view)
{
    return &b->self->values[view->value];
}

static uint32_t stride_of(const struct builder *b, const struct nib_view *view)
{
    return b->plan->values[view->value].width;
}

static enum nib_status build_embed(struct builder *b, const struct nib_op_embed *op,
                                   struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_vk_layout *layout = &weight->layout;
    if (layout->has_spans) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "an embedding with groups of %u on the Vulkan backend",
                        layout->format.group);
    }
    for (uint32_t s = 0; s < layout->n_slices; s++) {
        struct nib_embed_args args = {.first_row = s * layout->slice_rows,
                                      .n_rows = nib_vk_layout_slice_rows(layout, s),
                                      .n_cols = (uint32_t)layout->cols,
                                      .out_at = op->out.offset,
                                      .out_stride = stride_of(b, &op->out),
                                      .scale = op->scale};
        nib_vk_layout_args(layout, s, &args.matrix);
        struct pass_params params = {
            .kernel.shader = "embed",
            .bind.range =
                {[NIB_BIND_OUT] = value_of(b, &op->out), [NIB_BIND_MATRIX] = &weight->slices[s]},
            .push = &args,
            .push_size = sizeof args,
            .groups = nib_ceil_div_u64(layout->n_granules, 64),
        };
        nib_vk_layout_specs(layout, params.kernel.specs);
        struct nib_vk_pass *pass;
        enum nib_status status = add_pass(b, &params, &pass, err);
        if (status != NIB_OK)
            return status;
        writes(b, pass, &op->out);
        // Slices write rows of their own.
        if (s > 0)
            pass->n_accesses = 0;
    }
    return NIB_OK;
}

static enum nib_status build_norm(struct builder *b, const struct nib_op_norm *op,
                                  struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    struct nib_norm_args args = {.in_at = op->in.offset,
                                 .in_stride = stride_of(b, &op->in),
                                 .out_at = op->out.offset,
                                 .out_stride = stride_of(b, &op->out),
                                 .width = op->in.width / op->n_groups,
                                 .epsilon = op->epsilon};
    struct pass_params params = {
        .kernel = {.shader = "norm", .specs = {weight != NULL}},
        .bind.range = {[NIB_BIND_IN] = value_of(b, &op->in),
                       [NIB_BIND_OUT] = value_of(b, &op->out),
                       [NIB_BIND_TABLE] = weight ? &weight->slices[0] : NULL},
        .push = &args,
        .push_size = sizeof args,
        .groups = op->n_groups,
    };
    struct nib_vk_pass *pass;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, &op->in);
    writes(b, pass, &op->out);
    return NIB_OK;
}

/// Returns whether the matmul reads its input as it is: codes of 16 bits would save nothing, and
/// floats are no worse.
static bool takes_floats(enum nib_activation activation)
{
    return activation == NIB_ACTIVATION_F32 || activation == NIB_ACTIVATION_INT16_GROUP;
}

/// Returns whether the matmul multiplies integers: the mode makes codes, and so are the weights.
static bool has_codes(enum nib_activation activation, const struct nib_format *format)
{
    return !takes_floats(activation) &&
           (format->code == NIB_CODE_UNIFORM || format->book_int != NULL);
}

static uint32_t prepare_mode(enum nib_activation activation)
{
    switch (activation) {
    case NIB_ACTIVATION_INT8_GROUP:
        return NIB_PREPARE_GROUP;
    case NIB_ACTIVATION_INT8_TOKEN:
        return NIB_PREPARE_TOKEN;
    case NIB_ACTIVATION_INT8_STATIC:
        return NIB_PREPARE_STATIC;
    default:
        return NIB_PREPARE_F32;
    }
}

static enum nib_status build_prepare(struct builder *b, const struct nib_op_matmul *op,
                                     const struct nib_vk_matrix *weight, struct nib_error *err)
{
    const struct nib_vk_layout *l = &weight->layout;
    bool as_values = !takes_floats(op->activation) && !has_codes(op->activation, &l->format);
    struct nib_vk_kernel kernel = {
        .shader = "prepare",
        .specs = {[NIB_PREPARE_MODE] = prepare_mode(op->activation),
                  [NIB_PREPARE_AS_VALUES] = as_values,
                  [NIB_PREPARE_HAS_SPANS] = l->has_spans,
                  [NIB_PREPARE_HAS_PERMUTATION] = weight->has_permutation},
    };
    // Tables differ from matrix to matrix; without them the input looks the same to all.
    bool has_table = l->has_spans || weight->has_permutation;
    if (b->has_prepared && !has_table && b->prepared_view.value == op->in.value &&
        b->prepared_view.offset == op->in.offset && b->prepared_view.width == op->in.width &&
        b->prepared_scale == weight->activation_scale &&
        memcmp(b->prepared_kernel.specs, kernel.specs, sizeof kernel.specs) == 0)
        return NIB_OK;
    struct nib_prepare_args args = {
        .in_at = op->in.offset,
        .in_stride = stride_of(b, &op->in),
        .n_cols = (uint32_t)l->cols,
        .n_granules = l->n_granules,
        .permutation_at = l->has_spans ? 2 * l->n_granules : 0,
        .scale = weight->activation_scale,
    };
    struct pass_params params = {
        .kernel = kernel,
        .bind.range = {[NIB_BIND_IN] = value_of(b, &op->in),
                       [NIB_BIND_INPUT] = &b->self->prepared,
                       [NIB_BIND_SUMS] = &b->self->sums,
                       [NIB_BIND_TABLE] = has_table ? &weight->table : NULL},
        .push = &args,
        .push_size = sizeof args,
        .groups = 1,
    };
    struct nib_vk_pass *pass;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, &op->in);
    add_access(pass, NIB_VK_PREPARED, 0, 1, true);
    b->has_prepared = true;
    b->prepared_view = op->in;
    b->prepared_kernel = kernel;
    b->prepared_scale = weight->activation_scale;
    return NIB_OK;
}

static enum nib_status build_matmul(struct builder *b, const struct nib_op_matmul *op,
                                    struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_vk_matrix *bias = nib_vk_instance_weight(b->self, op->bias);
    const struct nib_vk_layout *l = &weight->layout;
    enum nib_status status = build_prepare(b, op, weight, err);
    for (uint32_t s = 0; status == NIB_OK && s < l->n_slices; s++) {
        uint32_t first = s * l->slice_rows, n_rows = nib_vk_layout_slice_rows(l, s);
        struct nib_matmul_args args = {.n_rows = n_rows,
                                       .out_at = op->out.offset + first,
                                       .out_stride = stride_of(b, &op->out),
                                       .bias_at = first};
        nib_vk_layout_args(l, s, &args.matrix);
        struct pass_params params = {
            .kernel.shader = "matmul",
            .bind.range = {[NIB_BIND_OUT] = value_of(b, &op->out),
                           [NIB_BIND_MATRIX] = &weight->slices[s],
                           [NIB_BIND_INPUT] = &b->self->prepared,
                           [NIB_BIND_SUMS] = &b->self->sums,
                           [NIB_BIND_TABLE] = bias ? &bias->slices[0] : NULL},
            .push = &args,
            .push_size = sizeof args,
            .groups = nib_ceil_div_u64(n_rows, NIB_TILE_ROWS),
            .is_matmul = true,
        };
        nib_vk_layout_specs(l, params.kernel.specs);
        params.kernel.specs[NIB_SPEC_LANES] = b->self->device->plan.matmul_lanes;
        params.kernel.specs[NIB_SPEC_WIDTH] = b->self->device->plan.matmul_width;
        params.kernel.specs[NIB_SPEC_HAS_INPUT_SCALES] = has_codes(op->activation, &l->format);
        params.kernel.specs[NIB_SPEC_HAS_BIAS] = bias != NULL;
        struct nib_vk_pass *pass;
        status = add_pass(b, &params, &pass, err);
        if (status != NIB_OK)
            return status;
        struct nib_view out = {op->out.value, op->out.offset + first, n_rows};
        add_access(pass, NIB_VK_PREPARED, 0, 1, false);
        writes(b, pass, &out);
    }
    return status;
}

static enum nib_status build_rope(struct builder *b, const struct nib_op_rope *op,
                                  struct nib_error *err)
{
    uint32_t angles_at = b->self->step_layout.angles_at;
    for (uint32_t t = 0; t < op->table; t++)
        angles_at += b->self->max_rows * b->plan->ropes[t].dims;
    struct nib_rope_args args = {.at = op->x.offset,
                                 .stride = stride_of(b, &op->x),
                                 .n_heads = op->n_heads,
                                 .head_dim = op->head_dim,
                                 .half_dims = b->plan->ropes[op->table].dims / 2,
                                 .angles_at = angles_at};
    struct pass_params params = {
        .kernel = {.shader = "rope", .specs = {op->interleaved}},
        .bind.range = {[NIB_BIND_OUT] = value_of(b, &op->x)},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64((uint64_t)args.n_heads * args.half_dims, 64),
    };
    struct nib_vk_pass *pass;
    if (args.half_dims == 0)
        return NIB_OK;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    writes(b, pass, &op->x);
    return NIB_OK;
}

/// One plane of the cache.
struct plane {
    const struct nib_vk_range *range;
    const struct nib_view *view;
    uint32_t dim;
    uint32_t page_size;
    enum nib_kv_format format;
    uint32_t resource;
};

static enum nib_status store_plane(struct builder *b, uint32_t kv_layer, const struct plane *plane,
                                   struct nib_error *err)
{
    const struct nib_kv_layer *layer = &b->plan->kv_layers[kv_layer];
    bool is_half = plane->format == NIB_KV_F16;
    struct nib_kv_store_args args = {
        .in_at = plane->view->offset,
        .in_stride = stride_of(b, plane->view),
        .n_heads = layer->n_heads,
        .head_words = is_half ? plane->dim / 2 : plane->dim,
        .page_words = plane->page_size / 4,
        .kv_class = layer->kv_class,
        .sequences_at = b->self->step_layout.sequences_at,
        .tables_at = b->self->step_layout.tables_at,
    };
    struct pass_params params = {
        .kernel = {.shader = "kv_store", .specs = {is_half}},
        .bind.range = {[NIB_BIND_IN] = value_of(b, plane->view), [NIB_BIND_MATRIX] = plane->range},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64((uint64_t)args.n_heads * args.head_words, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, plane->view);
    add_access(pass, plane->resource, 0, 1, true);
    return NIB_OK;
}

static enum nib_status build_kv_store(struct builder *b, const struct nib_op_kv_store *op,
                                      struct nib_error *err)
{
    const struct nib_vk_cache *cache = &b->self->caches[op->kv_layer];
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    const struct plane planes[2] = {
        {&cache->keys, &op->key, layer->key_dim, layer->key_page_size, b->plan->key_format,
         NIB_VK_CACHES + 2 * op->kv_layer},
        {&cache->values, &op->value, layer->value_dim, layer->value_page_size,
         b->plan->value_format, NIB_VK_CACHES + 2 * op->kv_layer + 1},
    };
    enum nib_status status = store_plane(b, op->kv_layer, &planes[0], err);
    return status == NIB_OK ? store_plane(b, op->kv_layer, &planes[1], err) : status;
}

static enum nib_status build_attention(struct builder *b, const struct nib_op_attention *op,
                                       struct nib_error *err)
{
    const struct nib_kv_layer *layer = &b->plan->kv_layers[op->kv_layer];
    const struct nib_vk_cache *cache = &b->self->caches[op->kv_layer];
    struct nib_attention_args args = {
        .query_at = op->query.offset,
        .query_stride = stride_of(b, &op->query),
        .out_at = op->out.offset,
        .out_stride = stride_of(b, &op->out),
        .heads_per_kv_head = op->n_heads / layer->n_heads,
        .key_page_words = layer->key_page_size / 4,
        .value_page_words = layer->value_page_size / 4,
        .window = layer->window,
        .kv_class = layer->kv_class,
        .sequences_at = b->self->step_layout.sequences_at,
        .tables_at = b->self->step_layout.tables_at,
        .scale = op->scale,
        .softcap = op->softcap,
    };
    struct pass_params params = {
        .kernel = {.shader = "attention",
                   .specs = {[NIB_ATTENTION_KEYS_ARE_HALF] = b->plan->key_format == NIB_KV_F16,
                             [NIB_ATTENTION_VALUES_ARE_HALF] = b->plan->value_format == NIB_KV_F16,
                             [NIB_ATTENTION_KEY_DIM] = layer->key_dim,
                             [NIB_ATTENTION_VALUE_DIM] = layer->value_dim}},
        .bind.range = {[NIB_BIND_IN] = value_of(b, &op->query),
                       [NIB_BIND_OUT] = value_of(b, &op->out),
                       [NIB_BIND_MATRIX] = &cache->keys,
                       [NIB_BIND_INPUT] = &cache->values},
        .push = &args,
        .push_size = sizeof args,
        .groups = op->n_heads,
    };
    struct nib_vk_pass *pass;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, &op->query);
    add_access(pass, NIB_VK_CACHES + 2 * op->kv_layer, 0, 1, false);
    add_access(pass, NIB_VK_CACHES + 2 * op->kv_layer + 1, 0, 1, false);
    writes(b, pass, &op->out);
    return NIB_OK;
}

/// An op on numbers one by one: out = f(in, in_2, out); unused inputs are NULL.
struct elementwise {
    uint32_t function;
    float factor;
    const struct nib_view *in;
    const struct nib_view *in_2;
    const struct nib_view *out;
};

static enum nib_status build_elementwise(struct builder *b, const struct elementwise *op,
                                         struct nib_error *err)
{
    const struct nib_view *in = op->in, *in_2 = op->in_2, *out = op->out;
    struct nib_elementwise_args args = {
        .in_at = in ? in->offset : 0,
        .in_stride = in ? stride_of(b, in) : 0,
        .up_at = in_2 ? in_2->offset : 0,
        .up_stride = in_2 ? stride_of(b, in_2) : 0,
        .out_at = out->offset,
        .out_stride = stride_of(b, out),
        .width = out->width,
        .factor = op->factor,
    };
    struct pass_params params = {
        .kernel = {.shader = "elementwise", .specs = {op->function}},
        .bind.range = {[NIB_BIND_IN] = in ? value_of(b, in) : NULL,
                       [NIB_BIND_IN_2] = in_2 ? value_of(b, in_2) : NULL,
                       [NIB_BIND_OUT] = value_of(b, out)},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(out->width, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    if (in)
        reads(pass, in);
    if (in_2)
        reads(pass, in_2);
    writes(b, pass, out);
    return NIB_OK;
}

static enum nib_status build_activate(struct builder *b, const struct nib_op_activate *op,
                                      struct nib_error *err)
{
    static const uint32_t functions[] = {[NIB_GATE_SILU] = NIB_ELEMENTWISE_SILU,
                                         [NIB_GATE_GELU_TANH] = NIB_ELEMENTWISE_GELU_TANH,
                                         [NIB_GATE_GELU] = NIB_ELEMENTWISE_GELU};
    struct elementwise params = {functions[op->function], 0, &op->gate, &op->up, &op->out};
    return build_elementwise(b, &params, err);
}

static enum nib_status build_gather(struct builder *b, const struct nib_op_gather *op,
                                    struct nib_error *err)
{
    struct nib_gather_args args = {.in_at = op->in.offset,
                                   .in_stride = stride_of(b, &op->in),
                                   .out_at = op->out.offset,
                                   .out_stride = stride_of(b, &op->out),
                                   .width = op->out.width};
    struct pass_params params = {
        .kernel.shader = "gather",
        .bind
            .range = {[NIB_BIND_IN] = value_of(b, &op->in), [NIB_BIND_OUT] = value_of(b, &op->out)},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(op->out.width, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = add_pass(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, &op->in);
    writes(b, pass, &op->out);
    b->is_lines = true;
    b->has_prepared = false;
    return NIB_OK;
}

static enum nib_status build_op(struct builder *b, const struct nib_op *op, struct nib_error *err)
{
    switch (op->kind) {
    case NIB_OP_EMBED:
        return build_embed(b, &op->embed, err);
    case NIB_OP_NORM:
        return build_norm(b, &op->norm, err);
    case NIB_OP_MATMUL:
        return build_matmul(b, &op->matmul, err);
    case NIB_OP_ROPE:
        return build_rope(b, &op->rope, err);
    case NIB_OP_KV_STORE:
        return build_kv_store(b, &op->kv_store, err);
    case NIB_OP_ATTENTION:
        return build_attention(b, &op->attention, err);
    case NIB_OP_ACTIVATE:
        return build_activate(b, &op->activate, err);
    case NIB_OP_ADD:
        return build_elementwise(b,
                                 &(struct elementwise){NIB_ELEMENTWISE_ADD, op->add.scale,
                                                       &op->add.in, NULL, &op->add.out},
                                 err);
    case NIB_OP_SCALE:
        return build_elementwise(b,
                                 &(struct elementwise){NIB_ELEMENTWISE_SCALE, op->scale.factor,
                                                       NULL, NULL, &op->scale.x},
                                 err);
    case NIB_OP_SOFTCAP:
        return build_elementwise(b,
                                 &(struct elementwise){NIB_ELEMENTWISE_SOFTCAP, op->softcap.cap,
                                                       NULL, NULL, &op->softcap.x},
                                 err);
    case NIB_OP_GATHER:
        return build_gather(b, &op->gather, err);
    default:
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "op %s on the Vulkan backend",
                        nib_op_name(op->kind));
    }
}

enum nib_status nib_vk_segment_build(struct nib_vk_instance *instance, uint32_t segment,
                                     struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    const struct nib_segment *planned = &plan->segments[instance->first_segment + segment];
    struct builder b = {.self = instance, .plan = plan, .segment = &instance->segments[segment]};
    b.segment->first_pass = instance->n_passes;
    b.segment->n_passes = 0;
    for (uint32_t i = 0; i < planned->n_ops; i++) {
        b.op = planned->first_op + i;
        enum nib_status status = build_op(&b, &plan->ops[b.op], err);
        if (status != NIB_OK)
            return nib_fail_context(err, status, "op %u (%s)", b.op,
                                    nib_op_name(plan->ops[b.op].kind));
    }
    return NIB_OK;
}

uint32_t nib_vk_count_passes(const struct nib_vk_instance *instance)
{
    const struct nib_plan *plan = instance->plan;
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->segment - instance->first_segment >= instance->n_segments)
            continue;
        const struct nib_vk_matrix *weight = NULL;
        if (op->kind == NIB_OP_EMBED)
            weight = nib_vk_instance_weight(instance, op->embed.weight);
        else if (op->kind == NIB_OP_MATMUL)
            weight = nib_vk_instance_weight(instance, op->matmul.weight);
        count += weight ? weight->layout.n_slices + 1 : 2;
    }
    return count;
}
