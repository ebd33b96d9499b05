// Matmuls: their input prepared, and what stands before and behind them taken in.
#include <math.h>
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/passes.h"

/// Granules of a row that an invocation has, at least, where more than the least share it.
#define LANE_GRANULES 4u

/// What an op reads and writes.
struct views {
    const struct nib_view *read[2];
    const struct nib_view *written;
};

static struct views views_of(const struct nib_op *op)
{
    switch (op->kind) {
    case NIB_OP_EMBED:
        return (struct views){.written = &op->embed.out};
    case NIB_OP_NORM:
        return (struct views){{&op->norm.in}, &op->norm.out};
    case NIB_OP_MATMUL:
        return (struct views){{&op->matmul.in}, &op->matmul.out};
    case NIB_OP_ROPE:
        return (struct views){{&op->rope.x}, &op->rope.x};
    case NIB_OP_KV_STORE:
        return (struct views){.read = {&op->kv_store.key, &op->kv_store.value}};
    case NIB_OP_ATTENTION:
        return (struct views){{&op->attention.query}, &op->attention.out};
    case NIB_OP_ACTIVATE:
        return (struct views){{&op->activate.gate, &op->activate.up}, &op->activate.out};
    case NIB_OP_ADD:
        return (struct views){{&op->add.in, &op->add.out}, &op->add.out};
    case NIB_OP_SCALE:
        return (struct views){{&op->scale.x}, &op->scale.x};
    case NIB_OP_SOFTCAP:
        return (struct views){{&op->softcap.x}, &op->softcap.x};
    case NIB_OP_GATHER:
        return (struct views){{&op->gather.in}, &op->gather.out};
    default:
        return (struct views){0};
    }
}

static bool reads_view(const struct views *views, const struct nib_view *view)
{
    for (uint32_t i = 0; i < 2; i++) {
        if (views->read[i] && views_overlap(views->read[i], view))
            return true;
    }
    return false;
}

static bool writes_view(const struct views *views, const struct nib_view *view)
{
    return views->written && views_overlap(views->written, view);
}

/// Returns whether no op from `first` on reads `view` before it is written anew. Values but the
/// hidden state end with their segment.
static bool is_dead(const struct builder *b, uint32_t first, const struct nib_view *view)
{
    if (view->value == NIB_VALUE_HIDDEN || view->value == b->plan->logits_value)
        return false;
    for (uint32_t i = first; i < b->end_op; i++) {
        struct views views = views_of(&b->plan->ops[i]);
        if (reads_view(&views, view))
            return false;
        if (views.written && is_same_view(views.written, view))
            return true;
    }
    return true;
}

/// Returns the last of the matmuls behind op b->op that read `out` and nothing else does, or
/// b->op: there is none, or what `out` is made of changes before.
static uint32_t last_matmul(const struct builder *b, const struct views *op)
{
    const struct nib_view *out = op->written;
    uint32_t last = b->op;
    bool is_stale = false;
    for (uint32_t i = b->op + 1; i < b->end_op; i++) {
        const struct nib_op *next = &b->plan->ops[i];
        struct views views = views_of(next);
        if (reads_view(&views, out)) {
            if (is_stale || next->kind != NIB_OP_MATMUL || !is_same_view(&next->matmul.in, out) ||
                next->matmul.activation == NIB_ACTIVATION_LLM_INT8)
                return b->op;
            last = i;
        }
        if (writes_view(&views, out))
            return is_same_view(views.written, out) ? last : b->op;
        for (uint32_t k = 0; k < 2; k++)
            is_stale = is_stale || (op->read[k] && writes_view(&views, op->read[k]));
    }
    return last;
}

bool nib_vk_defer(struct builder *b, const struct nib_op *op)
{
    bool is_norm = op->kind == NIB_OP_NORM && op->norm.n_groups == 1;
    bool is_live = b->deferred && b->op <= b->deferred_end;
    struct views views = views_of(op);
    if ((!is_norm && op->kind != NIB_OP_ACTIVATE) || is_live ||
        views.written->value == NIB_VALUE_HIDDEN)
        return false;
    uint32_t last = last_matmul(b, &views);
    if (last == b->op)
        return false;
    b->deferred = op;
    b->deferred_end = last;
    if (views_overlap(&b->prepared_view, views.written))
        b->has_prepared = false;
    return true;
}

/// Returns whether the matmul reads its input as it is: codes of 16 bits would save nothing, and
/// floats are no worse.
static bool takes_floats(enum nib_activation activation)
{
    return activation == NIB_ACTIVATION_F32 || activation == NIB_ACTIVATION_INT16_GROUP;
}

/// Returns whether the matmul multiplies integers: the mode makes codes, and so are the weights.
static bool has_codes(const struct builder *b, enum nib_activation activation,
                      const struct nib_format *format)
{
    return b->self->device->plan.has_codes && !takes_floats(activation) &&
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
    case NIB_ACTIVATION_LLM_INT8:
        return NIB_PREPARE_LLM;
    default:
        return NIB_PREPARE_F32;
    }
}

static float outlier_limit(const struct nib_vk_matrix *weight)
{
    return weight->outlier_threshold > 0 ? weight->outlier_threshold : INFINITY;
}

/// Finds the columns of `in` that have outliers.
static enum nib_status find_outliers(struct builder *b, const struct nib_view *in,
                                     const struct nib_vk_matrix *weight, struct nib_error *err)
{
    struct nib_outliers_args args = {.in_at = in->offset,
                                     .in_stride = stride_of(b, in),
                                     .n_cols = in->width,
                                     .mask_stride = b->self->mask_stride,
                                     .sequences_at = b->self->step_layout.sequences_at,
                                     .limit = outlier_limit(weight)};
    struct pass_params params = {
        .kernel = {.shader = "outliers", .specs = {[NIB_OUTLIERS_IS_LINES] = b->is_lines}},
        .bind.range = {[NIB_BIND_IN] = value_of(b, in), [NIB_BIND_OUT] = &b->self->mask},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(in->width, 64),
    };
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads(pass, in);
    add_access(pass, NIB_VK_MASK, 0, 1, true);
    return NIB_OK;
}

/// Fills what the prepare of a deferred op's output needs instead of the output.
static void take_deferred(const struct builder *b, struct nib_prepare_args *args,
                          struct pass_params *params)
{
    if (b->deferred->kind == NIB_OP_NORM) {
        const struct nib_op_norm *norm = &b->deferred->norm;
        const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, norm->weight);
        params->kernel.specs[NIB_PREPARE_SOURCE] =
            weight ? NIB_PREPARE_SOURCE_NORM_TIMES : NIB_PREPARE_SOURCE_NORM;
        params->bind.range[NIB_BIND_IN] = value_of(b, &norm->in);
        params->bind.range[NIB_BIND_MATRIX] = weight ? &weight->slices[0] : NULL;
        args->in_at = norm->in.offset;
        args->in_stride = stride_of(b, &norm->in);
        args->epsilon = norm->epsilon;
    } else {
        const struct nib_op_activate *gate = &b->deferred->activate;
        params->kernel.specs[NIB_PREPARE_SOURCE] =
            NIB_PREPARE_SOURCE_GATE + nib_vk_gate_function(gate->function);
        params->bind.range[NIB_BIND_IN] = value_of(b, &gate->gate);
        params->bind.range[NIB_BIND_IN_2] = value_of(b, &gate->up);
        args->in_at = gate->gate.offset;
        args->in_stride = stride_of(b, &gate->gate);
        args->up_at = gate->up.offset;
        args->up_stride = stride_of(b, &gate->up);
    }
}

/// Returns whether the prepared input is what `kernel` would make of `in` for `weight`.
static bool is_prepared(const struct builder *b, const struct nib_view *in,
                        const struct nib_vk_matrix *weight, const struct nib_vk_kernel *kernel)
{
    // Tables differ from matrix to matrix; without them the input looks the same to all.
    bool has_table = weight->layout.has_spans || weight->has_permutation;
    float scale = kernel->specs[NIB_PREPARE_MODE] == NIB_PREPARE_LLM ? outlier_limit(weight)
                                                                     : weight->activation_scale;
    return b->has_prepared && !has_table && is_same_view(&b->prepared_view, in) &&
           b->prepared_scale == scale &&
           memcmp(b->prepared_kernel.specs, kernel->specs, sizeof kernel->specs) == 0;
}

/// Returns whether the input is what a deferred op would have written.
static bool is_deferred(const struct builder *b, const struct nib_op_matmul *op)
{
    return b->deferred && b->op <= b->deferred_end &&
           is_same_view(views_of(b->deferred).written, &op->in);
}

/// Returns what the matmul's input is computed from: what it, or the deferred op, reads.
static struct views source_of(const struct builder *b, const struct nib_op_matmul *op)
{
    return views_of(is_deferred(b, op) ? b->deferred : &b->plan->ops[b->op]);
}

/// Notes that a pass reads what the matmul's input is computed from.
static void reads_source(const struct builder *b, const struct nib_op_matmul *op,
                         struct nib_vk_pass *pass)
{
    struct views source = source_of(b, op);
    for (uint32_t i = 0; i < 2; i++) {
        if (source.read[i])
            reads(pass, source.read[i]);
    }
}

/// Returns whether the family's kernels take nibbles of a word apart with one mask.
static bool is_split(enum nib_vk_family family, const struct nib_vk_layout *layout)
{
    uint32_t specs[NIB_SPECS] = {0};
    nib_vk_layout_specs(layout, specs);
    return specs[NIB_SPEC_CODE_BITS] == 4 && family != NIB_VK_FAMILY_TEXEL &&
           family != NIB_VK_FAMILY_SINGLE;
}

/// Has the input of several rows prepared as matmuls of family single prepare theirs.
static void take_texels(struct pass_params *params)
{
    params->kernel.shader = "prepare_texel";
    params->bind.has_texels = true;
    if (params->kernel.specs[NIB_PREPARE_SOURCE] == NIB_PREPARE_SOURCE_NORM_TIMES)
        params->bind.range[NIB_BIND_IN_2] = params->bind.range[NIB_BIND_MATRIX];
}

/// Returns the op behind a matmul if it does no more than add the output to something else.
static const struct nib_op_add *find_add(const struct builder *b, const struct nib_op_matmul *op)
{
    if (b->op + 1 >= b->end_op)
        return NULL;
    const struct nib_op *next = &b->plan->ops[b->op + 1];
    if (next->kind != NIB_OP_ADD || !is_same_view(&next->add.in, &op->out) ||
        next->add.out.value == op->out.value || !is_dead(b, b->op + 2, &op->out))
        return NULL;
    return &next->add;
}

/// Returns how many invocations share a row of the weight. Each keeps a few granules, so that it
/// has loads on their way.
static uint32_t choose_lanes(const struct nib_vk_device_plan *plan, uint32_t n_granules)
{
    uint32_t lanes = plan->matmul_lanes;
    while (2 * lanes <= plan->most_lanes && 2 * lanes * LANE_GRANULES <= n_granules)
        lanes *= 2;
    return lanes;
}

static void make_specs(const struct builder *b, const struct nib_op_matmul *op,
                       const struct nib_op_add *add, uint32_t specs[NIB_SPECS])
{
    const struct nib_vk_layout *l = &nib_vk_instance_weight(b->self, op->weight)->layout;
    nib_vk_layout_specs(l, specs);
    specs[NIB_SPEC_LANES] = choose_lanes(&b->self->device->plan, l->n_granules);
    specs[NIB_SPEC_WIDTH] = b->self->device->plan.matmul_width;
    specs[NIB_SPEC_HAS_CODES] = has_codes(b, op->activation, &l->format);
    specs[NIB_SPEC_HAS_BIAS] = op->bias != NIB_NO_WEIGHT;
    specs[NIB_SPEC_HAS_OUTLIERS] =
        specs[NIB_SPEC_HAS_CODES] && op->activation == NIB_ACTIVATION_LLM_INT8;
    specs[NIB_SPEC_HAS_ADD] = add != NULL;
}

/// Returns whether the matmul can prepare a single row itself: in groups of neighbouring columns
/// that begin at whole texels, and from values that it does not write.
static bool may_be_single(const struct builder *b, const struct nib_op_matmul *op,
                          const struct nib_op_add *add)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    if (op->activation != NIB_ACTIVATION_INT8_GROUP || op->in.width % 4 ||
        weight->layout.has_spans || weight->has_permutation)
        return false;
    struct views source = source_of(b, op);
    for (uint32_t i = 0; i < 2; i++) {
        const struct nib_view *view = source.read[i];
        if (view && (view->offset % 4 || view->value == (add ? add->out.value : op->out.value)))
            return false;
    }
    return true;
}

static enum nib_vk_family choose_family(const struct builder *b, const struct nib_op_matmul *op,
                                        const struct nib_op_add *add)
{
    uint32_t specs[NIB_SPECS] = {0};
    make_specs(b, op, add, specs);
    bool adds_words = add && (add->out.offset | stride_of(b, &add->out)) % 4;
    struct nib_vk_matmul_need need = {.bits = specs[NIB_SPEC_CODE_BITS],
                                      .has_book = specs[NIB_SPEC_HAS_BOOK],
                                      .has_codes = specs[NIB_SPEC_HAS_CODES],
                                      .has_groups = nib_activation_has_groups(op->activation),
                                      .has_outliers = specs[NIB_SPEC_HAS_OUTLIERS],
                                      .has_halves = specs[NIB_SPEC_HALVES] == 2,
                                      .may_be_single = may_be_single(b, op, add),
                                      .adds_words = adds_words};
    return nib_vk_family_choose(&b->self->device->plan, &b->self->choices, &need);
}

/// Returns the family of the kernels for few rows of input beside those of `family`.
static enum nib_vk_family family_of_few(const struct builder *b, const struct nib_op_matmul *op,
                                        enum nib_vk_family family)
{
    const struct nib_vk_layout *l = &nib_vk_instance_weight(b->self, op->weight)->layout;
    return nib_vk_family_is_cooperative(family)
               ? nib_vk_family_few(&b->self->device->plan, &b->self->choices,
                                   has_codes(b, op->activation, &l->format))
               : family;
}

/// Returns whether the matmul prepares a single row itself, with kernels of `family`.
static bool is_single(const struct builder *b, const struct nib_op_matmul *op,
                      const struct nib_op_add *add, enum nib_vk_family family)
{
    const struct nib_vk_device *d = b->self->device;
    const struct nib_vk_layout *l = &nib_vk_instance_weight(b->self, op->weight)->layout;
    if (family == NIB_VK_FAMILY_SINGLE)
        return true;
    return nib_vk_family_get(family_of_few(b, op, family))->single.shader &&
           l->n_granules <= d->plan.single_granules && may_be_single(b, op, add);
}

/// Lets the matmul compute its input for a single row.
static void take_single(const struct builder *b, const struct nib_op_matmul *op,
                        struct nib_matmul_source *args, struct pass_params *params)
{
    struct nib_prepare_args from = {.in_at = op->in.offset};
    struct pass_params prepare = {.bind.range = {[NIB_BIND_IN] = value_of(b, &op->in)}};
    if (is_deferred(b, op))
        take_deferred(b, &from, &prepare);
    uint32_t source = prepare.kernel.specs[NIB_PREPARE_SOURCE];
    params->kernel.specs[NIB_SPEC_SOURCE] = source;
    params->kernel.specs[NIB_SPEC_GRANULES] =
        nib_vk_instance_weight(b->self, op->weight)->layout.n_granules;
    params->bind.range[NIB_BIND_IN] = prepare.bind.range[NIB_BIND_IN];
    params->bind.range[NIB_BIND_IN_2] = source == NIB_PREPARE_SOURCE_NORM_TIMES
                                            ? prepare.bind.range[NIB_BIND_MATRIX]
                                            : prepare.bind.range[NIB_BIND_IN_2];
    args->in_at = from.in_at;
    args->up_at = from.up_at;
    args->epsilon = from.epsilon;
    args->n_cols = op->in.width;
}

static enum nib_status build_prepare(struct builder *b, const struct nib_op_matmul *op,
                                     const struct nib_op_add *add, enum nib_vk_family family,
                                     struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_vk_layout *l = &weight->layout;
    bool is_llm = op->activation == NIB_ACTIVATION_LLM_INT8;
    // The matmul does without for one row.
    bool has_single = is_single(b, op, add, family);
    bool makes_values = !takes_floats(op->activation) && !has_codes(b, op->activation, &l->format);
    struct nib_prepare_args args = {
        .in_at = op->in.offset,
        .in_stride = stride_of(b, &op->in),
        .n_cols = (uint32_t)l->cols,
        .n_granules = l->n_granules,
        .permutation_at = l->has_spans ? 2 * l->n_granules : 0,
        .scale = weight->activation_scale,
        .limit = outlier_limit(weight),
        .mask_stride = b->self->mask_stride,
    };
    struct pass_params params = {
        .kernel = {.shader = "prepare",
                   .specs = {[NIB_PREPARE_MODE] = prepare_mode(op->activation),
                             [NIB_PREPARE_AS_VALUES] = makes_values,
                             [NIB_PREPARE_HAS_SPANS] = l->has_spans,
                             [NIB_PREPARE_HAS_PERMUTATION] = weight->has_permutation,
                             [NIB_PREPARE_QUADS] = b->self->device->plan.prepare_quads,
                             [NIB_PREPARE_IS_LINES] = is_llm && b->is_lines,
                             [NIB_PREPARE_IS_SPLIT] = is_split(family, l)}},
        .bind.range = {[NIB_BIND_IN] = value_of(b, &op->in),
                       [NIB_BIND_IN_2] = is_llm ? &b->self->mask : NULL,
                       [NIB_BIND_INPUT] = &b->self->prepared,
                       [NIB_BIND_OUT] = is_llm ? &b->self->outliers : NULL,
                       [NIB_BIND_SUMS] = &b->self->sums,
                       [NIB_BIND_TABLE] =
                           l->has_spans || weight->has_permutation ? &weight->table : NULL},
        .push = &args,
        .push_size = sizeof args,
        .groups = 1,
    };
    if (is_deferred(b, op))
        take_deferred(b, &args, &params);
    // Whole quads, that is: the family is for those.
    if (family == NIB_VK_FAMILY_SINGLE && args.in_stride % 4 == 0 && args.up_stride % 4 == 0)
        take_texels(&params);
    if (is_prepared(b, &op->in, weight, &params.kernel)) {
        if (!has_single)
            b->prepared_by->height[0] = 1;
        return NIB_OK;
    }
    enum nib_status status = is_llm ? find_outliers(b, &op->in, weight, err) : NIB_OK;
    struct nib_vk_pass *pass;
    if (status == NIB_OK)
        status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    reads_source(b, op, pass);
    if (is_llm)
        add_access(pass, NIB_VK_MASK, 0, 1, false);
    add_access(pass, NIB_VK_PREPARED, 0, 1, true);
    pass->height[0] = has_single ? 0 : 1;
    uint32_t most = (uint32_t)nib_ceil_div_u64(8ull * l->n_granules, NIB_PREPARE_THREADS);
    for (uint32_t i = 0; i < NIB_VK_MAX_BUCKETS; i++) {
        uint32_t parts = b->self->device->plan.prepare_parts >> i;
        pass->depth[i] = parts < 1 ? 1 : parts < most ? parts : most;
    }
    b->has_prepared = true;
    b->prepared_by = pass;
    b->prepared_view = op->in;
    b->prepared_kernel = params.kernel;
    b->prepared_scale = is_llm ? outlier_limit(weight) : weight->activation_scale;
    return NIB_OK;
}

/// Fills in the kernels for each number of rows of input: of cooperative matrices there are some
/// for many rows alone.
static void take_variants(struct builder *b, const struct nib_op_matmul *op,
                          enum nib_vk_family family,
                          struct nib_vk_variant variants[NIB_VK_MAX_COLUMNS],
                          struct pass_params *params)
{
    const struct nib_vk_device_plan *plan = &b->self->device->plan;
    const struct nib_vk_variant *many = nib_vk_family_get(family)->variants;
    enum nib_vk_family few = family_of_few(b, op, family);
    memcpy(variants, nib_vk_family_get(few)->variants, NIB_VK_MAX_COLUMNS * sizeof *variants);
    for (uint32_t i = 0; i < NIB_VK_MAX_COLUMNS; i++) {
        if (many[i].shader)
            variants[i] = many[i];
    }
    enum nib_vk_element element = nib_vk_family_element(family);
    params->variants = variants;
    params->tile = &plan->tiles[element][params->kernel.specs[NIB_SPEC_HALVES] == 2];
    b->self->kernels |= 1u << few;
}

static enum nib_status build_slice(struct builder *b, const struct nib_op_matmul *op,
                                   const struct nib_op_add *add, uint32_t slice,
                                   struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_vk_matrix *bias = nib_vk_instance_weight(b->self, op->bias);
    const struct nib_vk_layout *l = &weight->layout;
    const struct nib_view *target = add ? &add->out : &op->out;
    uint32_t first = slice * l->slice_rows, n_rows = nib_vk_layout_slice_rows(l, slice);
    struct nib_matmul_args args = {.n_rows = n_rows,
                                   .out_at = target->offset + first,
                                   .out_stride = stride_of(b, target),
                                   .bias_at = first,
                                   .factor = add ? add->scale : 0};
    nib_vk_layout_args(l, slice, &args.matrix);
    struct pass_params params = {
        .kernel.shader = "matmul",
        .bind.range = {[NIB_BIND_IN] = b->self->outliers.size ? &b->self->outliers : NULL,
                       [NIB_BIND_OUT] = value_of(b, target),
                       [NIB_BIND_MATRIX] = &weight->slices[slice],
                       [NIB_BIND_INPUT] = &b->self->prepared,
                       [NIB_BIND_SUMS] = &b->self->sums,
                       [NIB_BIND_TABLE] = bias ? &bias->slices[0] : NULL},
        .push = &args,
        .push_size = sizeof args,
        .groups = nib_ceil_div_u64(n_rows, NIB_TILE_ROWS),
        .is_matmul = true,
    };
    struct nib_vk_variant variants[NIB_VK_MAX_COLUMNS];
    enum nib_vk_family family = choose_family(b, op, add);
    make_specs(b, op, add, params.kernel.specs);
    take_variants(b, op, family, variants, &params);
    bool has_single = is_single(b, op, add, family);
    if (has_single) {
        variants[0] = nib_vk_family_get(family_of_few(b, op, family))->single;
        take_single(b, op, &args.source, &params);
    }
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    struct nib_view out = {target->value, target->offset + first, n_rows};
    add_access(pass, NIB_VK_PREPARED, 0, 1, false);
    if (has_single)
        reads_source(b, op, pass);
    writes(b, pass, &out);
    return NIB_OK;
}

/// Matmuls of one input that one dispatch makes.
struct group {
    const struct nib_op_matmul *ops[NIB_MATMUL_PARTS];
    uint32_t n;
    enum nib_vk_family family;
    struct nib_vk_range weights; ///< from the first weight's beginning to the last one's end
    struct nib_vk_range outputs;
};

/// Adds a matmul to the group if it differs from the first in nothing but weight and output.
static bool add_to_group(const struct builder *b, const struct nib_op *op, struct group *group)
{
    const struct nib_op_matmul *first = group->ops[0], *next = &op->matmul;
    uint64_t most = b->self->device->snapshot.max_storage_range;
    if (op->kind != NIB_OP_MATMUL || group->n == NIB_MATMUL_PARTS ||
        next->activation != first->activation || !is_same_view(&next->in, &first->in) ||
        next->bias != NIB_NO_WEIGHT || first->bias != NIB_NO_WEIGHT)
        return false;
    const struct nib_vk_matrix *a = nib_vk_instance_weight(b->self, first->weight);
    const struct nib_vk_matrix *w = nib_vk_instance_weight(b->self, next->weight);
    uint32_t specs[2][NIB_SPECS] = {{0}};
    make_specs(b, first, NULL, specs[0]);
    make_specs(b, next, NULL, specs[1]);
    if (memcmp(specs[0], specs[1], sizeof specs[0]) != 0 || w->layout.n_slices != 1 ||
        a->layout.n_slices != 1 || w->layout.n_entries != a->layout.n_entries ||
        w->layout.format.group != a->layout.format.group || w->has_permutation ||
        w->layout.has_spans || a->activation_scale != w->activation_scale ||
        choose_family(b, next, NULL) != group->family)
        return false;
    struct nib_vk_range weights = group->weights, outputs = group->outputs;
    if (!nib_vk_range_widen(&weights, &w->slices[0], most) ||
        !nib_vk_range_widen(&outputs, value_of(b, &next->out), most))
        return false;
    group->weights = weights;
    group->outputs = outputs;
    group->ops[group->n++] = next;
    return true;
}

/// Fills the parts, slice `slice` of each.
static void make_parts(const struct builder *b, const struct group *group,
                       const struct nib_op_add *add, uint32_t slice,
                       struct nib_matmul_texel_args *args, struct pass_params *params)
{
    for (uint32_t i = 0; i < group->n; i++) {
        const struct nib_op_matmul *op = group->ops[i];
        const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
        const struct nib_vk_layout *l = &weight->layout;
        const struct nib_view *target = add ? &add->out : &op->out;
        uint64_t out = (value_of(b, target)->offset - group->outputs.offset) / sizeof(float);
        uint32_t first = slice * l->slice_rows, n_rows = nib_vk_layout_slice_rows(l, slice);
        args->parts[i] = (struct nib_matmul_part){
            .n_rows = n_rows,
            .begin = (uint32_t)((weight->slices[slice].offset - group->weights.offset) / 16),
            .out_at = (uint32_t)out + target->offset + first,
            .out_stride = stride_of(b, target),
        };
        // Each part begins with a workgroup of its own.
        uint32_t tiles =
            b->self->device->plan.matmul_width * params->variants->rows / NIB_TILE_ROWS;
        uint64_t n_tiles = nib_ceil_div_u64(n_rows, NIB_TILE_ROWS);
        params->groups += nib_ceil_div_u64(n_tiles, tiles) * tiles;
    }
}

/// Matmuls through texel buffers.
static enum nib_status build_texels(struct builder *b, struct group *group,
                                    const struct nib_op_add *add, uint32_t slice,
                                    struct nib_error *err)
{
    const struct nib_op_matmul *op = group->ops[0];
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_vk_matrix *bias = nib_vk_instance_weight(b->self, op->bias);
    if (slice > 0)
        group->weights = weight->slices[slice];
    struct nib_matmul_texel_args args = {.bias_at = slice * weight->layout.slice_rows,
                                         .factor = add ? add->scale : 0};
    nib_vk_layout_tile_args(&weight->layout, &args.matrix);
    struct pass_params params = {
        .kernel.shader = "matmul",
        .bind = {.range = {[NIB_BIND_OUT] = &group->outputs,
                           [NIB_BIND_MATRIX] = &group->weights,
                           [NIB_BIND_INPUT] = &b->self->prepared,
                           [NIB_BIND_SUMS] = &b->self->sums,
                           [NIB_BIND_TABLE] = bias ? &bias->slices[0] : NULL},
                 .has_texels = true},
        .push = &args,
        .push_size = sizeof args,
        .is_matmul = true,
        .variants = nib_vk_family_get(group->family)->variants,
    };
    make_specs(b, op, add, params.kernel.specs);
    make_parts(b, group, add, slice, &args, &params);
    bool has_single = group->family == NIB_VK_FAMILY_SINGLE;
    if (has_single)
        take_single(b, op, &args.source, &params);
    struct nib_vk_pass *pass;
    enum nib_status status = nib_vk_pass_add(b, &params, &pass, err);
    if (status != NIB_OK)
        return status;
    add_access(pass, NIB_VK_PREPARED, 0, 1, false);
    if (has_single)
        reads_source(b, op, pass);
    for (uint32_t i = 0; i < group->n; i++)
        writes(b, pass, add ? &add->out : &group->ops[i]->out);
    return NIB_OK;
}

enum nib_status nib_vk_build_matmul(struct builder *b, const struct nib_op_matmul *op,
                                    uint32_t *out_taken, struct nib_error *err)
{
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(b->self, op->weight);
    const struct nib_op_add *add = find_add(b, op);
    struct group group = {.ops = {op},
                          .n = 1,
                          .family = choose_family(b, op, add),
                          .weights = weight->slices[0],
                          .outputs = *value_of(b, add ? &add->out : &op->out)};
    bool has_texels = group.family == NIB_VK_FAMILY_TEXEL || group.family == NIB_VK_FAMILY_SINGLE;
    bool may_join = has_texels && !add && !weight->layout.has_spans && !weight->has_permutation;
    while (may_join && b->op + group.n < b->end_op &&
           add_to_group(b, &b->plan->ops[b->op + group.n], &group))
        continue;
    *out_taken = add ? 1 : group.n - 1;
    b->self->kernels |= 1u << group.family;
    enum nib_status status = build_prepare(b, op, add, group.family, err);
    for (uint32_t s = 0; status == NIB_OK && s < weight->layout.n_slices; s++) {
        status =
            has_texels ? build_texels(b, &group, add, s, err) : build_slice(b, op, add, s, err);
    }
    return status;
}
