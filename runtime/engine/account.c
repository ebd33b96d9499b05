#include "runtime/base/status.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/registry.h"
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

/// Returns the least nanoseconds that the cost of an op takes on the device that runs it, as that
/// was measured: a roofline (Williams et al. 2009).
static double find_limit(const struct nib_engine *engine, const struct nib_op *op,
                         const struct nib_cost *cost)
{
    uint32_t i = 0;
    while (i + 1 < engine->n_parts && op->segment >= engine->parts[i + 1].first_segment)
        i++;
    const struct nib_device_limits limits = nib_device_known_limits(engine->parts[i].device);
    bool is_int8 = op->kind == NIB_OP_MATMUL && op->matmul.activation != NIB_ACTIVATION_F32;
    double macs = is_int8 ? limits.int8_macs : limits.f32_macs;
    double read = limits.read_bytes > 0 ? (double)cost->bytes / limits.read_bytes : 0;
    double compute = macs > 0 ? (double)cost->macs / macs : 0;
    return 1e9 * (read > compute ? read : compute);
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
        engine->accounts[i].limit_ns += find_limit(engine, &plan->ops[i], &cost);
    }
}

/// Adds up what op `op` and those that are counted as it had to do.
static struct nib_op_profile read_profile(const struct nib_engine *engine,
                                          const struct nib_op_times *times, uint32_t op)
{
    struct nib_op_profile profile = {
        .name = engine->accounts[op].name, .calls = times->calls[op], .ns = times->ns[op]};
    double limit_ns = 0;
    for (uint32_t i = 0; i < engine->plan->n_ops; i++) {
        const struct nib_op_account *account = &engine->accounts[i];
        if (times->counted_as[i] != op)
            continue;
        profile.bytes += account->bytes;
        profile.macs += account->macs;
        limit_ns += account->limit_ns;
    }
    profile.limit_ns = (uint64_t)limit_ns;
    return profile;
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
    struct nib_op_times times = {.calls = calloc(n_ops, sizeof *times.calls),
                                 .ns = calloc(n_ops, sizeof *times.ns),
                                 .counted_as = calloc(n_ops, sizeof *times.counted_as)};
    bool is_complete = times.calls && times.ns && times.counted_as;
    for (uint32_t i = 0; is_complete && i < n_ops; i++)
        times.counted_as[i] = i;
    for (uint32_t i = 0; is_complete && i < engine->n_parts && !engine->loader; i++)
        engine->parts[i].device->backend->profile(engine->parts[i].instance, &times);
    for (uint32_t i = 0; is_complete && i < n_ops && i < capacity; i++)
        out_profiles[i] = read_profile(engine, &times, i);
    free(times.calls);
    free(times.ns);
    free(times.counted_as);
    if (!is_complete)
        return nib_fail_memory(err);
    *out_count = n_ops;
    return NIB_OK;
}
