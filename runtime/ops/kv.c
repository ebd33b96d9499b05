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
        return filled / 2;
    }
    return 0;
}

/// Bytes of the numbers of one head of a page.
static uint64_t head_bytes(enum nib_kv_format format, uint32_t dim, bool is_key)
{
    uint64_t bytes = number_bytes(format, dim) * NIB_KV_PAGE_TOKENS;
    return is_key && format == NIB_KV_I4 ? bytes + nib_kv_base_words(format, dim) * UINT64_C(4)
                                         : bytes;
}

/// Returns `n_heads` · `bytes`, or 0 beyond 32 bits.
static uint32_t page_bytes(uint32_t n_heads, uint64_t bytes)
{
    if (n_heads == 0 || bytes > UINT32_MAX / n_heads)
        return 0;
    return (uint32_t)(n_heads * bytes);
}

static uint32_t scale_page_bytes(enum nib_kv_format format, uint32_t n_heads, uint32_t dim)
{
    return page_bytes(n_heads, nib_kv_scale_words(format, dim) * UINT64_C(4) * NIB_KV_PAGE_TOKENS);
}

uint32_t nib_kv_groups(uint32_t dim)
{
    return dim / NIB_KV_GROUP + (dim % NIB_KV_GROUP != 0);
}

uint32_t nib_kv_scale_words(enum nib_kv_format format, uint32_t dim)
{
    uint32_t groups = nib_kv_groups(dim);
    return format == NIB_KV_I8 ? groups / 2 + groups % 2 : format == NIB_KV_I4 ? groups : 0;
}

uint32_t nib_kv_base_words(enum nib_kv_format key_format, uint32_t key_dim)
{
    return key_format == NIB_KV_I4 ? nib_kv_groups(key_dim) * (NIB_KV_GROUP / 2) : 0;
}

bool nib_kv_layer_size(struct nib_kv_layer *layer, enum nib_kv_format key_format,
                       enum nib_kv_format value_format)
{
    layer->key_page_size = page_bytes(layer->n_heads, head_bytes(key_format, layer->key_dim, true));
    layer->value_page_size =
        page_bytes(layer->n_heads, head_bytes(value_format, layer->value_dim, false));
    layer->key_scale_page_size = scale_page_bytes(key_format, layer->n_heads, layer->key_dim);
    layer->value_scale_page_size = scale_page_bytes(value_format, layer->n_heads, layer->value_dim);
    return layer->key_page_size != 0 && layer->value_page_size != 0;
}
