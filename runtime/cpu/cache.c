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

/// The planes of a cache.
enum { N_PLANES = 4 };
struct plane {
    uint8_t **memory;
    uint32_t page_size; ///< 0: there is none
};

/// In the order of nib_backend.kv_export.
static void find_planes(struct nib_cpu_cache *cache, struct plane out_planes[N_PLANES])
{
    const struct nib_kv_layer *layer = cache->layer;
    out_planes[0] = (struct plane){&cache->keys, layer->key_page_size};
    out_planes[1] = (struct plane){&cache->values, layer->value_page_size};
    out_planes[2] = (struct plane){&cache->key_scales, layer->key_scale_page_size};
    out_planes[3] = (struct plane){&cache->value_scales, layer->value_scale_page_size};
}

static enum nib_status create_planes(struct nib_cpu_instance *instance, uint32_t kv_layer,
                                     struct nib_error *err)
{
    struct nib_cpu_cache *cache = &instance->caches[kv_layer];
    struct plane planes[N_PLANES];
    if (cache->keys)
        return NIB_OK;
    if (instance->n_pages[cache->layer->kv_class] == 0) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "the cache has no pages of class %u",
                        cache->layer->kv_class);
    }
    find_planes(cache, planes);
    for (int i = 0; i < N_PLANES; i++) {
        uint64_t size = plane_size(instance, cache->layer, planes[i].page_size);
        if (size == 0)
            continue;
        if (size <= SIZE_MAX)
            *planes[i].memory = nib_pages_alloc((size_t)size);
        if (!*planes[i].memory) {
            return nib_fail(err, NIB_ERROR_MEMORY,
                            "no memory for a KV cache of %u pages; try a shorter --ctx or a "
                            "smaller format, such as --kv i8",
                            instance->n_pages[cache->layer->kv_class]);
        }
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
        struct plane planes[N_PLANES];
        if (!cache->layer)
            continue;
        find_planes(cache, planes);
        for (int p = 0; p < N_PLANES; p++) {
            if (*planes[p].memory)
                nib_pages_free(*planes[p].memory,
                               plane_size(instance, cache->layer, planes[p].page_size));
        }
    }
}

uint64_t nib_cpu_caches_size(const struct nib_cpu_instance *instance)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < instance->plan->n_kv_layers; i++) {
        struct plane planes[N_PLANES];
        find_planes(&instance->caches[i], planes);
        for (int p = 0; p < N_PLANES; p++) {
            if (*planes[p].memory)
                size += plane_size(instance, instance->caches[i].layer, planes[p].page_size);
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
        struct nib_cpu_cache *cache = &instance->caches[i];
        struct plane planes[N_PLANES];
        if (!cache->keys || cache->layer->kv_class != kv_class)
            continue;
        find_planes(cache, planes);
        for (int p = 0; p < N_PLANES; p++) {
            size_t size = planes[p].page_size;
            if (size)
                memcpy(*planes[p].memory + target * size, *planes[p].memory + source * size, size);
        }
    }
    return NIB_OK;
}

/// Finds the planes of a page's layer. Errors: state (the layer's cache lies elsewhere).
static enum nib_status find_page(const struct nib_cpu_instance *instance, struct nib_kv_page page,
                                 struct plane out_planes[N_PLANES], struct nib_error *err)
{
    struct nib_cpu_cache *cache = &instance->caches[page.kv_layer];
    if (!cache->keys)
        return nib_fail(err, NIB_ERROR_STATE, "KV layer %u is not on this device", page.kv_layer);
    find_planes(cache, out_planes);
    return NIB_OK;
}

enum nib_status nib_cpu_kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                  struct nib_error *err)
{
    struct plane planes[N_PLANES];
    uint8_t *to = out_bytes;
    enum nib_status status = find_page(self, page, planes, err);
    for (int p = 0; status == NIB_OK && p < N_PLANES; to += planes[p++].page_size) {
        size_t size = planes[p].page_size;
        if (size)
            memcpy(to, *planes[p].memory + page.page * size, size);
    }
    return status;
}

enum nib_status nib_cpu_kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                  struct nib_error *err)
{
    struct plane planes[N_PLANES];
    const uint8_t *from = bytes;
    enum nib_status status = find_page(self, page, planes, err);
    for (int p = 0; status == NIB_OK && p < N_PLANES; from += planes[p++].page_size) {
        size_t size = planes[p].page_size;
        if (size)
            memcpy(*planes[p].memory + page.page * size, from, size);
    }
    return status;
}
