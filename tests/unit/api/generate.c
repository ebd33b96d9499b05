#include "tests/unit/api/checkpoint.h"
#include "tests/unit/formats/bytes.h"

#include <criterion/criterion.h>
#include <math.h>
#include <nibble/nibble.h>

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
