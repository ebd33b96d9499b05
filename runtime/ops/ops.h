/// The ops: the one list of what a plan can ask of a backend, with a params struct each.
///
/// An op works on rows: a value is [rows][width] floats, and "view" names columns of a value.
/// Weights are numbers into the plan's list. Nothing here is fused; each backend groups ops as it
/// can.
#ifndef RUNTIME_OPS_OPS_H
#define RUNTIME_OPS_OPS_H

#include "runtime/quant/format.h"

/// Kind, name of the params member in nib_op and name in reports.
#define NIB_OPS(X)          \
    X(EMBED, embed)         \
    X(NORM, norm)           \
    X(MATMUL, matmul)       \
    X(ROPE, rope)           \
    X(KV_STORE, kv_store)   \
    X(ATTENTION, attention) \
    X(ACTIVATE, activate)   \
    X(ADD, add)             \
    X(SCALE, scale)         \
    X(SOFTCAP, softcap)     \
    X(GATHER, gather)       \
    X(ROUTE, route)         \
    X(REDUCE, reduce)

enum nib_op_kind {
#define X(kind, name) NIB_OP_##kind,
    NIB_OPS(X)
#undef X
        NIB_OP_COUNT
};
/// Returns the op's name; static.
const char *nib_op_name(enum nib_op_kind kind);

/// No weight, no bias, no tap, no expert.
#define NIB_NO_WEIGHT UINT32_MAX

/// Columns [offset, offset + width) of each row of a value.
struct nib_view {
    uint32_t value;
    uint32_t offset;
    uint32_t width;
};

/// out = scale · embedding row of each row's token.
struct nib_op_embed {
    uint32_t weight; ///< matrix [vocabulary, width]
    struct nib_view out;
    float scale;
};

/// Root-mean-square norm (Zhang and Sennrich 2019) of each of `n_groups` equal parts of a row:
/// out = in / sqrt(mean(in²) + epsilon) · weight, in fp32. in and out may be the same view.
struct nib_op_norm {
    struct nib_view in;
    struct nib_view out;
    uint32_t weight;   ///< vector [width / n_groups], repeated for each part; or NIB_NO_WEIGHT: 1
    uint32_t n_groups; ///< 1, or heads for a norm per head
    float epsilon;
};

/// out[r][o] = Σ_i weight[o][i] · in[r][i] + bias[o].
struct nib_op_matmul {
    struct nib_view in;  ///< width = the weight's columns
    struct nib_view out; ///< width = the weight's rows
    uint32_t weight;     ///< matrix [out, in], or [experts, out, in]
    uint32_t bias;       ///< vector [out], or NIB_NO_WEIGHT
    enum nib_activation activation;
    uint32_t experts; ///< value with each row's expert indices, or NIB_NO_WEIGHT: a plain matrix
    uint32_t tap;     ///< number of the tap that sees `in` (calibration), or NIB_NO_WEIGHT
};

/// Rotary position embedding (Su et al. 2021) of each head of x, in place: the first `dims` numbers
/// of a head, in pairs (j, j + dims/2), or (2j, 2j + 1) where `interleaved`, turn by
/// position · frequency[j] and are multiplied by the table's magnitude.
struct nib_op_rope {
    struct nib_view x;
    uint32_t n_heads;
    uint32_t head_dim;
    uint32_t table; ///< number into the plan's RoPE tables
    bool interleaved;
};

/// Writes each row's keys and values to the cache at the row's position. Padding rows write
/// nowhere.
struct nib_op_kv_store {
    struct nib_view key;
    struct nib_view value;
    uint32_t kv_layer; ///< number into the plan's KV layers
};

/// Scaled dot-product attention of each row over its sequence's cache, itself included, not beyond
/// its own position, and not further back than the layer's window. Query head h reads KV head
/// h / (n_heads / n_kv_heads).
/// score = scale · q·k; with softcap > 0: softcap · tanh(score / softcap); then softmax in fp32.
struct nib_op_attention {
    struct nib_view query; ///< [heads][key_dim]
    struct nib_view out;   ///< [heads][value_dim]
    uint32_t kv_layer;
    uint32_t n_heads;
    float scale;
    float softcap; ///< 0: none
};

/// The gate's function.
enum nib_gate_function {
    NIB_GATE_SILU,      ///< x / (1 + e^−x)
    NIB_GATE_GELU_TANH, ///< 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
    NIB_GATE_GELU       ///< 0.5 x (1 + erf(x / √2))
};
/// out = function(gate) · up.
struct nib_op_activate {
    struct nib_view gate;
    struct nib_view up;
    struct nib_view out;
    enum nib_gate_function function;
};

/// out += scale · in.
struct nib_op_add {
    struct nib_view in;
    struct nib_view out;
    float scale;
};

/// x *= factor.
struct nib_op_scale {
    struct nib_view x;
    float factor;
};

/// x = cap · tanh(x / cap).
struct nib_op_softcap {
    struct nib_view x;
    float cap;
};

/// out[l] = in[r] for the row r whose logits are line l of this run of the head; from here to the
/// end of the segment ops work on n_logits rows.
struct nib_op_gather {
    struct nib_view in;
    struct nib_view out;
};

/// Reserved for mixtures of experts: the `n_experts` largest of `scores` with their weights.
struct nib_op_route {
    struct nib_view scores;
    struct nib_view experts;
    struct nib_view weights;
    uint32_t n_experts;
};

/// Reserved for tensor parallelism: out = sum of `in` over all shards.
struct nib_op_reduce {
    struct nib_view in;
    struct nib_view out;
};

struct nib_op {
    enum nib_op_kind kind;
    uint32_t segment;
    union {
#define X(kind, name) struct nib_op_##name name;
        NIB_OPS(X)
#undef X
    };
};

#endif
