/// Layout of the KV pool, worked out once above the backends.
#ifndef RUNTIME_OPS_KV_H
#define RUNTIME_OPS_KV_H

#include "shaders/shared/kv.h"
#include <nibble/model.h>

/// The cache of one layer.
struct nib_kv_layer {
    uint32_t n_heads; ///< KV heads
    uint32_t key_dim; ///< numbers a head, the same for every token
    uint32_t value_dim;
    uint32_t window;        ///< tokens that a row sees, itself included; 0: all before it
    uint32_t kv_class;      ///< which of a sequence's page tables holds its pages
    uint32_t key_page_size; ///< bytes of a page in each plane
    uint32_t value_page_size;
    uint32_t key_scale_page_size; ///< 0: the format has no scales
    uint32_t value_scale_page_size;
};

/// Returns the bytes of one page's keys or values of `n_heads` × `dim` numbers in `format` (f32 or
/// f16, NIB_KV_DEFAULT being f16), or 0 for a format that has no layout yet.
uint32_t nib_kv_page_size(enum nib_kv_format format, uint32_t n_heads, uint32_t dim);

#endif
