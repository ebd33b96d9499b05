#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/cpu/instance.h"

static uint64_t plane_size(const struct nib_cpu_instance *instance,
                           const struct nib_kv_layer *layer, uint32_t page_size)
{
    return (uint64_t)instance->n_pages[layer->kv_class] * page_size;
}

static enum nib_status create_planes(struct nib_cpu_instance *instance, uint32_t kv_layer,
                                     struct nib_error *err)
{
    struct nib_cpu_cache *cache = &instance->caches[kv_layer];
    const struct nib_kv_layer *layer = cache->layer;
    uint64_t key_size = plane_size(instance, layer, layer->key_page_size);
    uint64_t value_size = plane_size(instance, layer, layer->value_page_size);
    if (cache->keys)
        return NIB_OK;
    if (key_size == 0 || value_size == 0) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "the cache has no pages of class %u",
                        layer->kv_class);
    }
    if (key_size <= SIZE_MAX && value_size <= SIZE_MAX) {
        cache->keys = nib_pages_alloc((size_t)key_size);
        cache->values = nib_pages_alloc((size_t)value_size);
    }
    if (!cache->keys || !cache->values) {
        return nib_fail(err, NIB_ERROR_MEMORY,
                        "no memory for a KV cache of %u pages; try a shorter --ctx or --kv f16",
                        instance->n_pages[layer->kv_class]);
    }
    return NIB_OK;
}

enum nib_status nib_cpu_caches_create(struct nib_cpu_instance *instance, struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    for (uint32_t i = 0; i < plan->n_kv_layers; i++) {
        instance->caches[i] = (struct nib_cpu_cache){
            .layer = &plan->kv_layers[i],
            .key_format = plan->key_format,
            .value_format = plan->value_format,
        };
    }
    for (uint32_t s = 0; s < instance->n_segments; s++) {
        const struct nib_segment *segment = &plan->segments[instance->first_segment + s];
        for (uint32_t i = 0; i < segment->n_ops; i++) {
            const struct nib_op *op = &plan->ops[segment->first_op + i];
            enum nib_status status = NIB_OK;
            if (op->kind == NIB_OP_KV_STORE)
                status = create_planes(instance, op->kv_store.kv_layer, err);
            else if (op->kind == NIB_OP_ATTENTION)
                status = create_planes(instance, op->attention.kv_layer, err);
            if (status != NIB_OK)
                return status;
        }
    }
    return NIB_OK;
}

void nib_cpu_caches_destroy(struct nib_cpu_instance *instance)
{
    for (uint32_t i = 0; instance->caches && i < instance->plan->n_kv_layers; i++) {
        struct nib_cpu_cache *cache = &instance->caches[i];
        if (cache->keys) {
            nib_pages_free(cache->keys,
                           plane_size(instance, cache->layer, cache->layer->key_page_size));
        }
        if (cache->values) {
            nib_pages_free(cache->values,
                           plane_size(instance, cache->layer, cache->layer->value_page_size));
        }
    }
}

uint64_t nib_cpu_caches_size(const struct nib_cpu_instance *instance)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < instance->plan->n_kv_layers; i++) {
        const struct nib_cpu_cache *cache = &instance->caches[i];
        if (cache->keys) {
            size += plane_size(instance, cache->layer, cache->layer->key_page_size) +
                    plane_size(instance, cache->layer, cache->layer->value_page_size);
        }
    }
    return size;
}

enum nib_status nib_cpu_kv_copy(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                                struct nib_error *err)
{
    struct nib_cpu_instance *instance = self;
    (void)err;
    for (uint32_t i = 0; i < instance->plan->n_kv_layers; i++) {
        const struct nib_cpu_cache *cache = &instance->caches[i];
        if (!cache->keys || cache->layer->kv_class != kv_class)
            continue;
        size_t key_size = cache->layer->key_page_size, value_size = cache->layer->value_page_size;
        memcpy(cache->keys + target * key_size, cache->keys + source * key_size, key_size);
        memcpy(cache->values + target * value_size, cache->values + source * value_size,
               value_size);
    }
    return NIB_OK;
}

/// Finds a page's keys and values. Errors: state (the layer's cache lies elsewhere).
static enum nib_status find_page(const struct nib_cpu_instance *instance, struct nib_kv_page page,
                                 uint8_t **out_keys, uint8_t **out_values, struct nib_error *err)
{
    const struct nib_cpu_cache *cache = &instance->caches[page.kv_layer];
    if (!cache->keys) {
        return nib_fail(err, NIB_ERROR_STATE, "KV layer %u is not on this device", page.kv_layer);
    }
    *out_keys = cache->keys + (size_t)page.page * cache->layer->key_page_size;
    *out_values = cache->values + (size_t)page.page * cache->layer->value_page_size;
    return NIB_OK;
}

enum nib_status nib_cpu_kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                  struct nib_error *err)
{
    const struct nib_cpu_instance *instance = self;
    uint8_t *keys, *values, *to = out_bytes;
    enum nib_status status = find_page(instance, page, &keys, &values, err);
    if (status != NIB_OK)
        return status;
    const struct nib_kv_layer *layer = instance->caches[page.kv_layer].layer;
    memcpy(to, keys, layer->key_page_size);
    memcpy(to + layer->key_page_size, values, layer->value_page_size);
    return NIB_OK;
}

enum nib_status nib_cpu_kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                  struct nib_error *err)
{
    const struct nib_cpu_instance *instance = self;
    const uint8_t *from = bytes;
    uint8_t *keys, *values;
    enum nib_status status = find_page(instance, page, &keys, &values, err);
    if (status != NIB_OK)
        return status;
    const struct nib_kv_layer *layer = instance->caches[page.kv_layer].layer;
    memcpy(keys, from, layer->key_page_size);
    memcpy(values, from + layer->key_page_size, layer->value_page_size);
    return NIB_OK;
}
