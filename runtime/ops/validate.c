#include "runtime/ops/validate.h"

#include <math.h>

#include "runtime/base/status.h"
#include "runtime/ops/backend.h"

#define MAX_DIM (1u << 24) ///< of a value's width or a head, so that products fit 64 bits by far
#define MAX_HEADS (1u << 16)

static enum nib_status check_values(const struct nib_plan *plan, struct nib_error *err)
{
    if (plan->n_values == 0 || plan->n_values > NIB_PLAN_MAX_VALUES) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "plan has %u values; 1 to %d are allowed",
                        plan->n_values, NIB_PLAN_MAX_VALUES);
    }
    for (uint32_t i = 0; i < plan->n_values; i++) {
        if (plan->values[i].width == 0 || plan->values[i].width > MAX_DIM) {
            return nib_fail(err, NIB_ERROR_ARGUMENT, "value %u of the plan has width %u", i,
                            plan->values[i].width);
        }
    }
    if (plan->values[NIB_VALUE_HIDDEN].width != plan->hidden_size) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the hidden state's width %u is not the hidden size %u",
                        plan->values[NIB_VALUE_HIDDEN].width, plan->hidden_size);
    }
    if (plan->logits_value == NIB_VALUE_HIDDEN || plan->logits_value >= plan->n_values ||
        plan->values[plan->logits_value].width != plan->vocabulary) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "value %u cannot hold the logits of a vocabulary of %u", plan->logits_value,
                        plan->vocabulary);
    }
    if (plan->max_rows == 0 || plan->max_rows > NIB_STEP_MAX_ROWS || plan->context == 0) {
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "plan has %u rows and a context of %u; rows are 1 to %d, context at least 1",
            plan->max_rows, plan->context, NIB_STEP_MAX_ROWS);
    }
    return NIB_OK;
}

static bool is_good_format(const struct nib_format *format)
{
    if (format->id >= NIB_FORMAT_COUNT || format->bits == 0 || format->bits > 32)
        return false;
    if (format->code == NIB_CODE_FLOAT)
        return true;
    bool has_supers = format->super == 0 || (format->group && format->super % format->group == 0);
    bool has_book = format->code != NIB_CODE_BOOK || format->book;
    return has_supers && has_book && format->bits <= 8;
}

static enum nib_status check_weight(const struct nib_plan *plan, uint32_t index,
                                    struct nib_error *err)
{
    const struct nib_weight *weight = &plan->weights[index];
    if (weight->role >= NIB_ROLE_COUNT || weight->segment >= plan->n_segments ||
        weight->rows == 0 || weight->rows > UINT32_MAX || weight->cols == 0 ||
        weight->cols > MAX_DIM || !is_good_format(&weight->format)) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "weight %u has a role, shape or format out of range", index);
    }
    if (!nib_role_is_matrix(weight->role) && weight->rows != 1) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "weight %u (%s) is a vector of %llu rows", index,
                        nib_role_name(weight->role), (unsigned long long)weight->rows);
    }
    if (weight->shared_with == NIB_NO_WEIGHT)
        return NIB_OK;
    const struct nib_weight *first =
        weight->shared_with < index ? &plan->weights[weight->shared_with] : NULL;
    if (!first || first->shared_with != NIB_NO_WEIGHT || first->rows != weight->rows ||
        first->cols != weight->cols || first->format.id != weight->format.id) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "weight %u (%s) cannot share weight %u", index,
                        nib_role_name(weight->role), weight->shared_with);
    }
    return NIB_OK;
}

static enum nib_status check_ropes(const struct nib_plan *plan, struct nib_error *err)
{
    for (uint32_t i = 0; i < plan->n_ropes; i++) {
        const struct nib_rope_table *rope = &plan->ropes[i];
        if (rope->dims == 0 || rope->dims % 2 || rope->dims > MAX_DIM || !rope->frequency ||
            !isfinite(rope->magnitude)) {
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "RoPE table %u turns %u numbers by no valid angles", i, rope->dims);
        }
    }
    return NIB_OK;
}

static enum nib_status check_kv_layer(const struct nib_plan *plan, uint32_t index,
                                      struct nib_error *err)
{
    const struct nib_kv_layer *layer = &plan->kv_layers[index];
    if (layer->n_heads == 0 || layer->n_heads > MAX_HEADS || layer->key_dim == 0 ||
        layer->key_dim > MAX_DIM || layer->value_dim == 0 || layer->value_dim > MAX_DIM ||
        layer->kv_class >= plan->n_kv_classes - nib_plan_keeps_f16(plan)) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "KV layer %u has %u heads of %u and %u numbers in class %u", index,
                        layer->n_heads, layer->key_dim, layer->value_dim, layer->kv_class);
    }
    struct nib_kv_layer sized = *layer;
    if (!nib_kv_layer_size(&sized, plan->key_format, plan->value_format)) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "KV layer %u has pages beyond 32 bits", index);
    }
    if (layer->key_page_size != sized.key_page_size ||
        layer->value_page_size != sized.value_page_size ||
        layer->key_scale_page_size != sized.key_scale_page_size ||
        layer->value_scale_page_size != sized.value_scale_page_size ||
        layer->recent_key_page_size != sized.recent_key_page_size ||
        layer->recent_value_page_size != sized.recent_value_page_size) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "KV layer %u has pages of %u and %u bytes and scales of %u and %u; its "
                        "formats have %u and %u, and %u and %u",
                        index, layer->key_page_size, layer->value_page_size,
                        layer->key_scale_page_size, layer->value_scale_page_size,
                        sized.key_page_size, sized.value_page_size, sized.key_scale_page_size,
                        sized.value_scale_page_size);
    }
    return NIB_OK;
}

static enum nib_status check_segments(const struct nib_plan *plan, struct nib_error *err)
{
    uint32_t next_op = 0;
    for (uint32_t i = 0; i < plan->n_segments; i++) {
        const struct nib_segment *segment = &plan->segments[i];
        enum nib_segment_kind kind = i == 0                      ? NIB_SEGMENT_EMBEDDING
                                     : i + 1 == plan->n_segments ? NIB_SEGMENT_HEAD
                                                                 : NIB_SEGMENT_LAYER;
        if (segment->kind != kind || (kind == NIB_SEGMENT_LAYER && segment->layer != i - 1)) {
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "segment %u is out of order: embedding, layers 0 and up, head", i);
        }
        if (segment->first_op != next_op || segment->n_ops > plan->n_ops - next_op) {
            return nib_fail(err, NIB_ERROR_ARGUMENT, "segment %u does not go on at op %u of %u", i,
                            next_op, plan->n_ops);
        }
        for (uint32_t k = 0; k < segment->n_ops; k++) {
            if (plan->ops[next_op + k].segment != i) {
                return nib_fail(err, NIB_ERROR_ARGUMENT, "op %u lies in segment %u but names %u",
                                next_op + k, i, plan->ops[next_op + k].segment);
            }
        }
        next_op += segment->n_ops;
    }
    if (plan->n_segments < 2 || next_op != plan->n_ops) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%u segments hold %u of %u ops", plan->n_segments,
                        next_op, plan->n_ops);
    }
    return NIB_OK;
}

enum nib_status nib_plan_validate(const struct nib_plan *plan, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(check_values(plan, err));
    NIB_TRY(check_segments(plan, err));
    for (uint32_t i = 0; i < plan->n_weights; i++)
        NIB_TRY(check_weight(plan, i, err));
    NIB_TRY(check_ropes(plan, err));
    if (plan->n_kv_classes > NIB_KV_MAX_CLASSES) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "plan has %u KV classes; at most %d are allowed",
                        plan->n_kv_classes, NIB_KV_MAX_CLASSES);
    }
    if (plan->recent_pages > NIB_KV_RECENT_STRIDE || plan->first_pages > NIB_KV_MAX_FIRST ||
        (nib_plan_keeps_f16(plan) && !plan->n_kv_classes)) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "plan keeps %u pages of newest and %u of first tokens in %u KV classes; at "
                        "most %d and %d are possible",
                        plan->recent_pages, plan->first_pages, plan->n_kv_classes,
                        NIB_KV_RECENT_STRIDE, NIB_KV_MAX_FIRST);
    }
    if (plan->key_format == NIB_KV_I4_CHANNEL && plan->recent_pages == 0)
        NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT,
                         "plan packs channels of keys, but keeps no newest tokens to pack"));
    for (uint32_t i = 0; i < plan->n_kv_layers; i++)
        NIB_TRY(check_kv_layer(plan, i, err));
    for (uint32_t i = 0; i < plan->n_ops; i++)
        NIB_TRY(nib_plan_validate_op(plan, i, err));
    return NIB_OK;

fail:
    return status;
}

static bool is_same_format(const struct nib_format *a, const struct nib_format *b)
{
    return a->id == b->id && a->bits == b->bits && a->group == b->group && a->super == b->super &&
           a->scale == b->scale && a->zero == b->zero;
}

enum nib_status nib_plan_check_reader(const struct nib_plan *plan, uint32_t weight,
                                      const struct nib_row_reader *reader, struct nib_error *err)
{
    const struct nib_weight *planned = &plan->weights[weight];
    if (planned->rows == reader->rows && planned->cols == reader->cols &&
        (!nib_role_is_matrix(planned->role) || is_same_format(&planned->format, &reader->format)))
        return NIB_OK;
    return nib_fail(err, NIB_ERROR_ARGUMENT, "tensor '%s' is not the %s matrix of the plan",
                    reader->name, nib_role_name(planned->role));
}
