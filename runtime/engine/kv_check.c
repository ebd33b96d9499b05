#include "runtime/base/status.h"
#include "runtime/engine/engine.h"
#include <stdlib.h>
#include <string.h>

/// Two pages; keys of each are looked at less the first of them, which bases of pages 0 and 1 are.
#define N_TOKENS 64u

/// Losses of keys and of values, each layer's as a part of its own size.
struct losses {
    double plain[2];
    double transformed[2];
};

/// Some of the vocabulary's tokens, the same for every model of its size.
static enum nib_status append_tokens(struct nib_session *session, uint32_t n, struct nib_error *err)
{
    int32_t ids[N_TOKENS];
    uint32_t state = 1, vocabulary = session->engine->plan->vocabulary;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u; // Numerical Recipes' generator
        ids[i] = (int32_t)((uint64_t)(state >> 8) * vocabulary >> 24);
    }
    return nib_session_append(session, ids, n, err);
}

/// Adds what the groups of one head's tokens lose; `base` is taken from each, or NULL.
static void add_head(enum nib_kv_format format, const float *x, uint32_t dim, const float *base,
                     struct nib_kv_loss *sum)
{
    for (uint32_t t = 0; t < NIB_KV_PAGE_TOKENS; t++, x += dim) {
        for (uint32_t d = 0; d + NIB_KV_GROUP <= dim; d += NIB_KV_GROUP) {
            float group[NIB_KV_GROUP];
            for (uint32_t i = 0; i < NIB_KV_GROUP; i++)
                group[i] = nib_kv_clean(x[d + i]) - (base ? nib_kv_clean(base[d + i]) : 0);
            struct nib_kv_loss loss = nib_kv_find_loss(format, group);
            sum->size += loss.size;
            sum->plain += loss.plain;
            sum->transformed += loss.transformed;
        }
    }
}

/// Adds what a layer loses of one page, in f32 and as kv_export gives it.
static void add_page(const struct nib_kv_layer *layer, const struct nib_engine_params *params,
                     const float *page, struct nib_kv_loss sums[2])
{
    const float *values = page + layer->key_page_size / sizeof(float);
    for (uint32_t h = 0; h < layer->n_heads; h++) {
        const float *keys = page + (size_t)h * NIB_KV_PAGE_TOKENS * layer->key_dim;
        if (nib_kv_has_codes(params->key_format))
            add_head(params->key_format, keys, layer->key_dim, keys, &sums[0]);
        if (nib_kv_has_codes(params->value_format))
            add_head(params->value_format,
                     values + (size_t)h * NIB_KV_PAGE_TOKENS * layer->value_dim, layer->value_dim,
                     NULL, &sums[1]);
    }
}

/// Adds what a layer loses of the session's whole pages.
static enum nib_status add_layer(const struct nib_session *session, uint32_t kv_layer,
                                 const struct nib_engine_params *params, struct losses *losses,
                                 struct nib_error *err)
{
    const struct nib_engine *engine = session->engine;
    const struct nib_kv_layer *layer = &engine->plan->kv_layers[kv_layer];
    const uint32_t *pages = nib_kv_pool_tables(engine->pool) +
                            nib_kv_pool_offset(engine->pool, session->table) +
                            layer->kv_class * nib_kv_pool_stride(engine->pool);
    struct nib_kv_loss sums[2] = {{.plain = 0}, {.plain = 0}};
    enum nib_status status = NIB_OK;
    float *bytes = calloc(nib_kv_page_bytes(layer), 1);
    if (!bytes)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < session->n_computed / NIB_KV_PAGE_TOKENS && status == NIB_OK; i++) {
        const struct nib_kv_page page = {.kv_layer = kv_layer, .page = pages[i]};
        const struct nib_part *part = &engine->parts[0];
        status = part->device->backend->kv_export(part->instance, page, bytes, err);
        if (status == NIB_OK)
            add_page(layer, params, bytes, sums);
    }
    for (uint32_t k = 0; k < 2; k++) {
        losses->plain[k] += sums[k].size > 0 ? sums[k].plain / sums[k].size : 0;
        losses->transformed[k] += sums[k].size > 0 ? sums[k].transformed / sums[k].size : 0;
    }
    free(bytes);
    return status;
}

/// Computes the tokens and sums up what their keys and values lose in all layers.
static enum nib_status find_losses(struct nib_engine *engine,
                                   const struct nib_engine_params *params, struct losses *losses,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_session *session = NULL;
    NIB_TRY(nib_session_create(engine, &session, err));
    NIB_TRY(append_tokens(session, engine->plan->context, err));
    NIB_TRY(nib_session_forward(session, engine->plan->context, NULL, NULL, err));
    for (uint32_t i = 0; i < engine->plan->n_kv_layers; i++)
        NIB_TRY(add_layer(session, i, params, losses, err));
fail:
    nib_session_destroy(&session);
    return status;
}

enum nib_status nib_kv_check_transform(struct nib_model *model,
                                       const struct nib_engine_params *params, bool *out_plain_keys,
                                       bool *out_plain_values, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_engine *engine = NULL;
    struct losses losses = {{0}, {0}};
    uint32_t context = nib_source_config(model->source)->context;
    // One step, so that no window has given pages back.
    const struct nib_engine_params own = {.struct_size = sizeof own,
                                          .context = context < N_TOKENS ? context : N_TOKENS,
                                          .max_rows = N_TOKENS,
                                          .key_format = NIB_KV_F32,
                                          .value_format = NIB_KV_F32,
                                          .precise = true};
    NIB_TRY(nib_engine_build(model, &own, &engine, err));
    NIB_TRY(find_losses(engine, params, &losses, err));
    *out_plain_keys = losses.plain[0] < losses.transformed[0];
    *out_plain_values = losses.plain[1] < losses.transformed[1];
    double n = engine->plan->n_kv_layers;
    nib_log_write(&params->log, NIB_LOG_INFO,
                  "codes lose %.3g of keys and %.3g of values, transformed %.3g and %.3g",
                  losses.plain[0] / n, losses.plain[1] / n, losses.transformed[0] / n,
                  losses.transformed[1] / n);
fail:
    nib_engine_destroy(&engine);
    return status;
}
