#include "runtime/import/arch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// Names of tensors by role. Those of a layer lack its prefix: "blk.0.", "layers.0.".

#define GGUF_NAMES                                                                          \
    [NIB_ROLE_TOKEN_EMBEDDING] = "token_embd.weight",                                       \
    [NIB_ROLE_OUTPUT_NORM] = "output_norm.weight", [NIB_ROLE_OUTPUT] = "output.weight",     \
    [NIB_ROLE_OUTPUT_BIAS] = "output.bias", [NIB_ROLE_ATTENTION_NORM] = "attn_norm.weight", \
    [NIB_ROLE_Q] = "attn_q.weight", [NIB_ROLE_K] = "attn_k.weight",                         \
    [NIB_ROLE_V] = "attn_v.weight", [NIB_ROLE_QKV] = "attn_qkv.weight",                     \
    [NIB_ROLE_Q_BIAS] = "attn_q.bias", [NIB_ROLE_K_BIAS] = "attn_k.bias",                   \
    [NIB_ROLE_V_BIAS] = "attn_v.bias", [NIB_ROLE_QKV_BIAS] = "attn_qkv.bias",               \
    [NIB_ROLE_Q_NORM] = "attn_q_norm.weight", [NIB_ROLE_K_NORM] = "attn_k_norm.weight",     \
    [NIB_ROLE_ATTENTION_OUT] = "attn_output.weight",                                        \
    [NIB_ROLE_ATTENTION_OUT_BIAS] = "attn_output.bias",                                     \
    [NIB_ROLE_ATTENTION_POST_NORM] = "post_attention_norm.weight",                          \
    [NIB_ROLE_FFN_NORM] = "ffn_norm.weight", [NIB_ROLE_FFN_DOWN] = "ffn_down.weight",       \
    [NIB_ROLE_FFN_DOWN_BIAS] = "ffn_down.bias", [NIB_ROLE_FFN_POST_NORM] = "post_ffw_norm.weight"

static const char *const gguf_names[NIB_ROLE_COUNT] = {
    GGUF_NAMES,
    [NIB_ROLE_FFN_GATE] = "ffn_gate.weight",
    [NIB_ROLE_FFN_GATE_BIAS] = "ffn_gate.bias",
    [NIB_ROLE_FFN_UP] = "ffn_up.weight",
    [NIB_ROLE_FFN_UP_BIAS] = "ffn_up.bias",
};
/// Gate and up in one tensor that bears the name of the latter.
static const char *const gguf_fused_names[NIB_ROLE_COUNT] = {
    GGUF_NAMES,
    [NIB_ROLE_FFN_GATE_UP] = "ffn_up.weight",
};

#define HF_NAMES                                                                                   \
    [NIB_ROLE_TOKEN_EMBEDDING] = "embed_tokens.weight", [NIB_ROLE_OUTPUT_NORM] = "norm.weight",    \
    [NIB_ROLE_OUTPUT] = "lm_head.weight", [NIB_ROLE_OUTPUT_BIAS] = "lm_head.bias",                 \
    [NIB_ROLE_Q] = "self_attn.q_proj.weight", [NIB_ROLE_K] = "self_attn.k_proj.weight",            \
    [NIB_ROLE_V] = "self_attn.v_proj.weight", [NIB_ROLE_QKV] = "self_attn.qkv_proj.weight",        \
    [NIB_ROLE_Q_BIAS] = "self_attn.q_proj.bias", [NIB_ROLE_K_BIAS] = "self_attn.k_proj.bias",      \
    [NIB_ROLE_V_BIAS] = "self_attn.v_proj.bias", [NIB_ROLE_QKV_BIAS] = "self_attn.qkv_proj.bias",  \
    [NIB_ROLE_Q_NORM] = "self_attn.q_norm.weight", [NIB_ROLE_K_NORM] = "self_attn.k_norm.weight",  \
    [NIB_ROLE_ATTENTION_OUT] = "self_attn.o_proj.weight",                                          \
    [NIB_ROLE_ATTENTION_OUT_BIAS] = "self_attn.o_proj.bias",                                       \
    [NIB_ROLE_FFN_GATE] = "mlp.gate_proj.weight", [NIB_ROLE_FFN_UP] = "mlp.up_proj.weight",        \
    [NIB_ROLE_FFN_GATE_UP] = "mlp.gate_up_proj.weight",                                            \
    [NIB_ROLE_FFN_DOWN] = "mlp.down_proj.weight", [NIB_ROLE_FFN_GATE_BIAS] = "mlp.gate_proj.bias", \
    [NIB_ROLE_FFN_UP_BIAS] = "mlp.up_proj.bias", [NIB_ROLE_FFN_DOWN_BIAS] = "mlp.down_proj.bias"

static const char *const hf_names[NIB_ROLE_COUNT] = {
    HF_NAMES,
    [NIB_ROLE_ATTENTION_NORM] = "input_layernorm.weight",
    [NIB_ROLE_FFN_NORM] = "post_attention_layernorm.weight",
};
/// With norms of the outputs, "post_attention" means what it says.
static const char *const hf_post_norm_names[NIB_ROLE_COUNT] = {
    HF_NAMES,
    [NIB_ROLE_ATTENTION_NORM] = "input_layernorm.weight",
    [NIB_ROLE_ATTENTION_POST_NORM] = "post_attention_layernorm.weight",
    [NIB_ROLE_FFN_NORM] = "pre_feedforward_layernorm.weight",
    [NIB_ROLE_FFN_POST_NORM] = "post_feedforward_layernorm.weight",
};

#define NAMES(gguf_names_, hf_names_)                                      \
    {                                                                      \
        [NIB_CONTAINER_GGUF] = gguf_names_, [NIB_CONTAINER_HF] = hf_names_ \
    }

// Keys and defaults of folders are those of the transformers package's configuration classes, those
// of GGUF files what the llama.cpp project's converters write and its loader takes for granted.
static const struct nib_arch architectures[] = {
    // Touvron et al. 2023; Llama 3, TinyLlama, SmolLM2, and Mistral in GGUF files.
    {
        .name = "llama",
        .gguf = "llama",
        .hf = {"llama"},
        .hf_class = "LlamaForCausalLM",
        .tensors = NAMES(gguf_names, hf_names),
        .norm_epsilon = 1e-6f,
        .rope_base = 1e4f,
        .interleaved = true,
    },
    {
        .name = "smollm3",
        .gguf = "smollm3",
        .hf = {"smollm3"},
        .hf_class = "SmolLM3ForCausalLM",
        .tensors = NAMES(gguf_names, hf_names),
        .tied = true,
        .norm_epsilon = 1e-6f,
        .rope_base = 2e6f,
        .interleaved = true,
        .no_rope_period = 4,
        .window_rule = NIB_WINDOW_NO_ROPE,
    },
    // Jiang et al. 2023.
    {
        .name = "mistral",
        .hf = {"mistral"},
        .hf_class = "MistralForCausalLM",
        .tensors = NAMES(gguf_names, hf_names),
        .norm_epsilon = 1e-6f,
        .n_kv_heads = 8,
        .rope_base = 1e4f,
        .window_rule = NIB_WINDOW_ALL,
        .window = 4096,
    },
    {
        .name = "qwen2",
        .gguf = "qwen2",
        .hf = {"qwen2"},
        .hf_class = "Qwen2ForCausalLM",
        .tensors = NAMES(gguf_names, hf_names),
        .qkv_bias = true,
        .norm_epsilon = 1e-6f,
        .rope_base = 1e4f,
        .window_rule = NIB_WINDOW_FLAG,
        .window = 4096,
    },
    {
        .name = "qwen3",
        .gguf = "qwen3",
        .hf = {"qwen3"},
        .hf_class = "Qwen3ForCausalLM",
        .tensors = NAMES(gguf_names, hf_names),
        .qk_norm = NIB_QK_NORM_HEAD,
        .norm_epsilon = 1e-6f,
        .key_dim = 128,
        .rope_base = 1e4f,
        .window_rule = NIB_WINDOW_FLAG,
        .window = 4096,
    },
    // Gemma Team 2024. Its 27B variant alone scales attention by hidden_size / n_heads.
    {
        .name = "gemma2",
        .gguf = "gemma2",
        .hf = {"gemma2"},
        .hf_class = "Gemma2ForCausalLM",
        .tensors = NAMES(gguf_names, hf_post_norm_names),
        .gate = NIB_GATE_GELU_TANH,
        .post_norm = true,
        .shifted_norms = true,
        .scaled_embedding = true,
        .tied = true,
        .norm_epsilon = 1e-6f,
        .attention_softcap = 50,
        .logit_softcap = 30,
        .query_scalar = 256,
        .wide_head_layers = 46,
        .n_heads = 8,
        .n_kv_heads = 4,
        .key_dim = 256,
        .context = 8192,
        .rope_base = 1e4f,
        .window_rule = NIB_WINDOW_PERIOD,
        .window_period = 2,
        .window = 4096,
        .gguf_window = 4096,
    },
    // Gemma Team 2025.
    {
        .name = "gemma3",
        .gguf = "gemma3",
        .hf = {"gemma3_text", "gemma3"},
        .hf_class = "Gemma3ForCausalLM",
        .tensors = NAMES(gguf_names, hf_post_norm_names),
        .gate = NIB_GATE_GELU_TANH,
        .qk_norm = NIB_QK_NORM_HEAD,
        .post_norm = true,
        .shifted_norms = true,
        .scaled_embedding = true,
        .tied = true,
        .norm_epsilon = 1e-6f,
        .query_scalar = 256,
        .wide_head_layers = 62,
        .n_heads = 8,
        .n_kv_heads = 4,
        .key_dim = 256,
        .context = 131072,
        .rope_base = 1e6f,
        .window_rope_base = 1e4f,
        .window_rope_plain = true,
        .window_rule = NIB_WINDOW_PERIOD,
        .window_period = 6,
        .window = 4096,
    },
    // Abdin et al. 2024.
    {
        .name = "phi3",
        .gguf = "phi3",
        .hf = {"phi3"},
        .hf_class = "Phi3ForCausalLM",
        .tensors = NAMES(gguf_fused_names, hf_names),
        .norm_epsilon = 1e-5f,
        .rope_base = 1e4f,
        .window_rule = NIB_WINDOW_ALL,
    },
    // OLMo Team 2025. GGUF files of this name may hold OLMo 3, which has windows.
    {
        .name = "olmo2",
        .gguf = "olmo2",
        .hf = {"olmo2"},
        .hf_class = "Olmo2ForCausalLM",
        .tensors = NAMES(gguf_names, hf_post_norm_names),
        .qk_norm = NIB_QK_NORM_ROW,
        .no_pre_norm = true,
        .post_norm = true,
        .norm_epsilon = 1e-5f,
        .rope_base = 1e4f,
        .window_rope_plain = true,
        .window_rule = NIB_WINDOW_PERIOD,
        .window_period = 4,
    },
    {
        .name = "granite",
        .gguf = "granite",
        .hf = {"granite"},
        .hf_class = "GraniteForCausalLM",
        .tensors = NAMES(gguf_names, hf_names),
        .norm_epsilon = 1e-6f,
        .attention_multiplier = 1,
        .rope_base = 1e4f,
        .interleaved = true,
    },
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

static bool text_is(struct nib_text text, const char *name)
{
    return name && strlen(name) == text.size && memcmp(name, text.ptr, text.size) == 0;
}

const struct nib_arch *nib_arch_find(enum nib_container container, struct nib_text name)
{
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        const struct nib_arch *arch = &architectures[i];
        if (container == NIB_CONTAINER_GGUF
                ? text_is(name, arch->gguf)
                : text_is(name, arch->hf[0]) || text_is(name, arch->hf[1]))
            return arch;
    }
    return NULL;
}

void nib_arch_list(enum nib_container container, char *out, size_t capacity)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < N_ARCHITECTURES && used < capacity; i++) {
        const struct nib_arch *arch = &architectures[i];
        const char *name = container == NIB_CONTAINER_GGUF ? arch->gguf : arch->hf[0];
        if (!name)
            continue;
        int n = snprintf(out + used, capacity - used, "%s%s", used ? ", " : "", name);
        used += n > 0 ? (size_t)n : 0;
    }
}

// A text model's own folder; the model inside an image-and-text model's, as older and as newer
// versions of transformers save it; a model saved without its head.
static const struct nib_arch_prefix hf_prefixes[] = {
    {"model.", ""},
    {"language_model.model.", "language_model."},
    {"model.language_model.", ""},
    {"", ""},
};
static const struct nib_arch_prefix gguf_prefix = {"", ""};

const struct nib_arch_prefix *nib_arch_prefix(enum nib_container container, uint32_t index)
{
    if (container == NIB_CONTAINER_GGUF)
        return index == 0 ? &gguf_prefix : NULL;
    return index < sizeof hf_prefixes / sizeof hf_prefixes[0] ? &hf_prefixes[index] : NULL;
}

bool nib_arch_in_layer(enum nib_role role)
{
    switch (role) {
    case NIB_ROLE_TOKEN_EMBEDDING:
    case NIB_ROLE_OUTPUT_NORM:
    case NIB_ROLE_OUTPUT:
    case NIB_ROLE_OUTPUT_BIAS:
    case NIB_ROLE_ROPE_FREQUENCIES:
        return false;
    default:
        return true;
    }
}

bool nib_arch_tensor(const struct nib_arch *arch, enum nib_container container,
                     const struct nib_arch_prefix *prefix, enum nib_role role, uint32_t layer,
                     char out[NIB_ARCH_NAME_SIZE])
{
    const char *name = arch->tensors[container][role];
    if (!name)
        return false;
    if (nib_arch_in_layer(role)) {
        snprintf(out, NIB_ARCH_NAME_SIZE, "%s%s.%" PRIu32 ".%s", prefix->body,
                 container == NIB_CONTAINER_GGUF ? "blk" : "layers", layer, name);
        return true;
    }
    bool head = role == NIB_ROLE_OUTPUT || role == NIB_ROLE_OUTPUT_BIAS;
    snprintf(out, NIB_ARCH_NAME_SIZE, "%s%s", head ? prefix->head : prefix->body, name);
    return layer == 0;
}
