#include "runtime/model/plan_build.h"

#include "runtime/base/status.h"

#include <string.h>

enum {
    MAX_OPS_A_LAYER = 32, ///< the longest layer has 22
    MAX_OTHER_OPS = 16
};

static bool failed(const struct nib_plan_builder *b)
{
    return b->status != NIB_OK;
}

static void fail(struct nib_plan_builder *b, enum nib_status status)
{
    if (b->status == NIB_OK)
        b->status = status;
}

void nib_build_begin(struct nib_plan_builder *b)
{
    const uint32_t n_layers = b->config->n_layers;
    b->max_ops = n_layers * MAX_OPS_A_LAYER + MAX_OTHER_OPS;
    b->max_weights = (n_layers + 1) * NIB_ROLE_COUNT;
    b->ops = nib_arena_array(b->arena, b->max_ops, sizeof *b->ops);
    b->weights = nib_arena_array(b->arena, b->max_weights, sizeof *b->weights);
    b->segments = nib_arena_array(b->arena, n_layers + 2, sizeof *b->segments);
    if (!b->ops || !b->weights || !b->segments)
        fail(b, nib_fail_memory(b->err));
    b->plan->ops = b->ops;
    b->plan->weights = b->weights;
    b->plan->segments = b->segments;
}

void nib_build_segment(struct nib_plan_builder *b, enum nib_segment_kind kind, uint32_t layer)
{
    if (failed(b))
        return;
    b->layer = layer;
    b->segments[b->plan->n_segments++] =
        (struct nib_segment){.kind = kind, .layer = layer, .first_op = b->plan->n_ops};
}

struct nib_view nib_build_value(struct nib_plan_builder *b, const char *name, uint32_t width)
{
    struct nib_plan *plan = b->plan;
    uint32_t value = 0;
    while (value < plan->n_values && strcmp(plan->values[value].name, name) != 0)
        value++;
    if (value == NIB_PLAN_MAX_VALUES) {
        fail(b, nib_fail(b->err, NIB_ERROR_UNSUPPORTED, "a plan cannot hold value '%s'", name));
        value = 0;
    } else if (value == plan->n_values) {
        plan->values[plan->n_values++] = (struct nib_value){name, width};
    }
    return (struct nib_view){value, 0, width};
}

struct nib_view nib_build_part(struct nib_view view, uint32_t offset, uint32_t width)
{
    return (struct nib_view){view.value, view.offset + offset, width};
}

bool nib_build_has(const struct nib_plan_builder *b, enum nib_role role)
{
    return role != NIB_ROLE_COUNT && nib_source_has(b->source, role, b->layer);
}

bool nib_build_looks_at_rows(struct nib_plan_builder *b, enum nib_role role)
{
    struct nib_row_reader reader;
    if (failed(b) || !nib_build_has(b, role))
        return false;
    fail(b, nib_source_reader(b->source, role, b->layer, &reader, b->err));
    return !failed(b) && reader.activation == NIB_ACTIVATION_LLM_INT8;
}

void nib_build_op(struct nib_plan_builder *b, const struct nib_op *op)
{
    struct nib_plan *plan = b->plan;
    if (failed(b))
        return;
    if (plan->n_ops == b->max_ops) {
        fail(b, nib_fail(b->err, NIB_ERROR_UNSUPPORTED, "a layer has too many ops"));
        return;
    }
    b->ops[plan->n_ops] = *op;
    b->ops[plan->n_ops].segment = plan->n_segments - 1;
    b->segments[plan->n_segments - 1].n_ops++;
    plan->n_ops++;
}

/// Returns the first weight with this tensor, or NIB_NO_WEIGHT.
static uint32_t find_weight(const struct nib_plan_builder *b, enum nib_role role, uint32_t layer)
{
    for (uint32_t i = 0; i < b->plan->n_weights; i++) {
        if (b->weights[i].role == role && b->weights[i].layer == layer)
            return i;
    }
    return NIB_NO_WEIGHT;
}

/// Returns what a matmul with this matrix does with its input. Those of the head and of the last
/// layer get codes of 16 bits: their errors reach the logits undamped. For SmolLM2, the divergence
/// from the precise run is 2.9e-3 with all inputs in int8, 1.9e-3 without the head's, and 1.4e-3
/// without the last layer's either, which are no more than a thirtieth of the rest.
static enum nib_activation activation_of(const struct nib_plan_builder *b, enum nib_role role,
                                         const struct nib_row_reader *reader)
{
    if (reader->activation != NIB_ACTIVATION_F32)
        return reader->activation;
    bool is_late = role == NIB_ROLE_OUTPUT || role == NIB_ROLE_TOKEN_EMBEDDING ||
                   b->layer + 1 == b->config->n_layers;
    if (b->params.precise || reader->format.code == NIB_CODE_FLOAT)
        return NIB_ACTIVATION_F32;
    return is_late ? NIB_ACTIVATION_INT16_GROUP : NIB_ACTIVATION_INT8_GROUP;
}

/// Adds a weight and returns its number; `out_activation` may be NULL.
static uint32_t add_weight(struct nib_plan_builder *b, enum nib_role role,
                           enum nib_activation *out_activation)
{
    struct nib_row_reader reader;
    if (failed(b))
        return NIB_NO_WEIGHT;
    fail(b, nib_source_reader(b->source, role, b->layer, &reader, b->err));
    if (failed(b))
        return NIB_NO_WEIGHT;
    // A tied head comes after a list of weights in which only the first can be its own.
    uint32_t first =
        role == NIB_ROLE_TOKEN_EMBEDDING ? find_weight(b, role, b->layer) : NIB_NO_WEIGHT;
    uint64_t bytes;
    if (!nib_format_row_bytes(&reader.format, reader.cols, &bytes))
        bytes = nib_format_packed_bytes(&reader.format, 1, reader.cols);
    if (out_activation)
        *out_activation = activation_of(b, role, &reader);
    b->weights[b->plan->n_weights] = (struct nib_weight){
        .role = role,
        .layer = b->layer,
        .segment = b->plan->n_segments - 1,
        .shared_with = first,
        .rows = reader.rows,
        .cols = reader.cols,
        .format = reader.format,
        .bytes = bytes * reader.rows,
    };
    return b->plan->n_weights++;
}

void nib_build_embed(struct nib_plan_builder *b, struct nib_view out)
{
    struct nib_op op = {.kind = NIB_OP_EMBED};
    op.embed = (struct nib_op_embed){
        .weight = add_weight(b, NIB_ROLE_TOKEN_EMBEDDING, NULL),
        .out = out,
        .scale = b->config->embedding_scale,
    };
    nib_build_op(b, &op);
}

void nib_build_norm(struct nib_plan_builder *b, struct nib_view in, struct nib_view out,
                    enum nib_role role, uint32_t n_groups)
{
    struct nib_op op = {.kind = NIB_OP_NORM};
    op.norm = (struct nib_op_norm){
        .in = in,
        .out = out,
        .weight = add_weight(b, role, NULL),
        .n_groups = n_groups,
        .epsilon = b->config->norm_epsilon,
    };
    nib_build_op(b, &op);
}

void nib_build_matmul(struct nib_plan_builder *b, struct nib_view in, struct nib_view out,
                      enum nib_role role, enum nib_role bias)
{
    struct nib_op op = {.kind = NIB_OP_MATMUL};
    enum nib_activation activation = NIB_ACTIVATION_F32;
    uint32_t weight = add_weight(b, role, &activation);
    op.matmul = (struct nib_op_matmul){
        .in = in,
        .out = out,
        .weight = weight,
        .bias = nib_build_has(b, bias) ? add_weight(b, bias, NULL) : NIB_NO_WEIGHT,
        .activation = activation,
        .experts = NIB_NO_WEIGHT,
        .tap = NIB_NO_WEIGHT,
    };
    nib_build_op(b, &op);
}

void nib_build_rope(struct nib_plan_builder *b, struct nib_view x, uint32_t n_heads, uint32_t table)
{
    struct nib_op op = {.kind = NIB_OP_ROPE};
    op.rope = (struct nib_op_rope){
        .x = x,
        .n_heads = n_heads,
        .head_dim = b->config->key_dim,
        .table = table,
        .interleaved = b->config->ropes[table].interleaved,
    };
    nib_build_op(b, &op);
}
