#include "runtime/base/philox.h"
#include "tests/unit/engine/rig.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define N_SESSIONS 5
#define CONTEXT 160

/// What on_logits saw.
struct seen {
    struct nib_session *session;
    uint32_t next; ///< position
    uint32_t stop_at;
    bool exact; ///< each line is compared with the simulation
};

static bool look(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct seen *seen = user;
    cr_assert_eq(position, seen->next);
    seen->next++;
    if (seen->exact) {
        float *wanted = malloc(vocabulary * sizeof *wanted);
        fake_simulate(seen->session->engine->plan, seen->session->tokens, position + 1, wanted);
        cr_assert_eq(memcmp(logits, wanted, vocabulary * sizeof *wanted), 0, "position %u",
                     position);
        free(wanted);
    }
    return position != seen->stop_at;
}

static void forward_exactly(struct nib_session *session, uint32_t first)
{
    struct nib_error error;
    struct seen seen = {.session = session, .next = first, .stop_at = UINT32_MAX, .exact = true};
    cr_assert_eq(nib_session_forward(session, first, look, &seen, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(seen.next, session->n_tokens);
}

Test(session, forward_gives_every_position)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_rows = 64});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 150, 1);
    forward_exactly(session, 0);
    // 64 + 64 + 22 rows, in slices of 32 logits.
    cr_assert_eq(rig.fake.n_runs, 5);
    cr_assert_eq(nib_session_forward(session, 0, NULL, NULL, NULL), NIB_ERROR_STATE);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(session, forward_from_a_position_on)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_rows = 16});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 100, 2);
    forward_exactly(session, 90);
    cr_assert_eq(nib_session_truncate(session, 95, NULL), NIB_OK);
    rig_append(session, 10, 3);
    forward_exactly(session, 100);
    cr_assert_eq(nib_session_truncate(session, 0, NULL), NIB_OK);
    rig_append(session, 20, 3);
    cr_assert_eq(nib_session_forward(session, 0, NULL, NULL, NULL), NIB_OK);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(session, forward_can_be_cancelled)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_rows = 16});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 60, 4);
    struct seen seen = {.session = session, .stop_at = 20};
    cr_assert_eq(nib_session_forward(session, 0, look, &seen, NULL), NIB_ERROR_CANCELLED);
    cr_assert_eq(seen.next, 21);
    cr_assert_eq(session->n_computed, 32);
    forward_exactly(session, 40);
    nib_session_destroy(&session);
    rig_close(&rig);
}

/// Calls what must not be called from a callback.
static bool meddle(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct nib_session *session = user;
    struct nib_generate_params params = {0};
    int32_t id = 1;
    (void)position;
    (void)logits;
    (void)vocabulary;
    cr_assert_eq(nib_session_append(session, &id, 1, NULL), NIB_ERROR_STATE);
    cr_assert_eq(nib_session_truncate(session, 0, NULL), NIB_ERROR_STATE);
    cr_assert_eq(nib_session_forward(session, 0, NULL, NULL, NULL), NIB_ERROR_STATE);
    cr_assert_eq(nib_generator_begin(session, &params, NULL), NIB_ERROR_STATE);
    cr_assert_eq(nib_engine_step(session->engine, NULL, NULL), NIB_ERROR_STATE);
    return true;
}

Test(session, callbacks_cannot_change_a_running_step)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 3, 5);
    cr_assert_eq(nib_session_forward(session, 0, meddle, session, NULL), NIB_OK);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(session, tokens_are_checked)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = 40});
    struct nib_session *session = rig_session(&rig);
    struct nib_session *second = NULL;
    struct nib_error error;
    cr_assert_eq(nib_session_create(rig.engine, &second, &error), NIB_ERROR_STATE);
    const int32_t bad[2] = {1, (int32_t)rig.engine->plan->vocabulary};
    const int32_t negative = -1;
    cr_assert_eq(nib_session_append(session, bad, 2, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_append(session, &negative, 1, &error), NIB_ERROR_ARGUMENT);
    size_t count;
    nib_session_tokens(session, &count);
    cr_assert_eq(count, 0);
    cr_assert_eq(nib_session_append(session, NULL, 0, &error), NIB_OK);
    rig_append(session, 38, 6);
    const int32_t three[3] = {1, 2, 3};
    cr_assert_eq(nib_session_append(session, three, 3, &error), NIB_ERROR_CONTEXT_FULL);
    cr_assert_eq(nib_session_append(session, three, 2, &error), NIB_OK);
    cr_assert_eq(nib_session_truncate(session, 41, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_append(NULL, three, 2, &error), NIB_ERROR_ARGUMENT);
    nib_session_destroy(&session);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(session, a_failing_device_keeps_the_tokens)
{
    struct rig rig;
    struct nib_generation generation;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_rows = 16});
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {.max_tokens = 20};
    rig_append(session, 40, 7);
    rig.fake.run_status = NIB_ERROR_DEVICE_LOST;
    rig.fake.runs_left = 7;
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_ERROR_DEVICE_LOST);
    cr_assert_eq(generation.stop, NIB_STOP_ERROR);
    cr_assert_eq(generation.n_generated, 5);
    cr_assert_eq(session->n_tokens, 45);
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(session->n_tokens, 65);
    struct nib_sampling greedy = {0};
    for (uint32_t n = 40; n < 65; n++)
        cr_assert_eq(session->tokens[n], rig_expected(session, &greedy, n));
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(session, a_failing_forward_keeps_the_tokens)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_rows = 16});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 70, 8);
    rig.fake.run_status = NIB_ERROR_DEVICE_LOST;
    rig.fake.runs_left = 2;
    cr_assert_eq(nib_session_forward(session, 0, NULL, NULL, NULL), NIB_ERROR_DEVICE_LOST);
    cr_assert_eq(session->n_computed, 32);
    forward_exactly(session, 32);
    nib_session_destroy(&session);
    rig_close(&rig);
}

/// Opens a device that can be lost, with another that takes over.
static void open_with_fallback(struct rig *rig, struct fake_device *spare)
{
    fake_device_init(spare);
    rig_open(rig, (struct nib_engine_params){.context = CONTEXT,
                                             .max_rows = 16,
                                             .fallback = true,
                                             .fallback_device = &spare->device});
    rig->fake.kind = NIB_BACKEND_VULKAN;
}

Test(session, a_loss_gives_no_earlier_position_again)
{
    struct rig rig;
    struct fake_device spare;
    open_with_fallback(&rig, &spare);
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 40, 9);
    forward_exactly(session, 10);
    rig_append(session, 40, 10);
    rig.fake.run_status = NIB_ERROR_DEVICE_LOST;
    // Positions from 10 on are wanted, but those before 40 were given by the first call.
    struct seen seen = {.session = session, .next = 40, .stop_at = UINT32_MAX, .exact = true};
    cr_assert_eq(nib_session_forward(session, 10, look, &seen, NULL), NIB_OK);
    cr_assert_eq(seen.next, 80);
    cr_assert_gt(spare.n_rows, 79);
    nib_session_destroy(&session);
    rig_close(&rig);
    cr_assert_eq(spare.violations, 0);
}

Test(session, a_device_lost_at_the_end_of_a_step_is_replaced)
{
    struct rig rig;
    struct fake_device spare;
    struct nib_generation generation;
    open_with_fallback(&rig, &spare);
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {.max_tokens = 20};
    rig_append(session, 40, 11);
    rig.fake.end_status = NIB_ERROR_DEVICE_LOST;
    rig.fake.ends_left = 7;
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_gt(spare.n_rows, 0);
    struct nib_sampling greedy = {0};
    for (uint32_t n = 40; n < 60; n++)
        cr_assert_eq(session->tokens[n], rig_expected(session, &greedy, n));
    nib_session_destroy(&session);
    rig_close(&rig);
    cr_assert_eq(spare.violations, 0);
}

/// A session of the random test, and how its tokens should have come about.
struct actor {
    struct nib_session *session;
    struct nib_sampling sampling;
    uint32_t drawn_from; ///< tokens from here on were generated
    bool generating;
};

static void check_drawn(struct actor *actor)
{
    for (uint32_t n = actor->drawn_from; n < actor->session->n_tokens; n++)
        cr_assert_eq(actor->session->tokens[n], rig_expected(actor->session, &actor->sampling, n),
                     "token %u", n);
    actor->generating = false;
}

static void act(struct actor *actor, const uint32_t random[4])
{
    struct nib_session *session = actor->session;
    uint32_t room = CONTEXT - session->n_tokens;
    if (actor->generating) {
        if (session->work == NIB_WORK_NONE)
            check_drawn(actor);
        else if (random[0] % 40 == 0)
            nib_session_cancel(session);
    } else if (random[0] % 3 == 0 && random[1] % 5 == 0) {
        uint32_t keep = random[2] % (session->n_tokens + 1);
        cr_assert_eq(nib_session_shift(session, keep, (session->n_tokens - keep) / 2, NULL),
                     NIB_OK);
    } else if (random[0] % 3 == 0) {
        uint32_t keep = random[1] % 4 == 0 ? 0 : session->n_tokens - session->n_tokens / 4;
        cr_assert_eq(nib_session_truncate(session, keep, NULL), NIB_OK);
    } else if (random[0] % 3 == 1 && room > 0) {
        // Few seeds, so that sessions begin alike.
        rig_append(session, random[1] % 50 < room ? random[1] % 50 : room, random[2] % 3);
    } else if (session->n_tokens > 0) {
        actor->sampling = (struct nib_sampling){
            .temperature = random[1] % 2 ? 1.0f : 0.0f, .top_k = 20, .seed = random[2]};
        struct nib_generate_params params = {.sampling = actor->sampling,
                                             .max_tokens = 1 + random[3] % 30,
                                             .max_draft = random[1] / 2 % 3};
        cr_assert_eq(nib_generator_begin(session, &params, NULL), NIB_OK);
        actor->drawn_from = session->n_tokens;
        actor->generating = true;
    }
}

/// Sessions come, go and share steps at random; every token drawn must be the one that the same
/// tokens give alone, in the simulation.
static void play(struct nib_engine_params params, uint64_t seed, uint32_t rounds)
{
    struct rig rig;
    struct actor actors[N_SESSIONS] = {{0}};
    params.context = CONTEXT;
    params.max_sessions = N_SESSIONS;
    rig_open(&rig, params);
    for (uint32_t i = 0; i < N_SESSIONS; i++)
        actors[i].session = rig_session(&rig);
    for (uint64_t round = 0; round < rounds; round++) {
        uint32_t random[4];
        nib_philox(seed, round, random);
        struct actor *actor = &actors[random[3] % N_SESSIONS];
        if (random[3] / N_SESSIONS % 50 == 0) {
            nib_session_destroy(&actor->session);
            *actor = (struct actor){.session = rig_session(&rig)};
        } else if (random[3] / N_SESSIONS % 50 == 1) {
            struct actor *other = &actors[(random[3] + 1) % N_SESSIONS];
            nib_session_destroy(&actor->session);
            *actor = (struct actor){0};
            cr_assert_eq(nib_session_fork(other->session, &actor->session, NULL), NIB_OK);
        }
        act(actor, random);
        cr_assert_eq(nib_engine_step(rig.engine, NULL, NULL), NIB_OK);
    }
    cr_assert_gt(rig.fake.n_steps_with_many, 50);
    for (uint32_t i = 0; i < N_SESSIONS; i++)
        nib_session_destroy(&actors[i].session);
    rig_close(&rig);
}

Test(session, random_company)
{
    play((struct nib_engine_params){.max_rows = 16}, 1, 1500);
    play((struct nib_engine_params){.max_rows = 2}, 2, 1000);
    play((struct nib_engine_params){.max_rows = 256, .profile = true}, 3, 1000);
}

Test(session, placements_pass_hidden_states_on)
{
    struct fake_device fakes[3];
    struct nib_placement placements[3];
    uint32_t first[4] = {0, 1, 3, 0};
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    first[3] = rig.engine->plan->n_segments;
    rig_close(&rig);
    for (uint32_t i = 0; i < 3; i++) {
        fake_device_init(&fakes[i]);
        placements[i] = (struct nib_placement){.device = &fakes[i].device,
                                               .first_segment = first[i],
                                               .n_segments = first[i + 1] - first[i]};
    }
    rig_open(&rig,
             (struct nib_engine_params){
                 .context = CONTEXT, .max_rows = 64, .placements = placements, .n_placements = 3});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 100, 9);
    forward_exactly(session, 0);
    nib_session_destroy(&session);
    rig_close(&rig);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(fakes[i].violations, 0);
    cr_assert_eq(fakes[0].n_runs, 2);
    cr_assert_eq(fakes[2].n_runs, 4);
}

Test(session, rows_without_logits_skip_the_head)
{
    struct rig rig;
    struct fake_device fakes[2];
    struct nib_placement placements[2];
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    uint32_t head = rig.engine->plan->n_segments - 1;
    rig_close(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        fake_device_init(&fakes[i]);
        placements[i] = (struct nib_placement){
            .device = &fakes[i].device, .first_segment = i * head, .n_segments = i == 0 ? head : 1};
    }
    rig_open(&rig,
             (struct nib_engine_params){
                 .context = CONTEXT, .max_rows = 16, .placements = placements, .n_placements = 2});
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {.max_tokens = 1};
    rig_append(session, 64, 10);
    cr_assert_eq(nib_generator_run(session, &params, NULL, NULL), NIB_OK);
    cr_assert_eq(fakes[0].n_runs, 4);
    cr_assert_eq(fakes[1].n_runs, 1);
    nib_session_destroy(&session);
    rig_close(&rig);
}
