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
    uint32_t recent_key_page_size; ///< of pages of tokens in f16; 0: keys are no codes
    uint32_t recent_value_page_size;
    uint32_t plain_keys; ///< 1: groups are not transformed where keys are codes; else 0
    uint32_t plain_values;
};

/// Returns the bytes of one page of `layer` in all its planes, as kv_export writes them.
static inline size_t nib_kv_page_bytes(const struct nib_kv_layer *layer)
{
    return (size_t)layer->key_page_size + layer->value_page_size + layer->key_scale_page_size +
           layer->value_scale_page_size;
}

/// Returns the bytes of one page of tokens in f16 of `layer`, keys and values.
static inline size_t nib_kv_recent_bytes(const struct nib_kv_layer *layer)
{
    return (size_t)layer->recent_key_page_size + layer->recent_value_page_size;
}

/// Returns whether numbers are stored as codes: i8, i4, i4 by channel.
static inline bool nib_kv_has_codes(enum nib_kv_format format)
{
    return format == NIB_KV_I8 || format == NIB_KV_I4 || format == NIB_KV_I4_CHANNEL;
}

/// Return whether the whole groups of keys, and of values, lie in the cache transformed. Channels
/// are packed as they are.
static inline bool nib_kv_transforms_keys(const struct nib_kv_layer *layer,
                                          enum nib_kv_format key_format)
{
    return (key_format == NIB_KV_I8 || key_format == NIB_KV_I4) && !layer->plain_keys;
}

static inline bool nib_kv_transforms_values(const struct nib_kv_layer *layer,
                                            enum nib_kv_format value_format)
{
    return nib_kv_has_codes(value_format) && !layer->plain_values;
}

/// Returns the groups that a head of `dim` numbers is cut into in i8 and i4.
uint32_t nib_kv_groups(uint32_t dim);
/// Returns the 32-bit words of scales of one head of one token; 0 in f32 and f16, which have none.
/// Channels of a page have as many as its tokens in i4.
uint32_t nib_kv_scale_words(enum nib_kv_format format, uint32_t dim);
/// Return the 32-bit words of one head's base in a page of keys, and of its scales; 0 in f32, f16
/// and i4 by channel.
uint32_t nib_kv_base_words(enum nib_kv_format key_format, uint32_t key_dim);
uint32_t nib_kv_base_scale_words(enum nib_kv_format key_format, uint32_t key_dim);
/// Fills in the page sizes of a layer whose heads and dims are there (NIB_KV_DEFAULT is f16).
/// Returns false, with sizes of 0, where 32 bits cannot count them or the format has no such plane.
bool nib_kv_layer_size(struct nib_kv_layer *layer, enum nib_kv_format key_format,
                       enum nib_kv_format value_format);

/// Returns what a cache keeps of a number that is to be stored: 0 for NaN, and what f16 can hold.
static inline float nib_kv_clean(float x)
{
    x = x < NIB_KV_HALF_MAX ? x : x == x ? NIB_KV_HALF_MAX : 0.0f;
    return x > -NIB_KV_HALF_MAX ? x : -NIB_KV_HALF_MAX;
}

/// Multiplies a group x[NIB_KV_GROUP] by the Hadamard matrix and `factor`, in place.
void nib_kv_transform_group(float *x, float factor);

/// Sums of squares over some numbers.
struct nib_kv_loss {
    double size;        ///< of the numbers themselves
    double plain;       ///< of what codes lose of them as they are
    double transformed; ///< and of what they lose where groups are transformed
};
/// Returns those of a group x[NIB_KV_GROUP] of finite numbers in i8 or i4, keys less their base.
struct nib_kv_loss nib_kv_find_loss(enum nib_kv_format format, const float *x);

#endif
