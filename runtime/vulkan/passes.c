// From the plan's ops to passes: which kernel, which buffers, which arguments.
#include <string.h>

#include "runtime/base/buffer.h"
#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/passes.h"
#include "runtime/vulkan/profile.h"

/// Returns a view of the range as texels of four words, the one made before where there is one.
static enum nib_status view_of(struct nib_vk_instance *self, const struct nib_vk_range *range,
                               VkBufferView *out_view, struct nib_error *err)
{
    VkBuffer buffer = nib_vk_pool_buffer(range);
    for (size_t i = 0; i < self->n_views; i++) {
        const struct nib_vk_view *view = &self->views[i];
        if (view->buffer == buffer && view->offset == range->offset && view->size == range->size) {
            *out_view = view->view;
            return NIB_OK;
        }
    }
    void *array = self->views;
    enum nib_status status = nib_array_reserve(&array, &self->views_capacity, self->n_views + 1,
                                               sizeof *self->views, err);
    self->views = array;
    if (status != NIB_OK)
        return status;
    VkBufferViewCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO,
                                   .buffer = buffer,
                                   .format = VK_FORMAT_R32G32B32A32_UINT,
                                   .offset = range->offset,
                                   .range = range->size / 16 * 16};
    const struct nib_vk_device *d = self->device;
    status = nib_vk_check(d->table.CreateBufferView(d->device, &info, NULL, out_view),
                          "vkCreateBufferView", err);
    if (status != NIB_OK)
        return status;
    nib_vk_name(d, VK_OBJECT_TYPE_BUFFER_VIEW, (uint64_t)*out_view, "texels %zu", self->n_views);
    self->views[self->n_views++] =
        (struct nib_vk_view){buffer, range->offset, range->size, *out_view};
    return status;
}

static enum nib_status set_texels(const struct builder *b, const struct bindings *bind,
                                  VkDescriptorSet set, struct nib_error *err)
{
    const struct nib_vk_device *d = b->self->device;
    VkBufferView views[NIB_TEXEL_BINDINGS];
    VkWriteDescriptorSet write = {.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                  .dstSet = set,
                                  .descriptorCount = 1,
                                  .descriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER};
    static const uint32_t ranges[NIB_TEXEL_BINDINGS] = {
        NIB_BIND_MATRIX, NIB_BIND_INPUT, NIB_BIND_SUMS, NIB_BIND_IN, NIB_BIND_IN_2, NIB_BIND_OUT};
    for (uint32_t i = 0; i < NIB_TEXEL_BINDINGS; i++) {
        const struct nib_vk_range *range = bind->range[ranges[i]];
        enum nib_status status = view_of(b->self, range ? range : &b->self->step, &views[i], err);
        if (status != NIB_OK)
            return status;
        write.dstBinding = NIB_BIND_MATRIX_TEXELS + i;
        write.pTexelBufferView = &views[i];
        d->table.UpdateDescriptorSets(d->device, 1, &write, 0, NULL);
    }
    return NIB_OK;
}

static enum nib_status make_set(struct builder *b, const struct pass_params *params,
                                VkDescriptorSet *out_set, struct nib_error *err)
{
    const struct bindings *bind = &params->bind;
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
    nib_vk_name(d, VK_OBJECT_TYPE_DESCRIPTOR_SET, (uint64_t)*out_set, "pass %u, %s",
                b->self->n_passes,
                params->name ? params->name : nib_op_name(b->plan->ops[b->op].kind));
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
    return bind->has_texels ? set_texels(b, bind, *out_set, err) : NIB_OK;
}

/// Chooses the block of a matmul's outputs for bucket `bucket`, and sets the constants that it is.
static const struct nib_vk_matmul_block *take_block(const struct builder *b,
                                                    const struct pass_params *params,
                                                    uint32_t bucket, uint32_t most,
                                                    struct nib_vk_kernel *kernel)
{
    uint32_t largest = nib_vk_bucket(most);
    uint64_t rows = params->groups * NIB_TILE_ROWS;
    const struct nib_vk_matmul_block *block = nib_vk_matmul_block_choose(
        &b->self->device->plan.blocks, rows, 1u << (bucket < largest ? bucket : largest));
    kernel->specs[NIB_SPEC_TILE_M] = block->tile.m;
    kernel->specs[NIB_SPEC_TILE_N] = block->tile.n;
    kernel->specs[NIB_SPEC_TILE_K] = block->tile.k;
    kernel->specs[NIB_SPEC_BLOCK_ROWS] = block->rows;
    kernel->specs[NIB_SPEC_BLOCK_COLS] = block->cols;
    kernel->specs[NIB_SPEC_THREADS] = block->threads;
    kernel->specs[NIB_SPEC_ACROSS] = block->across;
    kernel->specs[NIB_SPEC_DEPTH] = block->depth;
    return block;
}

static enum nib_status make_pipelines(struct builder *b, const struct pass_params *params,
                                      struct nib_vk_pass *pass, struct nib_error *err)
{
    struct nib_vk_kernel kernel = params->kernel;
    uint32_t lanes = kernel.specs[NIB_SPEC_LANES], source = kernel.specs[NIB_SPEC_SOURCE];
    uint32_t granules = kernel.specs[NIB_SPEC_GRANULES];
    const struct nib_vk_device *d = b->self->device;
    uint32_t most = pass->is_lines ? b->self->max_lines : b->self->max_rows;
    uint32_t largest = d->plan.matmul_columns;
    // With outliers, weights are needed as codes and as numbers, and registers run out.
    if (params->is_matmul && kernel.specs[NIB_SPEC_HAS_OUTLIERS] && largest > 2)
        largest = 2;
    for (uint32_t i = 0; i < NIB_VK_MAX_BUCKETS; i++) {
        uint32_t each = 0; // binary logarithm of the rows of input a workgroup
        pass->groups[i] = (uint32_t)params->groups;
        if (params->is_matmul) {
            // Buckets beyond the largest are never recorded; they get its pipeline.
            uint32_t columns = i < largest ? i : largest;
            columns = 1u << columns <= most ? columns : nib_vk_bucket(most);
            while (!params->variants[columns].shader)
                columns--;
            const struct nib_vk_variant *variant = &params->variants[columns];
            uint32_t rows = d->plan.matmul_width * variant->rows;
            each = columns;
            kernel.shader = variant->shader;
            bool is_cooperative = variant->is_cooperative;
            kernel.specs[NIB_SPEC_LANES] = variant->has_lanes ? lanes : 0;
            kernel.specs[NIB_SPEC_SOURCE] = variant->is_single ? source : 0;
            kernel.specs[NIB_SPEC_GRANULES] = variant->is_single ? granules : 0;
            kernel.specs[NIB_SPEC_THREADS] =
                variant->has_lanes && variant->has_size ? d->plan.matmul_width * lanes : 0;
            kernel.specs[NIB_SPEC_TILE_M] = is_cooperative ? params->tile->m : 0;
            kernel.specs[NIB_SPEC_TILE_N] = is_cooperative ? params->tile->n : 0;
            kernel.specs[NIB_SPEC_TILE_K] = is_cooperative ? params->tile->k : 0;
            kernel.specs[NIB_SPEC_SUBGROUP] = is_cooperative      ? d->plan.cooperative_subgroup
                                              : variant->has_size ? d->plan.matmul_subgroup
                                                                  : 0;
            if (variant->has_blocks) {
                const struct nib_vk_matmul_block *block = take_block(b, params, i, most, &kernel);
                rows = block->rows;
                each = nib_vk_bucket(block->cols);
            }
            pass->groups[i] = (uint32_t)nib_ceil_div_u64(params->groups, rows / NIB_TILE_ROWS);
        }
        pass->height[i] = 1u << (i - each);
        pass->depth[i] = 1;
        enum nib_status status =
            nib_vk_device_pipeline(b->self->device, &kernel, &pass->pipelines[i], err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

bool nib_vk_range_widen(struct nib_vk_range *range, const struct nib_vk_range *other, uint64_t most)
{
    if (range->pool != other->pool || range->block != other->block)
        return false;
    uint64_t begin = range->offset < other->offset ? range->offset : other->offset;
    uint64_t end = range->offset + range->size, other_end = other->offset + other->size;
    end = end > other_end ? end : other_end;
    if (end - begin > most)
        return false;
    range->offset = begin;
    range->size = end - begin;
    return true;
}

enum nib_status nib_vk_pass_add(struct builder *b, const struct pass_params *params,
                                struct nib_vk_pass **out_pass, struct nib_error *err)
{
    struct nib_vk_instance *self = b->self;
    struct nib_vk_pass *pass = &self->passes[self->n_passes];
    *out_pass = NULL;
    if (params->groups > self->device->snapshot.max_workgroups) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s needs %llu workgroups, and %s has %u; run the layer on the CPU "
                        "(--gpu-layers N)",
                        params->kernel.shader, (unsigned long long)params->groups,
                        self->device->snapshot.name, self->device->snapshot.max_workgroups);
    }
    *pass = (struct nib_vk_pass){.op = b->op,
                                 .name = params->name,
                                 .is_matmul = params->is_matmul,
                                 .is_lines = b->is_lines,
                                 .push_size = params->push_size};
    memcpy(pass->push, params->push, params->push_size);
    enum nib_status status = make_pipelines(b, params, pass, err);
    if (status == NIB_OK)
        status = make_set(b, params, &pass->set, err);
    if (status != NIB_OK)
        return status;
    self->n_passes++;
    b->segment->n_passes++;
    *out_pass = pass;
    return NIB_OK;
}

static enum nib_status build_embed(struct builder *b, const struct nib_op_embed *op,
                                   struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_vk_layout *layout = &weight->layout;
    if (layout->has_spans) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "Vulkan reads no embedding with groups of %u; give --device cpu",
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
        enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
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
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, &op->in);
    writes(b, pass, &op->out);
    return NIB_OK;
}

/// Returns the op behind a rope if it turns other heads by the same angles.
static const struct nib_op_rope *
find_other_rope(const struct builder *b, const struct nib_op_rope *op, struct nib_vk_range *range)
{
    if (b->op + 1 >= b->end_op || b->plan->ops[b->op + 1].kind != NIB_OP_ROPE)
        return NULL;
    const struct nib_op_rope *next = &b->plan->ops[b->op + 1].rope;
    bool is_alike = next->table == op->table && next->head_dim == op->head_dim &&
                    next->interleaved == op->interleaved && !views_overlap(&op->x, &next->x);
    uint64_t most = b->self->device->snapshot.max_storage_range;
    return is_alike && nib_vk_range_widen(range, value_of(b, &next->x), most) ? next : NULL;
}

struct nib_rope_part nib_vk_rope_part(const struct builder *b, const struct nib_op_rope *op,
                                      const struct nib_vk_range *range)
{
    uint64_t begin = (value_of(b, &op->x)->offset - range->offset) / sizeof(float);
    return (struct nib_rope_part){(uint32_t)begin + op->x.offset, stride_of(b, &op->x),
                                  op->n_heads};
}

uint32_t nib_vk_angles_at(const struct builder *b, uint32_t table)
{
    uint32_t at = b->self->step_layout.angles_at;
    for (uint32_t t = 0; t < table; t++)
        at += b->self->max_rows * b->plan->ropes[t].dims;
    return at;
}

/// Returns the store behind two ropes if it can turn what they turn, the queries in `*out_queries`.
static const struct nib_op_kv_store *find_store(const struct builder *b,
                                                const struct nib_op_rope *op,
                                                const struct nib_op_rope *other,
                                                const struct nib_op_rope **out_queries)
{
    if (!other || b->op + 2 >= b->end_op || b->plan->ops[b->op + 2].kind != NIB_OP_KV_STORE)
        return NULL;
    const struct nib_op_kv_store *store = &b->plan->ops[b->op + 2].kv_store;
    *out_queries = is_same_view(&other->x, &store->key) ? op : other;
    const struct nib_op_rope *keys = *out_queries == op ? other : op;
    return nib_vk_store_turns(b, store, keys, *out_queries) ? store : NULL;
}

static enum nib_status build_rope(struct builder *b, const struct nib_op_rope *op,
                                  uint32_t *out_taken, struct nib_error *err)
{
    struct nib_vk_range range = *value_of(b, &op->x);
    const struct nib_op_rope *other = find_other_rope(b, op, &range), *queries;
    const struct nib_op_kv_store *store = find_store(b, op, other, &queries);
    if (store) {
        *out_taken = 2;
        return nib_vk_build_kv_store(b, store, queries, err);
    }
    struct nib_rope_args args = {.head_dim = op->head_dim,
                                 .half_dims = b->plan->ropes[op->table].dims / 2,
                                 .angles_at = nib_vk_angles_at(b, op->table)};
    args.parts[0] = nib_vk_rope_part(b, op, &range);
    if (other)
        args.parts[1] = nib_vk_rope_part(b, other, &range);
    uint64_t n_heads = (uint64_t)args.parts[0].n_heads + args.parts[1].n_heads;
    struct pass_params params = {
        .kernel = {.shader = "rope", .specs = {op->interleaved}},
        .bind.range = {[NIB_BIND_OUT] = &range},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(n_heads * args.half_dims, 64),
    };
    struct nib_vk_pass *pass;
    *out_taken = other != NULL;
    if (args.half_dims == 0)
        return NIB_OK;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    writes(b, pass, &op->x);
    if (other)
        writes(b, pass, &other->x);
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
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    if (in)
        reads(pass, in);
    if (in_2)
        reads(pass, in_2);
    writes(b, pass, out);
    return NIB_OK;
}

uint32_t nib_vk_gate_function(enum nib_gate_function function)
{
    static const uint32_t functions[] = {[NIB_GATE_SILU] = NIB_ELEMENTWISE_SILU,
                                         [NIB_GATE_GELU_TANH] = NIB_ELEMENTWISE_GELU_TANH,
                                         [NIB_GATE_GELU] = NIB_ELEMENTWISE_GELU};
    return functions[function];
}

static enum nib_status build_activate(struct builder *b, const struct nib_op_activate *op,
                                      struct nib_error *err)
{
    struct elementwise params = {nib_vk_gate_function(op->function), 0, &op->gate, &op->up,
                                 &op->out};
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
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, &op->in);
    writes(b, pass, &op->out);
    b->is_lines = true;
    b->has_prepared = false;
    return NIB_OK;
}

/// `*out_taken` is the number of ops behind this one that have been built with it.
static enum nib_status build_op(struct builder *b, const struct nib_op *op, uint32_t *out_taken,
                                struct nib_error *err)
{
    switch (op->kind) {
    case NIB_OP_EMBED:
        return build_embed(b, &op->embed, err);
    case NIB_OP_NORM:
        return build_norm(b, &op->norm, err);
    case NIB_OP_MATMUL:
        return nib_vk_build_matmul(b, &op->matmul, out_taken, err);
    case NIB_OP_ROPE:
        return build_rope(b, &op->rope, out_taken, err);
    case NIB_OP_KV_STORE:
        return nib_vk_build_kv_store(b, &op->kv_store, NULL, err);
    case NIB_OP_ATTENTION:
        return nib_vk_build_attention(b, &op->attention, err);
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

/// Returns the first matmul behind an op that is deferred, which is there.
static uint32_t next_matmul(const struct builder *b)
{
    uint32_t op = b->op + 1;
    while (op + 1 < b->end_op && b->plan->ops[op].kind != NIB_OP_MATMUL)
        op++;
    return op;
}

enum nib_status nib_vk_segment_build(struct nib_vk_instance *instance, uint32_t segment,
                                     struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    const struct nib_segment *planned = &plan->segments[instance->first_segment + segment];
    struct builder b = {.self = instance, .plan = plan, .segment = &instance->segments[segment]};
    b.segment->first_pass = instance->n_passes;
    b.segment->n_passes = 0;
    b.end_op = planned->first_op + planned->n_ops;
    uint32_t taken = 0;
    for (b.op = planned->first_op; b.op < b.end_op; b.op += 1 + taken) {
        taken = 0;
        if (nib_vk_defer(&b, &plan->ops[b.op])) {
            nib_vk_profile_fuse(instance, b.op, b.op, next_matmul(&b));
            continue;
        }
        enum nib_status status = build_op(&b, &plan->ops[b.op], &taken, err);
        nib_vk_profile_fuse(instance, b.op, b.op + taken, b.op);
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
        count += weight ? weight->layout.n_slices + 2 : NIB_VK_OP_PASSES;
    }
    return count;
}
