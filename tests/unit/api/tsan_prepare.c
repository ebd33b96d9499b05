/// Loads beside the calling thread, which looks on, gives up and goes on: under the thread
/// sanitizer too.
#include <nibble/nibble.h>
#include <stdio.h>

#define ROUNDS 6

/// Refuses the first report, and hears the others.
struct hearer {
    uint64_t last;
    uint32_t refusals;
};

static bool hear(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct hearer *hearer = user;
    (void)what;
    (void)total;
    hearer->last = done;
    return hearer->refusals == 0 || hearer->refusals-- == 0;
}

static int fail(const char *what, const struct nib_error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->message);
    return 1;
}

/// Looks at the loading `n_looks` times, or until it is done.
static enum nib_status look(struct nib_engine *engine, uint32_t n_looks, struct nib_error *err)
{
    bool ready = false;
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < n_looks && !ready; i++) {
        struct nib_engine_info info;
        status = nib_engine_prepare(engine, i % 4 == 3 ? 100000 : 1, &ready, err);
        nib_engine_get_info(engine, &info);
        if (status != NIB_OK && status != NIB_ERROR_CANCELLED)
            break;
        status = NIB_OK;
    }
    return status;
}

/// Round by round: given up while it loads; a step that waits for the weights; looked at to the
/// end.
static enum nib_status load(struct nib_model *model, uint32_t round, struct nib_error *err)
{
    const int32_t ids[3] = {1, 2, 3};
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_generation generation;
    struct hearer hearer = {.refusals = round % 2};
    enum nib_status status = nib_engine_create(
        model, nib_engine_params(.context = 64, .progress = {.report = hear, .user = &hearer}),
        &engine, err);
    if (status == NIB_OK)
        status = nib_session_create(engine, &session, err);
    if (status == NIB_OK)
        status = look(engine, round % 3 == 2 ? UINT32_MAX : 5, err);
    if (status == NIB_OK && round % 3 > 0)
        status = nib_session_append(session, ids, 3, err);
    hearer.refusals = 0;
    if (status == NIB_OK && round % 3 > 0)
        status = nib_session_generate(
            session, nib_generate_params(.max_tokens = 2, .ignore_eos = true), &generation, err);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
    return status;
}

int main(void)
{
    struct nib_error error = {0};
    struct nib_model *model = NULL;
    if (nib_model_open(NIB_TEST_DATA "/architectures/qwen2", NULL, &model, &error) != NIB_OK)
        return fail("set-up", &error);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (load(model, round, &error) != NIB_OK)
            return fail("round", &error);
    }
    nib_model_destroy(&model);
    return 0;
}
