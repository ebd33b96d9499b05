#include "runtime/compress/preset.h"

#include <string.h>

#define RULE(roles_, layers_, format_)                                  \
    {                                                                   \
        NIB_PRESET_##roles_, NIB_PRESET_##layers_, NIB_FORMAT_##format_ \
    }
#define PRESET(name_, base_, head_, ...)                                                  \
    {                                                                                     \
        .name = name_, .base = NIB_FORMAT_##base_, .head = NIB_FORMAT_##head_, .rules = { \
            __VA_ARGS__                                                                   \
        }                                                                                 \
    }

// Mixes that two names have: with the letter of their size, and without.
#define Q3_K_M                                                                                    \
    RULE(QKV, ALL, Q4_K), RULE(V, ALL, Q4_K), RULE(V, TWO, Q5_K), RULE(ATTENTION_OUT, ALL, Q4_K), \
        RULE(FFN_DOWN, ALL, Q4_K), RULE(FFN_DOWN, SIXTEENTH, Q5_K)
#define Q4_K_M RULE(QKV, ALL, Q5_K), RULE(V, MANY, Q6_K), RULE(FFN_DOWN, MANY, Q6_K)
#define Q5_K_M RULE(QKV, ALL, Q6_K), RULE(V, MANY, Q6_K), RULE(FFN_DOWN, MANY, Q6_K)

static const struct nib_preset presets[] = {
    PRESET("q4_0", Q4_0, Q6_K, RULE(FFN_DOWN, EIGHTH, Q4_1)),
    PRESET("q4_1", Q4_1, Q6_K, {0}),
    PRESET("q5_0", Q5_0, Q6_K, RULE(FFN_DOWN, EIGHTH, Q5_1)),
    PRESET("q5_1", Q5_1, Q6_K, {0}),
    PRESET("iq4_nl", IQ4_NL, Q6_K, {0}),
    PRESET("iq4_xs", IQ4_XS, Q6_K, {0}),
    PRESET("q2_k_s", Q2_K, Q6_K, RULE(V, ALL, Q4_K), RULE(FFN_DOWN, EIGHTH, Q4_K)),
    PRESET("q2_k", Q2_K, Q6_K, RULE(V, ALL, Q4_K), RULE(ATTENTION_OUT, ALL, Q3_K),
           RULE(FFN_DOWN, ALL, Q3_K)),
    PRESET("q3_k_s", Q3_K, Q6_K, {0}),
    PRESET("q3_k_m", Q3_K, Q6_K, Q3_K_M),
    PRESET("q3_k", Q3_K, Q6_K, Q3_K_M),
    PRESET("q3_k_l", Q3_K, Q6_K, RULE(QKV, ALL, Q4_K), RULE(V, ALL, Q5_K),
           RULE(ATTENTION_OUT, ALL, Q5_K), RULE(FFN_DOWN, ALL, Q5_K)),
    PRESET("q4_k_s", Q4_K, Q6_K, RULE(V, FOUR, Q5_K), RULE(FFN_DOWN, EIGHTH, Q5_K)),
    PRESET("q4_k_m", Q4_K, Q6_K, Q4_K_M),
    PRESET("q4_k", Q4_K, Q6_K, Q4_K_M),
    PRESET("q5_k_s", Q5_K, Q6_K, {0}),
    PRESET("q5_k_m", Q5_K, Q6_K, Q5_K_M),
    PRESET("q5_k", Q5_K, Q6_K, Q5_K_M),
};

const struct nib_preset *nib_preset_find(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    }
    return NULL;
}

static bool has_layer(enum nib_preset_layers layers, uint32_t layer, uint32_t n_layers)
{
    const uint32_t edge = n_layers / 8;
    switch (layers) {
    case NIB_PRESET_ALL:
        return true;
    case NIB_PRESET_TWO:
        return layer < 2;
    case NIB_PRESET_FOUR:
        return layer < 4;
    case NIB_PRESET_SIXTEENTH:
        return layer < n_layers / 16;
    case NIB_PRESET_EIGHTH:
        return layer < edge;
    case NIB_PRESET_MANY:
        return layer < edge || layer >= n_layers - edge || (layer - edge) % 3 == 2;
    }
    return false;
}

/// Returns what a rule calls the matrix.
static enum nib_preset_role rule_role(enum nib_role role)
{
    switch (role) {
    case NIB_ROLE_V:
        return NIB_PRESET_V;
    case NIB_ROLE_QKV:
        return NIB_PRESET_QKV;
    case NIB_ROLE_ATTENTION_OUT:
        return NIB_PRESET_ATTENTION_OUT;
    case NIB_ROLE_FFN_DOWN:
        return NIB_PRESET_FFN_DOWN;
    default:
        return NIB_PRESET_NONE;
    }
}

const struct nib_format *nib_preset_format(const struct nib_preset *preset, enum nib_role role,
                                           uint32_t layer, uint32_t n_layers, bool tied)
{
    const enum nib_preset_role wanted = rule_role(role);
    enum nib_format_id id = preset->base;
    if (role == (tied ? NIB_ROLE_TOKEN_EMBEDDING : NIB_ROLE_OUTPUT))
        return nib_format_get(preset->head);
    for (uint32_t i = 0; wanted != NIB_PRESET_NONE && i < NIB_PRESET_RULES; i++) {
        const struct nib_preset_rule *rule = &preset->rules[i];
        if (rule->role == wanted && has_layer(rule->layers, layer, n_layers))
            id = rule->format;
    }
    return nib_format_get(id);
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
