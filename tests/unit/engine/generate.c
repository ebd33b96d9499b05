#include "tests/unit/engine/rig.h"
#include <criterion/criterion.h>
#include <math.h>
#include <nibble/tokenizer.h>
#include <stdio.h>
#include <string.h>

#define MODEL NIB_MODELS "/SmolLM2-135M-Instruct.Q4_1.gguf"
#define MAX_SCRIPT 64

/// What a generation delivered; a script of ids that the mask forces it to write.
struct record {
    int32_t script[MAX_SCRIPT];
    uint32_t n_script;
    size_t first; ///< position of script[0]
    int32_t ids[MAX_SCRIPT];
    uint32_t n_ids;
    char text[512];
    size_t text_size;
    uint32_t refuse_at; ///< index of the token at which on_token returns false
    uint32_t n_logits;
    uint32_t first_position;
};

static void force(void *user, const int32_t *tokens, size_t n_tokens, uint32_t *allowed)
{
    struct record *record = user;
    (void)tokens;
    uint32_t place = (uint32_t)(n_tokens - record->first);
    cr_assert_lt(place, record->n_script);
    uint32_t id = (uint32_t)record->script[place];
    cr_assert_eq(allowed[id / 32], 0xffffffffu);
    memset(allowed, 0, 49152 / 8);
    allowed[id / 32] = 1u << (id % 32);
}

static bool listen(void *user, const struct nib_token_event *event)
{
    struct record *record = user;
    cr_assert_eq(event->index, record->n_ids);
    record->ids[record->n_ids++] = event->id;
    cr_assert_lt(record->text_size + event->text.size, sizeof record->text);
    if (event->text.size > 0)
        memcpy(record->text + record->text_size, event->text.ptr, event->text.size);
    record->text_size += event->text.size;
    return event->index != record->refuse_at;
}

static bool count_logits(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct record *record = user;
    (void)logits;
    (void)vocabulary;
    if (record->n_logits++ == 0)
        record->first_position = position;
    cr_assert_eq(position, record->first_position + record->n_logits - 1);
    return true;
}

/// Opens SmolLM2's tokenizer over the fake backend, or skips the test.
static struct nib_session *open_text(struct rig *rig)
{
    FILE *file = fopen(MODEL, "rb");
    if (!file)
        cr_skip_test("SmolLM2 is absent; tools/fetch-model brings it");
    fclose(file);
    rig_open_file(rig, MODEL, (struct nib_engine_params){.context = 64});
    struct nib_session *session = rig_session(rig);
    rig_append(session, 5, 1);
    return session;
}

static void write_script(struct nib_session *session, const char *text, struct record *record)
{
    const struct nib_tokenizer *tokenizer = nib_source_tokenizer(session->engine->model->source);
    int32_t *ids = NULL;
    size_t count = 0;
    struct nib_text source = {text, strlen(text)};
    *record = (struct record){.refuse_at = UINT32_MAX, .first = session->n_tokens};
    cr_assert_eq(nib_tokenizer_encode(tokenizer, source, nib_encode_params(.parse_special = true),
                                      &ids, &count, NULL),
                 NIB_OK);
    cr_assert_leq(count, MAX_SCRIPT);
    memcpy(record->script, ids, count * sizeof *ids);
    record->n_script = (uint32_t)count;
    nib_ids_free(ids);
}

static struct nib_generation run(struct nib_session *session, struct record *record,
                                 struct nib_generate_params params)
{
    struct nib_generation generation;
    struct nib_error error;
    params.mask = force;
    params.on_token = listen;
    params.user = record;
    cr_assert_eq(nib_generator_run(session, &params, &generation, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(generation.n_generated, record->n_ids);
    record->text[record->text_size] = '\0';
    return generation;
}

Test(generate, ends_at_a_stop_string)
{
    struct rig rig;
    struct record record;
    struct nib_session *session = open_text(&rig);
    const struct nib_text stops[] = {{"never", 5}, {"\nUser:", 6}};
    write_script(session, "It is fine.\nUse it.\nUser: and more", &record);
    struct nib_generation generation =
        run(session, &record, (struct nib_generate_params){.stops = stops, .n_stops = 2});
    cr_assert_eq(generation.stop, NIB_STOP_STRING);
    cr_assert_str_eq(record.text, "It is fine.\nUse it.");
    cr_assert_lt(record.n_ids, record.n_script);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, held_text_comes_out_at_the_end)
{
    struct rig rig;
    struct record record;
    struct nib_session *session = open_text(&rig);
    const struct nib_text stop = {"\nUser:", 6};
    write_script(session, "Fine.\nUser", &record);
    struct nib_generation generation = run(
        session, &record,
        (struct nib_generate_params){.stops = &stop, .n_stops = 1, .max_tokens = record.n_script});
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_str_eq(record.text, "Fine.\nUser");
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, half_a_character_becomes_a_replacement_at_the_end)
{
    struct rig rig;
    struct record record;
    struct nib_session *session = open_text(&rig);
    const struct nib_text stop = {"zzz", 3};
    write_script(session, "ok \xf0\x9f\xa6\x96", &record);
    cr_assert_gt(record.n_script, 3);
    uint32_t n = record.n_script - 1;
    run(session, &record, (struct nib_generate_params){.max_tokens = n});
    cr_assert_eq(strncmp(record.text, "ok \xef\xbf\xbd", 6), 0, "'%s'", record.text);
    cr_assert_eq(nib_session_truncate(session, 5, NULL), NIB_OK);
    record.n_ids = 0;
    record.text_size = 0;
    run(session, &record,
        (struct nib_generate_params){.max_tokens = n, .stops = &stop, .n_stops = 1});
    cr_assert_eq(strncmp(record.text, "ok \xef\xbf\xbd", 6), 0, "'%s'", record.text);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, ends_at_the_end_of_the_sequence)
{
    struct rig rig;
    struct record record;
    struct nib_session *session = open_text(&rig);
    write_script(session, "Yes.<|im_end|>\nNo", &record);
    struct nib_generation generation = run(session, &record, (struct nib_generate_params){0});
    cr_assert_eq(generation.stop, NIB_STOP_EOS);
    cr_assert_str_eq(record.text, "Yes.");
    cr_assert_eq(record.n_ids, 3);
    cr_assert_eq(generation.n_prompt, 5);

    cr_assert_eq(nib_session_truncate(session, 5, NULL), NIB_OK);
    record.n_ids = 0;
    record.text_size = 0;
    generation = run(session, &record,
                     (struct nib_generate_params){
                         .ignore_eos = true, .keep_special = true, .max_tokens = record.n_script});
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_str_eq(record.text, "Yes.<|im_end|>\nNo");
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, stops_when_the_host_says_so)
{
    struct rig rig;
    struct record record;
    struct nib_session *session = open_text(&rig);
    write_script(session, "one two three four five", &record);
    record.refuse_at = 2;
    struct nib_generation generation = run(session, &record, (struct nib_generate_params){0});
    cr_assert_eq(generation.stop, NIB_STOP_CANCELLED);
    cr_assert_eq(record.n_ids, 3);
    cr_assert_str_eq(record.text, "one two three");
    nib_session_destroy(&session);
    rig_close(&rig);
}

static bool cancel_at_two(void *user, const struct nib_token_event *event)
{
    uint32_t *count = user;
    ++*count;
    if (event->index == 2)
        nib_session_cancel(event->session);
    return true;
}

Test(generate, is_cancelled_between_tokens)
{
    struct rig rig;
    struct nib_generation generation;
    rig_open(&rig, (struct nib_engine_params){.context = 64});
    struct nib_session *session = rig_session(&rig);
    uint32_t count = 0;
    struct nib_generate_params params = {.on_token = cancel_at_two, .user = &count};
    rig_append(session, 4, 1);
    nib_session_cancel(session); // nothing runs yet: this one is forgotten
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_CANCELLED);
    cr_assert_eq(count, 3);
    cr_assert_eq(session->n_tokens, 7);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, fills_the_context)
{
    struct rig rig;
    struct nib_generation generation;
    rig_open(&rig, (struct nib_engine_params){.context = 40});
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {0};
    rig_append(session, 30, 1);
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_CONTEXT);
    cr_assert_eq(generation.n_generated, 10);
    cr_assert_eq(session->n_tokens, 40);

    struct record record = {.refuse_at = UINT32_MAX};
    params = (struct nib_generate_params){.on_logits = count_logits, .user = &record};
    cr_assert_eq(nib_session_truncate(session, 0, NULL), NIB_OK);
    rig_append(session, 40, 1);
    cr_assert_eq(nib_generator_run(session, &params, &generation, NULL), NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_CONTEXT);
    cr_assert_eq(generation.n_generated, 0);
    cr_assert_eq(record.n_logits, 40);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, gives_logits_of_prompt_and_answer)
{
    struct rig rig;
    struct record record = {.refuse_at = UINT32_MAX};
    rig_open(&rig, (struct nib_engine_params){.context = 100, .max_rows = 16});
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {
        .max_tokens = 5, .on_logits = count_logits, .first_logits = 3, .user = &record};
    rig_append(session, 40, 1);
    cr_assert_eq(nib_generator_run(session, &params, NULL, NULL), NIB_OK);
    cr_assert_eq(record.first_position, 3);
    cr_assert_eq(record.n_logits, 40 + 5 - 1 - 3);
    nib_session_destroy(&session);
    rig_close(&rig);
}

static bool check_logprobs(void *user, const struct nib_token_event *event)
{
    uint32_t vocabulary = event->session->engine->plan->vocabulary;
    double sum = 0.0;
    (void)user;
    cr_assert_eq(event->n_top, 64);
    for (uint32_t i = 0; i < event->n_top; i++) {
        cr_assert(i == 0 || event->top[i].logprob <= event->top[i - 1].logprob);
        sum += exp((double)event->top[i].logprob);
    }
    cr_assert_gt(sum, 64.0 / vocabulary);
    cr_assert_leq(sum, 1.0001);
    cr_assert_eq(event->top[1].id, event->id, "the best one is forbidden");
    cr_assert_eq(event->top[1].logprob, event->logprob);
    return true;
}

Test(generate, log_probabilities_are_the_models_own)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = 100});
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 4, 1);
    struct nib_sampling greedy = {0};
    struct nib_logit_bias bias = {.id = rig_expected(session, &greedy, 4), .bias = -INFINITY};
    struct nib_generate_params params = {.max_tokens = 1,
                                         .n_top_logprobs = 64,
                                         .biases = &bias,
                                         .n_biases = 1,
                                         .on_token = check_logprobs};
    cr_assert_eq(nib_generator_run(session, &params, NULL, NULL), NIB_OK);
    nib_session_destroy(&session);
    rig_close(&rig);
}

static void forbid_all(void *user, const int32_t *tokens, size_t n_tokens, uint32_t *allowed)
{
    const uint32_t *vocabulary = user;
    (void)tokens;
    (void)n_tokens;
    memset(allowed, 0, (*vocabulary + 31) / 32 * 4);
}

Test(generate, an_impossible_draw_ends_only_its_own_session)
{
    struct rig rig;
    struct nib_generation generation;
    struct nib_error error = {0};
    rig_open(&rig, (struct nib_engine_params){.context = 100, .max_sessions = 2});
    struct nib_session *good = rig_session(&rig);
    struct nib_session *bad = rig_session(&rig);
    uint32_t vocabulary = rig.engine->plan->vocabulary;
    struct nib_generate_params params = {.max_tokens = 4};
    rig_append(good, 4, 1);
    rig_append(bad, 4, 2);
    cr_assert_eq(nib_generator_begin(good, &params, NULL), NIB_OK);
    params.mask = forbid_all;
    params.user = &vocabulary;
    cr_assert_eq(nib_generator_begin(bad, &params, NULL), NIB_OK);
    cr_assert_eq(nib_engine_step(rig.engine, NULL, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(error.status, NIB_ERROR_ARGUMENT);
    nib_session_get_generation(bad, &generation);
    cr_assert_eq(generation.stop, NIB_STOP_ERROR);
    uint32_t active = 1;
    while (active > 0)
        cr_assert_eq(nib_engine_step(rig.engine, &active, &error), NIB_OK);
    nib_session_get_generation(good, &generation);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_eq(good->n_tokens, 8);
    nib_session_destroy(&good);
    nib_session_destroy(&bad);
    rig_close(&rig);
}

Test(generate, another_sessions_failure_ends_nothing)
{
    struct rig rig;
    struct nib_generation generation;
    struct nib_error error = {0};
    rig_open(&rig, (struct nib_engine_params){.context = 100, .max_sessions = 2});
    struct nib_session *good = rig_session(&rig);
    struct nib_session *bad = rig_session(&rig);
    uint32_t vocabulary = rig.engine->plan->vocabulary;
    struct nib_generate_params params = {.max_tokens = 4}, impossible = params;
    impossible.mask = forbid_all;
    impossible.user = &vocabulary;
    rig_append(good, 4, 1);
    rig_append(bad, 4, 2);
    cr_assert_eq(nib_generator_begin(bad, &impossible, NULL), NIB_OK);
    cr_assert_eq(nib_generator_run(good, &params, &generation, &error), NIB_OK);
    cr_assert_eq(error.status, NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_eq(good->n_tokens, 8);
    nib_session_get_generation(bad, &generation);
    cr_assert_eq(generation.stop, NIB_STOP_ERROR);
    // Also in the step that is its last, but not its own one.
    params.max_tokens = 1;
    cr_assert_eq(nib_generator_begin(bad, &impossible, NULL), NIB_OK);
    cr_assert_eq(nib_generator_run(good, &params, &generation, &error), NIB_OK);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_eq(nib_generator_run(bad, &impossible, &generation, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(error.status, NIB_ERROR_ARGUMENT);
    cr_assert_eq(generation.stop, NIB_STOP_ERROR);
    nib_session_destroy(&good);
    nib_session_destroy(&bad);
    rig_close(&rig);
}

Test(generate, refuses_bad_params)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = 100});
    struct nib_session *session = rig_session(&rig);
    const struct nib_text stop = {"x", 1};
    struct nib_logit_bias outside = {.id = (int32_t)rig.engine->plan->vocabulary};
    struct nib_logit_bias nan_bias = {.id = 1, .bias = NAN};
    struct nib_generate_params params = {0};
    cr_assert_eq(nib_generator_begin(session, &params, NULL), NIB_ERROR_STATE);
    rig_append(session, 4, 1);
    const struct nib_generate_params bad[] = {
        {.stops = &stop, .n_stops = 1}, // the tiny model has no tokenizer
        {.biases = &outside, .n_biases = 1},
        {.biases = &nan_bias, .n_biases = 1},
        {.n_top_logprobs = 65},
        {.sampling = {.temperature = -1.0f}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(nib_generator_begin(session, &bad[i], NULL), NIB_ERROR_ARGUMENT, "params %zu",
                     i);
    cr_assert_eq(nib_generator_begin(session, &params, NULL), NIB_OK);
    cr_assert_eq(nib_generator_begin(session, &params, NULL), NIB_ERROR_STATE);
    int32_t id = 1;
    cr_assert_eq(nib_session_append(session, &id, 1, NULL), NIB_ERROR_STATE);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(generate, names_of_stops)
{
    cr_assert_str_eq(nib_stop_name(NIB_STOP_EOS), "eos");
    cr_assert_str_eq(nib_stop_name(NIB_STOP_ERROR), "error");
    cr_assert_str_eq(nib_stop_name((enum nib_stop)99), "none");
}
