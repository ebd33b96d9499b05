/// A model: a source and what follows from it, shared by the engines that run it.
#ifndef RUNTIME_MODEL_MODEL_H
#define RUNTIME_MODEL_MODEL_H

#include "runtime/import/source.h"
#include "runtime/ops/backend.h"

/// What a plan depends on besides the model.
struct nib_plan_params {
    uint32_t context;              ///< tokens; 0: min(the model's, NIB_DEFAULT_CONTEXT)
    uint32_t max_rows;             ///< a power of two up to NIB_STEP_MAX_ROWS; 0: that
    enum nib_kv_format key_format; ///< NIB_KV_DEFAULT: f16
    enum nib_kv_format value_format;
    uint32_t recent_tokens; ///< as nib_engine_params.kv_recent
    uint32_t first_tokens;  ///< as nib_engine_params.kv_first
    bool plain_keys;        ///< not transformed in i8 and i4
    bool plain_values;
    bool precise;      ///< fp32 activations except where the checkpoint asks for int8
    bool whole_layers; ///< the last layer's FFN is that layer's, for all rows, not the head's
};

/// Makes the plan: ops, weights, segments, RoPE tables, KV layers. The last layer's FFN is in the
/// segment of the head, since rows that want no logits need none of it. The default activation mode
/// of quantized matrices is int8-group, in the last layer and the head int16-group; float matrices
/// use fp32.
/// Free with nib_plan_destroy.
/// Errors: argument (context over the model's, max_rows), unsupported (a KV format without layout,
/// an op that has no place in the design), memory.
enum nib_status nib_plan_create(const struct nib_source *source,
                                const struct nib_plan_params *params, struct nib_plan **out_plan,
                                struct nib_error *err);
void nib_plan_destroy(struct nib_plan **plan);

/// Works out a RoPE table's frequencies and magnitude for `context` tokens. `out_frequency` holds
/// dims / 2 floats.
void nib_rope_frequencies(const struct nib_rope_config *rope, uint32_t model_context,
                          uint32_t context, float *out_frequency, float *out_magnitude);

/// Pages of one KV class that `n_sessions` sessions of `context` tokens need.
uint32_t nib_plan_pages(const struct nib_plan *plan, uint32_t kv_class, uint32_t n_sessions);
/// Bytes of the KV pool with these pages, as the CPU or a Vulkan device keeps it.
uint64_t nib_plan_kv_bytes(const struct nib_plan *plan, uint32_t n_sessions, bool on_vulkan);
/// Some of a plan's layers.
struct nib_layer_range {
    uint32_t first;
    uint32_t count;
};
/// Those of the pool that a device with these layers alone has.
uint64_t nib_plan_layers_kv_bytes(const struct nib_plan *plan, struct nib_layer_range layers,
                                  uint32_t n_sessions, bool on_vulkan);

/// Predicts the memory of an engine (see nib_model_predict_memory) on a device of `backend` (NULL:
/// of any).
enum nib_status nib_plan_predict_memory(const struct nib_source *source,
                                        const struct nib_memory_params *params,
                                        const struct nib_backend *backend,
                                        struct nib_memory *out_memory, struct nib_error *err);

#endif
