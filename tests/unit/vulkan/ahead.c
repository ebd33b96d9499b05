// Steps submitted ahead: sessions get the tokens that they get when the host draws each of them.
#ifdef __linux__
#define _GNU_SOURCE // RTLD_NODELETE
#include <dlfcn.h>
#endif

#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdlib.h>
#include <string.h>

#define N_SESSIONS 4
#define MAX_TOKENS 128

/// What one session does.
struct part {
    uint32_t n_prompt;
    uint32_t begin;  ///< step before which it begins
    uint32_t most;   ///< tokens; 0: until the context is full
    uint32_t stop;   ///< tokens after which its callback ends it; 0: never
    uint32_t cancel; ///< step before which it is cancelled; 0: never
    uint32_t draft;
    bool shift;
    struct nib_sampling sampling;
};

struct life {
    const struct part *part;
    struct nib_session *session;
    bool has_begun;
    int32_t tokens[MAX_TOKENS];
    uint32_t n;
    enum nib_stop stop;
};

struct all {
    struct life lives[N_SESSIONS];
    uint64_t dispatches;
    uint32_t steps;
};

static bool on_token(void *user, const struct nib_token_event *event)
{
    struct life *life = user;
    cr_assert_lt(life->n, MAX_TOKENS);
    life->tokens[life->n++] = event->id;
    return life->n != life->part->stop;
}

static bool on_logits(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    (void)user;
    (void)position;
    (void)logits;
    (void)vocabulary;
    return true;
}

static void begin(struct life *life, bool by_host)
{
    struct nib_error err;
    int32_t prompt[64];
    const struct part *part = life->part;
    for (uint32_t i = 0; i < part->n_prompt; i++)
        prompt[i] = (int32_t)((i * 37 + part->n_prompt + i * i % 11) % 256);
    cr_assert_eq(nib_session_append(life->session, prompt, part->n_prompt, &err), NIB_OK);
    cr_assert_eq(
        nib_session_begin(
            life->session,
            nib_generate_params(.sampling = part->sampling, .max_tokens = part->most,
                                .ignore_eos = true, .max_draft = part->draft, .shift = part->shift,
                                .shift_keep = 3, .on_token = on_token,
                                .on_logits = by_host ? on_logits : NULL, .user = life),
            &err),
        NIB_OK, "%s", err.message);
    life->has_begun = true;
}

/// Runs all parts, and the first one's session once more when all have ended.
static void run(struct nib_engine *engine, const struct part *parts, bool by_host, struct all *out)
{
    struct nib_error err;
    uint32_t active = 1;
    *out = (struct all){0};
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        out->lives[i].part = &parts[i];
        cr_assert_eq(nib_session_create(engine, &out->lives[i].session, &err), NIB_OK);
    }
    for (uint32_t step = 1; active > 0 || step < 40; step++) {
        for (uint32_t i = 0; i < N_SESSIONS; i++) {
            struct life *life = &out->lives[i];
            if (!life->has_begun && step > life->part->begin && life->part->n_prompt > 0)
                begin(life, by_host);
            if (life->part->cancel == step)
                nib_session_cancel(life->session);
        }
        cr_assert_eq(nib_engine_step(engine, &active, &err), NIB_OK, "%s", err.message);
        cr_assert_lt(step, 1000);
    }
    begin(&out->lives[0], by_host);
    for (active = 1; active > 0;)
        cr_assert_eq(nib_engine_step(engine, &active, &err), NIB_OK, "%s", err.message);
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        struct nib_generation generation;
        nib_session_get_generation(out->lives[i].session, &generation);
        out->lives[i].stop = generation.stop;
        nib_session_destroy(&out->lives[i].session);
    }
}

static void compare(const char *path, const struct part *parts, uint32_t number)
{
    struct nib_error err;
    struct nib_device *device = NULL;
    struct nib_model *model = NULL;
    struct nib_model_info info;
    static struct all runs[2];
    const char *index = getenv("NIB_TEST_VULKAN");
#ifdef __linux__
    // What lavapipe keeps would count as a leak once its code is gone.
    dlopen("libvulkan_lvp.so", RTLD_NOW | RTLD_NODELETE);
#endif
    enum nib_status status =
        nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN,
                                          .index = index ? (uint32_t)strtoul(index, NULL, 10) : 0,
                                          .self_test = NIB_SELF_TEST_OFF),
                        &device, &err);
    if (status == NIB_ERROR_NOT_FOUND)
        cr_skip_test("no Vulkan device: %s", err.message);
    cr_assert_eq(status, NIB_OK, "%s", err.message);
    cr_assert_eq(nib_model_open(path, NULL, &model, &err), NIB_OK, "%s", err.message);
    nib_model_get_info(model, &info);
    const struct nib_placement placement = {device, 0, info.layers + 2};
    for (int by_host = 0; by_host < 2; by_host++) {
        struct nib_engine *engine = NULL;
        cr_assert_eq(
            nib_engine_create(model,
                              nib_engine_params(.placements = &placement, .n_placements = 1,
                                                .context = 96, .max_sessions = N_SESSIONS,
                                                .max_rows = 16),
                              &engine, &err),
            NIB_OK, "%s", err.message);
        run(engine, parts, by_host == 1, &runs[by_host]);
        nib_engine_destroy(&engine);
    }
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        const struct life *a = &runs[0].lives[i], *b = &runs[1].lives[i];
        uint32_t n = a->n < b->n ? a->n : b->n;
        // A session is cancelled at the same step, not at the same token.
        bool is_alike = parts[i].cancel > 0 || (a->n == b->n && a->stop == b->stop);
        cr_expect(is_alike, "case %u, session %u: %u tokens, stop %d; %u, %d by the host", number,
                  i, a->n, (int)a->stop, b->n, (int)b->stop);
        cr_expect_arr_eq(a->tokens, b->tokens, n * sizeof *a->tokens, "case %u, session %u", number,
                         i);
    }
    nib_model_destroy(&model);
    nib_device_destroy(&device);
}

#define MODEL(name) NIB_TEST_DATA "/architectures/" name

Test(vulkan_ahead, sessions_get_the_same_tokens)
{
    const struct nib_sampling warm = {.temperature = 0.9f, .top_k = 40, .top_p = 0.95f, .seed = 5};
    const struct nib_sampling hot = {.temperature = 1.5f, .min_p = 0.01f, .seed = 6};
    const struct nib_sampling other = {.temperature = 0.8f, .repeat_penalty = 1.2f, .seed = 7};
    // Alone: across pages and to the end of the context; stopped by the host.
    const struct part alone[N_SESSIONS] = {{.n_prompt = 20, .most = 30}};
    const struct part stopped[N_SESSIONS] = {{.n_prompt = 9, .stop = 17, .sampling = warm}};
    // Together: they come and go, and one has work that the device does not do.
    const struct part together[N_SESSIONS] = {
        {.n_prompt = 5, .most = 25, .sampling = warm},
        {.n_prompt = 40, .begin = 3, .most = 20},
        {.n_prompt = 7, .begin = 9, .sampling = hot, .most = 40},
        {.n_prompt = 33, .begin = 30, .most = 5, .sampling = other}};
    const struct part ended[N_SESSIONS] = {
        {.n_prompt = 5, .most = 30},
        {.n_prompt = 6, .begin = 2, .cancel = 14, .sampling = warm},
        {.n_prompt = 8, .begin = 2, .most = 50, .shift = true, .sampling = hot},
        {.n_prompt = 30, .begin = 8, .most = 20, .draft = 4}};
    const struct part *const cases[] = {alone, stopped, together, ended};
    for (uint32_t i = 0; i < 4; i++)
        compare(i % 2 ? MODEL("gemma3") : MODEL("qwen3"), cases[i], i);
}

Test(vulkan_ahead, a_full_context_is_shifted)
{
    const struct part parts[N_SESSIONS] = {
        {.n_prompt = 40, .most = 60, .shift = true, .sampling = {.temperature = 0.7f, .seed = 3}}};
    compare(MODEL("gemma3"), parts, 0);
}
