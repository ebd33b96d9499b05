// Steps that the host records into its own command buffers and submits itself.
#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <string.h>

#include "tests/embed/watch.h"

#define MODEL NIB_TEST_DATA "/architectures/qwen3"
#define N_PROMPT 40
#define N_TOKENS 12
#define MAX_BUFFERS 16

/// A host, an engine on its device, and command buffers of the host's.
struct rig {
    struct host host;
    struct nib_model *model;
    struct nib_engine *engine;
    VkCommandBuffer buffers[MAX_BUFFERS];
    VkCommandBuffer secondary;
    uint32_t n_frames;
};
static struct rig rig;

static struct nib_engine *make_engine(struct nib_device *device, bool profile)
{
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    struct nib_error error;
    nib_model_get_info(rig.model, &info);
    const struct nib_placement whole = {.device = device, .n_segments = info.layers + 2};
    cr_assert_eq(
        nib_engine_create(rig.model,
                          nib_engine_params(.placements = &whole, .n_placements = device != NULL,
                                            .context = 128, .max_sessions = 4, .profile = profile),
                          &engine, &error),
        NIB_OK, "%s", error.message);
    return engine;
}

static void allocate(VkCommandBufferLevel level, uint32_t n, VkCommandBuffer *out)
{
    VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                        .commandPool = rig.host.pool,
                                        .level = level,
                                        .commandBufferCount = n};
    cr_assert_eq(rig.host.AllocateCommandBuffers(rig.host.device, &info, out), VK_SUCCESS);
}

static void rig_open(bool profile)
{
    struct nib_device *device = NULL;
    struct nib_error error;
    host_open(&rig.host, &(struct host_params){.has_names = true});
    cr_assert_eq(nib_model_open(MODEL, NULL, &rig.model, &error), NIB_OK, "%s", error.message);
    struct nib_attach_params params = host_attach_params(&rig.host);
    params.get_instance_proc_addr = watch_begin(&rig.host);
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    rig.engine = make_engine(device, profile);
    nib_device_destroy(&device);
    allocate(VK_COMMAND_BUFFER_LEVEL_PRIMARY, MAX_BUFFERS, rig.buffers);
    allocate(VK_COMMAND_BUFFER_LEVEL_SECONDARY, 1, &rig.secondary);
}

static void rig_close(void)
{
    struct nib_engine_info info;
    nib_engine_get_info(rig.engine, &info);
    cr_assert_eq(info.execution.cpu_layers, 0);
    cr_assert_eq(info.execution.n_replaced + info.execution.n_fallbacks, 0);
    cr_assert_gt(info.execution.dispatches, 0);
    nib_engine_destroy(&rig.engine);
    nib_model_destroy(&rig.model);
    watch_end();
    host_close(&rig.host);
}

/// A session with a prompt of its own, number `which`.
static struct nib_session *make_session(int32_t which)
{
    struct nib_session *session = NULL;
    int32_t prompt[N_PROMPT];
    for (int32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = 1 + (i * 7 + which) % 60;
    cr_assert_eq(nib_session_create(rig.engine, &session, NULL), NIB_OK);
    cr_assert_eq(nib_session_append(session, prompt, N_PROMPT, NULL), NIB_OK);
    return session;
}

static struct nib_session *begin_session(int32_t which, const struct nib_generate_params *params)
{
    struct nib_error error;
    struct nib_session *session = make_session(which);
    cr_assert_eq(nib_session_begin(session, params, &error), NIB_OK, "%s", error.message);
    return session;
}

/// How a step is spread over the host's command buffers.
enum way { ONE_BUFFER, A_BUFFER_EACH, A_FRAME_EACH, SECONDARY };

static void begin(VkCommandBuffer buffer)
{
    cr_assert_eq(host_begin(&rig.host, buffer), VK_SUCCESS);
}

static void end(VkCommandBuffer buffer)
{
    cr_assert_eq(rig.host.EndCommandBuffer(buffer), VK_SUCCESS);
}

/// Submits, and checks the picture that was drawn behind the segments.
static void submit(const VkCommandBuffer *buffers, uint32_t n)
{
    cr_assert_eq(host_submit(&rig.host, buffers, n), VK_SUCCESS);
    cr_assert(host_check(&rig.host, rig.n_frames));
}

static uint32_t record(VkCommandBuffer buffer, uint32_t n)
{
    uint32_t left = 0;
    struct nib_error error;
    cr_assert_eq(nib_engine_record_segments(rig.engine, buffer, n, &left, &error), NIB_OK, "%s",
                 error.message);
    return left;
}

static void record_secondary(void)
{
    VkCommandBufferInheritanceInfo nothing = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_INHERITANCE_INFO};
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .pInheritanceInfo = &nothing};
    cr_assert_eq(rig.host.BeginCommandBuffer(rig.secondary, &info), VK_SUCCESS);
    cr_assert_eq(record(rig.secondary, 0), 0);
    end(rig.secondary);
    begin(rig.buffers[0]);
    rig.host.CmdExecuteCommands(rig.buffers[0], 1, &rig.secondary);
    host_record(&rig.host, rig.buffers[0], ++rig.n_frames);
    end(rig.buffers[0]);
    submit(rig.buffers, 1);
}

/// Records and submits the open step of `n_segments`.
static void run(enum way way, uint32_t n_segments)
{
    uint32_t left = n_segments, n = 0;
    if (way == SECONDARY) {
        record_secondary();
        return;
    }
    while (left > 0) {
        VkCommandBuffer buffer = rig.buffers[n++];
        begin(buffer);
        left = record(buffer, way == ONE_BUFFER ? 0 : 1);
        if (left == 0 || way == A_FRAME_EACH)
            host_record(&rig.host, buffer, ++rig.n_frames);
        end(buffer);
        if (way == A_FRAME_EACH)
            submit(&buffer, 1);
    }
    if (way != A_FRAME_EACH)
        submit(rig.buffers, n);
}

/// A step of the host's. Returns the sessions that still have work.
static uint32_t step(enum way way)
{
    uint32_t n_segments = 0, active = 0;
    struct nib_error error;
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, &error), NIB_OK, "%s",
                 error.message);
    if (n_segments == 0)
        return 0;
    uint32_t before = watch.submits;
    run(way, n_segments);
    cr_assert_eq(watch.submits, before); // the host's own, through functions that are not watched
    cr_assert_eq(nib_engine_end_step(rig.engine, &active, &error), NIB_OK, "%s", error.message);
    return active;
}

/// The tokens that nib_engine_step draws, for comparison; the session is gone then.
static void draw_apart(int32_t which, const struct nib_generate_params *params, int32_t *out_ids)
{
    size_t count = 0;
    struct nib_error error;
    struct nib_session *session = make_session(which);
    cr_assert_eq(nib_session_generate(session, params, NULL, &error), NIB_OK, "%s", error.message);
    const int32_t *tokens = nib_session_tokens(session, &count);
    cr_assert_eq(count, N_PROMPT + N_TOKENS);
    memcpy(out_ids, tokens + N_PROMPT, N_TOKENS * sizeof *out_ids);
    nib_session_destroy(&session);
}

static void expect_tokens(struct nib_session *session, const int32_t *expected)
{
    size_t count = 0;
    const int32_t *tokens = nib_session_tokens(session, &count);
    cr_assert_eq(count, N_PROMPT + N_TOKENS);
    cr_assert_arr_eq(tokens + N_PROMPT, expected, N_TOKENS * sizeof *expected);
}

#define GREEDY nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true)
#define SAMPLED                                                     \
    nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true, \
                        .sampling = {.temperature = 1.5f, .top_k = 20, .seed = 7})

static void expect_same_tokens(enum way way, const struct nib_generate_params *params)
{
    int32_t expected[N_TOKENS];
    struct nib_generation generation;
    rig_open(false);
    draw_apart(0, params, expected);
    struct nib_session *session = begin_session(0, params);
    while (step(way) > 0)
        ;
    expect_tokens(session, expected);
    nib_session_get_generation(session, &generation);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    nib_session_destroy(&session);
    rig_close();
}

Test(record, one_buffer_with_the_frame)
{
    expect_same_tokens(ONE_BUFFER, GREEDY);
}

Test(record, a_buffer_for_each_segment)
{
    expect_same_tokens(A_BUFFER_EACH, SAMPLED);
}

Test(record, a_frame_for_each_segment)
{
    expect_same_tokens(A_FRAME_EACH, GREEDY);
}

Test(record, secondary_buffers)
{
    expect_same_tokens(SECONDARY, GREEDY);
}

/// Counts positions, and adds up what every logit says.
struct seen {
    uint32_t n;
    double sum;
};

static bool see(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct seen *seen = user;
    cr_assert_eq(position, seen->n++);
    for (uint32_t i = 0; i < vocabulary; i++)
        seen->sum += (double)logits[i] * (1 + (position + i) % 7);
    return true;
}

/// More rows want logits than one run of the head has lines for.
Test(record, logits_of_every_position)
{
    int32_t expected[N_TOKENS];
    struct seen seen[2] = {{0}};
    const struct nib_generate_params *params[2];
    params[0] = nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true, .on_logits = see,
                                    .user = &seen[0]);
    params[1] = nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true, .on_logits = see,
                                    .user = &seen[1]);
    rig_open(false);
    draw_apart(0, params[0], expected);
    uint32_t n_segments = 0, active = 0;
    struct nib_session *session = begin_session(0, params[1]);
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, NULL), NIB_OK);
    run(ONE_BUFFER, n_segments);
    cr_assert_eq(nib_engine_end_step(rig.engine, &active, NULL), NIB_OK);
    cr_assert_eq(seen[1].n, N_PROMPT);
    while (step(ONE_BUFFER) > 0)
        ;
    expect_tokens(session, expected);
    cr_assert_eq(seen[1].n, seen[0].n);
    cr_assert_eq(seen[1].sum, seen[0].sum);
    nib_session_destroy(&session);
    rig_close();
}

/// Sessions of which one is destroyed while the device has its rows.
Test(record, sessions_come_and_go)
{
    int32_t expected[2][N_TOKENS];
    uint32_t n_segments = 0, active = 0;
    rig_open(false);
    for (int32_t i = 0; i < 2; i++)
        draw_apart(10 + i, GREEDY, expected[i]);
    struct nib_session *sessions[3];
    for (int32_t i = 0; i < 3; i++)
        sessions[i] = begin_session(10 + i, GREEDY);
    cr_assert_eq(step(ONE_BUFFER), 3);
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, NULL), NIB_OK);
    nib_session_destroy(&sessions[2]);
    run(ONE_BUFFER, n_segments);
    cr_assert_eq(nib_engine_end_step(rig.engine, &active, NULL), NIB_OK);
    cr_assert_eq(active, 2);
    sessions[2] = begin_session(12, GREEDY);
    while (step(A_BUFFER_EACH) > 0)
        ;
    for (int32_t i = 0; i < 2; i++)
        expect_tokens(sessions[i], expected[i]);
    for (int32_t i = 0; i < 3; i++)
        nib_session_destroy(&sessions[i]);
    rig_close();
}

/// A step that is dropped, recorded or not, is computed again; Nibble's own steps go between.
Test(record, dropped_steps_and_own_steps)
{
    int32_t expected[N_TOKENS];
    uint32_t n_segments = 0, active = 1;
    rig_open(false);
    draw_apart(0, GREEDY, expected);
    struct nib_session *session = begin_session(0, GREEDY);
    nib_engine_drop_step(rig.engine); // none is open
    for (uint32_t i = 0; active > 0; i++) {
        cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, NULL), NIB_OK);
        if (i % 3 == 1) {
            begin(rig.buffers[0]);
            record(rig.buffers[0], 2);
            end(rig.buffers[0]);
        }
        if (i % 3 == 2)
            run(ONE_BUFFER, n_segments);
        nib_engine_drop_step(rig.engine);
        if (i % 2 == 0)
            active = step(ONE_BUFFER);
        else
            cr_assert_eq(nib_engine_step(rig.engine, &active, NULL), NIB_OK);
    }
    expect_tokens(session, expected);
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, NULL), NIB_OK);
    cr_assert_eq(n_segments, 0); // no work
    nib_session_destroy(&session);
    rig_close();
}

/// An engine may be destroyed with an open step.
Test(record, an_open_step_goes_with_its_engine)
{
    uint32_t n_segments = 0;
    rig_open(false);
    struct nib_session *session = begin_session(0, GREEDY);
    step(ONE_BUFFER);
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, NULL), NIB_OK);
    nib_session_destroy(&session);
    rig_close();
}

static void expect_state(enum nib_status status, const struct nib_error *error, const char *words)
{
    cr_expect_eq(status, NIB_ERROR_STATE, "%s", words);
    cr_expect_not_null(strstr(error->message, words), "'%s' is not in: %s", words, error->message);
}

/// Calls what may not be called while a step is open.
static void call_forbidden(struct nib_session *session)
{
    uint32_t n = 0;
    struct nib_session *other = NULL;
    struct nib_error e = {0};
    const int32_t id = 1;
    expect_state(nib_engine_begin_step(rig.engine, &n, &e), &e, "is open");
    expect_state(nib_engine_step(rig.engine, &n, &e), &e, "is open");
    expect_state(nib_engine_synchronize(rig.engine, NULL, 0, NULL, 0, &e), &e, "is open");
    expect_state(nib_session_create(rig.engine, &other, &e), &e, "is open");
    expect_state(nib_session_fork(session, &other, &e), &e, "is open");
    expect_state(nib_session_append(session, &id, 1, &e), &e, "is open");
    expect_state(nib_session_truncate(session, 0, &e), &e, "is open");
    expect_state(nib_session_begin(session, GREEDY, &e), &e, "is open");
    expect_state(nib_session_forward(session, 0, NULL, NULL, &e), &e, "is open");
    expect_state(nib_session_save(session, "/nonexistent", &e), &e, "is open");
}

Test(record, calls_in_the_wrong_order_fail)
{
    int32_t expected[N_TOKENS];
    uint32_t n = 0, left = 0;
    struct nib_error e = {0};
    rig_open(false);
    draw_apart(0, GREEDY, expected);
    struct nib_session *session = begin_session(0, GREEDY);
    begin(rig.buffers[0]);
    expect_state(nib_engine_record_segments(rig.engine, rig.buffers[0], 0, &left, &e), &e,
                 "begin_step comes first");
    expect_state(nib_engine_end_step(rig.engine, NULL, &e), &e, "begin_step comes first");
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n, &e), NIB_OK, "%s", e.message);
    call_forbidden(session);
    cr_assert_eq(record(rig.buffers[0], 1), n - 1);
    expect_state(nib_engine_end_step(rig.engine, NULL, &e), &e, "are not recorded");
    cr_assert_eq(record(rig.buffers[0], n), 0);
    expect_state(nib_engine_record_segments(rig.engine, rig.buffers[0], 0, &left, &e), &e,
                 "are recorded");
    host_record(&rig.host, rig.buffers[0], ++rig.n_frames);
    end(rig.buffers[0]);
    expect_state(nib_engine_end_step(rig.engine, NULL, &e), &e, "has not been executed");
    call_forbidden(session);
    submit(rig.buffers, 1);
    cr_assert_eq(nib_engine_end_step(rig.engine, NULL, &e), NIB_OK, "%s", e.message);
    while (step(ONE_BUFFER) > 0)
        ;
    expect_tokens(session, expected);
    nib_session_destroy(&session);
    rig_close();
}

/// A callback of the step's end cannot begin another.
static bool call_back(void *user, const struct nib_token_event *event)
{
    uint32_t n = 0;
    struct nib_error e = {0};
    (void)event;
    ++*(uint32_t *)user;
    expect_state(nib_engine_begin_step(rig.engine, &n, &e), &e, "callback");
    cr_expect_eq(nib_engine_end_step(rig.engine, NULL, NULL), NIB_ERROR_STATE);
    cr_expect_eq(nib_engine_record_segments(rig.engine, rig.buffers[0], 0, &n, NULL),
                 NIB_ERROR_STATE);
    nib_engine_drop_step(rig.engine);
    return true;
}

Test(record, callbacks_run_in_the_end)
{
    uint32_t n_calls = 0;
    rig_open(false);
    struct nib_session *session =
        begin_session(0, nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true,
                                             .on_token = call_back, .user = &n_calls));
    while (step(ONE_BUFFER) > 0)
        ;
    cr_assert_eq(n_calls, N_TOKENS);
    nib_session_destroy(&session);
    rig_close();
}

Test(record, cancelled_generations_end)
{
    uint32_t n_segments = 0, active = 0;
    struct nib_generation generation;
    rig_open(false);
    struct nib_session *session = begin_session(0, GREEDY);
    step(ONE_BUFFER);
    cr_assert_eq(nib_engine_begin_step(rig.engine, &n_segments, NULL), NIB_OK);
    nib_session_cancel(session);
    run(ONE_BUFFER, n_segments);
    cr_assert_eq(nib_engine_end_step(rig.engine, &active, NULL), NIB_OK);
    cr_assert_eq(step(ONE_BUFFER), 0);
    nib_session_get_generation(session, &generation);
    cr_assert_eq(generation.stop, NIB_STOP_CANCELLED);
    nib_session_destroy(&session);
    rig_close();
}

/// Ops are timed in the host's buffers too.
Test(record, profiles)
{
    struct nib_op_profile profiles[256];
    uint32_t count = 0, n_timed = 0;
    rig_open(true);
    struct nib_session *session = begin_session(0, GREEDY);
    uint32_t n_steps = 1;
    while (step(A_BUFFER_EACH) > 0)
        n_steps++;
    cr_assert_eq(nib_engine_get_profile(rig.engine, profiles, 256, &count, NULL), NIB_OK);
    for (uint32_t i = 0; i < count && i < 256; i++) {
        n_timed += profiles[i].calls > 0;
        cr_assert(profiles[i].calls == 0 || profiles[i].calls == n_steps);
    }
    cr_assert_gt(n_timed, 10);
    nib_session_destroy(&session);
    rig_close();
}

Test(record, needs_an_attached_device)
{
    uint32_t n = 1;
    struct nib_device *device = NULL;
    struct nib_error e = {0};
    host_keep_driver();
    cr_assert_eq(nib_model_open(MODEL, NULL, &rig.model, &e), NIB_OK, "%s", e.message);
    rig.engine = make_engine(NULL, false);
    expect_state(nib_engine_begin_step(rig.engine, &n, &e), &e, "nib_device_attach");
    cr_assert_eq(n, 0);
    nib_engine_destroy(&rig.engine);
    if (nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN), &device, &e) != NIB_OK)
        cr_skip_test("no Vulkan device");
    rig.engine = make_engine(device, false);
    nib_device_destroy(&device);
    struct nib_session *session = begin_session(0, GREEDY);
    expect_state(nib_engine_begin_step(rig.engine, &n, &e), &e, "attached");
    uint32_t active = 0;
    cr_assert_eq(nib_engine_step(rig.engine, &active, &e), NIB_OK, "%s", e.message);
    cr_assert_eq(active, 1);
    nib_session_destroy(&session);
    cr_assert_eq(nib_engine_begin_step(NULL, &n, &e), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_begin_step(rig.engine, NULL, &e), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_record_segments(NULL, NULL, 0, &n, &e), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_record_segments(rig.engine, NULL, 0, &n, &e), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_end_step(NULL, NULL, &e), NIB_ERROR_ARGUMENT);
    nib_engine_drop_step(NULL);
    nib_engine_destroy(&rig.engine);
    nib_model_destroy(&rig.model);
}
