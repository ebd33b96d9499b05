// Sessions that share what they have in common: prefixes, forks; and drafts and shifts.
#include "tests/unit/engine/rig.h"
#include <criterion/criterion.h>
#include <string.h>

#define N_SESSIONS 64
#define CONTEXT 480

static const struct nib_sampling greedy = {0};

/// Begins a greedy generation of `n` tokens.
static void begin(struct nib_session *session, uint32_t n)
{
    struct nib_error error;
    struct nib_generate_params params = {.max_tokens = n};
    cr_assert_eq(nib_generator_begin(session, &params, &error), NIB_OK, "%s", error.message);
}

static void run_all(struct rig *rig)
{
    struct nib_error error;
    for (uint32_t active = 1; active > 0;)
        cr_assert_eq(nib_engine_step(rig->engine, &active, &error), NIB_OK, "%s", error.message);
}

/// Every token from `first` on is the one that the tokens before it give.
static void check_drawn(struct nib_session *session, uint32_t first)
{
    for (uint32_t n = first; n < session->n_tokens; n++)
        cr_assert_eq(session->tokens[n], rig_expected(session, &greedy, n), "token %u", n);
}

static uint32_t held_pages(const struct rig *rig, uint32_t kv_class)
{
    struct nib_kv_pool_usage usage = nib_kv_pool_get_usage(rig->engine->pool, kv_class);
    return usage.n_pages - usage.n_free - usage.n_idle;
}

/// The class of the layers that see everything.
static uint32_t whole_class(const struct rig *rig)
{
    const struct nib_plan *plan = rig->engine->plan;
    for (uint32_t i = 0; i < plan->n_kv_layers; i++) {
        if (plan->kv_layers[i].window == 0)
            return plan->kv_layers[i].kv_class;
    }
    return NIB_NONE;
}

Test(share, a_common_prompt_is_computed_once)
{
    struct rig rig;
    struct nib_session *sessions[N_SESSIONS];
    rig_open(&rig, (struct nib_engine_params){
                       .context = CONTEXT, .max_sessions = N_SESSIONS, .max_rows = 256});
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        sessions[i] = rig_session(&rig);
        rig_append(sessions[i], 400, 1);
        rig_append(sessions[i], 3, 100 + i);
        begin(sessions[i], 2);
    }
    run_all(&rig);
    // 12 pages of the prompt, then 16 tokens of it, a tail and the first drawn token for each.
    cr_assert_eq(rig.fake.n_rows, 384 + N_SESSIONS * (16 + 3 + 1));
    cr_assert_eq(held_pages(&rig, whole_class(&rig)), 12 + N_SESSIONS);
    uint32_t n_shared = 0;
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        struct nib_generation generation;
        nib_session_get_generation(sessions[i], &generation);
        cr_assert_eq(generation.n_prompt + generation.n_shared, 403);
        n_shared += generation.n_shared;
        check_drawn(sessions[i], 403);
        nib_session_destroy(&sessions[i]);
    }
    cr_assert_eq(n_shared, (N_SESSIONS - 1) * 384);
    cr_assert_eq(held_pages(&rig, whole_class(&rig)), 0);

    // The pages are still there for a session that comes later.
    sessions[0] = rig_session(&rig);
    rig_append(sessions[0], 400, 1);
    begin(sessions[0], 1);
    rig.fake.n_rows = 0;
    run_all(&rig);
    cr_assert_eq(rig.fake.n_rows, 16);
    check_drawn(sessions[0], 400);
    nib_session_destroy(&sessions[0]);
    rig_close(&rig);
}

Test(share, who_waits_goes_on_when_the_other_is_cancelled)
{
    struct rig rig;
    struct nib_session *sessions[2];
    rig_open(&rig,
             (struct nib_engine_params){.context = CONTEXT, .max_sessions = 2, .max_rows = 64});
    for (uint32_t i = 0; i < 2; i++) {
        sessions[i] = rig_session(&rig);
        rig_append(sessions[i], 300, 1);
        begin(sessions[i], 3);
    }
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(nib_engine_step(rig.engine, NULL, NULL), NIB_OK);
    cr_assert_eq(rig.fake.n_steps_with_many, 0);
    nib_session_cancel(sessions[sessions[0]->n_computed > sessions[1]->n_computed ? 0 : 1]);
    run_all(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        check_drawn(sessions[i], 300);
        nib_session_destroy(&sessions[i]);
    }
    rig_close(&rig);
}

/// Counts positions of logits.
static bool count_line(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    uint32_t *next = user;
    (void)logits;
    (void)vocabulary;
    return position == (*next)++;
}

Test(share, logits_that_were_asked_for_are_computed)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_sessions = 2});
    struct nib_session *first = rig_session(&rig), *second = rig_session(&rig);
    rig_append(first, 200, 1);
    rig_append(second, 200, 1);
    cr_assert_eq(nib_session_forward(first, 0, NULL, NULL, NULL), NIB_OK);
    uint32_t next = 50;
    cr_assert_eq(nib_session_forward(second, 50, count_line, &next, NULL), NIB_OK);
    cr_assert_eq(next, 200);
    cr_assert_eq(rig.fake.n_rows, 200 + 200 - 32);
    // Without logits nothing is left to compute but the end.
    cr_assert_eq(nib_session_truncate(second, 0, NULL), NIB_OK);
    rig_append(second, 192, 1);
    cr_assert_eq(nib_session_forward(second, 0, NULL, NULL, NULL), NIB_OK);
    cr_assert_eq(rig.fake.n_rows, 200 + 200 - 32);
    cr_assert_eq(second->n_computed, 192);
    nib_session_destroy(&first);
    nib_session_destroy(&second);
    rig_close(&rig);
}

Test(share, a_fork_goes_its_own_way)
{
    struct rig rig;
    struct nib_session *fork = NULL, *third = NULL;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_sessions = 2});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 77, 1);
    begin(session, 10);
    for (uint32_t i = 0; i < 5; i++)
        cr_assert_eq(nib_engine_step(rig.engine, NULL, NULL), NIB_OK);
    cr_assert_eq(nib_session_fork(session, &fork, NULL), NIB_OK);
    cr_assert_eq(nib_session_fork(session, &third, NULL), NIB_ERROR_STATE);
    cr_assert_eq(nib_session_fork(NULL, &third, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(fork->n_tokens, 82);
    rig_append(fork, 3, 2);
    begin(fork, 30);
    rig.fake.n_rows = 0;
    run_all(&rig);
    cr_assert_eq(rig.fake.n_rows, 5 + (1 + 3) + 29);
    cr_assert_eq(rig.fake.n_copied, rig.engine->plan->n_kv_classes);
    check_drawn(session, 77);
    check_drawn(fork, 85);
    cr_assert_eq(memcmp(session->tokens, fork->tokens, 82 * sizeof(int32_t)), 0);
    nib_session_destroy(&session);
    check_drawn(fork, 85);
    begin(fork, 5);
    run_all(&rig);
    check_drawn(fork, 85);
    nib_session_destroy(&fork);
    rig_close(&rig);
}

Test(share, a_copy_that_fails_ends_the_step)
{
    struct rig rig;
    struct nib_session *fork = NULL;
    struct nib_generation generation;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_sessions = 2});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 50, 1);
    begin(session, 1);
    run_all(&rig);
    cr_assert_eq(nib_session_fork(session, &fork, NULL), NIB_OK);
    rig.fake.copy_status = NIB_ERROR_DEVICE_LOST;
    struct nib_generate_params params = {.max_tokens = 4};
    cr_assert_eq(nib_generator_run(fork, &params, &generation, NULL), NIB_ERROR_DEVICE_LOST);
    cr_assert_eq(generation.stop, NIB_STOP_ERROR);
    rig.fake.copy_status = NIB_OK;
    cr_assert_eq(nib_generator_run(fork, &params, &generation, NULL), NIB_OK);
    check_drawn(fork, 50);
    nib_session_destroy(&session);
    nib_session_destroy(&fork);
    rig_close(&rig);
}

/// What a test of drafts writes: a script that the mask forces, over and over.
struct script {
    const int32_t *ids;
    size_t n_ids;
    size_t first; ///< position of the first id
    uint32_t vocabulary;
    uint32_t n_events;
};

static void force(void *user, const int32_t *tokens, size_t n_tokens, uint32_t *allowed)
{
    const struct script *script = user;
    (void)tokens;
    uint32_t id = (uint32_t)script->ids[(n_tokens - script->first) % script->n_ids];
    memset(allowed, 0, (script->vocabulary + 31) / 32 * sizeof *allowed);
    allowed[id / 32] = 1u << (id % 32);
}

static bool expect_script(void *user, const struct nib_token_event *event)
{
    struct script *script = user;
    cr_assert_eq(event->index, script->n_events);
    cr_assert_eq(event->id, script->ids[event->index % script->n_ids]);
    script->n_events++;
    return true;
}

Test(share, drafts_that_are_right_save_steps)
{
    static const int32_t ids[7] = {5, 6, 7, 8, 9, 10, 11};
    struct rig rig;
    struct nib_generation generation;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 20, 1);
    struct script script = {ids, 7, 20, rig.engine->plan->vocabulary, 0};
    struct nib_generate_params params = {.max_tokens = 100,
                                         .mask = force,
                                         .on_token = expect_script,
                                         .user = &script,
                                         .max_draft = 8};
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_eq(script.n_events, 100);
    cr_assert_eq(session->n_tokens, 120);
    // 9 tokens until two of them have been seen before, then 9 a step.
    cr_assert_leq(rig.engine->n_steps, 20 + 4);
    cr_assert_gt(generation.n_accepted, 70);
    cr_assert_leq(generation.n_accepted, generation.n_drafted);
    nib_session_destroy(&session);
    rig_close(&rig);
}

/// Lets only four ids come, so that pairs recur.
static void allow_few(void *user, const int32_t *tokens, size_t n_tokens, uint32_t *allowed)
{
    (void)user;
    (void)tokens;
    (void)n_tokens;
    memset(allowed + 1, 0, (320 / 32 - 1) * sizeof *allowed);
    allowed[0] = 0xf0;
}

/// Generates 150 tokens, with logits from position 30 on, and copies them all.
static struct nib_generation write_few(uint32_t max_draft, float temperature, int32_t *out_tokens)
{
    struct rig rig;
    struct nib_generation generation;
    uint32_t n_lines = 30;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT, .max_rows = 16});
    cr_assert_eq(rig.engine->plan->vocabulary, 320);
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 40, 1);
    struct nib_generate_params params = {.sampling = {.temperature = temperature, .seed = 3},
                                         .max_tokens = 150,
                                         .ignore_eos = true,
                                         .max_draft = max_draft,
                                         .mask = allow_few,
                                         .on_logits = count_line,
                                         .first_logits = 30,
                                         .user = &n_lines};
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(session->n_tokens, 190);
    cr_assert_eq(n_lines, 189);
    memcpy(out_tokens, session->tokens, 190 * sizeof *out_tokens);
    nib_session_destroy(&session);
    rig_close(&rig);
    return generation;
}

Test(share, drafts_change_nothing)
{
    for (int t = 0; t < 2; t++) {
        int32_t plain[190], drafted[190];
        write_few(0, (float)t, plain);
        for (uint32_t max_draft = 1; max_draft <= 31; max_draft += 6) {
            struct nib_generation generation = write_few(max_draft, (float)t, drafted);
            cr_assert_gt(generation.n_drafted, 20);
            cr_assert_gt(generation.n_accepted, 5);
            cr_assert_lt(generation.n_accepted, generation.n_drafted);
            cr_assert_eq(memcmp(plain, drafted, sizeof plain), 0, "drafts of %u", max_draft);
        }
    }
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {.max_draft = 32};
    rig_append(session, 4, 1);
    cr_assert_eq(nib_generator_begin(session, &params, NULL), NIB_ERROR_ARGUMENT);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(share, a_shift_drops_tokens)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 100, 1);
    begin(session, 1);
    run_all(&rig);
    int32_t before[101];
    memcpy(before, session->tokens, sizeof before);
    cr_assert_eq(nib_session_shift(session, 10, 92, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_shift(session, 102, 0, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_shift(NULL, 0, 0, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_shift(session, 10, 30, NULL), NIB_OK);
    cr_assert_eq(session->n_tokens, 71);
    cr_assert_eq(memcmp(session->tokens, before, 10 * sizeof *before), 0);
    cr_assert_eq(memcmp(session->tokens + 10, before + 40, 61 * sizeof *before), 0);
    begin(session, 5);
    run_all(&rig);
    check_drawn(session, 71);
    nib_session_destroy(&session);
    rig_close(&rig);
}

/// Compares each token with the simulation of what the session then holds.
static bool compare(void *user, const struct nib_token_event *event)
{
    uint32_t *n_events = user;
    struct nib_session *session = event->session;
    cr_assert_eq(event->id, rig_expected(session, &greedy, session->n_tokens - 1));
    return ++*n_events > 0;
}

Test(share, a_generation_goes_on_in_a_full_context)
{
    for (uint32_t max_draft = 0; max_draft < 8; max_draft += 4) {
        struct rig rig;
        struct nib_generation generation;
        uint32_t n_events = 0;
        rig_open(&rig, (struct nib_engine_params){.context = 96, .max_rows = 16});
        struct nib_session *session = rig_session(&rig);
        rig_append(session, 90, 1);
        struct nib_generate_params params = {.max_tokens = 200,
                                             .ignore_eos = true,
                                             .on_token = compare,
                                             .user = &n_events,
                                             .shift = true,
                                             .shift_keep = 20,
                                             .max_draft = max_draft};
        int32_t kept[20];
        memcpy(kept, session->tokens, sizeof kept);
        cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
        cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
        cr_assert_eq(n_events, 200);
        cr_assert_eq(90 + 200 - generation.n_dropped, session->n_tokens);
        cr_assert_eq(memcmp(session->tokens, kept, sizeof kept), 0);
        // Nothing can be dropped where everything is to be kept.
        params.shift_keep = 96;
        cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
        cr_assert_eq(generation.stop, NIB_STOP_CONTEXT);
        nib_session_destroy(&session);
        rig_close(&rig);
    }
}

/// Tokens in f16: whatever sessions share, copy or take back, rows read what is theirs.
static void check_in_f16(uint32_t recent, uint32_t n_first)
{
    struct rig rig;
    struct nib_error error;
    struct nib_session *sessions[8];
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT,
                                              .max_sessions = 8,
                                              .max_rows = 256,
                                              .key_format = NIB_KV_I4,
                                              .kv_recent = recent,
                                              .kv_first = n_first,
                                              .value_format = NIB_KV_I8});
    cr_assert_eq(rig.engine->plan->first_pages, n_first / NIB_KV_PAGE_TOKENS);
    for (uint32_t i = 0; i < 6; i++) {
        sessions[i] = rig_session(&rig);
        rig_append(sessions[i], 300 + 17 * i, 1);
        rig_append(sessions[i], 3, 100 + i);
        begin(sessions[i], 40);
    }
    run_all(&rig);
    for (uint32_t i = 0; i < 6; i++)
        check_drawn(sessions[i], 303 + 17 * i);
    for (uint32_t i = 6; i < 8; i++) {
        cr_assert_eq(nib_session_fork(sessions[i - 6], &sessions[i], &error), NIB_OK);
        rig_append(sessions[i], i, i);
        begin(sessions[i], 30);
    }
    // To where a window's or the newest tokens are gone, and to where they are not.
    cr_assert_eq(nib_session_truncate(sessions[2], 290, &error), NIB_OK);
    cr_assert_lt(sessions[2]->n_computed, 290);
    cr_assert_eq(nib_session_truncate(sessions[3], sessions[3]->n_tokens - 2, &error), NIB_OK);
    cr_assert_eq(sessions[3]->n_computed, sessions[3]->n_tokens);
    cr_assert_eq(nib_session_shift(sessions[4], 20, 100, &error), NIB_OK);
    for (uint32_t i = 0; i < 6; i++) {
        rig_append(sessions[i], 1, 200 + i);
        begin(sessions[i], 20);
    }
    uint32_t first[8];
    for (uint32_t i = 0; i < 8; i++)
        first[i] = sessions[i]->n_tokens;
    run_all(&rig);
    for (uint32_t i = 0; i < 8; i++) {
        check_drawn(sessions[i], first[i]);
        nib_session_destroy(&sessions[i]);
    }
    cr_assert_eq(held_pages(&rig, rig.engine->plan->n_kv_classes - 1), 0);
    rig_close(&rig);
}

Test(share, newest_tokens_follow_their_sessions)
{
    check_in_f16(64, 0);
}

Test(share, first_tokens_follow_their_sessions)
{
    check_in_f16(NIB_KV_RECENT_NONE, 64);
    check_in_f16(32, 32);
    check_in_f16(64, 96);
}
