#include "runtime/ops/validate.h"

#include <math.h>

#include "runtime/base/status.h"

/// The op that is being checked.
struct check {
    const struct nib_plan *plan;
    uint32_t index;
    const struct nib_op *op;
    struct nib_error *err;
};

typedef enum nib_status check_fn(const struct check *c);

/// Fails with "op 7 (matmul): " before the text.
#define fail_op(c, ...)                                                                           \
    nib_fail_context((c)->err, nib_fail((c)->err, NIB_ERROR_ARGUMENT, __VA_ARGS__), "op %u (%s)", \
                     (c)->index, nib_op_name((c)->op->kind))

static enum nib_status check_view(const struct check *c, const struct nib_view *view,
                                  const char *what)
{
    const struct nib_plan *plan = c->plan;
    if (view->value >= plan->n_values || view->width == 0 ||
        view->offset > plan->values[view->value].width ||
        view->width > plan->values[view->value].width - view->offset) {
        return fail_op(c, "view '%s', columns %u and %u more, is outside value %u", what,
                       view->offset, view->width, view->value);
    }
    return NIB_OK;
}

static bool is_same(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset == b->offset && a->width == b->width;
}

/// `out` must lie apart from `in`, or, where `in_place` allows it, be the same.
static enum nib_status check_apart(const struct check *c, const struct nib_view *in,
                                   const struct nib_view *out, bool in_place)
{
    if (in->value != out->value || in->offset + in->width <= out->offset ||
        out->offset + out->width <= in->offset || (in_place && is_same(in, out)))
        return NIB_OK;
    return fail_op(c, "input and output overlap in value %u", in->value);
}

static enum nib_status check_width(const struct check *c, const struct nib_view *view,
                                   uint64_t width, const char *what)
{
    if (view->width != width) {
        return fail_op(c, "view '%s' has %u columns instead of %llu", what, view->width,
                       (unsigned long long)width);
    }
    return NIB_OK;
}

/// Checks that a weight exists, belongs to the op's segment and is a matrix, or a vector of `cols`.
static enum nib_status check_weight(const struct check *c, uint32_t weight, bool matrix,
                                    uint64_t cols)
{
    if (weight >= c->plan->n_weights)
        return fail_op(c, "weight %u is not one of %u", weight, c->plan->n_weights);
    const struct nib_weight *w = &c->plan->weights[weight];
    if (nib_role_is_matrix(w->role) != matrix || w->cols != cols) {
        return fail_op(c, "weight %u (%s) has %llu columns; %s of %llu is needed", weight,
                       nib_role_name(w->role), (unsigned long long)w->cols,
                       matrix ? "a matrix" : "a vector", (unsigned long long)cols);
    }
    if (w->segment != c->op->segment) {
        return fail_op(c, "weight %u (%s) belongs to segment %u, the op to %u", weight,
                       nib_role_name(w->role), w->segment, c->op->segment);
    }
    return NIB_OK;
}

static enum nib_status check_segment(const struct check *c, enum nib_segment_kind kind,
                                     const char *name)
{
    if (c->plan->segments[c->op->segment].kind != kind)
        return fail_op(c, "it may stand in the %s alone", name);
    return NIB_OK;
}

static enum nib_status check_number(const struct check *c, float number, bool good,
                                    const char *what)
{
    if (!isfinite(number) || !good)
        return fail_op(c, "%s %g is out of range", what, (double)number);
    return NIB_OK;
}

static enum nib_status check_embed(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_embed *op = &c->op->embed;
    NIB_TRY(check_segment(c, NIB_SEGMENT_EMBEDDING, "embedding"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_weight(c, op->weight, true, op->out.width));
    NIB_TRY(check_number(c, op->scale, true, "scale"));
fail:
    return status;
}

static enum nib_status check_norm(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_norm *op = &c->op->norm;
    NIB_TRY(check_view(c, &op->in, "in"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_width(c, &op->out, op->in.width, "out"));
    NIB_TRY(check_apart(c, &op->in, &op->out, true));
    if (op->n_groups == 0 || op->in.width % op->n_groups)
        return fail_op(c, "%u columns do not make %u groups", op->in.width, op->n_groups);
    if (op->weight != NIB_NO_WEIGHT)
        NIB_TRY(check_weight(c, op->weight, false, op->in.width / op->n_groups));
    NIB_TRY(check_number(c, op->epsilon, op->epsilon >= 0, "epsilon"));
fail:
    return status;
}

static enum nib_status check_matmul(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_matmul *op = &c->op->matmul;
    NIB_TRY(check_view(c, &op->in, "in"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_apart(c, &op->in, &op->out, false));
    if (op->experts != NIB_NO_WEIGHT)
        return fail_op(c, "mixtures of experts are reserved");
    NIB_TRY(check_weight(c, op->weight, true, op->in.width));
    NIB_TRY(check_width(c, &op->out, c->plan->weights[op->weight].rows, "out"));
    if (op->bias != NIB_NO_WEIGHT)
        NIB_TRY(check_weight(c, op->bias, false, op->out.width));
    if (op->activation >= NIB_ACTIVATION_COUNT)
        return fail_op(c, "activation mode %d does not exist", (int)op->activation);
    if (op->tap != NIB_NO_WEIGHT && op->tap >= c->plan->n_taps)
        return fail_op(c, "tap %u is not one of %u", op->tap, c->plan->n_taps);
fail:
    return status;
}

static enum nib_status check_rope(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_rope *op = &c->op->rope;
    NIB_TRY(check_view(c, &op->x, "x"));
    NIB_TRY(check_width(c, &op->x, (uint64_t)op->n_heads * op->head_dim, "x"));
    if (op->table >= c->plan->n_ropes)
        return fail_op(c, "RoPE table %u is not one of %u", op->table, c->plan->n_ropes);
    if (c->plan->ropes[op->table].dims > op->head_dim) {
        return fail_op(c, "RoPE table %u turns %u numbers of heads of %u", op->table,
                       c->plan->ropes[op->table].dims, op->head_dim);
    }
fail:
    return status;
}

static enum nib_status check_kv_index(const struct check *c, uint32_t kv_layer)
{
    if (kv_layer >= c->plan->n_kv_layers)
        return fail_op(c, "KV layer %u is not one of %u", kv_layer, c->plan->n_kv_layers);
    return NIB_OK;
}

static enum nib_status check_kv_store(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_kv_store *op = &c->op->kv_store;
    NIB_TRY(check_kv_index(c, op->kv_layer));
    const struct nib_kv_layer *layer = &c->plan->kv_layers[op->kv_layer];
    NIB_TRY(check_view(c, &op->key, "key"));
    NIB_TRY(check_view(c, &op->value, "value"));
    NIB_TRY(check_width(c, &op->key, (uint64_t)layer->n_heads * layer->key_dim, "key"));
    NIB_TRY(check_width(c, &op->value, (uint64_t)layer->n_heads * layer->value_dim, "value"));
fail:
    return status;
}

static enum nib_status check_attention(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_attention *op = &c->op->attention;
    NIB_TRY(check_kv_index(c, op->kv_layer));
    const struct nib_kv_layer *layer = &c->plan->kv_layers[op->kv_layer];
    if (op->n_heads == 0 || op->n_heads % layer->n_heads) {
        return fail_op(c, "%u query heads do not share %u KV heads", op->n_heads, layer->n_heads);
    }
    NIB_TRY(check_view(c, &op->query, "query"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_apart(c, &op->query, &op->out, false));
    NIB_TRY(check_width(c, &op->query, (uint64_t)op->n_heads * layer->key_dim, "query"));
    NIB_TRY(check_width(c, &op->out, (uint64_t)op->n_heads * layer->value_dim, "out"));
    NIB_TRY(check_number(c, op->scale, true, "scale"));
    NIB_TRY(check_number(c, op->softcap, op->softcap >= 0, "softcap"));
fail:
    return status;
}

static enum nib_status check_activate(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_activate *op = &c->op->activate;
    NIB_TRY(check_view(c, &op->gate, "gate"));
    NIB_TRY(check_view(c, &op->up, "up"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_width(c, &op->up, op->gate.width, "up"));
    NIB_TRY(check_width(c, &op->out, op->gate.width, "out"));
    NIB_TRY(check_apart(c, &op->gate, &op->out, true));
    NIB_TRY(check_apart(c, &op->up, &op->out, true));
    if (op->function > NIB_GATE_GELU)
        return fail_op(c, "gate function %d does not exist", (int)op->function);
fail:
    return status;
}

static enum nib_status check_add(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_add *op = &c->op->add;
    NIB_TRY(check_view(c, &op->in, "in"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_width(c, &op->out, op->in.width, "out"));
    NIB_TRY(check_apart(c, &op->in, &op->out, false));
    NIB_TRY(check_number(c, op->scale, true, "scale"));
fail:
    return status;
}

static enum nib_status check_scale(const struct check *c)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(check_view(c, &c->op->scale.x, "x"));
    NIB_TRY(check_number(c, c->op->scale.factor, true, "factor"));
fail:
    return status;
}

static enum nib_status check_softcap(const struct check *c)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(check_view(c, &c->op->softcap.x, "x"));
    NIB_TRY(check_number(c, c->op->softcap.cap, c->op->softcap.cap > 0, "cap"));
fail:
    return status;
}

static enum nib_status check_gather(const struct check *c)
{
    enum nib_status status = NIB_OK;
    const struct nib_op_gather *op = &c->op->gather;
    NIB_TRY(check_segment(c, NIB_SEGMENT_HEAD, "head"));
    NIB_TRY(check_view(c, &op->in, "in"));
    NIB_TRY(check_view(c, &op->out, "out"));
    NIB_TRY(check_width(c, &op->out, op->in.width, "out"));
    // The head may run several times for one step, so its input must last.
    if (op->in.value == op->out.value || op->out.value == NIB_VALUE_HIDDEN)
        return fail_op(c, "it cannot write to value %u", op->out.value);
    for (uint32_t i = c->plan->segments[c->op->segment].first_op; i < c->index; i++) {
        if (c->plan->ops[i].kind == NIB_OP_GATHER)
            return fail_op(c, "op %u has gathered the rows already", i);
    }
fail:
    return status;
}

static enum nib_status check_reserved(const struct check *c)
{
    return fail_op(c, "this op is reserved");
}

enum nib_status nib_plan_validate_op(const struct nib_plan *plan, uint32_t index,
                                     struct nib_error *err)
{
    static check_fn *const checks[NIB_OP_COUNT] = {
        [NIB_OP_EMBED] = check_embed,       [NIB_OP_NORM] = check_norm,
        [NIB_OP_MATMUL] = check_matmul,     [NIB_OP_ROPE] = check_rope,
        [NIB_OP_KV_STORE] = check_kv_store, [NIB_OP_ATTENTION] = check_attention,
        [NIB_OP_ACTIVATE] = check_activate, [NIB_OP_ADD] = check_add,
        [NIB_OP_SCALE] = check_scale,       [NIB_OP_SOFTCAP] = check_softcap,
        [NIB_OP_GATHER] = check_gather,     [NIB_OP_ROUTE] = check_reserved,
        [NIB_OP_REDUCE] = check_reserved,
    };
    const struct nib_op *op = &plan->ops[index];
    if (op->kind >= NIB_OP_COUNT)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "op %u has kind %d", index, (int)op->kind);
    struct check c = {.plan = plan, .index = index, .op = op, .err = err};
    return checks[op->kind](&c);
}
