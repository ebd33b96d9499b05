#include "tests/support/folder.h"
#include "tests/unit/api/checkpoint.h"

#include <criterion/criterion.h>
#include <math.h>
#include <nibble/nibble.h>
#include <string.h>

TestSuite(generate, .init = make_folder, .fini = remove_folder);

static bool expect_no_text(void *user, const struct nib_token_event *event)
{
    ++*(uint32_t *)user;
    cr_expect_eq(event->text.size, 0);
    return true;
}

/// Models whose head has more rows than the tokenizer has tokens are common.
Test(generate, ids_without_a_token_have_no_text)
{
    const int32_t id = 1;
    const struct nib_logit_bias bias = {.id = 319, .bias = INFINITY};
    uint32_t n_events = 0;
    struct nib_error error;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_tokenizer_info info;
    struct nib_generation generation;
    checkpoint_copy("architectures/qwen2", "words");
    cr_assert_eq(nib_model_open(path_in_folder(""), NULL, &model, &error), NIB_OK, "%s",
                 error.message);
    nib_tokenizer_get_info(nib_model_tokenizer(model), &info);
    cr_assert_leq(info.vocabulary, 319);
    cr_assert_eq(nib_engine_create(model, NULL, &engine, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_create(engine, &session, NULL), NIB_OK);
    cr_assert_eq(nib_session_append(session, &id, 1, NULL), NIB_OK);
    const struct nib_generate_params *params =
        nib_generate_params(.max_tokens = 3, .biases = &bias, .n_biases = 1,
                            .on_token = expect_no_text, .user = &n_events);
    cr_assert_eq(nib_session_generate(session, params, &generation, &error), NIB_OK, "%s",
                 error.message);
    cr_expect(n_events == 3 && generation.stop == NIB_STOP_LENGTH);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
}

static bool collect(void *user, const struct nib_token_event *event)
{
    char *text = user;
    strncat(text, event->text.ptr ? event->text.ptr : "", event->text.size);
    return true;
}

/// Generates three times "▁t" into `out_text`, to the end or to `stop`, which may be NULL.
static enum nib_stop generate_words(struct nib_engine *engine, bool continuation, const char *stop,
                                    char out_text[32])
{
    const int32_t prompt = 307;
    const struct nib_logit_bias bias = {.id = 308, .bias = INFINITY};
    const struct nib_text stops = {stop, stop ? strlen(stop) : 0};
    struct nib_session *session = NULL;
    struct nib_generation generation;
    struct nib_error error;
    out_text[0] = '\0';
    cr_assert_eq(nib_session_create(engine, &session, NULL), NIB_OK);
    cr_assert_eq(nib_session_append(session, &prompt, 1, NULL), NIB_OK);
    const struct nib_generate_params *params =
        nib_generate_params(.max_tokens = 3, .biases = &bias, .n_biases = 1, .on_token = collect,
                            .user = out_text, .stops = &stops, .n_stops = stop ? 1 : 0,
                            .continuation = continuation);
    cr_assert_eq(nib_session_generate(session, params, &generation, &error), NIB_OK, "%s",
                 error.message);
    nib_session_destroy(&session);
    return generation.stop;
}

Test(generate, a_continuation_keeps_its_first_space)
{
    struct nib_error error;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    char text[32];
    checkpoint_copy("architectures/qwen2", "llama2");
    cr_assert_eq(nib_model_open(path_in_folder(""), NULL, &model, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_engine_create(model, NULL, &engine, &error), NIB_OK, "%s", error.message);
    cr_expect_eq(generate_words(engine, false, NULL, text), NIB_STOP_LENGTH);
    cr_expect_str_eq(text, "t t t");
    cr_expect_eq(generate_words(engine, true, NULL, text), NIB_STOP_LENGTH);
    cr_expect_str_eq(text, " t t t");
    cr_expect_eq(generate_words(engine, false, "t t", text), NIB_STOP_STRING);
    cr_expect_str_eq(text, "");
    cr_expect_eq(generate_words(engine, true, "t t", text), NIB_STOP_STRING);
    cr_expect_str_eq(text, " ");
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
}
