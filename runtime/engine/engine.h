/// What engines and sessions are made of, for the files of this folder.
///
/// A public function without a params struct is defined here, in the layer that does its work;
/// those with one are in api/, which brings the params to this version and calls the functions
/// below.
#ifndef RUNTIME_ENGINE_ENGINE_H
#define RUNTIME_ENGINE_ENGINE_H

#include "runtime/engine/kv_pool.h"
#include "runtime/engine/progress.h"
#include "runtime/engine/shared_model.h"
#include "runtime/engine/stop_filter.h"
#include "runtime/model/model.h"
#include "runtime/ops/backend.h"
#include "runtime/ops/sampler.h"
#include <nibble/engine.h>
#include <nibble/session.h>

#define NIB_ENGINE_MAX_SESSIONS 4096
#define NIB_ENGINE_MAX_TOP 64
/// One run of the head checks a whole draft.
#define NIB_ENGINE_MAX_DRAFT (NIB_STEP_MAX_LOGITS - 1)
/// Replaced kernels and fallbacks that a report can name.
#define NIB_ENGINE_MAX_NOTES 64
/// Steps under way at once: more only delay what comes when a generation ends.
#define NIB_ENGINE_MAX_FLIGHTS 3

/// A placement at work.
struct nib_part {
    struct nib_device *device; ///< retained
    void *instance;
    uint32_t first_segment;
    uint32_t n_segments;
    uint32_t n_offered; ///< weights that were packed here or are not used here: [0, n_offered)
};

/// How far loading has come.
struct nib_load {
    uint32_t next_weight;
    uint32_t next_part; ///< of weight `next_weight`
    uint64_t done_bytes;
    uint64_t reported_bytes;
    struct nib_meter meter;
    uint32_t n_checked; ///< kernels
    uint32_t n_checks;  ///< that are known to be due, these included
    uint32_t reported_checks;
    struct nib_meter check_meter;
    bool ready;
    uint64_t ns;
};

/// What profiling sums up, one element per op of the plan.
struct nib_op_account {
    char *name;
    uint64_t bytes;
    uint64_t macs;
    double limit_ns;
};

/// Names gathered from the placements for nib_execution.
struct nib_notes {
    const char *replaced[NIB_ENGINE_MAX_NOTES];
    const char *fallbacks[NIB_ENGINE_MAX_NOTES];
    // The engine's own, from malloc.
    char *kept_replaced[NIB_ENGINE_MAX_NOTES]; ///< of instances that are gone
    uint32_t n_kept_replaced;
    char *kept_fallbacks[NIB_ENGINE_MAX_NOTES];
    uint32_t n_kept_fallbacks;
};

/// Who a token that the device draws is for.
struct nib_flight_line {
    uint64_t serial; ///< of the session's generation
    uint32_t table;
    uint32_t position; ///< of the token before it
};

/// A step under way.
struct nib_flight {
    uint32_t n_lines;
    struct nib_flight_line lines[NIB_STEP_MAX_LOGITS];
    uint32_t drawn[NIB_STEP_MAX_LOGITS]; ///< the tokens, once it has been waited for
};

/// A step that a host records and submits; while it is open nothing may change either.
struct nib_recording {
    bool is_open;
    bool is_drawn;       ///< the device draws its tokens
    uint32_t n_segments; ///< of the step
    uint32_t n_recorded; ///< of these
    uint32_t n_logits;   ///< rows that want logits
};

struct nib_engine {
    struct nib_model *model; ///< retained
    struct nib_log log;
    struct nib_plan *plan;
    struct nib_part *parts; ///< [n_parts], in the order of segments
    uint32_t n_parts;
    struct nib_load load;
    struct nib_loader *loader; ///< a thread that uses all above, or NULL

    struct nib_session **sessions; ///< [max_sessions], by table of the KV pool; NULL: free
    uint32_t max_sessions;
    uint32_t next_session; ///< whose turn it is to be first in a step
    struct nib_kv_pool *pool;
    struct nib_kv_reach reach[NIB_KV_MAX_CLASSES];
    bool precise;
    bool fallback;
    bool profile;
    struct nib_device *fallback_device; ///< retained, or NULL
    bool is_lost;                       ///< what failed last was a device that is no CPU
    bool is_chunked; ///< results depend on how a sequence is cut into chunks: cuts are fixed, no
                     ///< prefix is shared, no token drafted

    struct nib_step step;
    struct nib_step_row *rows;           ///< [max_rows]
    struct nib_step_sequence *sequences; ///< [max_sessions]
    struct nib_session **scheduled;      ///< [max_sessions], whose sequence it is
    uint32_t *pending;                   ///< [max_sessions]
    uint32_t *shares;                    ///< [max_sessions]
    float *logits;                       ///< [NIB_STEP_MAX_LOGITS][vocabulary]
    float *hidden[2]; ///< [max_rows][hidden_size] each, to cross placements; NULL for one placement
    struct nib_sampler *sampler;
    struct nib_flight flights[NIB_ENGINE_MAX_FLIGHTS];
    uint32_t first_flight; ///< the oldest
    uint32_t n_flights;
    uint64_t last_serial;
    bool stepping;       ///< callbacks are running: nothing may change
    bool is_own_failure; ///< what the last step returned was of a session alone
    struct nib_recording recording;

    uint64_t n_steps;
    uint64_t host_ns;
    struct nib_instance_counters past; ///< of instances that are gone
    struct nib_op_account *accounts;   ///< [n_ops], or NULL
    struct nib_notes *notes;
};

/// What a session wants from the next steps.
enum nib_work { NIB_WORK_NONE, NIB_WORK_FORWARD, NIB_WORK_GENERATE };

/// A generation: what was asked for and how it goes.
struct nib_generator {
    struct nib_sampling sampling;
    struct nib_logit_bias *biases;
    uint32_t n_biases;
    uint32_t max_tokens;
    uint32_t n_top;
    uint32_t max_draft;
    uint32_t draft_length; ///< of the next draft: shorter after one that failed
    uint32_t draft_from;   ///< tokens generated before the last draft was checked
    bool ignore_eos;
    bool shift;
    uint32_t shift_keep;
    void (*mask)(void *user, const int32_t *tokens, size_t n_tokens, uint32_t *allowed);
    bool (*on_token)(void *user, const struct nib_token_event *event);
    void *user;
    struct nib_stop_filter filter;
    struct nib_detokenizer *detokenizer; ///< NULL where the model has no tokenizer
    struct nib_buffer text;              ///< the last event's text where it is put together
    struct nib_generation result;
    uint64_t begin_ns;
    uint64_t first_step_ns; ///< 0: no step yet
    uint64_t first_token_ns;
    struct nib_token_logprob top[NIB_ENGINE_MAX_TOP];
};

struct nib_session {
    struct nib_engine *engine;
    uint32_t table;  ///< of the KV pool
    int32_t *tokens; ///< [context]
    uint32_t n_tokens;
    uint32_t n_computed; ///< whose keys and values are in the cache
    uint32_t n_draft;    ///< of the rows in this step; their tokens lie behind the session's
    _Atomic bool cancelled;
    enum nib_work work;
    uint64_t serial;          ///< of the generation, which no other of the engine has; 0: none yet
    nib_logits_fn *on_logits; ///< NULL: nobody wants logits
    uint32_t first_logits;
    uint32_t n_told; ///< positions before this are not given to on_logits: they were, or were
                     ///< computed before the work began
    void *logits_user;
    bool refused;   ///< on_logits returned false
    bool is_orphan; ///< destroyed while a step was open, which still has its rows
    struct nib_generator generator;
};

/// nib_engine_create, with params of this version.
enum nib_status nib_engine_build(struct nib_model *model, const struct nib_engine_params *params,
                                 struct nib_engine **out_engine, struct nib_error *err);
/// Finds out for which planes of codes, in the formats of `params`, the transform does more harm
/// than good: computes a few tokens on the CPU and compares what their keys and values lose. The
/// answer is the model's, wherever it is asked. Tells the log. Errors: those of an engine on the
/// CPU.
enum nib_status nib_kv_check_transform(struct nib_model *model,
                                       const struct nib_engine_params *params, bool *out_plain_keys,
                                       bool *out_plain_values, struct nib_error *err);
/// nib_session_begin and nib_session_generate, with params of this version.
enum nib_status nib_generator_begin(struct nib_session *session,
                                    const struct nib_generate_params *params,
                                    struct nib_error *err);
enum nib_status nib_generator_run(struct nib_session *session,
                                  const struct nib_generate_params *params,
                                  struct nib_generation *out_generation, struct nib_error *err);

/// Returns the bytes that are left to be packed: each weight once in every placement that uses it.
uint64_t nib_load_total(const struct nib_engine *engine);
/// Begins loading anew, for the placements that have not got all weights.
void nib_load_restart(struct nib_engine *engine);

/// Makes a KV pool for the engine's plan. Errors: memory.
enum nib_status nib_engine_make_pool(struct nib_engine *engine, struct nib_kv_pool **out_pool,
                                     struct nib_error *err);

/// Loads the next piece: packs a weight for a placement, or makes some kernels ready. Errors: those
/// of nib_engine_prepare; the next call tries again.
enum nib_status nib_load_piece(struct nib_engine *engine, bool *out_done, struct nib_error *err);
/// Ends the thread that loads, if there is one, behind the piece that it is at. The next
/// nib_engine_prepare goes on from there, also where the thread has failed.
void nib_load_stop(struct nib_engine *engine);

/// Names the ops for nib_op_profile. Errors: memory.
enum nib_status nib_accounts_create(const struct nib_plan *plan,
                                    struct nib_op_account **out_accounts, struct nib_error *err);
void nib_accounts_destroy(struct nib_op_account **accounts, uint32_t n_ops);
/// Adds the cost of the engine's current step, of which `n_logits` rows went through the head.
void nib_accounts_add_step(struct nib_engine *engine, uint32_t n_logits);

/// Runs one step over `only`, or over all sessions that have work where it is NULL. `*out_active`
/// is the number of these that still have work. A session whose own callbacks or logits make it end
/// is ended; the first such failure is returned after all sessions have been served.
enum nib_status nib_step_run(struct nib_engine *engine, struct nib_session *only,
                             uint32_t *out_active, struct nib_error *err);

/// How a step went: as a whole, and for the first session that failed by itself.
struct nib_step_outcome {
    enum nib_status status; ///< of the devices
    struct nib_error error; ///< where status is none
    struct nib_error failure;
};
/// Parts of a step, in this order. Notes which generations take part in the scheduled step.
void nib_step_start(struct nib_engine *engine, uint64_t start_ns);
/// Behind the run: counts the rows as computed and gives tokens `drawn`, by line, or where that is
/// NULL the logits, of which all but the first slice take more runs of the head, to the sessions.
/// Returns failures of the device; the first one of a session goes to `*failure`.
enum nib_status nib_step_deliver(struct nib_engine *engine, const uint32_t *drawn,
                                 uint32_t n_logits, struct nib_error *failure,
                                 struct nib_error *err);
/// Counts the step.
void nib_step_count(struct nib_engine *engine, uint32_t n_logits);
/// Settles what the step leaves, also where it failed: the CPU takes over where it may, or the
/// sessions of the step end and keep their tokens. Returns what the step returns.
enum nib_status nib_step_settle(struct nib_engine *engine, struct nib_step_outcome *outcome,
                                struct nib_error *err);
/// Returns the number of sessions that have work, `only` alone where it is not NULL.
uint32_t nib_step_active(const struct nib_engine *engine, const struct nib_session *only);

/// Fills engine->step and its arrays with the next rows of `only` or of all sessions, and their
/// pages. Sessions take over what others have computed of their prefix, and wait a step where
/// another computes their next page. `*out_logits` is the number of rows that want logits; a step
/// of no rows means that there is no work. Errors: KV full (no session could go on), those of
/// copying a page.
enum nib_status nib_step_schedule(struct nib_engine *engine, struct nib_session *only,
                                  uint32_t *out_logits, struct nib_error *err);

/// Returns whether the device can draw all tokens of the scheduled step.
bool nib_ahead_may_draw(const struct nib_engine *engine, uint32_t n_logits);
/// Makes the scheduled step `out_step`, with `draws` [NIB_STEP_MAX_LOGITS] and where its tokens go.
void nib_ahead_plan(struct nib_engine *engine, struct nib_step_draw *draws,
                    struct nib_step *out_step);
/// Returns the tokens of a step that was planned and is done, by line.
const uint32_t *nib_ahead_drawn(const struct nib_engine *engine);
/// Submits the scheduled step, whose tokens the device can draw. Errors: those of the device.
enum nib_status nib_ahead_begin(struct nib_engine *engine, struct nib_error *err);
/// Submits steps behind it, as many as can be under way. Errors: those of the device.
enum nib_status nib_ahead_fill(struct nib_engine *engine, struct nib_error *err);
/// Makes the oldest step under way the scheduled one: those of its sessions that still want its
/// tokens. Ends generations that were cancelled. Where no session wants them, nothing is under way
/// any more. Errors: those of copying a page.
enum nib_status nib_ahead_recall(struct nib_engine *engine, struct nib_error *err);
/// Waits for the oldest step under way. `*out_drawn` are its tokens, by line. Errors: those of the
/// device.
enum nib_status nib_ahead_wait(struct nib_engine *engine, const uint32_t **out_drawn,
                               struct nib_error *err);
/// Waits for all steps under way, and forgets them: their tokens are drawn again when wanted.
void nib_ahead_discard(struct nib_engine *engine);

/// nib_engine_synchronize. Errors: state, memory.
enum nib_status nib_engine_add_points(struct nib_engine *engine,
                                      const struct nib_step_points *points, struct nib_error *err);
/// Tells the placements that the step has ended, however it did. Errors: those of the devices.
enum nib_status nib_step_end(struct nib_engine *engine, struct nib_error *err);
/// Returns the most rows of the next step: max_rows, or fewer where a host's device is shared.
uint32_t nib_step_most_rows(const struct nib_engine *engine);

/// Fails with state in a callback of a step and while a host's step is open.
enum nib_status nib_engine_require_idle(const struct nib_engine *engine, struct nib_error *err);

/// nib_engine_begin_step, nib_engine_record_segments, nib_engine_end_step and nib_engine_drop_step.
enum nib_status nib_recording_begin(struct nib_engine *engine, uint32_t *out_segments,
                                    struct nib_error *err);
enum nib_status nib_recording_add(struct nib_engine *engine, struct VkCommandBuffer_T *buffer,
                                  uint32_t n_segments, uint32_t *out_left, struct nib_error *err);
enum nib_status nib_recording_end(struct nib_engine *engine, uint32_t *out_active,
                                  struct nib_error *err);
void nib_recording_drop(struct nib_engine *engine);

/// Draws the next token of a generating session from the logits of its last token, and tells the
/// host. Without logits the token is `drawn`, or none where that is no id. Errors: argument (no
/// token is left), memory, those of the detokenizer; the generation has then ended.
enum nib_status nib_generator_draw(struct nib_session *session, const float *logits, uint32_t drawn,
                                   struct nib_error *err);
/// Ends the generation.
void nib_generator_end(struct nib_session *session, enum nib_stop stop);
void nib_generator_free(struct nib_generator *generator);

/// Drops tokens [first, first + count) of the session, so that those behind must be computed anew.
void nib_session_drop(struct nib_session *session, uint32_t first, uint32_t count);

/// Makes the tokens that are not computed yet begin at `n_computed` or, where a window's pages are
/// gone, before it.
void nib_session_rewind(struct nib_session *session, uint32_t n_computed);

#endif
