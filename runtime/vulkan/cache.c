#include <stdlib.h>
#include <string.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/instance.h"

/// One page's share of a plane.
struct part {
    const struct nib_vk_range *range;
    uint64_t begin; ///< of page 0
    uint64_t size;
};

/// Keys, values and, where formats have them, their scales.
#define N_PARTS 4

static void find_parts(const struct nib_vk_instance *instance, uint32_t kv_layer, bool is_recent,
                       struct part out_parts[N_PARTS])
{
    const struct nib_kv_layer *layer = &instance->plan->kv_layers[kv_layer];
    const struct nib_vk_cache *cache = &instance->caches[kv_layer];
    uint64_t n = instance->n_pages[layer->kv_class];
    memset(out_parts, 0, N_PARTS * sizeof *out_parts);
    if (is_recent) {
        out_parts[0] =
            (struct part){&cache->keys, n * layer->key_page_size, layer->recent_key_page_size};
        out_parts[1] = (struct part){&cache->values, n * layer->value_page_size,
                                     layer->recent_value_page_size};
        return;
    }
    out_parts[0] = (struct part){&cache->keys, 0, layer->key_page_size};
    out_parts[1] = (struct part){&cache->values, 0, layer->value_page_size};
    out_parts[2] = (struct part){&cache->key_scales, 0, layer->key_scale_page_size};
    out_parts[3] = (struct part){&cache->value_scales, 0, layer->value_scale_page_size};
}

static enum nib_status check_layer(const struct nib_vk_instance *instance, uint32_t kv_layer,
                                   struct nib_error *err)
{
    if (!instance->caches[kv_layer].is_used)
        return nib_fail(err, NIB_ERROR_STATE, "KV layer %u is not on this device", kv_layer);
    return NIB_OK;
}

enum nib_status nib_vk_kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    uint8_t *to = out_bytes;
    struct part parts[N_PARTS];
    NIB_TRY(check_layer(instance, page.kv_layer, err));
    NIB_TRY(nib_vk_instance_wait(instance, err));
    find_parts(instance, page.kv_layer, page.is_recent, parts);
    for (int i = 0; i < N_PARTS; i++) {
        if (parts[i].size == 0)
            continue;
        NIB_TRY(nib_vk_transfer_read(&instance->transfer, parts[i].range,
                                     parts[i].begin + page.page * parts[i].size, to, parts[i].size,
                                     err));
        to += parts[i].size;
    }
fail:
    return status;
}

enum nib_status nib_vk_kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    const uint8_t *from = bytes;
    struct part parts[N_PARTS];
    NIB_TRY(check_layer(instance, page.kv_layer, err));
    NIB_TRY(nib_vk_instance_wait(instance, err));
    find_parts(instance, page.kv_layer, page.is_recent, parts);
    for (int i = 0; i < N_PARTS; i++) {
        if (parts[i].size == 0)
            continue;
        NIB_TRY(nib_vk_transfer_write(&instance->transfer, parts[i].range,
                                      parts[i].begin + page.page * parts[i].size, from,
                                      parts[i].size, err));
        from += parts[i].size;
    }
    NIB_TRY(nib_vk_transfer_flush(&instance->transfer, err));
fail:
    return status;
}

enum nib_status nib_vk_kv_copy(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                               struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    const struct nib_plan *plan = instance->plan;
    bool is_recent = nib_plan_keeps_f16(plan) && kv_class == plan->n_kv_classes - 1;
    NIB_TRY(nib_vk_instance_wait(instance, err));
    for (uint32_t l = 0; l < plan->n_kv_layers; l++) {
        struct part parts[N_PARTS];
        if (!instance->caches[l].is_used || (!is_recent && plan->kv_layers[l].kv_class != kv_class))
            continue;
        find_parts(instance, l, is_recent, parts);
        for (int i = 0; i < N_PARTS; i++) {
            if (parts[i].size == 0)
                continue;
            NIB_TRY(nib_vk_transfer_copy(
                &instance->transfer, parts[i].range, parts[i].begin + source * parts[i].size,
                parts[i].begin + target * parts[i].size, parts[i].size, err));
        }
    }
    NIB_TRY(nib_vk_transfer_flush(&instance->transfer, err));
fail:
    return status;
}
