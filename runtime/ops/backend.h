/// The meeting place of engine and backends: one table of functions.
#ifndef RUNTIME_OPS_BACKEND_H
#define RUNTIME_OPS_BACKEND_H

#include "runtime/ops/plan.h"
#include "runtime/ops/step.h"
#include "runtime/quant/row_reader.h"
#include <nibble/session.h>
#include <stdatomic.h>

struct nib_backend;

/// Whether a device's limits are there: nobody else reads or writes them while one writes.
enum nib_limits_state { NIB_LIMITS_NONE, NIB_LIMITS_WRITING, NIB_LIMITS_THERE };

/// A device as engines hold it, made by the registry.
struct nib_device {
    const struct nib_backend *backend;
    void *impl;                      ///< the backend's own device
    _Atomic uint32_t references;     ///< the opener's and one per engine
    _Atomic uint32_t limits_state;   ///< enum nib_limits_state
    struct nib_device_limits limits; ///< of its first measurement; does not change once it is there
};

/// Sees the input of a matmul that has a tap, before it is computed: `n_rows` rows of the view's
/// width, `stride` floats apart, which belong to the backend. Return false to end the run there:
/// what follows is not computed, and the hidden states are of no use.
typedef bool nib_tap_fn(void *user, uint32_t tap, const float *rows, uint64_t stride,
                        uint32_t n_rows);

/// What an instance is made for: a run of the plan's segments on a device.
struct nib_instance_params {
    const struct nib_plan *plan; ///< outlives the instance
    void *device;                ///< nib_device.impl
    struct nib_log log;
    uint32_t first_segment;
    uint32_t n_segments;
    uint32_t n_pages[NIB_KV_MAX_CLASSES]; ///< pages of the KV pool, per class; of newest tokens
                                          ///< nib_plan_step_pages more
    uint32_t max_sequences;
    uint32_t max_logits; ///< lines of logits in one run of the head
    bool precise;
    bool fallback;
    bool profile;
    nib_tap_fn *on_tap; ///< NULL where the plan has no taps
    void *tap_user;
};

/// What an instance holds. Bytes.
struct nib_instance_memory {
    uint64_t weights; ///< packed, or the part of the mapped file that is used in place
    uint64_t kv;
    uint64_t scratch;
    uint64_t device; ///< of all these, what lies in GPU memory
};

/// What an instance did, summed over all runs.
struct nib_instance_counters {
    uint64_t dispatches; ///< kernels launched
    uint64_t host_ns;    ///< host time outside kernels: preparing and submitting
    uint32_t n_replaced;
    const char *const *replaced; ///< kernels that failed their self-test; alive as the instance
    uint32_t n_fallbacks;
    const char *const *fallbacks;
};

/// Times of the plan's ops; arrays [n_ops].
struct nib_op_times {
    uint64_t *calls;
    uint64_t *ns;
    uint32_t *counted_as; ///< the op whose calls and time are of this one too, where the backend
                          ///< has fused them; as given: itself
};

/// One page's place in the cache of one layer.
struct nib_kv_page {
    uint32_t kv_layer;
    uint32_t page;
    bool is_recent; ///< of tokens that are kept in f16 beside their codes
};

struct nib_attach_params; // of <nibble/vulkan.h>, as is the next one
struct nib_timeline_point;
struct VkCommandBuffer_T;

/// What a step waits for and signals, of a host that owns the device.
struct nib_step_points {
    const struct nib_timeline_point *waits;
    uint32_t n_waits;
    const struct nib_timeline_point *signals;
    uint32_t n_signals;
};

/// A backend. `device` and `self` are what open and create gave. An instance is used by one thread
/// at a time; devices by any. Arguments were validated above. Entries marked optional may be NULL.
struct nib_backend {
    const char *name; ///< as in --device

    /// As nib_devices_list, this backend's devices alone.
    enum nib_status (*device_list)(struct nib_device_info *out_infos, uint32_t capacity,
                                   uint32_t *out_count, struct nib_error *err);
    /// As nib_device_open; params is never NULL.
    enum nib_status (*device_open)(const struct nib_device_params *params, void **out_device,
                                   struct nib_error *err);
    /// Optional. As nib_device_attach; params is never NULL.
    enum nib_status (*device_attach)(const struct nib_attach_params *params, void **out_device,
                                     struct nib_error *err);
    void (*device_close)(void *device);
    void (*device_info)(const void *device, struct nib_device_info *out_info);
    /// Optional. Returns the bytes that models can still take; NULL: nib_device_info.memory_bytes.
    uint64_t (*memory_left)(void *device);
    /// As nib_device_measure.
    enum nib_status (*measure)(void *device, struct nib_device_limits *out_limits,
                               struct nib_error *err);
    /// Optional. From now on kernels are checked against `reference`, the CPU backend with its
    /// scalar code, before an instance uses them, as the params' `self_test` says; those that fail
    /// are replaced where others can do their work. Called once, before there are instances.
    /// Errors: memory, those of the reference.
    enum nib_status (*trust)(void *device, const struct nib_backend *reference,
                             struct nib_error *err);
    /// Optional. As nib_device_self_test.
    enum nib_status (*self_test)(void *device, const struct nib_backend *reference,
                                 nib_kernel_check_fn *on_check, void *user, struct nib_error *err);

    /// Optional. Finds the bytes of scratch that an instance of the whole plan takes, with
    /// NIB_STEP_MAX_LOGITS lines of logits, on a device of `threads` threads (0: as many as it has
    /// by default); NULL: nib_plan_scratch_bytes. Errors: argument (too many), memory.
    enum nib_status (*predict_scratch)(const struct nib_plan *plan, uint32_t threads,
                                       uint64_t *out_bytes, struct nib_error *err);
    /// Returns NIB_OK where the device can run op `op` of `plan`, else NIB_ERROR_UNSUPPORTED with
    /// the reason.
    enum nib_status (*supports)(const void *device, const struct nib_plan *plan, uint32_t op,
                                struct nib_error *err);
    /// Groups the ops of the placement into what the backend fuses, and takes scratch and KV
    /// memory.
    enum nib_status (*create)(const struct nib_instance_params *params, void **out_self,
                              struct nib_error *err);
    void (*destroy)(void *self);
    /// Makes weight `weight` (never one with `shared_with`) usable: packs it once into the kernels'
    /// layout, dropping the source's pages as it goes, or keeps the reader's mapped rows in place.
    /// The reader's arrays stay valid as long as the instance. Vectors come as float matrices of
    /// one row.
    enum nib_status (*pack)(void *self, uint32_t weight, const struct nib_row_reader *reader,
                            struct nib_error *err);
    /// Optional. Goes on making kernels ready for `budget_ns` (0: to the end).
    enum nib_status (*ready)(void *self, uint64_t budget_ns, bool *out_ready,
                             struct nib_error *err);

    /// Optional. Tells how many kernels `ready` has checked, and adds those that it knows are due.
    void (*checks)(const void *self, uint32_t *out_done, uint32_t *out_total);

    /// Runs segments [first, last] over `step`. `hidden_in` [n_rows][hidden_size] is read where the
    /// first is not segment 0; NULL there: the hidden states that the last run of this instance
    /// left. `hidden_out` (may be NULL) receives them. The head fills step->logits. May return
    /// before the work is done where `wait` is not NULL; what it writes is there after the wait.
    enum nib_status (*run)(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                           const float *hidden_in, float *hidden_out, struct nib_error *err);
    /// Optional. Waits for the oldest run that has not been waited for, if there is one.
    enum nib_status (*wait)(void *self, struct nib_error *err);
    /// Optional. Adds points that the next run waits for and the next end_step signals; they are
    /// copied. Errors: state (the device is not a host's), memory.
    enum nib_status (*synchronize)(void *self, const struct nib_step_points *points,
                                   struct nib_error *err);
    /// Optional. Signals what was asked for, behind all runs before, when a step has ended, however
    /// it did. Errors: device lost, memory.
    enum nib_status (*end_step)(void *self, struct nib_error *err);
    /// Optional, as the next two. Takes a step whose run through segments [0, last] a host submits
    /// itself, when all earlier runs are done; the instance has every segment from 0 on. No other
    /// run or copy comes before host_step_end has succeeded or the step is given up, which needs no
    /// call. Errors: state (the device is not a host's), those of `run`.
    enum nib_status (*host_step_begin)(void *self, uint32_t last, const struct nib_step *step,
                                       struct nib_error *err);
    /// Records segments [first, last] into a command buffer, the next ones with each call. What
    /// leads to segment 0 and what becomes of the last one's lines goes with them.
    void (*host_step_record)(void *self, uint32_t first, uint32_t last,
                             struct VkCommandBuffer_T *buffer);
    /// The host says that all is done. Errors: state (it is not; nothing has changed), device lost,
    /// memory.
    enum nib_status (*host_step_end)(void *self, struct nib_error *err);
    /// Optional. Returns the most rows that one run should have, so that a host that shares the
    /// device is not kept waiting; NULL: any number.
    uint32_t (*most_rows)(const void *self);
    /// Optional. Returns the number of runs with step->draws that may be under way at once, each
    /// but the first with rows whose tokens the run before draws (NIB_STEP_DRAWN); 0: it draws
    /// none, as where this is NULL, and the engine draws from logits.
    uint32_t (*most_runs)(const void *self);
    bool draws_likeliest_only; ///< its draws are of temperature 0 alone

    /// Copies page `source` to `target` in all layers of `kv_class` that lie here (copy on write),
    /// after what the last run stored and before the next run.
    enum nib_status (*kv_copy)(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                               struct nib_error *err);
    /// Copies one page out of or into the cache: keys, values, key scales, value scales, one after
    /// the other, nib_kv_page_bytes in all, or of tokens in f16 nib_kv_recent_bytes; the bytes are
    /// the same on every backend. Called between runs. Only pages whose tokens are all stored are
    /// exported. Errors: state (the layer's cache lies elsewhere), those of the device.
    enum nib_status (*kv_export)(void *self, struct nib_kv_page page, void *out_bytes,
                                 struct nib_error *err);
    enum nib_status (*kv_import)(void *self, struct nib_kv_page page, const void *bytes,
                                 struct nib_error *err);

    void (*memory)(const void *self, struct nib_instance_memory *out_memory);
    void (*counters)(const void *self, struct nib_instance_counters *out_counters);
    /// Writes what it has measured of the plan's ops; those of other placements stay untouched.
    void (*profile)(const void *self, struct nib_op_times *times);
};

/// Checks, for `pack`, that `reader` brings the shape of weight `weight` and, for a matrix, the
/// format that the plan was made for. Errors: argument, naming the tensor.
enum nib_status nib_plan_check_reader(const struct nib_plan *plan, uint32_t weight,
                                      const struct nib_row_reader *reader, struct nib_error *err);

#endif
