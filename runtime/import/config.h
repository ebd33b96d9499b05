/// What an architecture and a checkpoint's configuration say about the computation, as data: the
/// plan is made from this alone, so an architecture is a row in a table and not a code path.
#ifndef RUNTIME_IMPORT_CONFIG_H
#define RUNTIME_IMPORT_CONFIG_H

#include "runtime/base/arena.h"
#include "runtime/ops/plan.h"

/// How queries and keys are normalized before RoPE.
enum nib_qk_norm {
    NIB_QK_NORM_NONE,
    NIB_QK_NORM_HEAD, ///< each head by itself (Qwen 3, Gemma 3)
    NIB_QK_NORM_ROW   ///< the whole projection (OLMo 2)
};

enum nib_rope_scaling {
    NIB_ROPE_SCALING_NONE,
    NIB_ROPE_SCALING_LINEAR,
    NIB_ROPE_SCALING_LLAMA3,
    NIB_ROPE_SCALING_YARN,    ///< Peng et al. 2023
    NIB_ROPE_SCALING_LONGROPE ///< Ding et al. 2024
};

/// One kind of rotary embedding.
struct nib_rope_config {
    float base;
    uint32_t dims;
    bool interleaved; ///< pairs (2j, 2j + 1), as GGUF's permuted llama weights want
    enum nib_rope_scaling scaling;
    float factor;                ///< 0 (yarn, longrope): the model's context / original_context
    uint32_t original_context;   ///< 0: the model's context
    float low_frequency_factor;  ///< llama3
    float high_frequency_factor; ///< llama3
    float beta_fast;             ///< yarn
    float beta_slow;             ///< yarn
    float attention_factor;      ///< yarn, longrope: magnitude; 0: by the method's formula
    float mscale;                ///< yarn as DeepSeek varies it; 0: none
    float mscale_all_dims;
    bool truncate;              ///< yarn: round the correction range to whole dimensions
    const float *short_factors; ///< longrope: [dims / 2]
    const float *long_factors;  ///< longrope: [dims / 2]
    const float *divisors; ///< [dims / 2] that divide the frequencies (GGUF's rope_freqs), or NULL
};

/// What differs from layer to layer.
struct nib_layer_config {
    uint32_t window; ///< tokens a row sees, itself included; 0: all
    int32_t rope;    ///< index into nib_model_config.ropes; -1: no positions
};

struct nib_model_config {
    const char *architecture; ///< name of the table's row, static
    const char *name;         ///< the checkpoint's own; "" if it gives none
    uint32_t n_layers;
    uint32_t hidden_size;
    uint32_t ffn_size;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t key_dim;   ///< head dimension of queries and keys
    uint32_t value_dim; ///< head dimension of values
    uint32_t vocabulary;
    uint32_t context;
    float norm_epsilon;
    float
        norm_offset; ///< added to every norm weight when it is loaded: 1 where a checkpoint stores
                     ///< w − 1 (Gemma in Hugging Face's folders), else 0
    bool pre_norm;   ///< norms before attention and FFN (all but OLMo 2)
    bool post_norm;  ///< norms of their outputs before the residual add
    enum nib_qk_norm qk_norm;
    enum nib_gate_function gate;
    float embedding_scale; ///< 1 where the architecture has none; so below
    float residual_scale;
    float logit_scale;       ///< factor of the logits
    float attention_scale;   ///< of q·k
    float attention_softcap; ///< 0: none
    float logit_softcap;     ///< 0: none
    uint32_t sliding_window; ///< of the layers that have one; 0: none
    struct nib_rope_config ropes[2];
    uint32_t n_ropes;
    const struct nib_layer_config *layers; ///< [n_layers]
};

#endif
