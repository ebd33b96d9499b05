/// The architectures as data: in what each differs from llama, what its checkpoints leave unsaid,
/// and how they call its tensors. Nothing else in the library knows an architecture by name.
#ifndef RUNTIME_IMPORT_ARCH_H
#define RUNTIME_IMPORT_ARCH_H

#include "runtime/import/config.h"

enum nib_container { NIB_CONTAINER_GGUF, NIB_CONTAINER_HF, NIB_CONTAINER_COUNT };

/// Which layers have the sliding window that a checkpoint gives.
enum nib_window_rule {
    NIB_WINDOW_NONE,   ///< none
    NIB_WINDOW_ALL,    ///< all
    NIB_WINDOW_PERIOD, ///< all but the last of every `window_period`
    NIB_WINDOW_FLAG,   ///< where use_sliding_window is set, those from max_window_layers on
    NIB_WINDOW_NO_ROPE ///< where use_sliding_window is set, those without RoPE
};

/// One architecture. Numbers are what holds where a checkpoint has no such key; 0 where it must.
struct nib_arch {
    const char *name;     ///< in reports
    const char *gguf;     ///< general.architecture, or NULL: GGUF has no name of its own for it
    const char *hf[2];    ///< model_type; the second may be NULL
    const char *hf_class; ///< transformers' class of the first
    const char *const
        *tensors[NIB_CONTAINER_COUNT]; ///< [NIB_ROLE_COUNT] names, see nib_arch_tensor

    enum nib_gate_function gate;
    enum nib_qk_norm qk_norm;
    bool no_pre_norm;
    bool post_norm;
    bool qkv_bias;         ///< Q, K and V must have biases
    bool shifted_norms;    ///< norm weights w are stored as w − 1 in Hugging Face's folders
    bool scaled_embedding; ///< embeddings are multiplied by √hidden_size
    bool tied;             ///< the head is the token embedding
    float norm_epsilon;
    float attention_softcap;
    float logit_softcap;

    float query_scalar;         ///< folders: attention scale is its power of −1/2; 0: key_dim
    float attention_multiplier; ///< folders: the attention scale itself; 0: by query_scalar
    uint32_t wide_head_layers; ///< GGUF: with so many layers, query_scalar is hidden_size / n_heads

    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t key_dim;
    uint32_t context;

    float rope_base;
    float window_rope_base;  ///< of layers with a window; 0: they have the others' RoPE
    bool window_rope_plain;  ///< layers with a window have no RoPE scaling
    bool interleaved;        ///< GGUF: rows of Q and K are permuted for interleaved RoPE
    uint32_t no_rope_period; ///< the last layer of every so many has no RoPE; 0: all have it

    enum nib_window_rule window_rule;
    uint32_t window_period;
    uint32_t window;      ///< folders
    uint32_t gguf_window; ///< GGUF
};

/// Returns the architecture that a container calls `name` (GGUF: general.architecture, folders:
/// model_type), or NULL; static.
const struct nib_arch *nib_arch_find(enum nib_container container, struct nib_text name);
/// Writes the names of all architectures, separated by ", ", to `out`, cut to `capacity`.
void nib_arch_list(enum nib_container container, char *out, size_t capacity);

/// Longest tensor name that is looked for, with its end.
#define NIB_ARCH_NAME_SIZE 128
/// How a checkpoint wraps the language model's tensors: `body` precedes all of them but the head's.
struct nib_arch_prefix {
    const char *body;
    const char *head;
};
/// Returns prefix `index` that tensors of `container` are known to have, or NULL past the last.
const struct nib_arch_prefix *nib_arch_prefix(enum nib_container container, uint32_t index);
/// Writes the name of the tensor of `role` in `layer` to `out`; returns false where the
/// architecture has none. Roles outside the layers exist in layer 0 alone.
bool nib_arch_tensor(const struct nib_arch *arch, enum nib_container container,
                     const struct nib_arch_prefix *prefix, enum nib_role role, uint32_t layer,
                     char out[NIB_ARCH_NAME_SIZE]);
/// Returns whether tensors of `role` belong to a layer.
bool nib_arch_in_layer(enum nib_role role);

#endif
