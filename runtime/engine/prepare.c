// Loading, on the caller's thread or on one of its own that the caller looks at.
#include <stdatomic.h>
#include <stdlib.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"

// A caller with a budget waits for half of it, since systems wake threads late.

/// How long a caller without a budget waits before it reports progress.
#define LOOK_NS 100000000u

/// A thread that loads. It is of low priority, so it takes the mutex only at its end: a caller must
/// not wait for it while others go before it.
struct nib_loader {
    struct nib_engine *engine;
    struct nib_thread *thread;
    _Atomic uint64_t done_bytes;
    _Atomic uint32_t n_checked;
    _Atomic uint32_t n_checks;
    _Atomic bool stops; ///< it should end before all is done
    struct nib_mutex *mutex;
    struct nib_condition *condition; ///< is_over
    // Under the mutex.
    bool is_over;
    bool is_done; ///< all is loaded
    enum nib_status status;
    struct nib_error error;
    uint64_t ns; ///< that it has worked
};

/// Tells how far the loader has come, and returns whether it is to go on.
static bool publish(struct nib_loader *loader)
{
    const struct nib_load *load = &loader->engine->load;
    atomic_store(&loader->done_bytes, load->done_bytes);
    atomic_store(&loader->n_checked, load->n_checked);
    atomic_store(&loader->n_checks, load->n_checks);
    return !atomic_load(&loader->stops);
}

static void run_loader(void *user)
{
    struct nib_loader *loader = user;
    struct nib_error error = {NIB_OK, ""};
    uint64_t start_ns = nib_clock_ns();
    enum nib_status status = NIB_OK;
    bool is_done = false;
    nib_thread_lower_priority();
    while (publish(loader) && status == NIB_OK && !is_done)
        status = nib_load_piece(loader->engine, &is_done, &error);
    nib_mutex_lock(loader->mutex);
    loader->is_over = true;
    loader->is_done = is_done;
    loader->status = status;
    loader->error = error;
    loader->ns = nib_clock_ns() - start_ns;
    nib_condition_broadcast(loader->condition);
    nib_mutex_unlock(loader->mutex);
}

/// Waits for the loader's end and frees it.
static void end_loader(struct nib_loader **loader)
{
    struct nib_loader *l = *loader;
    if (!l)
        return;
    if (l->thread)
        nib_thread_join(&l->thread);
    nib_condition_destroy(&l->condition);
    nib_mutex_destroy(&l->mutex);
    free(l);
    *loader = NULL;
}

void nib_load_stop(struct nib_engine *engine)
{
    struct nib_loader *loader = engine->loader;
    if (!loader)
        return;
    atomic_store(&loader->stops, true);
    nib_thread_join(&loader->thread);
    engine->load.ns += loader->ns;
    end_loader(&engine->loader);
}

static enum nib_status start_loader(struct nib_engine *engine, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_loader *loader = calloc(1, sizeof *loader);
    if (!loader)
        return nib_fail_memory(err);
    loader->engine = engine;
    atomic_init(&loader->done_bytes, engine->load.done_bytes);
    NIB_TRY(nib_mutex_create(&loader->mutex, err));
    NIB_TRY(nib_condition_create(&loader->condition, err));
    NIB_TRY(nib_thread_create(run_loader, loader, -1, &loader->thread, err));
    engine->loader = loader;
    return NIB_OK;

fail:
    end_loader(&loader);
    return status;
}

/// How far loading has come, as the caller sees it.
struct state {
    uint64_t done_bytes;
    uint32_t n_checked;
    uint32_t n_checks;
};

/// Reports progress where there is any, in callbacks, which may not start or end anything; returns
/// false where the caller wants to stop.
static bool report(struct nib_engine *engine, struct state state)
{
    struct nib_load *load = &engine->load;
    const bool was_stepping = engine->stepping;
    bool goes_on = true;
    engine->stepping = true;
    if (state.done_bytes != load->reported_bytes)
        goes_on = nib_meter_report(&load->meter, state.done_bytes);
    if (goes_on && state.n_checked != load->reported_checks) {
        load->check_meter.total = state.n_checks;
        goes_on = nib_meter_report(&load->check_meter, state.n_checked);
    }
    engine->stepping = was_stepping;
    load->reported_bytes = state.done_bytes;
    load->reported_checks = state.n_checked;
    return goes_on;
}

static enum nib_status fail_cancelled(struct nib_error *err)
{
    return nib_fail(err, NIB_ERROR_CANCELLED, "loading was cancelled");
}

/// Waits for the loader until `end_ns`, and lets it go on if it was stopped. Returns whether it is
/// over.
static bool wait_for_loader(struct nib_loader *loader, uint64_t end_ns)
{
    atomic_store(&loader->stops, false);
    nib_mutex_lock(loader->mutex);
    while (!loader->is_over && nib_condition_wait_until(loader->condition, loader->mutex, end_ns)) {
    }
    bool is_over = loader->is_over;
    nib_mutex_unlock(loader->mutex);
    return is_over;
}

/// Takes over what the loader has come to, and ends it.
static enum nib_status finish_loader(struct nib_engine *engine, struct nib_error *err)
{
    const struct nib_loader *loader = engine->loader;
    enum nib_status status = loader->status;
    engine->load.ns += loader->ns;
    engine->load.ready = loader->is_done;
    if (status != NIB_OK)
        nib_fail(err, status, "%s", loader->error.message);
    end_loader(&engine->loader);
    return status;
}

/// Lets the loader work, and looks at it until `end_ns`, or until it is over where that is 0.
static enum nib_status load_beside(struct nib_engine *engine, uint64_t end_ns,
                                   struct nib_error *err)
{
    bool is_over = false;
    do {
        is_over = wait_for_loader(engine->loader, end_ns ? end_ns : nib_clock_ns() + LOOK_NS);
        const struct state state = {.done_bytes = atomic_load(&engine->loader->done_bytes),
                                    .n_checked = atomic_load(&engine->loader->n_checked),
                                    .n_checks = atomic_load(&engine->loader->n_checks)};
        if (!report(engine, state)) {
            atomic_store(&engine->loader->stops, true);
            return fail_cancelled(err);
        }
        if (is_over) {
            enum nib_status status = finish_loader(engine, err);
            if (status != NIB_OK)
                return status;
        }
    } while (!is_over && end_ns == 0);
    return NIB_OK;
}

/// Loads everything on this thread.
static enum nib_status load_here(struct nib_engine *engine, struct nib_error *err)
{
    struct nib_load *load = &engine->load;
    uint64_t start_ns = nib_clock_ns();
    enum nib_status status = NIB_OK;
    while (status == NIB_OK && !load->ready) {
        status = nib_load_piece(engine, &load->ready, err);
        const struct state state = {load->done_bytes, load->n_checked, load->n_checks};
        if (status == NIB_OK && !report(engine, state))
            status = fail_cancelled(err);
    }
    load->ns += nib_clock_ns() - start_ns;
    return status;
}

/// Goes on loading until `end_ns` (0: to the end). Where a device fails and the CPU may go on, it
/// is the CPU that loads.
static enum nib_status load_until(struct nib_engine *engine, uint64_t end_ns, struct nib_error *err)
{
    struct nib_error error = {0};
    enum nib_status status = NIB_OK;
    do {
        if (end_ns != 0 && !engine->loader)
            status = start_loader(engine, &error);
        if (status == NIB_OK && engine->loader)
            status = load_beside(engine, end_ns, &error);
        else if (status == NIB_OK)
            status = load_here(engine, &error);
        if (nib_engine_may_fall_back(engine, status))
            status = nib_engine_fall_back(engine, error.message, &error);
    } while (status == NIB_OK && !engine->load.ready && end_ns == 0);
    if (status != NIB_OK && err)
        *err = error;
    return status;
}

enum nib_status nib_engine_prepare(struct nib_engine *engine, uint64_t budget_ns, bool *out_ready,
                                   struct nib_error *err)
{
    *out_ready = false;
    if (!engine)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "engine is NULL");
    enum nib_status status = NIB_OK;
    if (!engine->load.ready) {
        uint64_t start_ns = nib_clock_ns(), end_ns = start_ns + (budget_ns + 1) / 2;
        bool is_slice = budget_ns != 0 && end_ns > start_ns;
        status = load_until(engine, is_slice ? end_ns : 0, err);
        if (engine->load.ready)
            nib_log_write(&engine->log, NIB_LOG_INFO, "%llu bytes of weights are ready",
                          (unsigned long long)engine->load.done_bytes);
    }
    *out_ready = engine->load.ready;
    return status;
}
