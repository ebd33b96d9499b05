#include "runtime/engine/schedule.h"

#include "runtime/base/status.h"
#include "runtime/engine/draft.h"
#include "runtime/engine/engine.h"

uint32_t nib_schedule_share(const uint32_t *pending, uint32_t n, uint32_t budget,
                            uint32_t *out_rows)
{
    uint32_t left = budget;
    uint32_t n_hungry = 0;
    for (uint32_t i = 0; i < n; i++) {
        out_rows[i] = pending[i] > 0 && left > 0;
        left -= out_rows[i];
        n_hungry += pending[i] > out_rows[i];
    }
    while (left > 0 && n_hungry > 0) {
        uint32_t portion = left / n_hungry > 0 ? left / n_hungry : 1;
        n_hungry = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t more = pending[i] - out_rows[i];
            more = more < portion ? more : portion;
            more = more < left ? more : left;
            out_rows[i] += more;
            left -= more;
            n_hungry += pending[i] > out_rows[i];
        }
    }
    return budget - left;
}

uint32_t nib_schedule_bucket(uint32_t n_rows)
{
    uint32_t bucket = 1;
    while (bucket < n_rows)
        bucket *= 2;
    return bucket;
}

uint32_t nib_schedule_chunks(const uint32_t *pending, uint32_t n, uint32_t budget,
                             uint32_t *out_rows)
{
    uint32_t left = budget;
    for (uint32_t i = 0; i < n; i++) {
        out_rows[i] = pending[i] <= left ? pending[i] : 0;
        left -= out_rows[i];
    }
    return budget - left;
}

/// Returns the number of tokens whose computation the session can leave to others: the host has to
/// see the logits of those behind.
static uint32_t shareable(const struct nib_session *session)
{
    uint32_t limit = session->n_tokens - (session->work == NIB_WORK_GENERATE ? 1 : 0);
    if (session->on_logits && session->first_logits < limit)
        limit = session->first_logits;
    return limit;
}

/// Takes over what others have computed of the session's prefix. Returns false where another
/// session computes the rest of its next page in this step.
static bool share_prefix(struct nib_engine *engine, struct nib_session *session)
{
    uint32_t limit = shareable(session);
    uint32_t next_page = (session->n_computed / NIB_KV_PAGE_TOKENS + 1) * NIB_KV_PAGE_TOKENS;
    uint32_t before = session->n_computed;
    if (next_page <= limit)
        session->n_computed =
            nib_kv_pool_attach(engine->pool, session->table, session->tokens, limit);
    if (session->work == NIB_WORK_GENERATE && session->generator.result.n_generated == 0) {
        session->generator.result.n_prompt -= session->n_computed - before;
        session->generator.result.n_shared += session->n_computed - before;
    }
    next_page = (session->n_computed / NIB_KV_PAGE_TOKENS + 1) * NIB_KV_PAGE_TOKENS;
    bool is_first =
        nib_kv_pool_claim(engine->pool, session->table, session->tokens, session->n_tokens);
    return is_first || next_page > limit;
}

/// Writes draft tokens behind the session's own and returns their number.
static uint32_t draft(const struct nib_engine *engine, struct nib_session *session)
{
    struct nib_generator *generator = &session->generator;
    if (session->work != NIB_WORK_GENERATE || generator->max_draft == 0 || engine->is_chunked)
        return 0;
    uint32_t most = engine->plan->context - session->n_tokens;
    uint32_t length = generator->draft_length < most ? generator->draft_length : most;
    if (generator->max_tokens > 0) {
        most = generator->max_tokens - generator->result.n_generated - 1;
        length = length < most ? length : most;
    }
    return nib_draft_find(session->tokens, session->n_tokens, length);
}

/// Returns how many rows the session could have now, its draft included.
static uint32_t find_pending(const struct nib_engine *engine, struct nib_session *session)
{
    uint32_t pending = session->n_tokens - session->n_computed;
    session->n_draft = pending == 1 ? draft(engine, session) : 0;
    if (engine->is_chunked) {
        uint32_t room = engine->plan->max_rows - session->n_computed % engine->plan->max_rows;
        pending = pending < room ? pending : room;
    }
    return pending + session->n_draft;
}

/// Puts the sessions that can run into engine->scheduled, from the one whose turn it is, and
/// returns their number. Ends generations that were cancelled.
static uint32_t collect(struct nib_engine *engine, struct nib_session *only)
{
    uint32_t count = 0;
    nib_kv_pool_begin(engine->pool);
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        uint32_t place = (engine->next_session + i) % engine->max_sessions;
        struct nib_session *session = engine->sessions[place];
        if (!session || session->work == NIB_WORK_NONE || (only && session != only))
            continue;
        if (session->work == NIB_WORK_GENERATE &&
            atomic_load_explicit(&session->cancelled, memory_order_relaxed)) {
            nib_generator_end(session, NIB_STOP_CANCELLED);
            continue;
        }
        if (!share_prefix(engine, session) || session->n_computed == session->n_tokens)
            continue;
        engine->pending[count] = find_pending(engine, session);
        engine->scheduled[count++] = session;
    }
    return count;
}

static bool wants_logits(const struct nib_session *session, uint32_t position)
{
    if (session->on_logits && position >= session->first_logits)
        return true;
    return session->work == NIB_WORK_GENERATE && position + 1 >= session->n_tokens;
}

/// Appends `count` rows of `session` as sequence `index`.
static void add_sequence(struct nib_engine *engine, uint32_t index, uint32_t count)
{
    struct nib_session *session = engine->scheduled[index];
    struct nib_step_header *header = &engine->step.header;
    uint32_t first = header->n_used_rows;
    engine->sequences[index] = (struct nib_step_sequence){
        .kv_length = session->n_computed + count,
        .page_table = nib_kv_pool_offset(engine->pool, session->table),
        .first_row = first,
        .n_rows = count,
    };
    for (uint32_t i = 0; i < count; i++) {
        uint32_t position = session->n_computed + i;
        engine->rows[first + i] = (struct nib_step_row){
            .token = (uint32_t)session->tokens[position],
            .position = position,
            .sequence = index,
            .logit_row = wants_logits(session, position) ? header->n_logits++ : NIB_NONE,
        };
    }
    if (count < 1 + session->n_draft)
        session->n_draft = count - 1;
    header->n_used_rows += count;
    header->n_sequences++;
}

/// Takes pages for `rows` more rows of the session, or for as many as its last page has room for.
/// Returns their number.
static uint32_t take_pages(struct nib_engine *engine, const struct nib_session *session,
                           uint32_t rows, enum nib_status *status, struct nib_error *err)
{
    uint32_t length = session->n_computed + rows;
    *status = nib_kv_pool_extend(engine->pool, session->table, length, err);
    if (*status == NIB_ERROR_KV_FULL && !engine->is_chunked) {
        length = nib_kv_pool_room(engine->pool, session->table, length);
        if (length > session->n_computed)
            *status = nib_kv_pool_extend(engine->pool, session->table, length, err);
    }
    return *status == NIB_OK ? length - session->n_computed : 0;
}

/// Adds the sequences of the sessions that have a share in the step and get pages for it. A device
/// that cannot copy a page is an error, a full pool none.
static enum nib_status add_sequences(struct nib_engine *engine, uint32_t n, struct nib_error *err)
{
    struct nib_step_header *header = &engine->step.header;
    uint32_t next = NIB_NONE; // the first that got no share begins the next step
    for (uint32_t i = 0; i < n; i++) {
        struct nib_session *session = engine->scheduled[i];
        enum nib_status status;
        if (engine->shares[i] == 0) {
            next = next == NIB_NONE ? session->table : next;
            continue;
        }
        uint32_t rows = take_pages(engine, session, engine->shares[i], &status, err);
        if (status != NIB_OK && status != NIB_ERROR_KV_FULL)
            return status;
        if (rows == 0)
            continue;
        engine->scheduled[header->n_sequences] = session;
        add_sequence(engine, header->n_sequences, rows);
    }
    engine->next_session =
        next == NIB_NONE ? (engine->next_session + 1) % engine->max_sessions : next;
    return NIB_OK;
}

enum nib_status nib_step_schedule(struct nib_engine *engine, struct nib_session *only,
                                  uint32_t *out_logits, struct nib_error *err)
{
    struct nib_step_header *header = &engine->step.header;
    *header = (struct nib_step_header){
        .page_table_stride = nib_kv_pool_stride(engine->pool),
        .step = (uint32_t)engine->n_steps,
    };
    *out_logits = 0;
    uint32_t n = collect(engine, only);
    if (n == 0)
        return NIB_OK;
    if (engine->is_chunked)
        nib_schedule_chunks(engine->pending, n, engine->plan->max_rows, engine->shares);
    else
        nib_schedule_share(engine->pending, n, nib_step_most_rows(engine), engine->shares);
    enum nib_status status = add_sequences(engine, n, err);
    if (status != NIB_OK)
        return status;
    if (header->n_sequences == 0)
        return nib_fail(err, NIB_ERROR_KV_FULL,
                        "all pages of the KV pool are in use; truncate or end a session");

    header->n_rows = nib_schedule_bucket(header->n_used_rows);
    for (uint32_t i = header->n_used_rows; i < header->n_rows; i++)
        engine->rows[i] = (struct nib_step_row){.sequence = NIB_NONE, .logit_row = NIB_NONE};
    *out_logits = header->n_logits;
    return NIB_OK;
}
