#include "runtime/engine/schedule.h"

#include "runtime/base/status.h"
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

uint32_t nib_schedule_share_whole(const uint32_t *pending, uint32_t n, uint32_t budget,
                                  uint32_t *out_rows)
{
    uint32_t sum = 0, i = 0;
    for (; i < n && pending[i] <= budget - sum; i++) {
        out_rows[i] = pending[i];
        sum += pending[i];
    }
    for (; i < n; i++)
        out_rows[i] = 0;
    return sum;
}

uint32_t nib_schedule_chunk(uint32_t n_computed, uint32_t n_tokens, uint32_t size)
{
    uint32_t left = n_tokens - n_computed, chunk = size - n_computed % size;
    return left < chunk ? left : chunk;
}

uint32_t nib_schedule_bucket(uint32_t n_rows)
{
    uint32_t bucket = 1;
    while (bucket < n_rows)
        bucket *= 2;
    return bucket;
}

/// Returns whether a row's results depend on the rows of its sequence that share its step: LLM.int8
/// looks for outliers in all of them.
static bool depends_on_chunks(const struct nib_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].kind == NIB_OP_MATMUL &&
            plan->ops[i].matmul.activation == NIB_ACTIVATION_LLM_INT8)
            return true;
    }
    return false;
}

/// Shares the rows of the step out, so that what else runs in it changes no session's results.
static void share_rows(struct nib_engine *engine, uint32_t n)
{
    uint32_t max_rows = engine->plan->max_rows;
    if (!depends_on_chunks(engine->plan)) {
        nib_schedule_share(engine->pending, n, max_rows, engine->shares);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct nib_session *session = engine->scheduled[i];
        engine->pending[i] = nib_schedule_chunk(session->n_computed, session->n_tokens, max_rows);
    }
    nib_schedule_share_whole(engine->pending, n, max_rows, engine->shares);
}

/// Puts the sessions that can run into engine->scheduled, from the one whose turn it is, and
/// returns their number. Ends generations that were cancelled.
static uint32_t collect(struct nib_engine *engine, struct nib_session *only)
{
    uint32_t count = 0;
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
        engine->pending[count] = session->n_tokens - session->n_computed;
        engine->scheduled[count++] = session;
    }
    return count;
}

static bool wants_logits(const struct nib_session *session, uint32_t position)
{
    if (session->on_logits && position >= session->first_logits)
        return true;
    return session->work == NIB_WORK_GENERATE && position + 1 == session->n_tokens;
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
    header->n_used_rows += count;
    header->n_sequences++;
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
    share_rows(engine, n);

    uint32_t last_turn = engine->next_session;
    for (uint32_t i = 0; i < n && engine->shares[i] > 0; i++) {
        struct nib_session *session = engine->scheduled[i];
        uint32_t rows = engine->shares[i];
        uint32_t length = session->n_computed + rows;
        if (nib_kv_pool_extend(engine->pool, session->table, length, NULL) != NIB_OK)
            continue;
        engine->scheduled[header->n_sequences] = session;
        last_turn = session->table;
        add_sequence(engine, header->n_sequences, rows);
    }
    if (n == 0)
        return NIB_OK;
    if (header->n_sequences == 0)
        return nib_fail(err, NIB_ERROR_KV_FULL,
                        "all pages of the KV pool are in use; truncate or end a session");
    // Where not all got rows, the first of the others begins the next step.
    bool all_served = engine->shares[n - 1] > 0;
    engine->next_session =
        ((all_served ? engine->next_session : last_turn) + 1) % engine->max_sessions;

    header->n_rows = nib_schedule_bucket(header->n_used_rows);
    for (uint32_t i = header->n_used_rows; i < header->n_rows; i++)
        engine->rows[i] = (struct nib_step_row){.sequence = NIB_NONE, .logit_row = NIB_NONE};
    *out_logits = header->n_logits;
    return NIB_OK;
}
