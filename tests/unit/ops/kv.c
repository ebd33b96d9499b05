#include <criterion/criterion.h>
#include <math.h>

#include "runtime/ops/kv.h"

static struct nib_kv_layer sized(enum nib_kv_format format, uint32_t n_heads, uint32_t dim)
{
    struct nib_kv_layer layer = {.n_heads = n_heads, .key_dim = dim, .value_dim = dim};
    cr_assert(nib_kv_layer_size(&layer, format, format));
    return layer;
}

Test(ops_kv, sizes_of_floats)
{
    struct nib_kv_layer layer = sized(NIB_KV_F32, 3, 64);
    cr_assert_eq(layer.key_page_size, 32u * 3 * 64 * 4);
    cr_assert_eq(layer.value_page_size, 32u * 3 * 64 * 4);
    cr_assert_eq(layer.key_scale_page_size + layer.value_scale_page_size, 0);
    cr_assert_eq(sized(NIB_KV_F16, 3, 64).key_page_size, 32u * 3 * 64 * 2);
    cr_assert_eq(sized(NIB_KV_DEFAULT, 1, 80).value_page_size, 32u * 80 * 2);
}

Test(ops_kv, sizes_of_integers)
{
    struct nib_kv_layer layer = sized(NIB_KV_I8, 3, 64);
    cr_assert_eq(layer.key_page_size, 32u * 3 * 64 + 3 * 64, "codes and bases");
    cr_assert_eq(layer.value_page_size, 32u * 3 * 64);
    cr_assert_eq(layer.key_scale_page_size, 32u * 3 * 4 + 3 * 4, "two scales a word");
    cr_assert_eq(layer.value_scale_page_size, 32u * 3 * 4);
    layer = sized(NIB_KV_I4, 3, 64);
    cr_assert_eq(layer.key_page_size, 32u * 3 * 32 + 3 * 64, "codes and bases");
    cr_assert_eq(layer.value_page_size, 32u * 3 * 32);
    cr_assert_eq(layer.value_scale_page_size, 32u * 3 * 2 * 4, "scale and minimum");
}

Test(ops_kv, channels_have_scales_instead_of_tokens_and_bases)
{
    struct nib_kv_layer layer = {.n_heads = 3, .key_dim = 64, .value_dim = 64};
    cr_assert(nib_kv_layer_size(&layer, NIB_KV_I4_CHANNEL, NIB_KV_I4));
    cr_assert_eq(layer.key_page_size, 32u * 3 * 32);
    cr_assert_eq(layer.key_scale_page_size, 3u * 64 * 4);
    cr_assert_eq(layer.recent_key_page_size, 32u * 3 * 64 * 2);
    cr_assert_not(nib_kv_transforms_keys(&layer, NIB_KV_I4_CHANNEL));
    cr_assert(nib_kv_transforms_values(&layer, NIB_KV_I4));
    cr_assert_not(nib_kv_layer_size(&layer, NIB_KV_I4, NIB_KV_I4_CHANNEL), "keys alone");
}

Test(ops_kv, heads_are_filled_up_to_groups)
{
    cr_assert_eq(nib_kv_groups(64), 2);
    cr_assert_eq(nib_kv_groups(80), 3);
    struct nib_kv_layer layer = sized(NIB_KV_I8, 2, 80);
    cr_assert_eq(layer.value_page_size, 32u * 2 * 96);
    cr_assert_eq(layer.value_scale_page_size, 32u * 2 * 8, "half a word unused");
    layer = sized(NIB_KV_I4, 2, 80);
    cr_assert_eq(layer.key_page_size, 32u * 2 * 48 + 2 * 96);
    cr_assert_eq(layer.key_scale_page_size, 32u * 2 * 12 + 2 * 8);
}

Test(ops_kv, each_plane_has_its_own_format)
{
    struct nib_kv_layer layer = {.n_heads = 3, .key_dim = 64, .value_dim = 32};
    cr_assert(nib_kv_layer_size(&layer, NIB_KV_I8, NIB_KV_F32));
    cr_assert_eq(layer.key_page_size, 33u * 3 * 64);
    cr_assert_eq(layer.key_scale_page_size, 33u * 3 * 4);
    cr_assert_eq(layer.value_page_size, 32u * 3 * 32 * 4);
    cr_assert_eq(layer.value_scale_page_size, 0);
}

static uint32_t layer_bytes(enum nib_kv_format format, uint32_t dim)
{
    struct nib_kv_layer layer = sized(format, 4, dim);
    return layer.key_page_size + layer.value_page_size + layer.key_scale_page_size +
           layer.value_scale_page_size;
}

Test(ops_kv, shares_of_f16)
{
    for (uint32_t dim = 64; dim <= 256; dim *= 2) {
        cr_assert_leq(layer_bytes(NIB_KV_I8, dim) * 100, layer_bytes(NIB_KV_F16, dim) * 54);
        cr_assert_leq(layer_bytes(NIB_KV_I4, dim) * 100, layer_bytes(NIB_KV_F16, dim) * 33);
    }
}

Test(ops_kv, words_are_where_the_format_says)
{
    cr_assert_eq(NIB_KV_BY_TOKEN(0u, 16u, 0u, 31u), 31);
    cr_assert_eq(NIB_KV_BY_TOKEN(1u, 16u, 3u, 5u), (16 + 3) * 32 + 5);
    cr_assert_eq(NIB_KV_BY_NUMBER(1u, 16u, 3u, 5u), (32 + 5) * 16 + 3);
}

Test(ops_kv, losses_with_and_without_the_transform)
{
    float x[NIB_KV_GROUP] = {0};
    struct nib_kv_loss loss = nib_kv_find_loss(NIB_KV_I4, x);
    cr_assert(loss.size == 0 && loss.plain == 0 && loss.transformed == 0);
    // A large number makes the steps of all others wide; transformed, all are alike.
    for (int i = 0; i < NIB_KV_GROUP; i++)
        x[i] = (float)(i * 7 % 13) / 13.0f - 0.5f;
    x[5] = 8.0f;
    loss = nib_kv_find_loss(NIB_KV_I4, x);
    cr_assert_float_eq(loss.size, 66.5, 1);
    cr_assert_lt(loss.transformed * 2, loss.plain);
    // Numbers of two values have codes of their own; transformed, they have many.
    for (int i = 0; i < NIB_KV_GROUP; i++)
        x[i] = i * i % 7 < 3 ? 1.0f : 0.0f;
    loss = nib_kv_find_loss(NIB_KV_I4, x);
    cr_assert_lt(loss.plain * 10, loss.transformed);
    // Eight bits lose the square of their steps' ratio less.
    double four = nib_kv_find_loss(NIB_KV_I4, x).transformed;
    cr_assert_lt(nib_kv_find_loss(NIB_KV_I8, x).transformed * 10, four);
}

Test(ops_kv, losses_of_what_f16_cannot_hold)
{
    // Keys less their base reach twice the largest number of f16, transformed ones more.
    float x[NIB_KV_GROUP];
    for (int i = 0; i < NIB_KV_GROUP; i++)
        x[i] = i % 3 ? -2 * NIB_KV_HALF_MAX : 2 * NIB_KV_HALF_MAX;
    for (int format = NIB_KV_I8; format <= NIB_KV_I4; format++) {
        struct nib_kv_loss loss = nib_kv_find_loss((enum nib_kv_format)format, x);
        cr_assert(isfinite(loss.plain) && loss.plain < loss.size, "%g", loss.plain);
        cr_assert(isfinite(loss.transformed), "%g", loss.transformed);
    }
    cr_assert_eq(nib_kv_clean(NAN), 0);
    cr_assert_eq(nib_kv_clean(-INFINITY), -NIB_KV_HALF_MAX);
    cr_assert_eq(nib_kv_clean(1e6f), NIB_KV_HALF_MAX);
    cr_assert_eq(nib_kv_clean(-3.5f), -3.5f);
}

Test(ops_kv, a_size_that_overflows_is_none)
{
    struct nib_kv_layer layer = {.n_heads = UINT32_MAX, .key_dim = UINT32_MAX, .value_dim = 1};
    cr_assert_not(nib_kv_layer_size(&layer, NIB_KV_F16, NIB_KV_F16));
    cr_assert_eq(layer.key_page_size, 0);
    layer.n_heads = 1u << 25;
    layer.key_dim = 1;
    cr_assert_not(nib_kv_layer_size(&layer, NIB_KV_F32, NIB_KV_F32));
    layer.n_heads = 1u << 24;
    cr_assert(nib_kv_layer_size(&layer, NIB_KV_F32, NIB_KV_F32));
    cr_assert_eq(layer.key_page_size, 1u << 31);
}
