#include "runtime/import/roles.h"

struct nib_shape nib_role_shape(const struct nib_model_config *config, enum nib_role role)
{
    const uint64_t hidden = config->hidden_size;
    const uint64_t ffn = config->ffn_size;
    const uint64_t vocabulary = config->vocabulary;
    const uint64_t q = (uint64_t)config->n_heads * config->key_dim;
    const uint64_t k = (uint64_t)config->n_kv_heads * config->key_dim;
    const uint64_t v = (uint64_t)config->n_kv_heads * config->value_dim;
    const uint64_t attention = (uint64_t)config->n_heads * config->value_dim;
    const bool per_head = config->qk_norm == NIB_QK_NORM_HEAD;

    switch (role) {
    case NIB_ROLE_TOKEN_EMBEDDING:
    case NIB_ROLE_OUTPUT:
        return (struct nib_shape){vocabulary, hidden};
    case NIB_ROLE_OUTPUT_BIAS:
        return (struct nib_shape){1, vocabulary};
    case NIB_ROLE_OUTPUT_NORM:
    case NIB_ROLE_ATTENTION_NORM:
    case NIB_ROLE_ATTENTION_POST_NORM:
    case NIB_ROLE_ATTENTION_OUT_BIAS:
    case NIB_ROLE_FFN_NORM:
    case NIB_ROLE_FFN_POST_NORM:
    case NIB_ROLE_FFN_DOWN_BIAS:
        return (struct nib_shape){1, hidden};
    case NIB_ROLE_Q:
        return (struct nib_shape){q, hidden};
    case NIB_ROLE_K:
        return (struct nib_shape){k, hidden};
    case NIB_ROLE_V:
        return (struct nib_shape){v, hidden};
    case NIB_ROLE_QKV:
        return (struct nib_shape){q + k + v, hidden};
    case NIB_ROLE_Q_BIAS:
        return (struct nib_shape){1, q};
    case NIB_ROLE_K_BIAS:
        return (struct nib_shape){1, k};
    case NIB_ROLE_V_BIAS:
        return (struct nib_shape){1, v};
    case NIB_ROLE_QKV_BIAS:
        return (struct nib_shape){1, q + k + v};
    case NIB_ROLE_Q_NORM:
        return (struct nib_shape){1, per_head ? config->key_dim : q};
    case NIB_ROLE_K_NORM:
        return (struct nib_shape){1, per_head ? config->key_dim : k};
    case NIB_ROLE_ATTENTION_OUT:
        return (struct nib_shape){hidden, attention};
    case NIB_ROLE_FFN_GATE:
    case NIB_ROLE_FFN_UP:
        return (struct nib_shape){ffn, hidden};
    case NIB_ROLE_FFN_GATE_UP:
        return (struct nib_shape){2 * ffn, hidden};
    case NIB_ROLE_FFN_GATE_BIAS:
    case NIB_ROLE_FFN_UP_BIAS:
        return (struct nib_shape){1, ffn};
    case NIB_ROLE_FFN_DOWN:
        return (struct nib_shape){hidden, ffn};
    case NIB_ROLE_ROPE_FREQUENCIES:
    case NIB_ROLE_COUNT:
        break;
    }
    return (struct nib_shape){0, 0};
}

enum nib_need nib_role_need(const struct nib_model_config *config, bool biased, enum nib_role role)
{
    switch (role) {
    case NIB_ROLE_TOKEN_EMBEDDING:
    case NIB_ROLE_OUTPUT_NORM:
    case NIB_ROLE_ATTENTION_OUT:
    case NIB_ROLE_FFN_DOWN:
        return NIB_NEED_MUST;
    case NIB_ROLE_ATTENTION_NORM:
    case NIB_ROLE_FFN_NORM:
        return config->pre_norm ? NIB_NEED_MUST : NIB_NEED_NO;
    case NIB_ROLE_ATTENTION_POST_NORM:
    case NIB_ROLE_FFN_POST_NORM:
        return config->post_norm ? NIB_NEED_MUST : NIB_NEED_NO;
    case NIB_ROLE_Q_NORM:
    case NIB_ROLE_K_NORM:
        return config->qk_norm != NIB_QK_NORM_NONE ? NIB_NEED_MUST : NIB_NEED_NO;
    case NIB_ROLE_Q:
    case NIB_ROLE_K:
    case NIB_ROLE_V:
    case NIB_ROLE_FFN_GATE:
    case NIB_ROLE_FFN_UP:
        return NIB_NEED_UNFUSED;
    case NIB_ROLE_Q_BIAS:
    case NIB_ROLE_K_BIAS:
    case NIB_ROLE_V_BIAS:
        return biased ? NIB_NEED_UNFUSED : NIB_NEED_MAY;
    case NIB_ROLE_OUTPUT:
    case NIB_ROLE_OUTPUT_BIAS:
    case NIB_ROLE_QKV:
    case NIB_ROLE_QKV_BIAS:
    case NIB_ROLE_ATTENTION_OUT_BIAS:
    case NIB_ROLE_FFN_GATE_UP:
    case NIB_ROLE_FFN_GATE_BIAS:
    case NIB_ROLE_FFN_UP_BIAS:
    case NIB_ROLE_FFN_DOWN_BIAS:
        return NIB_NEED_MAY;
    case NIB_ROLE_ROPE_FREQUENCIES:
    case NIB_ROLE_COUNT:
        break;
    }
    return NIB_NEED_NO;
}

enum nib_role nib_role_fused(enum nib_role role)
{
    switch (role) {
    case NIB_ROLE_Q:
    case NIB_ROLE_K:
    case NIB_ROLE_V:
        return NIB_ROLE_QKV;
    case NIB_ROLE_Q_BIAS:
    case NIB_ROLE_K_BIAS:
    case NIB_ROLE_V_BIAS:
        return NIB_ROLE_QKV_BIAS;
    case NIB_ROLE_FFN_GATE:
    case NIB_ROLE_FFN_UP:
        return NIB_ROLE_FFN_GATE_UP;
    default:
        return role;
    }
}

bool nib_role_is_norm(enum nib_role role)
{
    switch (role) {
    case NIB_ROLE_OUTPUT_NORM:
    case NIB_ROLE_ATTENTION_NORM:
    case NIB_ROLE_ATTENTION_POST_NORM:
    case NIB_ROLE_Q_NORM:
    case NIB_ROLE_K_NORM:
    case NIB_ROLE_FFN_NORM:
    case NIB_ROLE_FFN_POST_NORM:
        return true;
    default:
        return false;
    }
}
