#include "runtime/engine/engine.h"
#include "runtime/engine/registry.h"

#include "runtime/base/status.h"
#include "runtime/engine/placement.h"
#include <stdlib.h>
#include <string.h>

/// Says which planes of codes are not transformed. Errors: argument (there are none), those of the
/// check.
static enum nib_status choose_transform(const struct nib_engine *engine,
                                        const struct nib_engine_params *params,
                                        struct nib_plan_params *plan_params, struct nib_error *err)
{
    if (params->kv_transform == NIB_KV_TRANSFORM_DEFAULT)
        return NIB_OK;
    if (!nib_kv_has_codes(params->key_format) && !nib_kv_has_codes(params->value_format))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "keys and values are transformed in i8 and i4 alone; choose one of these "
                        "for keys or values");
    plan_params->plain_keys = params->kv_transform == NIB_KV_TRANSFORM_OFF;
    plan_params->plain_values = plan_params->plain_keys;
    if (params->kv_transform != NIB_KV_TRANSFORM_AUTO)
        return NIB_OK;
    return nib_kv_check_transform(engine->model, params, &plan_params->plain_keys,
                                  &plan_params->plain_values, err);
}

static enum nib_status make_plan(struct nib_engine *engine, const struct nib_engine_params *params,
                                 struct nib_error *err)
{
    if (params->max_sessions > NIB_ENGINE_MAX_SESSIONS)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "max_sessions is %u, but at most %d are possible",
                        params->max_sessions, NIB_ENGINE_MAX_SESSIONS);
    engine->max_sessions = params->max_sessions ? params->max_sessions : 1;
    enum nib_status status = NIB_OK;
    struct nib_plan_params plan_params = {
        .context = params->context,
        .max_rows = params->max_rows,
        .key_format = params->key_format,
        .value_format = params->value_format,
        .recent_tokens = params->kv_recent,
        .first_tokens = params->kv_first,
        .precise = params->precise,
    };
    NIB_TRY(choose_transform(engine, params, &plan_params, err));
    NIB_TRY(nib_plan_create(engine->model->source, &plan_params, &engine->plan, err));
    NIB_TRY(nib_plan_validate(engine->plan, err));
fail:
    return status;
}

/// Copies a page in every placement.
static enum nib_status copy_page(void *user, uint32_t kv_class, uint32_t source, uint32_t target,
                                 struct nib_error *err)
{
    struct nib_engine *engine = user;
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < engine->n_parts && status == NIB_OK; i++) {
        const struct nib_part *part = &engine->parts[i];
        status = part->device->backend->kv_copy(part->instance, kv_class, source, target, err);
        nib_part_result(engine, part, status);
    }
    return status;
}

/// Returns whether a row's results depend on the rows of its sequence that share its step: LLM.int8
/// looks for outliers in all of them.
static bool depends_on_chunks(const struct nib_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].kind == NIB_OP_MATMUL &&
            plan->ops[i].matmul.activation == NIB_ACTIVATION_LLM_INT8)
            return true;
    }
    return false;
}

enum nib_status nib_engine_make_pool(struct nib_engine *engine, struct nib_kv_pool **out_pool,
                                     struct nib_error *err)
{
    const struct nib_plan *plan = engine->plan;
    engine->is_chunked = depends_on_chunks(plan);
    struct nib_kv_pool_params params = {
        .n_classes = plan->n_kv_classes,
        .n_tables = engine->max_sessions,
        .context = plan->context,
        .share = !engine->is_chunked,
        .copy = copy_page,
        .user = engine,
    };
    bool everything[NIB_KV_MAX_CLASSES] = {false};
    struct nib_kv_reach *reach = params.reach;
    for (uint32_t c = 0; c < plan->n_kv_classes; c++)
        params.n_pages[c] = nib_plan_pages(plan, c, engine->max_sessions);
    for (uint32_t i = 0; i < plan->n_kv_layers; i++) {
        const struct nib_kv_layer *layer = &plan->kv_layers[i];
        everything[layer->kv_class] |= layer->window == 0;
        if (reach[layer->kv_class].window < layer->window)
            reach[layer->kv_class].window = layer->window;
    }
    for (uint32_t c = 0; c < plan->n_kv_classes; c++)
        reach[c].window = everything[c] ? 0 : reach[c].window;
    if (nib_plan_keeps_f16(plan)) {
        reach[plan->n_kv_classes - 1].recent = plan->recent_pages;
        reach[plan->n_kv_classes - 1].first = plan->first_pages;
        params.n_step_pages = nib_plan_step_pages(plan);
        params.n_pages[plan->n_kv_classes - 1] -= params.n_step_pages;
    }
    memcpy(engine->reach, reach, sizeof engine->reach);
    return nib_kv_pool_create(&params, out_pool, err);
}

static enum nib_status make_arrays(struct nib_engine *engine, struct nib_error *err)
{
    const struct nib_plan *plan = engine->plan;
    size_t n = engine->max_sessions;
    engine->sessions = calloc(n, sizeof *engine->sessions);
    engine->rows = calloc(plan->max_rows, sizeof *engine->rows);
    engine->sequences = calloc(n, sizeof *engine->sequences);
    engine->scheduled = calloc(n, sizeof *engine->scheduled);
    engine->pending = calloc(n, sizeof *engine->pending);
    engine->shares = calloc(n, sizeof *engine->shares);
    engine->logits = calloc((size_t)NIB_STEP_MAX_LOGITS * plan->vocabulary, sizeof(float));
    bool complete = engine->sessions && engine->rows && engine->sequences && engine->scheduled &&
                    engine->pending && engine->shares && engine->logits;
    for (int i = 0; i < 2 && engine->n_parts > 1; i++) {
        engine->hidden[i] = calloc((size_t)plan->max_rows * plan->hidden_size, sizeof(float));
        complete = complete && engine->hidden[i];
    }
    if (!complete)
        return nib_fail_memory(err);
    engine->step = (struct nib_step){
        .rows = engine->rows,
        .sequences = engine->sequences,
        .page_tables = nib_kv_pool_tables(engine->pool),
        .logits = engine->logits,
    };
    enum nib_status status = nib_sampler_create(plan->vocabulary, &engine->sampler, err);
    if (status == NIB_OK && engine->profile)
        status = nib_accounts_create(plan, &engine->accounts, err);
    return status;
}

enum nib_status nib_engine_build(struct nib_model *model, const struct nib_engine_params *params,
                                 struct nib_engine **out_engine, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_engine = NULL;
    struct nib_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return nib_fail_memory(err);
    engine->model = model;
    nib_model_retain(model);
    engine->log = params->log;
    engine->precise = params->precise;
    engine->fallback = params->fallback;
    engine->profile = params->profile;
    engine->notes = calloc(1, sizeof *engine->notes);
    if (!engine->notes)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(make_plan(engine, params, err));
    NIB_TRY(nib_placements_open(engine, params, err));
    NIB_TRY(nib_placements_create(engine, params, err));
    NIB_TRY(nib_engine_make_pool(engine, &engine->pool, err));
    NIB_TRY(make_arrays(engine, err));
    engine->load.meter = (struct nib_meter){.progress = params->progress, .what = "load weights"};
    engine->load.check_meter =
        (struct nib_meter){.progress = params->check_progress, .what = "check kernels"};
    nib_load_restart(engine);
    *out_engine = engine;
    return NIB_OK;

fail:
    nib_engine_destroy(&engine);
    return status;
}

static void notes_free(struct nib_notes **notes)
{
    for (uint32_t i = 0; *notes && i < (*notes)->n_kept_replaced; i++)
        free((*notes)->kept_replaced[i]);
    for (uint32_t i = 0; *notes && i < (*notes)->n_kept_fallbacks; i++)
        free((*notes)->kept_fallbacks[i]);
    free(*notes);
    *notes = NULL;
}

void nib_engine_destroy(struct nib_engine **engine)
{
    if (!engine || !*engine)
        return;
    struct nib_engine *e = *engine;
    nib_load_stop(e);
    if (e->parts && e->pool)
        nib_recording_drop(e);
    nib_placements_close(e);
    nib_accounts_destroy(&e->accounts, e->plan ? e->plan->n_ops : 0);
    nib_sampler_destroy(&e->sampler);
    nib_kv_pool_destroy(&e->pool);
    free(e->sessions);
    free(e->rows);
    free(e->sequences);
    free(e->scheduled);
    free(e->pending);
    free(e->shares);
    free(e->logits);
    notes_free(&e->notes);
    free(e->hidden[0]);
    free(e->hidden[1]);
    nib_plan_destroy(&e->plan);
    nib_model_release(e->model);
    free(e);
    *engine = NULL;
}

/// Memory of the host that the engine itself takes for a step.
static uint64_t own_scratch(const struct nib_engine *engine)
{
    const struct nib_plan *plan = engine->plan;
    uint64_t bytes = (uint64_t)NIB_STEP_MAX_LOGITS * plan->vocabulary * sizeof(float) +
                     nib_sampler_size(plan->vocabulary);
    if (engine->n_parts > 1)
        bytes += 2 * (uint64_t)plan->max_rows * plan->hidden_size * sizeof(float);
    return bytes;
}

static void append_notes(const char **notes, uint32_t *count, const char *const *more, uint32_t n)
{
    for (uint32_t i = 0; i < n && *count < NIB_ENGINE_MAX_NOTES; i++)
        notes[(*count)++] = more[i];
}

/// Begins the lists with what the engine keeps itself.
static void add_kept(struct nib_notes *notes, struct nib_execution *execution)
{
    append_notes(notes->replaced, &execution->n_replaced, (const char *const *)notes->kept_replaced,
                 notes->n_kept_replaced);
    append_notes(notes->fallbacks, &execution->n_fallbacks,
                 (const char *const *)notes->kept_fallbacks, notes->n_kept_fallbacks);
}

static uint32_t count_layers(const struct nib_engine *engine, const struct nib_part *part)
{
    uint32_t count = 0;
    for (uint32_t s = part->first_segment; s < part->first_segment + part->n_segments; s++)
        count += engine->plan->segments[s].kind == NIB_SEGMENT_LAYER;
    return count;
}

/// Adds what the placement is.
static void add_placement(const struct nib_engine *engine, const struct nib_part *part,
                          struct nib_engine_info *info)
{
    struct nib_device_info device = {0};
    part->device->backend->device_info(part->device->impl, &device);
    uint32_t *layers = device.backend == NIB_BACKEND_VULKAN ? &info->execution.gpu_layers
                                                            : &info->execution.cpu_layers;
    *layers += count_layers(engine, part);
    uint32_t first = info->n_segments > 1 ? 1 : 0;
    if (first - part->first_segment < part->n_segments)
        info->device = device;
}

/// Adds what the placement holds and has done.
static void add_figures(const struct nib_engine *engine, const struct nib_part *part,
                        struct nib_engine_info *info)
{
    const struct nib_backend *backend = part->device->backend;
    struct nib_instance_memory memory = {0};
    backend->memory(part->instance, &memory);
    info->memory.weights_bytes += memory.weights;
    info->memory.kv_bytes += memory.kv;
    info->memory.scratch_bytes += memory.scratch;
    info->device_bytes += memory.device;

    struct nib_instance_counters counters = {0};
    backend->counters(part->instance, &counters);
    info->execution.dispatches += counters.dispatches;
    info->host_ns += counters.host_ns;
    append_notes(engine->notes->replaced, &info->execution.n_replaced, counters.replaced,
                 counters.n_replaced);
    append_notes(engine->notes->fallbacks, &info->execution.n_fallbacks, counters.fallbacks,
                 counters.n_fallbacks);
}

/// Adds up what the pages of the KV pool are used for.
static void add_pool(const struct nib_engine *engine, struct nib_engine_info *info)
{
    for (uint32_t i = 0; i < engine->plan->n_kv_layers; i++) {
        const struct nib_kv_layer *layer = &engine->plan->kv_layers[i];
        struct nib_kv_pool_usage usage = nib_kv_pool_get_usage(engine->pool, layer->kv_class);
        uint64_t page_bytes = nib_kv_page_bytes(layer);
        info->kv_used_bytes += (usage.n_pages - usage.n_free - usage.n_idle) * page_bytes;
        info->kv_idle_bytes += usage.n_idle * page_bytes;
        if (!nib_plan_keeps_f16(engine->plan))
            continue;
        usage = nib_kv_pool_get_usage(engine->pool, engine->plan->n_kv_classes - 1);
        page_bytes = nib_kv_recent_bytes(layer);
        info->kv_used_bytes += (usage.n_pages - usage.n_free - usage.n_idle) * page_bytes;
        info->kv_idle_bytes += usage.n_idle * page_bytes;
    }
}

void nib_engine_get_info(const struct nib_engine *engine, struct nib_engine_info *out_info)
{
    *out_info = (struct nib_engine_info){
        .context = engine->plan->context,
        .max_sessions = engine->max_sessions,
        .max_rows = engine->plan->max_rows,
        .vocabulary = engine->plan->vocabulary,
        .n_segments = engine->plan->n_segments,
        .n_placements = engine->n_parts,
        .kv_recent = engine->plan->recent_pages * NIB_KV_PAGE_TOKENS,
        .kv_first = engine->plan->first_pages * NIB_KV_PAGE_TOKENS,
        .kv_keys_transformed =
            nib_kv_transforms_keys(engine->plan->kv_layers, engine->plan->key_format),
        .kv_values_transformed =
            nib_kv_transforms_values(engine->plan->kv_layers, engine->plan->value_format),
        .load_ns = engine->load.ns,
        .steps = engine->n_steps,
        .host_ns = engine->host_ns + engine->past.host_ns,
        .execution.dispatches = engine->past.dispatches,
    };
    add_kept(engine->notes, &out_info->execution);
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        add_placement(engine, &engine->parts[i], out_info);
        if (!engine->loader)
            add_figures(engine, &engine->parts[i], out_info);
    }
    add_pool(engine, out_info);
    struct nib_memory *memory = &out_info->memory;
    memory->scratch_bytes += own_scratch(engine);
    memory->total_bytes = memory->weights_bytes + memory->kv_bytes + memory->scratch_bytes;
    out_info->execution.replaced = engine->notes->replaced;
    out_info->execution.fallbacks = engine->notes->fallbacks;
}

enum nib_status nib_engine_get_placement(const struct nib_engine *engine, uint32_t index,
                                         struct nib_engine_placement *out_placement,
                                         struct nib_error *err)
{
    *out_placement = (struct nib_engine_placement){0};
    if (index >= engine->n_parts)
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "there is no placement %u, there are %u", index,
                        engine->n_parts);
    const struct nib_part *part = &engine->parts[index];
    *out_placement = (struct nib_engine_placement){.first_segment = part->first_segment,
                                                   .n_segments = part->n_segments,
                                                   .layers = count_layers(engine, part)};
    out_placement->limits = nib_device_known_limits(part->device);
    part->device->backend->device_info(part->device->impl, &out_placement->device);
    return NIB_OK;
}
