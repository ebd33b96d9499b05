#include "runtime/base/status.h"
#include "runtime/engine/engine.h"
#include <stdlib.h>
#include <string.h>

enum nib_status nib_session_create(struct nib_engine *engine, struct nib_session **out_session,
                                   struct nib_error *err)
{
    *out_session = NULL;
    if (!engine)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "engine is NULL");
    enum nib_status status = nib_engine_require_idle(engine, err);
    if (status != NIB_OK)
        return status;
    uint32_t table = 0;
    while (table < engine->max_sessions && engine->sessions[table])
        table++;
    if (table == engine->max_sessions)
        return nib_fail(err, NIB_ERROR_STATE,
                        "the engine has its %u sessions already; raise max_sessions",
                        engine->max_sessions);

    struct nib_session *session = calloc(1, sizeof *session);
    if (!session)
        return nib_fail_memory(err);
    session->tokens = calloc(engine->plan->context, sizeof *session->tokens);
    if (!session->tokens) {
        free(session);
        return nib_fail_memory(err);
    }
    session->engine = engine;
    session->table = table;
    atomic_init(&session->cancelled, false);
    engine->sessions[table] = session;
    *out_session = session;
    return NIB_OK;
}

enum nib_status nib_session_fork(const struct nib_session *session,
                                 struct nib_session **out_session, struct nib_error *err)
{
    *out_session = NULL;
    if (!session)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "session is NULL");
    enum nib_status status = nib_session_create(session->engine, out_session, err);
    if (status != NIB_OK)
        return status;
    struct nib_session *copy = *out_session;
    // What is under way writes to pages that are about to be shared.
    nib_ahead_discard(session->engine);
    memcpy(copy->tokens, session->tokens, session->n_tokens * sizeof *copy->tokens);
    copy->n_tokens = session->n_tokens;
    copy->n_computed = session->n_computed;
    nib_kv_pool_fork(session->engine->pool, session->table, copy->table);
    return NIB_OK;
}

void nib_session_destroy(struct nib_session **session)
{
    if (!session || !*session)
        return;
    struct nib_engine *engine = (*session)->engine;
    if (engine->recording.is_open) {
        (*session)->work = NIB_WORK_NONE;
        (*session)->is_orphan = true;
        *session = NULL;
        return;
    }
    nib_kv_pool_truncate(engine->pool, (*session)->table, 0);
    engine->sessions[(*session)->table] = NULL;
    nib_generator_free(&(*session)->generator);
    free((*session)->tokens);
    free(*session);
    *session = NULL;
}

/// Tokens may change only while nothing computes them.
static enum nib_status require_idle(const struct nib_session *session, struct nib_error *err)
{
    if (!session)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "session is NULL");
    enum nib_status status = nib_engine_require_idle(session->engine, err);
    if (status != NIB_OK)
        return status;
    if (session->work != NIB_WORK_NONE)
        return nib_fail(err, NIB_ERROR_STATE,
                        "the session is being computed; cancel its generation first");
    return NIB_OK;
}

enum nib_status nib_session_append(struct nib_session *session, const int32_t *ids, size_t count,
                                   struct nib_error *err)
{
    enum nib_status status = require_idle(session, err);
    if (status != NIB_OK || count == 0)
        return status;
    const struct nib_plan *plan = session->engine->plan;
    if (count > plan->context - session->n_tokens)
        return nib_fail(err, NIB_ERROR_CONTEXT_FULL,
                        "%zu tokens do not fit: the context holds %u, of which %u are in use; "
                        "raise --ctx or shorten the text",
                        count, plan->context, session->n_tokens);
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= plan->vocabulary)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "token %zu is %d, outside the model's vocabulary of %u", i, ids[i],
                            plan->vocabulary);
    }
    memcpy(session->tokens + session->n_tokens, ids, count * sizeof *ids);
    session->n_tokens += (uint32_t)count;
    return NIB_OK;
}

void nib_session_rewind(struct nib_session *session, uint32_t n_computed)
{
    session->n_computed = nib_kv_pool_truncate(session->engine->pool, session->table, n_computed);
}

enum nib_status nib_session_truncate(struct nib_session *session, size_t count,
                                     struct nib_error *err)
{
    enum nib_status status = require_idle(session, err);
    if (status != NIB_OK)
        return status;
    if (count > session->n_tokens)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the session has %u tokens, fewer than the %zu to keep", session->n_tokens,
                        count);
    session->n_tokens = (uint32_t)count;
    if (session->n_computed > count)
        nib_session_rewind(session, (uint32_t)count);
    return NIB_OK;
}

void nib_session_drop(struct nib_session *session, uint32_t first, uint32_t count)
{
    uint32_t end = first + count;
    memmove(session->tokens + first, session->tokens + end,
            (session->n_tokens - end) * sizeof *session->tokens);
    session->n_tokens -= count;
    if (session->n_told > first)
        session->n_told = first;
    if (session->n_computed > first)
        nib_session_rewind(session, first);
}

enum nib_status nib_session_shift(struct nib_session *session, size_t keep, size_t count,
                                  struct nib_error *err)
{
    enum nib_status status = require_idle(session, err);
    if (status != NIB_OK)
        return status;
    if (keep > session->n_tokens || count > session->n_tokens - keep)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the session has %u tokens, fewer than the %zu to keep and %zu to drop",
                        session->n_tokens, keep, count);
    if (count > 0)
        nib_session_drop(session, (uint32_t)keep, (uint32_t)count);
    return NIB_OK;
}

const int32_t *nib_session_tokens(const struct nib_session *session, size_t *out_count)
{
    *out_count = session->n_tokens;
    return session->tokens;
}

static void end_forward(struct nib_session *session)
{
    session->work = NIB_WORK_NONE;
    session->on_logits = NULL;
}

enum nib_status nib_session_forward(struct nib_session *session, uint32_t first_position,
                                    nib_logits_fn *on_logits, void *user, struct nib_error *err)
{
    enum nib_status status = require_idle(session, err);
    if (status != NIB_OK)
        return status;
    struct nib_engine *engine = session->engine;
    if (session->n_computed == session->n_tokens)
        return nib_fail(err, NIB_ERROR_STATE, "all tokens are computed; append some first");
    bool ready = engine->load.ready;
    if (!ready)
        NIB_TRY(nib_engine_prepare(engine, 0, &ready, err));

    session->work = NIB_WORK_FORWARD;
    session->on_logits = on_logits;
    session->first_logits = first_position;
    session->n_told = session->n_computed; // others are not given again after a loss
    session->logits_user = user;
    session->refused = false;
    atomic_store_explicit(&session->cancelled, false, memory_order_relaxed);
    while (session->n_computed < session->n_tokens) {
        uint32_t active;
        NIB_TRY(nib_step_run(engine, session, &active, err));
        if (session->refused || atomic_load_explicit(&session->cancelled, memory_order_relaxed))
            NIB_TRY(nib_fail(err, NIB_ERROR_CANCELLED, "cancelled"));
    }

fail:
    end_forward(session);
    return status;
}

void nib_session_cancel(struct nib_session *session)
{
    atomic_store_explicit(&session->cancelled, true, memory_order_relaxed);
}
