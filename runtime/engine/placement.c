#include "runtime/engine/placement.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/division.h"
#include "runtime/engine/registry.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_cpu(const struct nib_device *device)
{
    struct nib_device_info info = {0};
    device->backend->device_info(device->impl, &info);
    return info.backend == NIB_BACKEND_CPU;
}

/// Gives the part the CPU device that takes over: the one the host named, one that is at work
/// already, or one of the engine's own.
static enum nib_status take_cpu(struct nib_engine *engine, struct nib_part *part,
                                struct nib_error *err)
{
    part->device = engine->fallback_device;
    for (uint32_t i = 0; i < engine->n_parts && !part->device; i++) {
        if (engine->parts[i].device && is_cpu(engine->parts[i].device))
            part->device = engine->parts[i].device;
    }
    if (part->device) {
        nib_device_retain(part->device);
        return NIB_OK;
    }
    return nib_registry_open(nib_device_params(.log = engine->log), &part->device, err);
}

/// Adds a copy of a line to a list of notes. Where memory has run out, or the list is full, it is
/// left out.
static void keep_note(char **notes, uint32_t *count, const char *line)
{
    size_t size = strlen(line) + 1;
    char *copy = *count < NIB_ENGINE_MAX_NOTES ? malloc(size) : NULL;
    if (copy) {
        memcpy(copy, line, size);
        notes[(*count)++] = copy;
    }
}

static enum nib_status check_parts(const struct nib_engine *engine, struct nib_error *err)
{
    uint32_t next = 0, n_segments = engine->plan->n_segments;
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        const struct nib_part *part = &engine->parts[i];
        if (part->first_segment != next || part->n_segments > n_segments - next)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "placement %u must begin at segment %u and end by segment %u", i, next,
                            n_segments);
        next += part->n_segments;
    }
    if (next != n_segments)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "the placements end at segment %u of %u", next,
                        n_segments);
    return NIB_OK;
}

enum nib_status nib_placements_open(struct nib_engine *engine,
                                    const struct nib_engine_params *params, struct nib_error *err)
{
    uint32_t n_segments = engine->plan->n_segments;
    const struct nib_placement whole = {.n_segments = n_segments};
    const struct nib_placement *placements = params->n_placements ? params->placements : &whole;
    uint32_t count = params->n_placements ? params->n_placements : 1;
    enum nib_status status = NIB_OK;
    if (params->fallback_reason)
        keep_note(engine->notes->kept_fallbacks, &engine->notes->n_kept_fallbacks,
                  params->fallback_reason);
    if (params->fallback_device) {
        if (!is_cpu(params->fallback_device))
            return nib_fail(err, NIB_ERROR_ARGUMENT, "fallback_device is not a CPU device");
        engine->fallback_device = params->fallback_device;
        nib_device_retain(engine->fallback_device);
    }

    // Each may be divided between its device and the CPU.
    engine->parts = calloc(2 * (size_t)count, sizeof *engine->parts);
    if (!engine->parts)
        return nib_fail_memory(err);
    for (; engine->n_parts < count; engine->n_parts++) {
        struct nib_part *part = &engine->parts[engine->n_parts];
        part->first_segment = placements[engine->n_parts].first_segment;
        part->n_segments = placements[engine->n_parts].n_segments;
        part->device = placements[engine->n_parts].device;
        if (part->device) {
            nib_device_retain(part->device);
            continue;
        }
        status = nib_registry_open(nib_device_params(.log = engine->log), &part->device, err);
        if (status != NIB_OK)
            return status;
    }
    status = nib_placements_divide(engine, params->shares, err);
    return status == NIB_OK ? check_parts(engine, err) : status;
}

static enum nib_status check_ops(const struct nib_engine *engine, const struct nib_part *part,
                                 struct nib_error *err)
{
    for (uint32_t op = 0; op < engine->plan->n_ops; op++) {
        if (engine->plan->ops[op].segment - part->first_segment >= part->n_segments)
            continue;
        enum nib_status status =
            part->device->backend->supports(part->device->impl, engine->plan, op, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

/// Bytes of the KV pool that are the part's, on the CPU.
static uint64_t kv_bytes(const struct nib_engine *engine, const struct nib_part *part)
{
    const struct nib_plan *plan = engine->plan;
    uint32_t first = 0, n = 0;
    for (uint32_t s = part->first_segment; s < part->first_segment + part->n_segments; s++) {
        if (plan->segments[s].kind == NIB_SEGMENT_LAYER && n++ == 0)
            first = plan->segments[s].layer;
    }
    return nib_plan_layers_kv_bytes(plan, (struct nib_layer_range){first, n}, engine->max_sessions,
                                    false);
}

uint64_t nib_host_kv_bytes(const struct nib_engine *engine)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        const struct nib_part *part = &engine->parts[i];
        bytes += part->instance && is_cpu(part->device) ? kv_bytes(engine, part) : 0;
    }
    return bytes;
}

/// A pool that cannot fit the host's memory, beside `host_bytes` of it, is refused here, since the
/// system hands out pages only as they are touched. A GPU's backend knows what fits there.
static enum nib_status check_memory(const struct nib_engine *engine, uint64_t host_bytes,
                                    const struct nib_part *part, struct nib_error *err)
{
    if (!is_cpu(part->device))
        return NIB_OK;
    uint64_t kv = host_bytes + kv_bytes(engine, part), memory = nib_memory_size();
    if (memory != 0 && kv > memory)
        return nib_fail(err, NIB_ERROR_MEMORY,
                        "the KV cache for %u tokens × %u sessions takes %llu MiB on the CPU, but "
                        "the machine has %llu MiB; lower --ctx",
                        engine->plan->context, engine->max_sessions, (unsigned long long)(kv >> 20),
                        (unsigned long long)(memory >> 20));
    return NIB_OK;
}

/// Makes the part's instance where the host's parts have `host_bytes` of the KV pool.
static enum nib_status create_beside(const struct nib_engine *engine, uint64_t host_bytes,
                                     struct nib_part *part, struct nib_error *err)
{
    struct nib_instance_params instance = {
        .plan = engine->plan,
        .device = part->device->impl,
        .log = engine->log,
        .first_segment = part->first_segment,
        .n_segments = part->n_segments,
        .max_sequences = engine->max_sessions,
        .max_logits = NIB_STEP_MAX_LOGITS,
        .precise = engine->precise,
        .fallback = engine->fallback,
        .profile = engine->profile,
    };
    for (uint32_t c = 0; c < engine->plan->n_kv_classes; c++)
        instance.n_pages[c] = nib_plan_pages(engine->plan, c, engine->max_sessions);
    enum nib_status status = check_memory(engine, host_bytes, part, err);
    if (status == NIB_OK)
        status = check_ops(engine, part, err);
    if (status == NIB_OK)
        status = part->device->backend->create(&instance, &part->instance, err);
    return status;
}

static enum nib_status create_part(const struct nib_engine *engine, struct nib_part *part,
                                   struct nib_error *err)
{
    return create_beside(engine, nib_host_kv_bytes(engine), part, err);
}

static void destroy_instance(struct nib_part *part)
{
    if (part->instance)
        part->device->backend->destroy(part->instance);
    part->instance = NULL;
}

static void close_part(struct nib_part *part)
{
    destroy_instance(part);
    if (part->device)
        nib_device_release(part->device);
}

/// Makes an instance of as many of the part's segments as its device can run, and returns their
/// number in `*out_fits`: 0 where there is no layer among them.
static enum nib_status create_largest(const struct nib_engine *engine, struct nib_part *part,
                                      uint32_t *out_fits, struct nib_error *err)
{
    uint32_t fits = 0, fails = part->n_segments, least = part->first_segment == 0 ? 1 : 0;
    while (fails - fits > 1) {
        part->n_segments = fits + (fails - fits) / 2;
        enum nib_status status = create_part(engine, part, err);
        destroy_instance(part);
        if (status == NIB_OK)
            fits = part->n_segments;
        else if (status == NIB_ERROR_DEVICE_MEMORY || status == NIB_ERROR_UNSUPPORTED)
            fails = part->n_segments;
        else
            return status;
    }
    *out_fits = fits > least ? fits : 0;
    part->n_segments = fits;
    return fits > least ? create_part(engine, part, err) : NIB_OK;
}

/// Adds a line to those that tell why work went to the CPU.
static void note_fallback(struct nib_engine *engine, const char *reason)
{
    struct nib_notes *notes = engine->notes;
    nib_log_write(&engine->log, NIB_LOG_WARNING, "the CPU goes on: %s", reason);
    keep_note(notes->kept_fallbacks, &notes->n_kept_fallbacks, reason);
}

/// Gives the segments of part `index` that it has not got, up to `end`, to the next part, and to a
/// new one on the CPU where there is none.
static enum nib_status move_rest(struct nib_engine *engine, uint32_t index, uint32_t end,
                                 struct nib_error *err)
{
    struct nib_part *part = &engine->parts[index], *next = part + 1;
    uint32_t first = part->first_segment + part->n_segments;
    if (index + 1 == engine->n_parts) {
        *next = (struct nib_part){.first_segment = end};
        enum nib_status status = take_cpu(engine, next, err);
        if (status != NIB_OK)
            return status;
        engine->n_parts++;
    }
    next->n_segments += next->first_segment - first;
    next->first_segment = first;
    return NIB_OK;
}

/// Puts a part's segments on the CPU.
static enum nib_status move_all(struct nib_engine *engine, struct nib_part *part,
                                uint32_t n_segments, struct nib_error *err)
{
    nib_device_release(part->device);
    part->device = NULL;
    part->n_segments = n_segments;
    enum nib_status status = take_cpu(engine, part, err);
    return status == NIB_OK ? create_part(engine, part, err) : status;
}

/// Makes the instance of part `index`, with fewer segments where that is what it takes.
static enum nib_status place(struct nib_engine *engine, uint32_t index, bool fit,
                             struct nib_error *err)
{
    struct nib_part *part = &engine->parts[index];
    uint32_t wanted = part->n_segments, fits = 0;
    struct nib_error error = {0}, other;
    enum nib_status status = create_part(engine, part, &error);
    bool may_shrink =
        status == NIB_ERROR_DEVICE_MEMORY || (status == NIB_ERROR_UNSUPPORTED && engine->fallback);
    bool may_move = engine->fallback && (may_shrink || nib_is_loss(status));
    if (status != NIB_OK && !is_cpu(part->device)) {
        if (may_shrink && (engine->fallback || fit) &&
            create_largest(engine, part, &fits, &other) != NIB_OK)
            fits = 0;
        if (fits > 0 || may_move) {
            note_fallback(engine, error.message);
            if (fits > 0)
                status = move_rest(engine, index, part->first_segment + wanted, &error);
            else
                status = move_all(engine, part, wanted, &error);
        }
    }
    if (status != NIB_OK && err)
        *err = error;
    return status;
}

enum nib_status nib_placements_create(struct nib_engine *engine,
                                      const struct nib_engine_params *params, struct nib_error *err)
{
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        enum nib_status status = place(engine, i, params->fit, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

void nib_placements_close(struct nib_engine *engine)
{
    for (uint32_t i = 0; engine->parts && i < engine->n_parts; i++)
        close_part(&engine->parts[i]);
    if (engine->fallback_device)
        nib_device_release(engine->fallback_device);
    free(engine->parts);
    engine->parts = NULL;
    engine->n_parts = 0;
}

bool nib_is_loss(enum nib_status status)
{
    return status == NIB_ERROR_DEVICE_LOST || status == NIB_ERROR_DEVICE_MEMORY ||
           status == NIB_ERROR_MEMORY;
}

enum nib_status nib_part_result(struct nib_engine *engine, const struct nib_part *part,
                                enum nib_status status)
{
    // What a driver cannot make ready, and what it does not say the reason of, is as good as lost.
    if (status == NIB_ERROR_UNSUPPORTED || nib_is_loss(status))
        engine->is_lost = !is_cpu(part->device);
    return status;
}

bool nib_engine_may_fall_back(const struct nib_engine *engine, enum nib_status status)
{
    return engine->fallback && engine->is_lost &&
           (status == NIB_ERROR_UNSUPPORTED || nib_is_loss(status));
}

/// Keeps what the instance counted, which is about to go.
static void keep_counters(struct nib_engine *engine, const struct nib_part *part)
{
    struct nib_instance_counters counters = {0};
    struct nib_notes *notes = engine->notes;
    part->device->backend->counters(part->instance, &counters);
    engine->past.dispatches += counters.dispatches;
    engine->past.host_ns += counters.host_ns;
    for (uint32_t i = 0; i < counters.n_replaced; i++)
        keep_note(notes->kept_replaced, &notes->n_kept_replaced, counters.replaced[i]);
}

/// Makes parts on the CPU for those that are not, in `parts`; the others stay zeroed.
static enum nib_status create_replacements(struct nib_engine *engine, struct nib_part *parts,
                                           struct nib_error *err)
{
    uint64_t host_bytes = nib_host_kv_bytes(engine);
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        if (is_cpu(engine->parts[i].device))
            continue;
        parts[i].first_segment = engine->parts[i].first_segment;
        parts[i].n_segments = engine->parts[i].n_segments;
        enum nib_status status = take_cpu(engine, &parts[i], err);
        if (status == NIB_OK)
            status = create_beside(engine, host_bytes, &parts[i], err);
        if (status != NIB_OK)
            return status;
        host_bytes += kv_bytes(engine, &parts[i]);
    }
    return NIB_OK;
}

static void forget_pages(struct nib_engine *engine, struct nib_kv_pool **pool)
{
    nib_kv_pool_destroy(&engine->pool);
    engine->pool = *pool;
    *pool = NULL;
    engine->step.page_tables = nib_kv_pool_tables(engine->pool);
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        if (engine->sessions[i])
            engine->sessions[i]->n_computed = 0;
    }
}

enum nib_status nib_engine_fall_back(struct nib_engine *engine, const char *reason,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_kv_pool *pool = NULL;
    struct nib_part *parts = calloc(engine->n_parts, sizeof *parts);
    if (!parts)
        return nib_fail_memory(err);
    NIB_TRY(create_replacements(engine, parts, err));
    NIB_TRY(nib_engine_make_pool(engine, &pool, err));
    note_fallback(engine, reason);
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        if (!parts[i].device)
            continue;
        struct nib_part lost = engine->parts[i];
        keep_counters(engine, &lost);
        engine->parts[i] = parts[i];
        parts[i] = lost;
    }
    forget_pages(engine, &pool);
    nib_load_restart(engine);
    engine->is_lost = false;

fail:
    for (uint32_t i = 0; i < engine->n_parts; i++)
        close_part(&parts[i]);
    free(parts);
    nib_kv_pool_destroy(&pool);
    return status;
}
