#include "tests/support/alloc_fail.h"
#include "tests/support/folder.h"
#include "tests/unit/engine/rig.h"
#include <criterion/criterion.h>

TestSuite(alloc, .init = make_folder, .fini = remove_folder);

/// Forks a session, saves it and loads it.
static enum nib_status copy_session(struct nib_engine *engine, const struct nib_session *session,
                                    struct nib_error *error)
{
    struct nib_session *copy = NULL;
    enum nib_status status = nib_session_fork(session, &copy, error);
    if (status == NIB_OK)
        status = nib_session_save(copy, path_in_folder("s"), error);
    nib_session_destroy(&copy);
    if (status == NIB_OK)
        status = nib_session_load(engine, path_in_folder("s"), &copy, error);
    nib_session_destroy(&copy);
    return status;
}

/// Makes an engine, a session, a generation and copies; any part may run out of memory.
static enum nib_status live(struct nib_model *model, struct nib_device *device)
{
    const struct nib_text stop = {"x", 1};
    const struct nib_logit_bias bias = {.id = 1};
    const struct nib_placement placements[2] = {
        {.device = device, .n_segments = 1},
        {.device = device,
         .first_segment = 1,
         .n_segments = nib_source_config(model->source)->n_layers + 1}};
    struct nib_engine_params engine_params = {.placements = placements,
                                              .n_placements = 2,
                                              .context = 64,
                                              .max_rows = 16,
                                              .max_sessions = 2,
                                              .profile = true};
    struct nib_generate_params params = {
        .max_tokens = 3, .biases = &bias, .n_biases = 1, .stops = &stop};
    params.n_stops = nib_source_tokenizer(model->source) ? 1 : 0;
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_error error = {0};
    int32_t ids[40];
    for (int32_t i = 0; i < 40; i++)
        ids[i] = i;
    enum nib_status status = nib_engine_build(model, &engine_params, &engine, &error);
    if (status == NIB_OK)
        status = nib_session_create(engine, &session, &error);
    if (status == NIB_OK)
        status = nib_session_append(session, ids, 40, &error);
    if (status == NIB_OK)
        status = nib_generator_run(session, &params, NULL, &error);
    if (status == NIB_OK)
        status = copy_session(engine, session, &error);
    cr_assert_eq(error.status, status);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
    return status;
}

Test(alloc, decode_steps_take_no_memory)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = 256, .max_rows = 16});
    struct nib_session *session = rig_session(&rig);
    struct nib_error error;
    uint32_t active = 1;
    rig_append(session, 40, 1);
    cr_assert_eq(nib_generator_begin(session, nib_generate_params(.max_tokens = 200), &error),
                 NIB_OK, "%s", error.message);
    for (uint32_t i = 0; i < 8; i++)
        cr_assert_eq(nib_engine_step(rig.engine, &active, &error), NIB_OK, "%s", error.message);
    alloc_fail_after(0);
    for (uint32_t i = 0; i < 150 && active; i++)
        cr_assert_eq(nib_engine_step(rig.engine, &active, &error), NIB_OK, "%s", error.message);
    cr_expect_not(alloc_fail_off(), "a step took memory");
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(alloc, every_failure_is_reported_and_leaks_nothing)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){0});
    uint32_t n = 0;
    for (bool failed = true; failed; n++) {
        alloc_fail_after(n);
        enum nib_status status = live(rig.model, &rig.fake.device);
        failed = alloc_fail_off();
        cr_assert_eq(status, failed ? NIB_ERROR_MEMORY : NIB_OK, "allocation %u", n);
    }
    cr_assert_gt(n, 30);
    rig_close(&rig);
}

static bool take_line(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    uint32_t *lines = user;
    (void)position;
    (void)logits;
    (void)vocabulary;
    ++*lines;
    return true;
}

Test(alloc, steps_allocate_nothing)
{
    struct rig rig;
    struct nib_session *sessions[3];
    uint32_t lines = 0;
    rig_open(&rig, (struct nib_engine_params){
                       .context = 128, .max_sessions = 3, .max_rows = 16, .profile = true});
    struct nib_generate_params params = {
        .sampling = {.temperature = 1.0f, .top_k = 10, .top_p = 0.9f, .repeat_penalty = 1.1f},
        .n_top_logprobs = 5,
        .max_tokens = 40,
        .on_logits = take_line,
        .user = &lines,
    };
    bool ready;
    cr_assert_eq(nib_engine_prepare(rig.engine, 0, &ready, NULL), NIB_OK);
    for (uint32_t i = 0; i < 3; i++) {
        sessions[i] = rig_session(&rig);
        rig_append(sessions[i], 10 + 30 * i, i);
        cr_assert_eq(nib_generator_begin(sessions[i], &params, NULL), NIB_OK);
    }
    alloc_fail_after(0);
    uint32_t active = 1;
    enum nib_status status = NIB_OK;
    while (status == NIB_OK && active > 0)
        status = nib_engine_step(rig.engine, &active, NULL);
    cr_assert_not(alloc_fail_off());
    cr_assert_eq(status, NIB_OK);
    cr_assert_eq(lines, 10 + 40 + 70 + 3 * 39);
    for (uint32_t i = 0; i < 3; i++)
        nib_session_destroy(&sessions[i]);
    rig_close(&rig);
}
