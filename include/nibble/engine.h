/// Engines: a model loaded on devices, scheduling the steps of its sessions.
#ifndef NIBBLE_ENGINE_H
#define NIBBLE_ENGINE_H

#include <nibble/base.h>
#include <nibble/device.h>
#include <nibble/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/// A loaded model and the sessions that run on it. Sessions whose tokens begin alike compute the
/// common pages (32 tokens each) once and keep them once, also when they run at the same time, and
/// pages outlive their session until others need the room. On the CPU results do not depend on
/// that, nor on the sessions that share a step, on other devices within rounding. With activation
/// mode LLM.int8, whose results depend on which rows of a sequence are computed together, nothing
/// is shared, and prompts are cut at multiples of max_rows.
/// Thread-safety: an engine and its sessions are used by one thread at a time, but for
/// nib_session_cancel, which any thread may call. Different engines are independent.
struct nib_engine;

/// A run of segments on one device. Segment 0 is the embedding, segments 1 to `layers` are the
/// layers, the last one is the head. Neighbouring placements without segments divide between them
/// all that lies up to the next one that has some (nib_engine_params.shares); they are cut between
/// layers, and each gets one at least.
struct nib_placement {
    struct nib_device *device; ///< NULL: a CPU device of the engine's own, with every default
    uint32_t first_segment;    ///< not looked at where n_segments is 0
    uint32_t n_segments;       ///< 0: a share
};

/// Default of nib_engine_params.max_rows, and the largest bucket.
#define NIB_MAX_ROWS 512
/// The default context is the model's, but at most this many tokens.
#define NIB_DEFAULT_CONTEXT 8192

struct nib_engine_params {
    uint32_t struct_size;
    struct nib_log log;
    struct nib_progress progress;       ///< counts bytes of weights
    struct nib_progress check_progress; ///< counts kernels that are checked before they are used
    const struct nib_placement *placements; ///< in the order of segments, without a gap; NULL: CPU
    uint32_t n_placements;
    uint32_t context;      ///< tokens a session can hold; 0: the model's, at most 8192
    uint32_t max_sessions; ///< KV pool and step arrays are made for so many; 0: 1
    uint32_t max_rows;     ///< rows of the largest step, a power of two up to 512; 0: 512
    enum nib_kv_format key_format;
    enum nib_kv_format value_format;
    bool precise; ///< activations and accumulation in fp32, except where the checkpoint's own
                  ///< scheme asks for int8 activations
    /// Let the CPU do what a device cannot. Where a device is lost, hangs or runs out of memory,
    /// sessions then go on on the CPU from their tokens, as if they had been started there with
    /// them. Without it the call fails, and the sessions keep their tokens.
    bool fallback;
    bool profile; ///< time every op
    /// Takes what goes to the CPU; NULL: a CPU device that has a placement, else one with every
    /// default.
    struct nib_device *fallback_device;
    bool fit; ///< let the next placement, and behind the last one the CPU, have the segments at a
              ///< placement's end that the device has no memory for, as long as it has some for one
              ///< layer
    const float *shares; ///< [n_placements], for placements without segments: how the bytes of
                         ///< weights and cache are divided between them, positive numbers of any
                         ///< sum; NULL: as the memory that the devices have left
    const char *fallback_reason; ///< why a device that was wanted has no placement, which
                                 ///< nib_execution.fallbacks is to begin with; copied; NULL: none
    uint32_t kv_recent; ///< newest tokens in f16 beside i8 and i4; 0: NIB_KV_RECENT_DEFAULT
    enum nib_kv_transform kv_transform; ///< of i8 and i4
    uint32_t kv_first; ///< first tokens of each session, whose keys and values are kept in f16
                       ///< beside their codes of i8 or i4 and read there: a multiple of 32 up to
                       ///< 256; 0: none. docs/kv-cache.md says what they gain
};
#define nib_engine_params(...) \
    (&(struct nib_engine_params){.struct_size = sizeof(struct nib_engine_params), __VA_ARGS__})

/// Makes an engine for `model` without loading a weight: placements and memory are checked, the KV
/// pool is reserved. Errors: argument (also more devices than layers to divide), unsupported (a
/// format or op on a device), memory, device memory.
NIB_API enum nib_status nib_engine_create(struct nib_model *model,
                                          const struct nib_engine_params *params,
                                          struct nib_engine **out_engine, struct nib_error *err);
/// Frees the engine. Its sessions must be gone. Loading that is under way ends at its next resting
/// place: a matrix, or the kernels of a layer.
NIB_API void nib_engine_destroy(struct nib_engine **engine);

/// Loads: packs and uploads weights, compiles kernels. With `budget_ns` a thread of the engine's
/// own goes on loading, also between the calls, and the call looks at it for no longer than so many
/// nanoseconds; a host that draws frames calls it once a frame (1: it does not wait at all). With 0
/// it returns at the end. `*out_ready` tells whether all is done. Callbacks of nib_progress run
/// inside the calls; other functions of the engine that need the weights wait for them.
/// Errors: io, format, memory, device memory, those of the devices, cancelled (the next call goes
/// on where loading stopped).
NIB_API enum nib_status nib_engine_prepare(struct nib_engine *engine, uint64_t budget_ns,
                                           bool *out_ready, struct nib_error *err);

/// Runs one step over whatever the sessions wait for: chunks of prompts and single tokens mixed,
/// fairly, at most `max_rows` rows. `*out_active` is the number of sessions that still have work,
/// also where the call fails. A session's callbacks run inside the call. Prepares the engine first
/// where that is still due.
/// Errors: those of the devices (every session of the step ends with NIB_STOP_ERROR and keeps its
/// tokens), KV full, state (called from a callback); argument where no token can be drawn for some
/// session, which then ends, after all others have been served. A session's ordinary end (stop
/// string, full context) is no error.
NIB_API enum nib_status nib_engine_step(struct nib_engine *engine, uint32_t *out_active,
                                        struct nib_error *err);

/// What really ran, for reports. Strings live as long as the engine.
struct nib_execution {
    uint32_t gpu_layers;
    uint32_t cpu_layers;
    uint64_t dispatches; ///< kernels launched so far
    uint32_t n_replaced; ///< kernels that failed their self-test and were replaced
    const char *const *replaced;
    uint32_t n_fallbacks; ///< reasons why work went to the CPU
    const char *const *fallbacks;
};

struct nib_engine_info {
    uint32_t context;
    uint32_t max_sessions;
    uint32_t max_rows;
    uint32_t vocabulary; ///< logits per position
    uint32_t n_segments;
    struct nib_device_info device; ///< the device of the first layer
    struct nib_memory memory;      ///< as taken, not as predicted
    uint64_t device_bytes;         ///< device memory taken on GPUs
    uint64_t load_ns;              ///< time that loading took
    uint64_t steps;
    uint64_t host_ns; ///< time of all steps that the host spent preparing and submitting
    struct nib_execution execution;
    uint64_t kv_used_bytes;   ///< of memory.kv_bytes: pages that sessions hold, shared ones once
    uint64_t kv_idle_bytes;   ///< pages kept for sessions that begin as earlier ones did, until
                              ///< pages are needed
    uint32_t n_placements;    ///< at work, which may be other ones than were asked for
    uint32_t kv_recent;       ///< newest tokens in f16 beside i8 and i4; 0: none
    bool kv_keys_transformed; ///< by the Hadamard matrix, in i8 and i4
    bool kv_values_transformed;
    uint32_t kv_first; ///< first tokens in f16 beside i8 and i4; 0: none
};
/// Describes the engine. While a thread of nib_engine_prepare loads, what the devices have taken
/// and done is not known, and 0.
NIB_API void nib_engine_get_info(const struct nib_engine *engine, struct nib_engine_info *out_info);

/// A placement at work.
struct nib_engine_placement {
    struct nib_device_info device;
    uint32_t first_segment;
    uint32_t n_segments;
    uint32_t layers;                 ///< of these segments
    struct nib_device_limits limits; ///< as nib_device_measure has found them; or 0
};
/// Describes placement `index` of nib_engine_info.n_placements, in the order of segments. Errors:
/// not found.
NIB_API enum nib_status nib_engine_get_placement(const struct nib_engine *engine, uint32_t index,
                                                 struct nib_engine_placement *out_placement,
                                                 struct nib_error *err);

/// Time and traffic of one op, summed over all steps (nib_engine_params.profile). Where a backend
/// does several ops at once, one of them has calls, time and traffic of all, and the others are 0.
struct nib_op_profile {
    const char *name; ///< "layer 3 ffn_down matmul q4_1"
    uint64_t calls;
    uint64_t ns;
    uint64_t bytes;    ///< weights, activations and cache that the op had to move
    uint64_t macs;     ///< multiply-adds
    uint64_t limit_ns; ///< the least that this takes by the device's measured limits, step by step
                       ///< the larger of bytes over read_bytes and macs over int8_macs or f32_macs
                       ///< (nib_device_limits); 0: the device had not been
                       ///< measured. More than `ns` where caches served
};
/// Writes up to `capacity` profiles in the plan's order and their number to `*out_count`.
/// Errors: state (the engine does not profile).
NIB_API enum nib_status nib_engine_get_profile(const struct nib_engine *engine,
                                               struct nib_op_profile *out_profiles,
                                               uint32_t capacity, uint32_t *out_count,
                                               struct nib_error *err);

#ifdef __cplusplus
}
#endif
#endif
