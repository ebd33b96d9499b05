/// The plan: a model as an ordered list of unfused ops, with everything that they refer to.
#ifndef RUNTIME_OPS_PLAN_H
#define RUNTIME_OPS_PLAN_H

#include "runtime/ops/kv.h"
#include "runtime/ops/ops.h"

/// What a tensor is for. Columns: identifier, name in reports, whether it is a matrix.
#define NIB_ROLES(X)                                     \
    X(TOKEN_EMBEDDING, "token_embedding", true)          \
    X(OUTPUT_NORM, "output_norm", false)                 \
    X(OUTPUT, "output", true)                            \
    X(OUTPUT_BIAS, "output_bias", false)                 \
    X(ATTENTION_NORM, "attention_norm", false)           \
    X(Q, "q", true)                                      \
    X(K, "k", true)                                      \
    X(V, "v", true)                                      \
    X(QKV, "qkv", true)                                  \
    X(Q_BIAS, "q_bias", false)                           \
    X(K_BIAS, "k_bias", false)                           \
    X(V_BIAS, "v_bias", false)                           \
    X(QKV_BIAS, "qkv_bias", false)                       \
    X(Q_NORM, "q_norm", false)                           \
    X(K_NORM, "k_norm", false)                           \
    X(ATTENTION_OUT, "attention_out", true)              \
    X(ATTENTION_OUT_BIAS, "attention_out_bias", false)   \
    X(ATTENTION_POST_NORM, "attention_post_norm", false) \
    X(FFN_NORM, "ffn_norm", false)                       \
    X(FFN_GATE, "ffn_gate", true)                        \
    X(FFN_UP, "ffn_up", true)                            \
    X(FFN_GATE_UP, "ffn_gate_up", true)                  \
    X(FFN_DOWN, "ffn_down", true)                        \
    X(FFN_GATE_BIAS, "ffn_gate_bias", false)             \
    X(FFN_UP_BIAS, "ffn_up_bias", false)                 \
    X(FFN_DOWN_BIAS, "ffn_down_bias", false)             \
    X(FFN_POST_NORM, "ffn_post_norm", false)             \
    X(ROPE_FREQUENCIES, "rope_frequencies", false)

enum nib_role {
#define X(id, name, matrix) NIB_ROLE_##id,
    NIB_ROLES(X)
#undef X
        NIB_ROLE_COUNT
};
/// Returns the role's name; static.
const char *nib_role_name(enum nib_role role);
/// Returns whether tensors of this role are matrices (vectors are kept in fp32 by every backend).
bool nib_role_is_matrix(enum nib_role role);

/// A weight that the plan uses. Two weights may name the same tensor (a tied head): `shared_with`
/// is then the first of them, and a backend packs it once.
struct nib_weight {
    enum nib_role role;
    uint32_t layer;       ///< 0 for roles outside the layers
    uint32_t segment;     ///< of the op that uses it
    uint32_t shared_with; ///< number of an earlier weight, or NIB_NO_WEIGHT
    uint64_t rows;        ///< vectors: 1
    uint64_t cols;
    struct nib_format format;
    uint64_t bytes; ///< as the container stores it
};

/// A buffer of activations: one row of `width` floats for each row of the step. Value 0 is the
/// hidden state, the only one that lives from segment to segment.
struct nib_value {
    const char *name; ///< static
    uint32_t width;
};
#define NIB_VALUE_HIDDEN 0
#define NIB_PLAN_MAX_VALUES 16

enum nib_segment_kind { NIB_SEGMENT_EMBEDDING, NIB_SEGMENT_LAYER, NIB_SEGMENT_HEAD };

/// The unit of recording, placement and time slices.
struct nib_segment {
    enum nib_segment_kind kind;
    uint32_t layer;
    uint32_t first_op;
    uint32_t n_ops;
};

/// Angles of rotary embedding, scaling already applied.
struct nib_rope_table {
    uint32_t dims;          ///< numbers of a head that turn
    const float *frequency; ///< [dims / 2] radians a position
    float magnitude;        ///< YaRN's and long-rope's attention factor, else 1
};

/// Made once from a configuration and the tensors' formats; immutable. Backends keep no pointer
/// into it beyond the engine's life. Thread-safety: safe.
struct nib_plan {
    struct nib_value values[NIB_PLAN_MAX_VALUES];
    uint32_t n_values;
    const struct nib_op *ops;
    uint32_t n_ops;
    const struct nib_segment *segments;
    uint32_t n_segments;
    const struct nib_weight *weights;
    uint32_t n_weights;
    const struct nib_rope_table *ropes;
    uint32_t n_ropes;
    const struct nib_kv_layer *kv_layers; ///< one per layer
    uint32_t n_kv_layers;
    uint32_t n_kv_classes;
    uint32_t logits_value; ///< number of the value that the head leaves its logits in
    uint32_t n_taps;
    uint32_t hidden_size;
    uint32_t vocabulary; ///< logits a row
    uint32_t context;
    uint32_t max_rows;
    enum nib_kv_format key_format; ///< never NIB_KV_DEFAULT
    enum nib_kv_format value_format;
    uint32_t recent_pages; ///< of newest tokens that are kept in f16 beside their codes; 0: none
    uint32_t first_pages;  ///< of a sequence's first tokens that are. The two have the last of the
                           ///< classes to themselves, where there is one of them
};

/// Returns whether tokens are kept in f16 beside their codes.
static inline bool nib_plan_keeps_f16(const struct nib_plan *plan)
{
    return plan->recent_pages > 0 || plan->first_pages > 0;
}

/// Returns the pages of newest tokens that are of use to one step alone: whole pages of its rows
/// but the newest ones. They come behind the class's others.
static inline uint32_t nib_plan_step_pages(const struct nib_plan *plan)
{
    return plan->recent_pages > 0 ? plan->max_rows / NIB_KV_PAGE_TOKENS : 0;
}

/// Checks a plan once for all backends: every view inside its value, every weight's shape what its
/// op needs, segments in order and without gaps, heads that divide, cache formats that have a
/// layout. Every format goes with every activation mode. Errors: argument, naming the op and the
/// reason.
enum nib_status nib_plan_validate(const struct nib_plan *plan, struct nib_error *err);

/// What one op moves and computes for a step.
struct nib_cost {
    uint64_t bytes; ///< weights, activations, cache
    uint64_t macs;
};
/// Returns the cost of op `op` for `n_rows` rows (the head: rows with logits) of sequences whose
/// cache holds `kv_length` tokens on average.
struct nib_cost nib_op_cost(const struct nib_plan *plan, uint32_t op, uint32_t n_rows,
                            uint32_t kv_length);

/// Returns the bytes that a backend on the host takes for the values of a step of plan->max_rows
/// rows (of `max_logits` lines in the head) and for a matmul's quantized input. Buffers of single
/// threads, which are small, are not in it, nor is the value of the logits, which lies with the
/// engine.
uint64_t nib_plan_scratch_bytes(const struct nib_plan *plan, uint32_t max_logits);

#endif
