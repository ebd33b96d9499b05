#include "runtime/compress/preset.h"

#include <string.h>

#define PRESET(name_, base_, finer_, head_, layers_)                             \
    {                                                                            \
        .name = name_, .base = NIB_FORMAT_##base_, .finer = NIB_FORMAT_##finer_, \
        .head = NIB_FORMAT_##head_, .layers = NIB_PRESET_##layers_               \
    }

static const struct nib_preset presets[] = {
    PRESET("q2_k_m", Q2_K, Q4_K, Q6_K, MANY), PRESET("q3_k_s", Q3_K, Q4_K, Q6_K, FEW),
    PRESET("q3_k_m", Q3_K, Q5_K, Q6_K, MANY), PRESET("q4_k_s", Q4_K, Q5_K, Q6_K, FEW),
    PRESET("q4_k_m", Q4_K, Q6_K, Q6_K, MANY), PRESET("q5_k_s", Q5_K, Q5_K, Q6_K, FEW),
    PRESET("q5_k_m", Q5_K, Q6_K, Q6_K, MANY),
};

const struct nib_preset *nib_preset_find(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    }
    return NULL;
}

static bool is_fine_layer(const struct nib_preset *preset, uint32_t layer, uint32_t n_layers)
{
    const uint32_t edge = n_layers / 8;
    if (layer < edge)
        return true;
    return preset->layers == NIB_PRESET_MANY &&
           (layer >= n_layers - edge || (layer - edge) % 3 == 2);
}

const struct nib_format *nib_preset_format(const struct nib_preset *preset, enum nib_role role,
                                           uint32_t layer, uint32_t n_layers, bool tied)
{
    const bool is_head = role == (tied ? NIB_ROLE_TOKEN_EMBEDDING : NIB_ROLE_OUTPUT);
    const bool is_delicate =
        role == NIB_ROLE_V || role == NIB_ROLE_QKV || role == NIB_ROLE_FFN_DOWN;
    if (is_head)
        return nib_format_get(preset->head);
    return nib_format_get(is_delicate && is_fine_layer(preset, layer, n_layers) ? preset->finer
                                                                                : preset->base);
}

const struct nib_format *nib_format_that_fits(const struct nib_format *format, uint64_t cols)
{
    static const enum nib_format_id next[NIB_FORMAT_COUNT] = {
        [NIB_FORMAT_Q2_K] = NIB_FORMAT_IQ4_NL, [NIB_FORMAT_Q3_K] = NIB_FORMAT_IQ4_NL,
        [NIB_FORMAT_Q4_K] = NIB_FORMAT_Q5_0,   [NIB_FORMAT_Q5_K] = NIB_FORMAT_Q5_1,
        [NIB_FORMAT_Q6_K] = NIB_FORMAT_Q8_0,   [NIB_FORMAT_IQ4_XS] = NIB_FORMAT_IQ4_NL,
    };
    uint64_t bytes;
    while (format->block_bytes && !nib_format_row_bytes(format, cols, &bytes))
        format = nib_format_get(next[format->id] ? next[format->id] : NIB_FORMAT_F16);
    return format;
}
