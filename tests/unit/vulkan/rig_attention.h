/// One layer's store and attention as a plan of its own, on any backend.
#ifndef TESTS_UNIT_VULKAN_RIG_ATTENTION_H
#define TESTS_UNIT_VULKAN_RIG_ATTENTION_H

#include "runtime/ops/backend.h"

/// What the layer is like.
struct rig_attention {
    uint32_t n_heads, n_kv_heads, key_dim, value_dim, window;
    enum nib_kv_format key_format, value_format;
    float softcap;
    float query_size; ///< large: one score takes all
    uint32_t context; ///< a multiple of 32
    uint32_t n_sequences;
    uint32_t recent_pages; ///< of newest tokens
    uint32_t first_pages;  ///< of first tokens that are in f16
    bool is_plain;         ///< codes are not transformed
};
/// Rows [first, first + n) of a sequence.
struct rig_chunk {
    uint32_t sequence, first, n;
};
/// A step's chunks; those of n = 0 do not count.
struct rig_step {
    struct rig_chunk chunks[20];
};

/// An instance with its plan. Every call ends the test where it fails.
struct rig_cache {
    struct rig_attention params;
    const struct nib_backend *backend;
    void *self;
    struct nib_op ops[2];
    struct nib_segment segments[3];
    struct nib_kv_layer layer;
    struct nib_plan plan;
    uint32_t *tables; ///< [sequence][classes][context / 32]
};
/// Opens it on a device of the backend, which stays the caller's. `c` must not move.
void rig_cache_open(struct rig_cache *c, const struct rig_attention *params,
                    const struct nib_backend *backend, void *device);
void rig_cache_close(struct rig_cache *c);
/// Returns the rows of a step, and columns of a row's output.
uint32_t rig_step_rows(const struct rig_step *step);
uint32_t rig_out_width(const struct rig_attention *params);
/// Runs a step over keys, values and queries that follow from sequences and positions alone;
/// `out` is [rows][rig_out_width].
void rig_cache_run(struct rig_cache *c, const struct rig_step *step, float *out);

#endif
