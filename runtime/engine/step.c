#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"

/// One run of a placement: segments [first, last], hidden states as nib_backend.run has them.
struct span {
    uint32_t first;
    uint32_t last;
    const float *hidden_in;
    float *hidden_out;
};

static enum nib_status run_span(struct nib_engine *engine, const struct nib_part *part,
                                struct span span, struct nib_error *err)
{
    const struct nib_backend *backend = part->device->backend;
    enum nib_status status = backend->run(part->instance, span.first, span.last, &engine->step,
                                          span.hidden_in, span.hidden_out, err);
    if (status == NIB_OK && backend->wait)
        status = backend->wait(part->instance, err);
    return nib_part_result(engine, part, status);
}

/// Runs the step through all placements, and through the head where some row wants logits.
static enum nib_status run_segments(struct nib_engine *engine, bool with_head,
                                    struct nib_error *err)
{
    uint32_t end = engine->plan->n_segments - (with_head ? 0 : 1);
    const float *hidden = NULL;
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        const struct nib_part *part = &engine->parts[i];
        uint32_t part_end = nib_min_u32(part->first_segment + part->n_segments, end);
        if (part_end <= part->first_segment)
            break;
        struct span span = {.first = part->first_segment,
                            .last = part_end - 1,
                            .hidden_in = hidden,
                            .hidden_out = part_end < end ? engine->hidden[i % 2] : NULL};
        enum nib_status status = run_span(engine, part, span, err);
        if (status != NIB_OK)
            return status;
        hidden = span.hidden_out;
    }
    return NIB_OK;
}

/// Gives one line of logits, or the token drawn from it, to its session, which may have ended at an
/// earlier line, or drawn another token than the one drafted here.
static enum nib_status deliver(struct nib_engine *engine, const struct nib_step_row *row,
                               const float *logits, uint32_t drawn, struct nib_error *err)
{
    struct nib_session *session = engine->scheduled[row->sequence];
    if (session->work == NIB_WORK_NONE || session->refused || row->position >= session->n_tokens ||
        row->token != (uint32_t)session->tokens[row->position])
        return NIB_OK;
    bool is_wanted = session->on_logits && row->position >= session->first_logits &&
                     row->position >= session->n_told;
    if (is_wanted)
        session->n_told = row->position + 1;
    if (is_wanted && !session->on_logits(session->logits_user, row->position, logits,
                                         engine->plan->vocabulary)) {
        session->refused = true;
        if (session->work == NIB_WORK_GENERATE)
            nib_generator_end(session, NIB_STOP_CANCELLED);
        return NIB_OK;
    }
    if (session->work != NIB_WORK_GENERATE || row->position + 1 != session->n_tokens)
        return NIB_OK;
    return nib_generator_draw(session, logits, drawn, err);
}

/// Delivers the lines of the head's last run; `drawn`, by line, where the device draws, else NULL.
/// `*row` goes on through the step's rows; the first failure of a session goes to `*failure`.
static void deliver_slice(struct nib_engine *engine, const uint32_t *drawn, uint32_t *row,
                          struct nib_error *failure)
{
    for (uint32_t line = 0; line < engine->step.header.n_logits; (*row)++) {
        uint32_t logit_row = engine->rows[*row].logit_row;
        if (logit_row == NIB_NONE)
            continue;
        const float *logits =
            drawn ? NULL : engine->logits + (size_t)line * engine->plan->vocabulary;
        line++;
        enum nib_status status =
            deliver(engine, &engine->rows[*row], logits, drawn ? drawn[logit_row] : NIB_NONE,
                    failure->status == NIB_OK ? failure : NULL);
        if (failure->status == NIB_OK)
            failure->status = status;
    }
}

static void count_computed(struct nib_engine *engine)
{
    for (uint32_t i = 0; i < engine->step.header.n_sequences; i++)
        engine->scheduled[i]->n_computed += engine->sequences[i].n_rows;
}

enum nib_status nib_step_deliver(struct nib_engine *engine, const uint32_t *drawn,
                                 uint32_t n_logits, struct nib_error *failure,
                                 struct nib_error *err)
{
    struct nib_step_header *header = &engine->step.header;
    uint32_t head = engine->plan->n_segments - 1, row = 0;
    count_computed(engine);
    deliver_slice(engine, drawn, &row, failure);
    while ((header->first_logit += header->n_logits) < n_logits) {
        header->n_logits = nib_min_u32(n_logits - header->first_logit, NIB_STEP_MAX_LOGITS);
        enum nib_status status = run_span(engine, &engine->parts[engine->n_parts - 1],
                                          (struct span){.first = head, .last = head}, err);
        if (status != NIB_OK)
            return status;
        deliver_slice(engine, NULL, &row, failure);
    }
    return NIB_OK;
}

/// Runs what was scheduled where that is not under way already, and what can follow, and delivers
/// the tokens that the device has drawn. Fails as run_scheduled does.
static enum nib_status run_drawn(struct nib_engine *engine, uint32_t n_logits, bool is_under_way,
                                 struct nib_error *failure, struct nib_error *err)
{
    const uint32_t *drawn;
    enum nib_status status = is_under_way ? NIB_OK : nib_ahead_begin(engine, err);
    if (status == NIB_OK)
        status = nib_ahead_fill(engine, err);
    if (status == NIB_OK)
        status = nib_ahead_wait(engine, &drawn, err);
    return status == NIB_OK ? nib_step_deliver(engine, drawn, n_logits, failure, err) : status;
}

/// Runs what was scheduled and delivers the logits. Fails as nib_step_deliver does.
static enum nib_status run_scheduled(struct nib_engine *engine, uint32_t n_logits,
                                     struct nib_error *failure, struct nib_error *err)
{
    engine->step.header.n_logits = nib_min_u32(n_logits, NIB_STEP_MAX_LOGITS);
    enum nib_status status = run_segments(engine, n_logits > 0, err);
    return status == NIB_OK ? nib_step_deliver(engine, NULL, n_logits, failure, err) : status;
}

/// Keeps of a draft what was drawn as it said, and makes the next one longer or shorter. The last
/// token drawn is computed with the next step in any case.
static void settle_draft(struct nib_session *session)
{
    struct nib_generator *generator = &session->generator;
    uint32_t n_drawn = generator->result.n_generated - generator->draft_from;
    uint32_t n_accepted = n_drawn > 0 ? n_drawn - 1 : 0;
    generator->result.n_drafted += session->n_draft;
    generator->result.n_accepted += n_accepted;
    generator->draft_length = n_accepted < session->n_draft
                                  ? n_accepted + 1
                                  : nib_min_u32(2 * generator->draft_length, generator->max_draft);
    session->n_draft = 0;
    if (session->n_computed >= session->n_tokens)
        nib_session_rewind(session, session->n_tokens - 1);
}

/// After a step: drafts are settled, and whole pages can be found by others.
static void finish_step(struct nib_engine *engine)
{
    for (uint32_t i = 0; i < engine->step.header.n_sequences; i++) {
        struct nib_session *session = engine->scheduled[i];
        if (session->n_draft > 0)
            settle_draft(session);
        nib_kv_pool_commit(engine->pool, session->table, session->tokens, session->n_computed);
    }
}

/// After a device has failed: the sessions keep their tokens, and forget pages that were not
/// filled.
static void abandon_step(struct nib_engine *engine)
{
    nib_ahead_discard(engine);
    for (uint32_t i = 0; i < engine->step.header.n_sequences; i++) {
        struct nib_session *session = engine->scheduled[i];
        if (session->n_draft > 0)
            settle_draft(session);
        nib_session_rewind(session, session->n_computed);
        if (session->work == NIB_WORK_GENERATE)
            nib_generator_end(session, NIB_STOP_ERROR);
    }
}

/// After a device has failed where the CPU may go on: sessions keep their work, and compute their
/// tokens anew. Errors: those of loading.
static enum nib_status recover(struct nib_engine *engine, struct nib_error *err)
{
    const struct nib_error reason = *err;
    bool ready = false;
    for (uint32_t i = 0; i < engine->step.header.n_sequences; i++) {
        if (engine->scheduled[i]->n_draft > 0)
            settle_draft(engine->scheduled[i]);
    }
    engine->n_flights = 0;
    enum nib_status status = nib_engine_fall_back(engine, reason.message, err);
    return status == NIB_OK ? nib_engine_prepare(engine, 0, &ready, err) : status;
}

uint32_t nib_step_active(const struct nib_engine *engine, const struct nib_session *only)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        const struct nib_session *session = engine->sessions[i];
        active += session && (!only || session == only) && session->work != NIB_WORK_NONE;
    }
    return active;
}

/// Schedules the next step: the oldest that is under way, as far as it is wanted, or a new one.
static enum nib_status schedule(struct nib_engine *engine, struct nib_session *only,
                                uint32_t *out_logits, struct nib_error *err)
{
    if (only)
        nib_ahead_discard(engine);
    enum nib_status status = nib_ahead_recall(engine, err);
    *out_logits = engine->step.header.n_logits;
    if (status == NIB_OK && engine->n_flights == 0)
        status = nib_step_schedule(engine, only, out_logits, err);
    return status;
}

void nib_step_start(struct nib_engine *engine, uint64_t start_ns)
{
    for (uint32_t i = 0; i < engine->step.header.n_sequences; i++) {
        struct nib_generator *generator = &engine->scheduled[i]->generator;
        generator->draft_from = generator->result.n_generated;
        if (generator->first_step_ns == 0)
            generator->first_step_ns = start_ns;
    }
    engine->host_ns += nib_clock_ns() - start_ns;
}

void nib_step_count(struct nib_engine *engine, uint32_t n_logits)
{
    engine->n_steps++;
    if (engine->accounts)
        nib_accounts_add_step(engine, n_logits);
}

/// Runs what was scheduled, with the clock and the accounts. Returns as run_scheduled does.
static enum nib_status run_counted(struct nib_engine *engine, uint32_t n_logits, uint64_t start_ns,
                                   struct nib_error *failure, struct nib_error *err)
{
    bool is_under_way = engine->n_flights > 0;
    nib_step_start(engine, start_ns);
    engine->stepping = true;
    enum nib_status status = is_under_way || nib_ahead_may_draw(engine, n_logits)
                                 ? run_drawn(engine, n_logits, is_under_way, failure, err)
                                 : run_scheduled(engine, n_logits, failure, err);
    engine->stepping = false;
    nib_step_count(engine, n_logits);
    return status;
}

enum nib_status nib_step_settle(struct nib_engine *engine, struct nib_step_outcome *outcome,
                                struct nib_error *err)
{
    if (outcome->status == NIB_OK)
        finish_step(engine);
    else if (nib_engine_may_fall_back(engine, outcome->status))
        outcome->status = recover(engine, &outcome->error);
    if (outcome->status != NIB_OK)
        abandon_step(engine);
    engine->is_own_failure = outcome->status == NIB_OK && outcome->failure.status != NIB_OK;
    const struct nib_error *error = outcome->status == NIB_OK ? &outcome->failure : &outcome->error;
    if (err && error->status != NIB_OK)
        *err = *error;
    return error->status;
}

enum nib_status nib_step_run(struct nib_engine *engine, struct nib_session *only,
                             uint32_t *out_active, struct nib_error *err)
{
    uint64_t start_ns = nib_clock_ns();
    uint32_t n_logits = 0;
    struct nib_step_outcome o = {0};
    o.status = schedule(engine, only, &n_logits, &o.error);
    if (o.status == NIB_OK && engine->step.header.n_sequences > 0)
        o.status = run_counted(engine, n_logits, start_ns, &o.failure, &o.error);
    enum nib_status end = nib_step_end(engine, o.status == NIB_OK ? &o.error : NULL);
    o.status = o.status == NIB_OK ? end : o.status;
    enum nib_status status = nib_step_settle(engine, &o, err);
    *out_active = nib_step_active(engine, only);
    return status;
}

enum nib_status nib_engine_require_idle(const struct nib_engine *engine, struct nib_error *err)
{
    if (engine->stepping)
        return nib_fail(err, NIB_ERROR_STATE, "a callback of a step cannot change what it is of");
    if (engine->recording.is_open)
        return nib_fail(err, NIB_ERROR_STATE,
                        "a step that the host submits is open; end or drop it first");
    return NIB_OK;
}

enum nib_status nib_engine_step(struct nib_engine *engine, uint32_t *out_active,
                                struct nib_error *err)
{
    uint32_t active = 0;
    if (out_active)
        *out_active = 0;
    if (!engine)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "engine is NULL");
    bool ready = engine->load.ready;
    engine->is_own_failure = false;
    enum nib_status status = nib_engine_require_idle(engine, err);
    if (status == NIB_OK && !ready)
        status = nib_engine_prepare(engine, 0, &ready, err);
    if (status == NIB_OK)
        status = nib_step_run(engine, NULL, &active, err);
    if (out_active)
        *out_active = active;
    return status;
}
