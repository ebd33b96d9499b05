#include "runtime/model/model.h"

#include "runtime/base/status.h"
#include "runtime/ops/step.h"

uint32_t nib_plan_pages(const struct nib_plan *plan, uint32_t kv_class, uint32_t n_sessions)
{
    const uint32_t page = NIB_KV_PAGE_TOKENS;
    uint32_t pages = plan->context / page + (plan->context % page != 0);
    uint32_t window = 0;
    if (nib_plan_keeps_f16(plan) && kv_class == plan->n_kv_classes - 1) {
        // Those that a step's first row reads, those that the rows behind its last one will, and
        // the first ones, which all of them read.
        uint64_t own = UINT64_C(2) * plan->recent_pages + plan->first_pages;
        uint64_t total = own * n_sessions + nib_plan_step_pages(plan);
        return total < UINT32_MAX ? (uint32_t)total : UINT32_MAX;
    }
    for (uint32_t i = 0; i < plan->n_kv_layers; i++) {
        if (plan->kv_layers[i].kv_class == kv_class && plan->kv_layers[i].window > window)
            window = plan->kv_layers[i].window;
    }
    if (window != 0) {
        // The pages that a step's first page sees before itself, and those that its rows touch from
        // there on, wherever in that page they begin.
        uint64_t most = ((uint64_t)window - 1 + page - 1) / page +
                        ((uint64_t)plan->max_rows + page - 2) / page + 1;
        pages = most < pages ? (uint32_t)most : pages;
    }
    uint64_t total = (uint64_t)pages * n_sessions;
    return total < UINT32_MAX ? (uint32_t)total : UINT32_MAX;
}

uint64_t nib_plan_layers_kv_bytes(const struct nib_plan *plan, struct nib_layer_range layers,
                                  uint32_t n_sessions, bool on_vulkan)
{
    uint64_t pages[NIB_KV_MAX_CLASSES] = {0};
    for (uint32_t i = 0; i < plan->n_kv_classes; i++)
        pages[i] = nib_plan_pages(plan, i, n_sessions);
    // The CPU's layers take turns with the pages of a step.
    uint64_t step_pages = on_vulkan ? 0 : nib_plan_step_pages(plan);
    uint64_t recent_pages =
        nib_plan_keeps_f16(plan) ? pages[plan->n_kv_classes - 1] - step_pages : 0;
    uint64_t bytes = 0, step_page = 0;
    for (uint32_t i = 0; i < layers.count; i++) {
        const struct nib_kv_layer *layer = &plan->kv_layers[layers.first + i];
        bytes += pages[layer->kv_class] * nib_kv_page_bytes(layer) +
                 recent_pages * nib_kv_recent_bytes(layer);
        step_page = step_page < nib_kv_recent_bytes(layer) ? nib_kv_recent_bytes(layer) : step_page;
    }
    return bytes + step_pages * step_page;
}

uint64_t nib_plan_kv_bytes(const struct nib_plan *plan, uint32_t n_sessions, bool on_vulkan)
{
    const struct nib_layer_range all = {.count = plan->n_kv_layers};
    return nib_plan_layers_kv_bytes(plan, all, n_sessions, on_vulkan);
}

/// Bytes of all weights: matrices in `format`, or in their own where it is NULL; vectors in fp32.
static uint64_t weights_bytes(const struct nib_plan *plan, const struct nib_format *format)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < plan->n_weights; i++) {
        const struct nib_weight *weight = &plan->weights[i];
        if (weight->shared_with != NIB_NO_WEIGHT)
            continue;
        if (!nib_role_is_matrix(weight->role))
            bytes += weight->cols * sizeof(float);
        else
            bytes += format ? nib_format_packed_bytes(format, weight->rows, weight->cols)
                            : weight->bytes;
    }
    return bytes;
}

/// Bytes of activations and of whatever else an instance on `backend` works with.
static enum nib_status predict_scratch(const struct nib_plan *plan, uint32_t threads,
                                       const struct nib_backend *backend, uint64_t *out_bytes,
                                       struct nib_error *err)
{
    *out_bytes = nib_plan_scratch_bytes(plan, NIB_STEP_MAX_LOGITS);
    if (!backend || !backend->predict_scratch)
        return NIB_OK;
    enum nib_status status = nib_plan_validate(plan, err);
    return status == NIB_OK ? backend->predict_scratch(plan, threads, out_bytes, err) : status;
}

enum nib_status nib_plan_predict_memory(const struct nib_source *source,
                                        const struct nib_memory_params *params,
                                        const struct nib_backend *backend,
                                        struct nib_memory *out_memory, struct nib_error *err)
{
    enum nib_status status;
    struct nib_plan *plan = NULL;
    const struct nib_format *format = NULL;
    const uint32_t n_sessions = params->max_sessions ? params->max_sessions : 1;
    *out_memory = (struct nib_memory){0};
    if (params->weight_format) {
        format = nib_format_find(params->weight_format);
        if (!format)
            return nib_fail(err, NIB_ERROR_NOT_FOUND, "there is no weight format '%s'",
                            params->weight_format);
    }
    const struct nib_plan_params plan_params = {
        .context = params->context,
        .max_rows = params->max_rows,
        .key_format = params->key_format,
        .value_format = params->value_format,
        .recent_tokens = params->kv_recent,
        .first_tokens = params->kv_first,
    };
    NIB_TRY(nib_plan_create(source, &plan_params, &plan, err));
    out_memory->weights_bytes = weights_bytes(plan, format);
    out_memory->kv_bytes = nib_plan_kv_bytes(plan, n_sessions, params->on_vulkan);
    NIB_TRY(predict_scratch(plan, params->threads, backend, &out_memory->scratch_bytes, err));
    // On the host the lines of logits, and the sampler's two words for each candidate.
    out_memory->scratch_bytes +=
        (uint64_t)plan->vocabulary * (NIB_STEP_MAX_LOGITS + 2) * sizeof(float);
    out_memory->total_bytes =
        out_memory->weights_bytes + out_memory->kv_bytes + out_memory->scratch_bytes;
fail:
    if (status != NIB_OK)
        *out_memory = (struct nib_memory){0};
    nib_plan_destroy(&plan);
    return status;
}
