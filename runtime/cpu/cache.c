#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/cpu/instance.h"

/// Returns the pages of a class that hold all layers' bytes.
static uint32_t own_pages(const struct nib_cpu_instance *instance, uint32_t kv_class)
{
    const struct nib_plan *plan = instance->plan;
    bool is_recent = nib_plan_keeps_f16(plan) && kv_class == plan->n_kv_classes - 1;
    return instance->n_pages[kv_class] - (is_recent ? nib_plan_step_pages(plan) : 0);
}

static void add_layer(struct nib_cpu_instance *instance, const struct nib_kv_layer *layer)
{
    const struct nib_plan *plan = instance->plan;
    uint64_t recent = nib_kv_recent_bytes(layer);
    instance->page_stride[layer->kv_class] += nib_kv_page_bytes(layer);
    if (!nib_plan_keeps_f16(plan))
        return;
    instance->page_stride[plan->n_kv_classes - 1] += recent;
    if (instance->step_stride < recent)
        instance->step_stride = recent;
}

/// Finds the layers whose caches lie here, and how long a page of them all is.
static enum nib_status find_layers(struct nib_cpu_instance *instance, struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    for (uint32_t s = 0; s < instance->n_segments; s++) {
        const struct nib_segment *segment = &plan->segments[instance->first_segment + s];
        for (uint32_t i = 0; i < segment->n_ops; i++) {
            const struct nib_op *op = &plan->ops[segment->first_op + i];
            if (op->kind != NIB_OP_KV_STORE && op->kind != NIB_OP_ATTENTION)
                continue;
            uint32_t k =
                op->kind == NIB_OP_KV_STORE ? op->kv_store.kv_layer : op->attention.kv_layer;
            const struct nib_kv_layer *layer = &plan->kv_layers[k];
            if (instance->n_pages[layer->kv_class] == 0) {
                return nib_fail(err, NIB_ERROR_ARGUMENT, "the cache has no pages of class %u",
                                layer->kv_class);
            }
            if (!instance->caches[k].layer)
                add_layer(instance, layer);
            instance->caches[k].layer = layer;
        }
    }
    return NIB_OK;
}

/// Returns the bytes of a class: its pages, and behind them those of a step, which layers share.
static uint64_t pages_size(const struct nib_cpu_instance *instance, uint32_t kv_class)
{
    uint64_t own = own_pages(instance, kv_class), step = instance->n_pages[kv_class] - own;
    return own * instance->page_stride[kv_class] + step * instance->step_stride;
}

/// Finds where the tokens in f16 of a layer lie; `offset` is where its part of a page begins.
static void find_recent(const struct nib_cpu_instance *instance, uint64_t offset,
                        struct nib_cpu_cache *cache)
{
    uint32_t c = instance->plan->n_kv_classes - 1;
    cache->recent_pages = instance->plan->recent_pages;
    cache->first_pages = instance->plan->first_pages;
    cache->recent_class = c;
    cache->n_recent = own_pages(instance, c);
    cache->recent = instance->pages[c] + offset;
    cache->recent_stride = instance->page_stride[c];
    cache->step_pages = instance->pages[c] + cache->n_recent * cache->recent_stride;
    cache->step_stride = instance->step_stride;
}

static enum nib_status create_pages(struct nib_cpu_instance *instance, uint32_t kv_class,
                                    struct nib_error *err)
{
    uint64_t size = pages_size(instance, kv_class);
    if (size > 0 && size <= SIZE_MAX)
        instance->pages[kv_class] = nib_pages_alloc_large((size_t)size);
    if (size > 0 && !instance->pages[kv_class]) {
        return nib_fail(err, NIB_ERROR_MEMORY,
                        "no memory for a KV cache of %u pages; try a shorter --ctx or a smaller "
                        "format, such as --kv i8",
                        instance->n_pages[kv_class]);
    }
    return NIB_OK;
}

enum nib_status nib_cpu_caches_create(struct nib_cpu_instance *instance, struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    uint64_t offset[NIB_KV_MAX_CLASSES] = {0};
    enum nib_status status = find_layers(instance, err);
    for (uint32_t c = 0; status == NIB_OK && c < plan->n_kv_classes; c++)
        status = create_pages(instance, c, err);
    for (uint32_t i = 0; status == NIB_OK && i < plan->n_kv_layers; i++) {
        struct nib_cpu_cache *cache = &instance->caches[i];
        if (!cache->layer)
            continue;
        uint32_t kv_class = cache->layer->kv_class;
        cache->key_format = plan->key_format;
        cache->value_format = plan->value_format;
        cache->pages = instance->pages[kv_class] + offset[kv_class];
        cache->page_stride = instance->page_stride[kv_class];
        offset[kv_class] += nib_kv_page_bytes(cache->layer);
        if (nib_plan_keeps_f16(plan)) {
            find_recent(instance, offset[plan->n_kv_classes - 1], cache);
            offset[plan->n_kv_classes - 1] += nib_kv_recent_bytes(cache->layer);
        }
    }
    return status;
}

void nib_cpu_caches_destroy(struct nib_cpu_instance *instance)
{
    for (uint32_t c = 0; c < NIB_KV_MAX_CLASSES; c++)
        nib_pages_free(instance->pages[c], pages_size(instance, c));
}

uint64_t nib_cpu_caches_size(const struct nib_cpu_instance *instance)
{
    uint64_t size = 0;
    for (uint32_t c = 0; c < NIB_KV_MAX_CLASSES; c++)
        size += pages_size(instance, c);
    return size;
}

enum nib_status nib_cpu_kv_copy(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                                struct nib_error *err)
{
    struct nib_cpu_instance *instance = self;
    uint64_t stride = instance->page_stride[kv_class];
    (void)err;
    if (stride > 0)
        memcpy(instance->pages[kv_class] + target * stride,
               instance->pages[kv_class] + source * stride, stride);
    return NIB_OK;
}

/// Finds where a page of a layer lies. Errors: state (the layer's cache lies elsewhere).
static enum nib_status find_page(const struct nib_cpu_instance *instance, struct nib_kv_page page,
                                 uint8_t **out_bytes, size_t *out_size, struct nib_error *err)
{
    const struct nib_cpu_cache *cache = &instance->caches[page.kv_layer];
    if (!cache->pages)
        return nib_fail(err, NIB_ERROR_STATE, "KV layer %u is not on this device", page.kv_layer);
    *out_bytes = page.is_recent ? cache->recent + page.page * cache->recent_stride
                                : cache->pages + page.page * cache->page_stride;
    *out_size =
        page.is_recent ? nib_kv_recent_bytes(cache->layer) : nib_kv_page_bytes(cache->layer);
    return NIB_OK;
}

enum nib_status nib_cpu_kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                  struct nib_error *err)
{
    uint8_t *bytes;
    size_t size;
    enum nib_status status = find_page(self, page, &bytes, &size, err);
    if (status == NIB_OK)
        memcpy(out_bytes, bytes, size);
    return status;
}

enum nib_status nib_cpu_kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                  struct nib_error *err)
{
    uint8_t *to;
    size_t size;
    enum nib_status status = find_page(self, page, &to, &size, err);
    if (status == NIB_OK)
        memcpy(to, bytes, size);
    return status;
}
