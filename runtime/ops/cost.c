#include "runtime/ops/plan.h"

/// Numbers that go in and out of an op for each row.
static uint64_t row_width(const struct nib_op *op)
{
    switch (op->kind) {
    case NIB_OP_EMBED:
        return op->embed.out.width;
    case NIB_OP_NORM:
        return (uint64_t)op->norm.in.width + op->norm.out.width;
    case NIB_OP_MATMUL:
        return (uint64_t)op->matmul.in.width + op->matmul.out.width;
    case NIB_OP_ROPE:
        return 2 * (uint64_t)op->rope.x.width;
    case NIB_OP_KV_STORE:
        return (uint64_t)op->kv_store.key.width + op->kv_store.value.width;
    case NIB_OP_ATTENTION:
        return (uint64_t)op->attention.query.width + op->attention.out.width;
    case NIB_OP_ACTIVATE:
        return 3 * (uint64_t)op->activate.out.width;
    case NIB_OP_ADD:
        return 3 * (uint64_t)op->add.out.width;
    case NIB_OP_SCALE:
        return 2 * (uint64_t)op->scale.x.width;
    case NIB_OP_SOFTCAP:
        return 2 * (uint64_t)op->softcap.x.width;
    case NIB_OP_GATHER:
        return 2 * (uint64_t)op->gather.out.width;
    case NIB_OP_ROUTE:
        return (uint64_t)op->route.scores.width + op->route.experts.width + op->route.weights.width;
    case NIB_OP_REDUCE:
        return (uint64_t)op->reduce.in.width + op->reduce.out.width;
    case NIB_OP_COUNT:
        break;
    }
    return 0;
}

/// Bytes of one token's keys and values in the cache of a layer.
static uint64_t kv_token_bytes(const struct nib_kv_layer *layer)
{
    uint64_t page = (uint64_t)layer->key_page_size + layer->value_page_size +
                    layer->key_scale_page_size + layer->value_scale_page_size;
    return page / NIB_KV_PAGE_TOKENS;
}

static uint64_t weight_bytes(const struct nib_plan *plan, uint32_t weight)
{
    return weight == NIB_NO_WEIGHT ? 0 : plan->weights[weight].bytes;
}

struct nib_cost nib_op_cost(const struct nib_plan *plan, uint32_t op_index, uint32_t n_rows,
                            uint32_t kv_length)
{
    const struct nib_op *op = &plan->ops[op_index];
    struct nib_cost cost = {.bytes = row_width(op) * n_rows * sizeof(float)};
    if (op->kind == NIB_OP_EMBED) {
        const struct nib_weight *weight = &plan->weights[op->embed.weight];
        cost.bytes += weight->bytes / (weight->rows ? weight->rows : 1) * n_rows;
    } else if (op->kind == NIB_OP_NORM) {
        cost.bytes += weight_bytes(plan, op->norm.weight);
    } else if (op->kind == NIB_OP_MATMUL) {
        const struct nib_weight *weight = &plan->weights[op->matmul.weight];
        cost.bytes += weight->bytes + weight_bytes(plan, op->matmul.bias);
        cost.macs = weight->rows * weight->cols * n_rows;
    } else if (op->kind == NIB_OP_KV_STORE) {
        cost.bytes += kv_token_bytes(&plan->kv_layers[op->kv_store.kv_layer]) * n_rows;
    } else if (op->kind == NIB_OP_ATTENTION) {
        const struct nib_op_attention *attention = &op->attention;
        const struct nib_kv_layer *layer = &plan->kv_layers[attention->kv_layer];
        uint64_t seen = layer->window && layer->window < kv_length ? layer->window : kv_length;
        cost.bytes += seen * kv_token_bytes(layer) * n_rows;
        cost.macs =
            seen * n_rows * attention->n_heads * ((uint64_t)layer->key_dim + layer->value_dim);
    }
    return cost;
}

uint64_t nib_plan_scratch_bytes(const struct nib_plan *plan, uint32_t max_logits)
{
    uint64_t rows = plan->max_rows > max_logits ? plan->max_rows : max_logits;
    uint64_t width = 0;
    for (uint32_t v = 0; v < plan->n_values; v++)
        width += v == plan->logits_value ? 0 : plan->values[v].width;
    uint64_t widest = 0;
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->kind == NIB_OP_MATMUL && op->matmul.activation != NIB_ACTIVATION_F32 &&
            op->matmul.in.width > widest)
            widest = op->matmul.in.width;
    }
    // Codes of two bytes, and a scale and a sum for each group of them.
    uint64_t groups = widest / NIB_ACTIVATION_GROUP + (widest != 0);
    return rows * (width * sizeof(float) + widest * sizeof(int16_t) + groups * 2 * sizeof(float));
}
