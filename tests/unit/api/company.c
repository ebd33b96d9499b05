// On the CPU a session's logits are the same bits alone and among others, whatever they share.
#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_PROMPT 150
#define N_TOKENS 24
#define N_SESSIONS 5
#define MAX_ROWS 64

/// The logits that a session's tokens were drawn from.
struct record {
    uint32_t vocabulary;
    uint32_t n_lines;
    float *logits; ///< [N_TOKENS][vocabulary]
};

static bool keep_logits(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct record *record = user;
    uint32_t line = position + 1 - N_PROMPT;
    cr_assert_lt(line, N_TOKENS);
    cr_assert_eq(line, record->n_lines++);
    memcpy(record->logits + (size_t)line * vocabulary, logits, vocabulary * sizeof *logits);
    return true;
}

static struct nib_engine *open_engine(struct nib_model *model, uint32_t max_sessions)
{
    struct nib_error error;
    struct nib_engine *engine = NULL;
    const struct nib_engine_params *params =
        nib_engine_params(.context = 400, .max_sessions = max_sessions, .max_rows = MAX_ROWS);
    cr_assert_eq(nib_engine_create(model, params, &engine, &error), NIB_OK, "%s", error.message);
    return engine;
}

/// Begins a generation behind N_PROMPT tokens, those from `own` on being the session's own.
static struct nib_session *begin(struct nib_engine *engine, uint32_t own, int32_t seed,
                                 uint32_t max_draft, struct record *record)
{
    struct nib_error error;
    struct nib_session *session = NULL;
    int32_t ids[N_PROMPT];
    for (uint32_t i = 0; i < N_PROMPT; i++)
        ids[i] = (int32_t)(i * 37 + i * i % 11 + (i < own ? 0 : 1 + (uint32_t)seed)) % 256;
    cr_assert_eq(nib_session_create(engine, &session, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_append(session, ids, N_PROMPT, &error), NIB_OK, "%s", error.message);
    const struct nib_generate_params *params =
        nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true, .max_draft = max_draft,
                            .on_logits = record ? keep_logits : NULL, .first_logits = N_PROMPT - 1,
                            .user = record);
    cr_assert_eq(nib_session_begin(session, params, &error), NIB_OK, "%s", error.message);
    return session;
}

static void step(struct nib_engine *engine, uint32_t *active)
{
    struct nib_error error;
    cr_assert_eq(nib_engine_step(engine, active, &error), NIB_OK, "%s", error.message);
}

/// Checks that `session`'s generation was that of `expected`.
static void compare(struct nib_session *session, const struct record *record,
                    struct nib_session *alone, const struct record *expected, const char *name)
{
    size_t n, n_alone;
    const int32_t *tokens = nib_session_tokens(session, &n);
    const int32_t *tokens_alone = nib_session_tokens(alone, &n_alone);
    cr_assert_eq(n, n_alone);
    cr_assert_eq(memcmp(tokens, tokens_alone, n * sizeof *tokens), 0, "%s: other tokens", name);
    cr_assert_eq(record->n_lines, expected->n_lines);
    size_t size = (size_t)record->n_lines * record->vocabulary * sizeof(float);
    cr_assert_eq(memcmp(record->logits, expected->logits, size), 0, "%s: other logits", name);
}

static struct record make_record(struct nib_engine *engine)
{
    struct nib_engine_info info;
    nib_engine_get_info(engine, &info);
    return (struct record){.vocabulary = info.vocabulary,
                           .logits = malloc((size_t)N_TOKENS * info.vocabulary * sizeof(float))};
}

static void check_model(const char *folder)
{
    struct nib_error error;
    struct nib_model *model = NULL;
    cr_assert_eq(nib_model_open(folder, NULL, &model, &error), NIB_OK, "%s", error.message);
    struct nib_engine *engine = open_engine(model, 1);
    struct record expected = make_record(engine);
    struct nib_session *alone = begin(engine, N_PROMPT, 0, 0, &expected);
    for (uint32_t active = 1; active > 0;)
        step(engine, &active);

    struct nib_engine *full = open_engine(model, N_SESSIONS);
    struct record records[2] = {make_record(full), make_record(full)};
    struct nib_session *sessions[N_SESSIONS] = {NULL};
    // Another text, one that begins alike, and twice the same; then a fork that goes on as well.
    sessions[0] = begin(full, 0, 1, 3, NULL);
    sessions[1] = begin(full, 100, 2, 0, NULL);
    uint32_t active = 1;
    step(full, &active);
    sessions[2] = begin(full, N_PROMPT, 0, 0, &records[0]);
    sessions[3] = begin(full, N_PROMPT, 0, 4, &records[1]);
    for (uint32_t i = 0; active > 0; i++) {
        if (i == 4) {
            cr_assert_eq(nib_session_fork(sessions[2], &sessions[4], &error), NIB_OK);
            cr_assert_eq(nib_session_begin(sessions[4], nib_generate_params(.max_tokens = 5), NULL),
                         NIB_OK);
        }
        if (i == 6)
            nib_session_cancel(sessions[0]);
        step(full, &active);
    }
    compare(sessions[2], &records[0], alone, &expected, folder);
    compare(sessions[3], &records[1], alone, &expected, folder);
    for (int i = 0; i < N_SESSIONS; i++)
        nib_session_destroy(&sessions[i]);
    nib_session_destroy(&alone);
    nib_engine_destroy(&full);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
    free(expected.logits);
    free(records[0].logits);
    free(records[1].logits);
}

Test(company, changes_no_bit)
{
    static const char *const folders[] = {
        "architectures/llama3-rope",    "architectures/gemma3",
        "architectures/mistral-window", "architectures/phi3",
        "checkpoints/bnb-int8",         "checkpoints/ct-w8a8-dynamic",
        "checkpoints/awq-int4-g32",     "checkpoints/gptq-int4-g64-actorder",
    };
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", NIB_TEST_DATA, folders[i]);
        check_model(path);
    }
}
