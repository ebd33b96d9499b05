/// Cancels generations from another thread, under the thread sanitizer too.
#include "runtime/base/os.h"

#include <nibble/nibble.h>
#include <stdatomic.h>
#include <stdio.h>

#define ROUNDS 50

/// What the two threads share.
struct shared {
    struct nib_session *session;
    _Atomic uint32_t tokens; ///< delivered in this round
    _Atomic bool is_asked;   ///< in this round, to stop
    _Atomic bool finished;
};

/// Delivers two tokens, and waits with the third until a cancel has come meanwhile.
static bool count(void *user, const struct nib_token_event *event)
{
    struct shared *shared = user;
    (void)event;
    atomic_fetch_add(&shared->tokens, 1);
    while (atomic_load(&shared->tokens) >= 3 && !atomic_load(&shared->is_asked)) {}
    return true;
}

static void cancel_often(void *user)
{
    struct shared *shared = user;
    while (!atomic_load(&shared->finished)) {
        // In this order: a new round sets tokens back before it may be asked again.
        if (!atomic_load(&shared->is_asked) && atomic_load(&shared->tokens) >= 2) {
            nib_session_cancel(shared->session);
            atomic_store(&shared->is_asked, true);
        }
    }
}

/// Generates until the other thread's cancel has come, and waits until that thread has said so:
/// what it says late would be taken for the next round's.
static bool run_round(struct shared *shared, struct nib_error *error)
{
    const int32_t ids[3] = {1, 2, 3};
    struct nib_generation generation;
    const struct nib_generate_params *params =
        nib_generate_params(.on_token = count, .user = shared);
    atomic_store(&shared->tokens, 0);
    atomic_store(&shared->is_asked, false);
    if (nib_session_truncate(shared->session, 0, error) != NIB_OK ||
        nib_session_append(shared->session, ids, 3, error) != NIB_OK ||
        nib_session_generate(shared->session, params, &generation, error) != NIB_OK)
        return false;
    if (generation.stop != NIB_STOP_CANCELLED) {
        snprintf(error->message, sizeof error->message, "it stopped by %s, not by the cancel",
                 nib_stop_name(generation.stop));
        return false;
    }
    while (!atomic_load(&shared->is_asked)) {}
    return true;
}

int main(void)
{
    struct nib_error error = {0};
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_thread *thread = NULL;
    struct shared shared = {0};
    bool is_right =
        nib_model_open(NIB_TEST_DATA "/architectures/qwen2", NULL, &model, &error) == NIB_OK &&
        nib_engine_create(model, nib_engine_params(.context = 512), &engine, &error) == NIB_OK &&
        nib_session_create(engine, &shared.session, &error) == NIB_OK &&
        nib_thread_create(cancel_often, &shared, -1, &thread, &error) == NIB_OK;
    for (uint32_t i = 0; i < ROUNDS && is_right; i++)
        is_right = run_round(&shared, &error);
    if (!is_right)
        fprintf(stderr, "%s\n", error.message);
    atomic_store(&shared.finished, true);
    nib_thread_join(&thread);
    nib_session_destroy(&shared.session);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
    return is_right ? 0 : 1;
}
