// Steps whose tokens the device draws, several under way at once.
//
// The next token of a row is known to the device alone until the host has read it. Where all
// sessions that have work are generating, a step that takes the tokens of the one before can be
// submitted without knowing them: positions and pages are known. Such steps take no page, so that
// the pool is always that of the tokens delivered, and what a step too many has stored lies behind
// them. Before its tokens are delivered a step is compared with its sessions as they are then.
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"
#include "runtime/engine/schedule.h"
#include "runtime/ops/sampler.h"

/// Returns whether tokens are drawn on a device: that of the only placement.
static bool has_drawer(const struct nib_engine *engine)
{
    const struct nib_part *part = &engine->parts[0];
    const struct nib_backend *backend = part->device->backend;
    return engine->n_parts == 1 && backend->most_runs && backend->most_runs(part->instance) > 0;
}

static bool is_likeliest_only(const struct nib_engine *engine)
{
    return engine->parts[0].device->backend->draws_likeliest_only;
}

/// Returns whether the device can draw all that the host would.
static bool is_drawable(const struct nib_session *session)
{
    const struct nib_generator *generator = &session->generator;
    return session->work == NIB_WORK_GENERATE && !session->on_logits && !generator->mask &&
           generator->n_biases == 0 && generator->n_top == 0 &&
           !nib_sampling_has_penalty(&generator->sampling) &&
           !(generator->sampling.temperature != 0.0f && is_likeliest_only(session->engine));
}

static struct nib_flight *flight_at(struct nib_engine *engine, uint32_t place)
{
    return &engine->flights[(engine->first_flight + place) % NIB_ENGINE_MAX_FLIGHTS];
}

/// Returns the session that the line's token is for, or NULL where that has ended.
static struct nib_session *session_of(const struct nib_engine *engine,
                                      const struct nib_flight_line *line)
{
    struct nib_session *session = engine->sessions[line->table];
    bool is_same = session && session->serial == line->serial && session->work != NIB_WORK_NONE;
    return is_same ? session : NULL;
}

bool nib_ahead_may_draw(const struct nib_engine *engine, uint32_t n_logits)
{
    if (n_logits == 0 || n_logits > NIB_STEP_MAX_LOGITS || !has_drawer(engine))
        return false;
    for (uint32_t r = 0; r < engine->step.header.n_used_rows; r++) {
        const struct nib_step_row *row = &engine->rows[r];
        if (row->logit_row != NIB_NONE && !is_drawable(engine->scheduled[row->sequence]))
            return false;
    }
    return true;
}

/// Adds a line to a flight, and to the draws of the step that it is about to be.
static void add_line(struct nib_flight *flight, const struct nib_session *session,
                     uint32_t position, struct nib_step_draw *draws)
{
    draws[flight->n_lines] = nib_sampler_plan_draw(&session->generator.sampling, position + 1u);
    flight->lines[flight->n_lines++] = (struct nib_flight_line){
        .serial = session->serial, .table = session->table, .position = position};
}

/// Gives a step the draws of the lines that `flight`, the next one, holds.
static void set_draws(struct nib_step *step, const struct nib_step_draw *draws,
                      struct nib_flight *flight)
{
    step->header.n_logits = flight->n_lines;
    step->draws = draws;
    step->drawn = flight->drawn;
}

static enum nib_status submit(struct nib_engine *engine, const struct nib_step *step,
                              struct nib_error *err)
{
    const struct nib_part *part = &engine->parts[0];
    enum nib_status status = part->device->backend->run(
        part->instance, 0, engine->plan->n_segments - 1, step, NULL, NULL, err);
    engine->n_flights += status == NIB_OK;
    return nib_part_result(engine, part, status);
}

void nib_ahead_plan(struct nib_engine *engine, struct nib_step_draw *draws,
                    struct nib_step *out_step)
{
    struct nib_flight *flight = flight_at(engine, 0);
    *out_step = engine->step;
    flight->n_lines = 0;
    for (uint32_t r = 0; r < out_step->header.n_used_rows; r++) {
        const struct nib_step_row *row = &engine->rows[r];
        if (row->logit_row != NIB_NONE)
            add_line(flight, engine->scheduled[row->sequence], row->position, draws);
    }
    set_draws(out_step, draws, flight);
}

const uint32_t *nib_ahead_drawn(const struct nib_engine *engine)
{
    return engine->flights[engine->first_flight].drawn;
}

enum nib_status nib_ahead_begin(struct nib_engine *engine, struct nib_error *err)
{
    struct nib_step_draw draws[NIB_STEP_MAX_LOGITS];
    struct nib_step step;
    nib_ahead_plan(engine, draws, &step);
    return submit(engine, &step, err);
}

/// Returns whether a session that `line` draws a token for will go on in the step behind, as far as
/// is known, and in the page it has.
static bool goes_on(const struct nib_engine *engine, const struct nib_session *session,
                    const struct nib_flight_line *line)
{
    const struct nib_generator *generator = &session->generator;
    uint32_t n_tokens = line->position + 2; // once the line's token is there
    uint32_t n_generated = generator->result.n_generated + (n_tokens - session->n_tokens);
    bool has_room = nib_kv_pool_room(engine->pool, session->table, n_tokens) == n_tokens;
    bool is_last = generator->max_tokens > 0 && n_generated >= generator->max_tokens;
    return has_room && !is_last && n_tokens < engine->plan->context;
}

/// Makes the step behind the last one under way. Returns whether there is one: every session that
/// has work must be in it or known to end before.
static bool make_next(struct nib_engine *engine, struct nib_step_row *rows,
                      struct nib_step_sequence *sequences, struct nib_step_draw *draws)
{
    const struct nib_flight *last = flight_at(engine, engine->n_flights - 1);
    struct nib_flight *next = flight_at(engine, engine->n_flights);
    uint32_t n_working = 0, n_seen = 0;
    next->n_lines = 0;
    for (uint32_t i = 0; i < engine->max_sessions; i++)
        n_working += engine->sessions[i] && engine->sessions[i]->work != NIB_WORK_NONE;
    for (uint32_t i = 0; i < last->n_lines; i++) {
        const struct nib_flight_line *line = &last->lines[i];
        const struct nib_session *session = session_of(engine, line);
        n_seen += session != NULL;
        if (session && (session->generator.max_draft > 0 ||
                        atomic_load_explicit(&session->cancelled, memory_order_relaxed)))
            return false;
        if (!session || !goes_on(engine, session, line))
            continue;
        uint32_t position = line->position + 1, n = next->n_lines;
        add_line(next, session, position, draws);
        rows[n] = (struct nib_step_row){
            .token = NIB_STEP_DRAWN | i, .position = position, .sequence = n, .logit_row = n};
        sequences[n] = (struct nib_step_sequence){
            .kv_length = position + 1,
            .page_table = nib_kv_pool_offset(engine->pool, session->table),
            .first_row = n,
            .n_rows = 1};
    }
    return n_working == n_seen && next->n_lines > 0;
}

enum nib_status nib_ahead_fill(struct nib_engine *engine, struct nib_error *err)
{
    struct nib_step_row rows[NIB_STEP_MAX_LOGITS];
    struct nib_step_sequence sequences[NIB_STEP_MAX_LOGITS];
    struct nib_step_draw draws[NIB_STEP_MAX_LOGITS];
    const struct nib_part *part = &engine->parts[0];
    uint32_t most = part->device->backend->most_runs(part->instance);
    most = most < NIB_ENGINE_MAX_FLIGHTS ? most : NIB_ENGINE_MAX_FLIGHTS;
    while (engine->n_flights < most && make_next(engine, rows, sequences, draws)) {
        struct nib_flight *flight = flight_at(engine, engine->n_flights);
        struct nib_step step = engine->step;
        step.header = (struct nib_step_header){
            .n_rows = nib_schedule_bucket(flight->n_lines),
            .n_used_rows = flight->n_lines,
            .n_sequences = flight->n_lines,
            .page_table_stride = nib_kv_pool_stride(engine->pool),
            .step = (uint32_t)engine->n_steps + engine->n_flights,
        };
        step.rows = rows;
        step.sequences = sequences;
        set_draws(&step, draws, flight);
        enum nib_status status = submit(engine, &step, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

/// Puts the sessions of the oldest flight that are where it left them into the engine's step.
static enum nib_status recall_oldest(struct nib_engine *engine, struct nib_error *err)
{
    const struct nib_flight *flight = flight_at(engine, 0);
    struct nib_step_header *header = &engine->step.header;
    *header = (struct nib_step_header){.page_table_stride = nib_kv_pool_stride(engine->pool),
                                       .step = (uint32_t)engine->n_steps};
    for (uint32_t i = 0; i < flight->n_lines; i++) {
        const struct nib_flight_line *line = &flight->lines[i];
        struct nib_session *session = session_of(engine, line);
        if (session && atomic_load_explicit(&session->cancelled, memory_order_relaxed)) {
            nib_generator_end(session, NIB_STOP_CANCELLED);
            continue;
        }
        if (!session || session->n_computed != line->position ||
            session->n_tokens != line->position + 1)
            continue;
        enum nib_status status =
            nib_kv_pool_extend(engine->pool, session->table, session->n_tokens, err);
        if (status != NIB_OK)
            return status;
        uint32_t n = header->n_sequences++;
        engine->scheduled[n] = session;
        engine->sequences[n] =
            (struct nib_step_sequence){.kv_length = session->n_tokens, .first_row = n, .n_rows = 1};
        engine->rows[n] = (struct nib_step_row){.token = (uint32_t)session->tokens[line->position],
                                                .position = line->position,
                                                .sequence = n,
                                                .logit_row = i};
    }
    header->n_used_rows = header->n_sequences;
    header->n_rows = header->n_sequences;
    header->n_logits = header->n_sequences;
    return NIB_OK;
}

enum nib_status nib_ahead_recall(struct nib_engine *engine, struct nib_error *err)
{
    if (engine->n_flights == 0)
        return NIB_OK;
    enum nib_status status = recall_oldest(engine, err);
    // A session that is not in the oldest flight is in none.
    if (status == NIB_OK && engine->step.header.n_sequences == 0)
        nib_ahead_discard(engine);
    return status;
}

static enum nib_status wait_for_oldest(const struct nib_part *part, struct nib_error *err)
{
    const struct nib_backend *backend = part->device->backend;
    return backend->wait ? backend->wait(part->instance, err) : NIB_OK;
}

enum nib_status nib_ahead_wait(struct nib_engine *engine, const uint32_t **out_drawn,
                               struct nib_error *err)
{
    const struct nib_part *part = &engine->parts[0];
    *out_drawn = flight_at(engine, 0)->drawn;
    enum nib_status status = wait_for_oldest(part, err);
    if (status == NIB_OK) {
        engine->first_flight = (engine->first_flight + 1) % NIB_ENGINE_MAX_FLIGHTS;
        engine->n_flights--;
    }
    return nib_part_result(engine, part, status);
}

void nib_ahead_discard(struct nib_engine *engine)
{
    const struct nib_part *part = &engine->parts[0];
    // Where the device is gone there is nothing to wait for, and the next run will tell.
    for (; engine->n_flights > 0; engine->n_flights--)
        (void)wait_for_oldest(part, NULL);
}
