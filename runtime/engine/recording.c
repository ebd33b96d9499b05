// Steps that a host records into its own command buffers and submits itself.
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"

/// What a host's step needs: all segments on one device that a host lends.
static enum nib_status check_placements(const struct nib_engine *engine, struct nib_error *err)
{
    if (engine->n_parts == 1 && engine->parts[0].device->backend->host_step_begin)
        return NIB_OK;
    return nib_fail(err, NIB_ERROR_STATE,
                    "not all segments are on one device of nib_device_attach; use nib_engine_step");
}

/// Leaves the sessions of the scheduled step as they were before it.
static void undo(struct nib_engine *engine)
{
    for (uint32_t i = 0; i < engine->step.header.n_sequences; i++) {
        engine->scheduled[i]->n_draft = 0;
        nib_session_rewind(engine->scheduled[i], engine->scheduled[i]->n_computed);
    }
    engine->step.header.n_sequences = 0;
}

/// Closes the step, and frees the sessions that were destroyed meanwhile.
static void close_recording(struct nib_engine *engine)
{
    engine->recording.is_open = false;
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        struct nib_session *session = engine->sessions[i];
        if (session && session->is_orphan)
            nib_session_destroy(&session);
    }
}

/// Hands the scheduled step to the device.
static enum nib_status open_recording(struct nib_engine *engine, uint32_t n_logits,
                                      struct nib_error *err)
{
    struct nib_step_draw draws[NIB_STEP_MAX_LOGITS];
    const struct nib_part *part = &engine->parts[0];
    struct nib_step_header *header = &engine->step.header;
    bool is_drawn = nib_ahead_may_draw(engine, n_logits);
    struct nib_recording recording = {
        .is_open = true,
        .is_drawn = is_drawn,
        .n_segments = engine->plan->n_segments - (n_logits > 0 ? 0 : 1),
        .n_logits = n_logits,
    };
    header->n_logits = n_logits < NIB_STEP_MAX_LOGITS ? n_logits : NIB_STEP_MAX_LOGITS;
    struct nib_step step = engine->step;
    if (is_drawn)
        nib_ahead_plan(engine, draws, &step);
    enum nib_status status = part->device->backend->host_step_begin(
        part->instance, recording.n_segments - 1, &step, err);
    if (status == NIB_OK)
        engine->recording = recording;
    return nib_part_result(engine, part, status);
}

enum nib_status nib_recording_begin(struct nib_engine *engine, uint32_t *out_segments,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    bool ready = engine->load.ready;
    uint32_t n_logits = 0;
    *out_segments = 0;
    NIB_TRY(nib_engine_require_idle(engine, err));
    NIB_TRY(check_placements(engine, err));
    if (!ready)
        NIB_TRY(nib_engine_prepare(engine, 0, &ready, err));
    NIB_TRY(check_placements(engine, err)); // loading may have gone to the CPU
    uint64_t start_ns = nib_clock_ns();
    nib_ahead_discard(engine);
    status = nib_step_schedule(engine, NULL, &n_logits, err);
    if (status == NIB_OK && engine->step.header.n_sequences == 0)
        return NIB_OK;
    if (status == NIB_OK)
        status = open_recording(engine, n_logits, err);
    if (status != NIB_OK) {
        undo(engine);
        return status;
    }
    nib_step_start(engine, start_ns);
    *out_segments = engine->recording.n_segments;
fail:
    return status;
}

enum nib_status nib_recording_add(struct nib_engine *engine, struct VkCommandBuffer_T *buffer,
                                  uint32_t n_segments, uint32_t *out_left, struct nib_error *err)
{
    struct nib_recording *r = &engine->recording;
    const struct nib_part *part = &engine->parts[0];
    *out_left = 0;
    if (engine->stepping || !r->is_open)
        return nib_fail(err, NIB_ERROR_STATE, "no step is open: nib_engine_begin_step comes first");
    uint32_t left = r->n_segments - r->n_recorded;
    if (left == 0)
        return nib_fail(err, NIB_ERROR_STATE,
                        "all %u segments of the step are recorded; submit them and end the step",
                        r->n_segments);
    uint32_t n = n_segments > 0 && n_segments < left ? n_segments : left;
    part->device->backend->host_step_record(part->instance, r->n_recorded, r->n_recorded + n - 1,
                                            buffer);
    r->n_recorded += n;
    *out_left = left - n;
    return NIB_OK;
}

/// Takes what the device did, and delivers it.
static enum nib_status finish(struct nib_engine *engine, struct nib_step_outcome *outcome,
                              struct nib_error *err)
{
    const struct nib_recording *r = &engine->recording;
    if (outcome->status == NIB_OK) {
        engine->stepping = true;
        outcome->status = nib_step_deliver(engine, r->is_drawn ? nib_ahead_drawn(engine) : NULL,
                                           r->n_logits, &outcome->failure, &outcome->error);
        engine->stepping = false;
    }
    nib_step_count(engine, r->n_logits);
    return nib_step_settle(engine, outcome, err);
}

enum nib_status nib_recording_end(struct nib_engine *engine, uint32_t *out_active,
                                  struct nib_error *err)
{
    const struct nib_recording *r = &engine->recording;
    const struct nib_part *part = &engine->parts[0];
    struct nib_step_outcome outcome = {0};
    *out_active = nib_step_active(engine, NULL);
    if (engine->stepping || !r->is_open)
        return nib_fail(err, NIB_ERROR_STATE, "no step is open: nib_engine_begin_step comes first");
    if (r->n_recorded < r->n_segments)
        return nib_fail(err, NIB_ERROR_STATE,
                        "%u of the step's %u segments are not recorded; record and submit them, or "
                        "drop the step",
                        r->n_segments - r->n_recorded, r->n_segments);
    outcome.status = part->device->backend->host_step_end(part->instance, &outcome.error);
    if (outcome.status == NIB_ERROR_STATE)
        return nib_fail(err, NIB_ERROR_STATE, "%s", outcome.error.message);
    outcome.status = nib_part_result(engine, part, outcome.status);
    enum nib_status status = finish(engine, &outcome, err);
    close_recording(engine);
    *out_active = nib_step_active(engine, NULL);
    return status;
}

void nib_recording_drop(struct nib_engine *engine)
{
    if (engine->stepping || !engine->recording.is_open)
        return;
    undo(engine);
    close_recording(engine);
}
