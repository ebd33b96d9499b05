#include "runtime/ops/kv.h"

/// Bytes of the numbers of one head of one token.
static uint64_t number_bytes(enum nib_kv_format format, uint32_t dim)
{
    uint64_t filled = nib_kv_groups(dim) * (uint64_t)NIB_KV_GROUP;
    switch (format) {
    case NIB_KV_F32:
        return dim * UINT64_C(4);
    case NIB_KV_DEFAULT:
    case NIB_KV_F16:
        return dim * UINT64_C(2);
    case NIB_KV_I8:
        return filled;
    case NIB_KV_I4:
    case NIB_KV_I4_CHANNEL:
        return filled / 2;
    }
    return 0;
}

/// Bytes of one head of a page: `token_bytes` for each token, and the words that a base takes.
static uint64_t head_bytes(uint64_t token_bytes, uint32_t base_words)
{
    return token_bytes * NIB_KV_PAGE_TOKENS + base_words * UINT64_C(4);
}

/// Returns `n_heads` · `bytes`, or 0 beyond 32 bits.
static uint32_t page_bytes(uint32_t n_heads, uint64_t bytes)
{
    if (n_heads == 0 || bytes > UINT32_MAX / n_heads)
        return 0;
    return (uint32_t)(n_heads * bytes);
}

/// Bytes of keys or values of newest tokens beside a page of codes.
static uint32_t recent_bytes(const struct nib_kv_layer *layer, enum nib_kv_format format,
                             uint32_t dim)
{
    uint64_t numbers = nib_kv_has_codes(format) ? number_bytes(NIB_KV_F16, dim) : 0;
    return page_bytes(layer->n_heads, head_bytes(numbers, 0));
}

uint32_t nib_kv_groups(uint32_t dim)
{
    return dim / NIB_KV_GROUP + (dim % NIB_KV_GROUP != 0);
}

uint32_t nib_kv_scale_words(enum nib_kv_format format, uint32_t dim)
{
    uint32_t groups = nib_kv_groups(dim);
    if (format == NIB_KV_I8)
        return groups / 2 + groups % 2;
    return nib_kv_has_codes(format) ? groups : 0;
}

/// Returns whether keys are relative to a base of their page. The minima of channels do as much.
static bool has_base(enum nib_kv_format key_format)
{
    return key_format == NIB_KV_I8 || key_format == NIB_KV_I4;
}

uint32_t nib_kv_base_words(enum nib_kv_format key_format, uint32_t key_dim)
{
    return has_base(key_format) ? nib_kv_groups(key_dim) * (NIB_KV_GROUP / 4) : 0;
}

uint32_t nib_kv_base_scale_words(enum nib_kv_format key_format, uint32_t key_dim)
{
    return has_base(key_format) ? nib_kv_scale_words(NIB_KV_I8, key_dim) : 0;
}

bool nib_kv_layer_size(struct nib_kv_layer *layer, enum nib_kv_format key_format,
                       enum nib_kv_format value_format)
{
    uint32_t n_heads = layer->n_heads, key_dim = layer->key_dim, value_dim = layer->value_dim;
    uint64_t key_scales = nib_kv_scale_words(key_format, key_dim) * UINT64_C(4);
    uint64_t value_scales = nib_kv_scale_words(value_format, value_dim) * UINT64_C(4);
    layer->key_page_size = page_bytes(n_heads, head_bytes(number_bytes(key_format, key_dim),
                                                          nib_kv_base_words(key_format, key_dim)));
    layer->value_page_size =
        page_bytes(n_heads, head_bytes(number_bytes(value_format, value_dim), 0));
    layer->key_scale_page_size =
        page_bytes(n_heads, head_bytes(key_scales, nib_kv_base_scale_words(key_format, key_dim)));
    layer->value_scale_page_size = page_bytes(n_heads, head_bytes(value_scales, 0));
    layer->recent_key_page_size = recent_bytes(layer, key_format, key_dim);
    layer->recent_value_page_size = recent_bytes(layer, value_format, value_dim);
    return value_format != NIB_KV_I4_CHANNEL && layer->key_page_size != 0 &&
           layer->value_page_size != 0 &&
           (layer->recent_key_page_size != 0) == nib_kv_has_codes(key_format) &&
           (layer->recent_value_page_size != 0) == nib_kv_has_codes(value_format);
}

void nib_kv_transform_group(float *x, float factor)
{
    for (uint32_t step = 1; step < NIB_KV_GROUP; step *= 2) {
        for (uint32_t i = 0; i < NIB_KV_GROUP; i += 2 * step) {
            for (uint32_t k = i; k < i + step; k++) {
                float sum = x[k] + x[k + step];
                x[k + step] = x[k] - x[k + step];
                x[k] = sum;
            }
        }
    }
    for (uint32_t i = 0; i < NIB_KV_GROUP; i++)
        x[i] *= factor;
}
