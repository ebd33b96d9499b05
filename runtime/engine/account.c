#include "runtime/base/status.h"
#include "runtime/engine/engine.h"
#include <stdio.h>
#include <stdlib.h>

/// Longer names are cut.
#define NAME_SIZE 96

static void name_op(const struct nib_plan *plan, const struct nib_op *op, char *out_name)
{
    const struct nib_segment *segment = &plan->segments[op->segment];
    char place[32] = "head";
    if (segment->kind == NIB_SEGMENT_EMBEDDING)
        snprintf(place, sizeof place, "embedding");
    else if (segment->kind == NIB_SEGMENT_LAYER)
        snprintf(place, sizeof place, "layer %u", segment->layer);

    const struct nib_weight *weight = NULL;
    if (op->kind == NIB_OP_MATMUL)
        weight = &plan->weights[op->matmul.weight];
    else if (op->kind == NIB_OP_EMBED)
        weight = &plan->weights[op->embed.weight];
    else if (op->kind == NIB_OP_NORM && op->norm.weight != NIB_NO_WEIGHT)
        weight = &plan->weights[op->norm.weight];
    if (weight)
        snprintf(out_name, NAME_SIZE, "%s %s %s %s", place, nib_role_name(weight->role),
                 nib_op_name(op->kind), weight->format.name);
    else
        snprintf(out_name, NAME_SIZE, "%s %s", place, nib_op_name(op->kind));
}

enum nib_status nib_accounts_create(const struct nib_plan *plan,
                                    struct nib_op_account **out_accounts, struct nib_error *err)
{
    *out_accounts = NULL;
    struct nib_op_account *accounts = calloc(plan->n_ops, sizeof *accounts);
    if (!accounts)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        accounts[i].name = calloc(1, NAME_SIZE);
        if (!accounts[i].name) {
            nib_accounts_destroy(&accounts, plan->n_ops);
            return nib_fail_memory(err);
        }
        name_op(plan, &plan->ops[i], accounts[i].name);
    }
    *out_accounts = accounts;
    return NIB_OK;
}

void nib_accounts_destroy(struct nib_op_account **accounts, uint32_t n_ops)
{
    for (uint32_t i = 0; *accounts && i < n_ops; i++)
        free((*accounts)[i].name);
    free(*accounts);
    *accounts = NULL;
}

void nib_accounts_add_step(struct nib_engine *engine, uint32_t n_logits)
{
    const struct nib_plan *plan = engine->plan;
    const struct nib_step_header *header = &engine->step.header;
    uint64_t length = 0;
    for (uint32_t i = 0; i < header->n_sequences; i++) {
        const struct nib_step_sequence *sequence = &engine->sequences[i];
        length += (uint64_t)sequence->n_rows * (sequence->kv_length - sequence->n_rows / 2);
    }
    uint32_t mean_length = (uint32_t)(length / header->n_used_rows);
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        bool head = plan->ops[i].segment == plan->n_segments - 1;
        uint32_t n_rows = head ? n_logits : header->n_used_rows;
        if (n_rows == 0)
            continue;
        struct nib_cost cost = nib_op_cost(plan, i, n_rows, mean_length);
        engine->accounts[i].bytes += cost.bytes;
        engine->accounts[i].macs += cost.macs;
    }
}

enum nib_status nib_engine_get_profile(const struct nib_engine *engine,
                                       struct nib_op_profile *out_profiles, uint32_t capacity,
                                       uint32_t *out_count, struct nib_error *err)
{
    *out_count = 0;
    if (!engine)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "engine is NULL");
    if (!engine->accounts)
        return nib_fail(err, NIB_ERROR_STATE, "the engine was made without profiling");
    uint32_t n_ops = engine->plan->n_ops;
    uint64_t *numbers = calloc((size_t)n_ops * 2, sizeof *numbers);
    if (!numbers)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < engine->n_parts && !engine->loader; i++)
        engine->parts[i].device->backend->profile(engine->parts[i].instance, numbers,
                                                  numbers + n_ops);
    for (uint32_t i = 0; i < n_ops && i < capacity; i++) {
        const struct nib_op_account *account = &engine->accounts[i];
        out_profiles[i] = (struct nib_op_profile){.name = account->name,
                                                  .calls = numbers[i],
                                                  .ns = numbers[n_ops + i],
                                                  .bytes = account->bytes,
                                                  .macs = account->macs};
    }
    free(numbers);
    *out_count = n_ops;
    return NIB_OK;
}
