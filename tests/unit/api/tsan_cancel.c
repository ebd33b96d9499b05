/// Cancels generations from another thread, under the thread sanitizer too.
#include "runtime/base/os.h"

#include <nibble/nibble.h>
#include <stdatomic.h>
#include <stdio.h>

#define ROUNDS 50

/// What the two threads share.
struct shared {
    struct nib_session *session;
    _Atomic uint32_t tokens; ///< delivered in all rounds
    _Atomic bool finished;
};

static bool count(void *user, const struct nib_token_event *event)
{
    struct shared *shared = user;
    (void)event;
    atomic_fetch_add(&shared->tokens, 1);
    return true;
}

static void cancel_often(void *user)
{
    struct shared *shared = user;
    uint32_t seen = 0;
    while (!atomic_load(&shared->finished)) {
        uint32_t now = atomic_load(&shared->tokens);
        if (now > seen + 2) {
            nib_session_cancel(shared->session);
            seen = now;
        }
    }
}

static int fail(const char *what, const struct nib_error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->message);
    return 1;
}

int main(void)
{
    struct nib_error error = {0};
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_thread *thread = NULL;
    struct shared shared = {0};
    const int32_t ids[3] = {1, 2, 3};
    uint32_t cancelled = 0;
    if (nib_model_open(NIB_TEST_DATA "/architectures/qwen2", NULL, &model, &error) != NIB_OK ||
        nib_engine_create(model, nib_engine_params(.context = 512), &engine, &error) != NIB_OK ||
        nib_session_create(engine, &shared.session, &error) != NIB_OK ||
        nib_thread_create(cancel_often, &shared, -1, &thread, &error) != NIB_OK)
        return fail("set-up", &error);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct nib_generation generation;
        const struct nib_generate_params *params =
            nib_generate_params(.on_token = count, .user = &shared);
        if (nib_session_truncate(shared.session, 0, &error) != NIB_OK ||
            nib_session_append(shared.session, ids, 3, &error) != NIB_OK ||
            nib_session_generate(shared.session, params, &generation, &error) != NIB_OK)
            return fail("round", &error);
        if (generation.stop != NIB_STOP_CANCELLED && generation.stop != NIB_STOP_CONTEXT)
            return fail(nib_stop_name(generation.stop), &error);
        cancelled += generation.stop == NIB_STOP_CANCELLED;
    }
    atomic_store(&shared.finished, true);
    nib_thread_join(&thread);
    nib_session_destroy(&shared.session);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
    return cancelled > 0 ? 0 : fail("nothing was cancelled", &error);
}
