/// Devices and instances of the CPU backend.
#ifndef RUNTIME_CPU_INSTANCE_H
#define RUNTIME_CPU_INSTANCE_H

#include "runtime/base/thread_pool.h"
#include "runtime/cpu/kernels.h"
#include "runtime/ops/backend.h"

/// The CPU as engines use it. Thread-safety: safe; loops of several instances take turns.
struct nib_cpu_device {
    struct nib_thread_pool *pool;
    struct nib_cpu_kernels kernels;
};

/// As nib_backend.measure.
enum nib_status nib_cpu_measure(void *device, struct nib_device_limits *out_limits,
                                struct nib_error *err);

/// Returns the multiply-adds of activations in bytes with weights of more than four bits that the
/// device's instructions do a second: int8_macs, or less where such weights take more than one
/// instruction.
double nib_cpu_measure_byte_peak(const struct nib_cpu_device *device);

/// A run of a plan's segments with its weights, cache and buffers.
struct nib_cpu_instance {
    const struct nib_plan *plan;
    struct nib_cpu_device *device;
    uint32_t n_threads; ///< of the device
    uint32_t first_segment;
    uint32_t n_segments;
    uint32_t max_rows; ///< lines of every value: the rows of a step or the logits of a head's run

    struct nib_cpu_matrix *weights; ///< [plan->n_weights]; those of other placements stay empty
    bool *is_used;                  ///< [plan->n_weights] one of our ops reads it
    uint32_t n_missing;             ///< weights in use that pack has not seen
    uint8_t *arena;                 ///< matrices in use, in the order of the ops, or NULL
    size_t arena_size;
    uint64_t *places; ///< [plan->n_weights] where in the arena; UINT64_MAX: not there

    struct nib_cpu_cache *caches; ///< [plan->n_kv_layers]; zeros for layers of other placements
    uint32_t n_pages[NIB_KV_MAX_CLASSES];
    uint8_t *pages[NIB_KV_MAX_CLASSES];       ///< [n_pages][page_stride]
    uint64_t page_stride[NIB_KV_MAX_CLASSES]; ///< bytes of a page of all layers that lie here
    uint64_t step_stride;                     ///< of one that is of use to a step alone

    void *buffers; ///< everything below in one block
    size_t buffers_size;
    float *values[NIB_PLAN_MAX_VALUES]; ///< [max_rows][width]; NULL for the logits
    float **angles;                     ///< [plan->n_ropes] of [max_rows][dims]
    uint32_t *sequences; ///< [max_rows] of the rows that ops work on: index into the step's
    uint32_t *spans;     ///< [max_rows + 1] first rows of stretches of one sequence
    uint32_t *kept;      ///< [max_rows] rows that the last layer goes on with
    struct nib_step_row *kept_rows; ///< [max_rows] the same
    float *parts;                   ///< of attention, see nib_cpu_attention
    /// The second one, of quads alone, is for up to nib_cpu_block_rows rows: it is written while
    /// the first is read, or the other way round.
    struct nib_cpu_input inputs[2];
    float *largest;                  ///< as in nib_cpu_largest, where the head may want it
    struct nib_cpu_scratch *scratch; ///< [threads]
    size_t input_values_size;        ///< of inputs[0].values, a block of its own, made when needed
    uint64_t widest;                 ///< columns of the widest matrix

    nib_tap_fn *on_tap; ///< or NULL
    void *tap_user;
    uint64_t n_dispatches;
    uint64_t *profile_calls; ///< [plan->n_ops], or NULL
    uint64_t *profile_ns;
};

/// As nib_backend.predict_scratch.
enum nib_status nib_cpu_predict_scratch(const struct nib_plan *plan, uint32_t threads,
                                        uint64_t *out_bytes, struct nib_error *err);
/// As nib_backend.create, destroy, pack and memory.
enum nib_status nib_cpu_instance_create(const struct nib_instance_params *params, void **out_self,
                                        struct nib_error *err);
void nib_cpu_instance_destroy(void *self);
enum nib_status nib_cpu_instance_pack(void *self, uint32_t weight,
                                      const struct nib_row_reader *reader, struct nib_error *err);
void nib_cpu_instance_memory(const void *self, struct nib_instance_memory *out_memory);

/// Returns weight `weight`, or the one it shares, or NULL for NIB_NO_WEIGHT.
const struct nib_cpu_matrix *nib_cpu_instance_weight(const struct nib_cpu_instance *instance,
                                                     uint32_t weight);

/// Returns how many floats a row of a value is from the next: no less than its width. Rows of the
/// hidden state and of logits, which others read too, lie close together.
uint64_t nib_cpu_stride(const struct nib_plan *plan, uint32_t value);

/// Returns whether op `i` is a head of which the largest outputs can be found alone, where the
/// matrix allows it.
bool nib_cpu_wants_largest(const struct nib_cpu_instance *instance, uint32_t i);

/// Returns up to how many rows, all sequences' together, attention shares out by blocks of tokens:
/// where KV heads of rows are few pieces for the threads.
uint32_t nib_cpu_split_rows(uint32_t n_threads, uint32_t n_kv_heads);

/// Returns below how many rows inputs of matmuls are prepared by column blocks.
uint32_t nib_cpu_block_rows(uint32_t n_threads);

/// As nib_backend.run.
enum nib_status nib_cpu_run(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                            const float *hidden_in, float *hidden_out, struct nib_error *err);

/// Takes the cache's pages of every layer that an op of ours uses. Errors: argument, memory.
enum nib_status nib_cpu_caches_create(struct nib_cpu_instance *instance, struct nib_error *err);
void nib_cpu_caches_destroy(struct nib_cpu_instance *instance);
/// Returns the bytes of all pages.
uint64_t nib_cpu_caches_size(const struct nib_cpu_instance *instance);
/// As nib_backend.kv_copy, kv_export and kv_import.
enum nib_status nib_cpu_kv_copy(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                                struct nib_error *err);
enum nib_status nib_cpu_kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                  struct nib_error *err);
enum nib_status nib_cpu_kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                  struct nib_error *err);

#endif
