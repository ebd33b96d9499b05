#include "runtime/base/params.h"

#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <string.h>

/// A params struct at three stages of its life.
struct old_params {
    uint32_t struct_size;
    uint32_t first;
};
struct params {
    uint32_t struct_size;
    uint32_t first;
    uint64_t second;
};
struct new_params {
    uint32_t struct_size;
    uint32_t first;
    uint64_t second;
    uint64_t third;
};

Test(params, missing_ones_are_defaults)
{
    struct params out;
    memset(&out, 0xff, sizeof out);
    cr_assert_eq(nib_params_read(&out, sizeof out, NULL, NULL), NIB_OK);
    cr_assert_eq(out.struct_size, sizeof out);
    cr_assert_eq(out.first, 0);
    cr_assert_eq(out.second, 0);
}

Test(params, of_an_older_host)
{
    struct params out;
    struct old_params old = {.struct_size = sizeof old, .first = 7};
    memset(&out, 0xff, sizeof out);
    cr_assert_eq(nib_params_read(&out, sizeof out, &old, NULL), NIB_OK);
    cr_assert_eq(out.struct_size, sizeof out);
    cr_assert_eq(out.first, 7);
    cr_assert_eq(out.second, 0);
}

Test(params, of_a_newer_host)
{
    struct params out;
    struct new_params newer = {.struct_size = sizeof newer, .first = 7, .second = 8};
    cr_assert_eq(nib_params_read(&out, sizeof out, &newer, NULL), NIB_OK);
    cr_assert_eq(out.struct_size, sizeof out);
    cr_assert_eq(out.second, 8);
    newer.third = 1;
    cr_assert_eq(nib_params_read(&out, sizeof out, &newer, NULL), NIB_ERROR_ARGUMENT);
}

Test(params, without_a_size)
{
    struct params out;
    struct nib_error error;
    struct params given = {.first = 7};
    cr_assert_eq(nib_params_read(&out, sizeof out, &given, &error), NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "struct_size"));
    given.struct_size = 0xcccccccc;
    cr_assert_eq(nib_params_read(&out, sizeof out, &given, &error), NIB_ERROR_ARGUMENT);
}

/// Every function with params refuses a struct whose size was not set, before it does anything.
Test(params, every_function_looks_at_the_size)
{
    struct nib_device *device = NULL;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_evaluation evaluation;
    struct nib_memory memory;
    cr_assert_eq(nib_device_open(&(struct nib_device_params){.threads = 1}, &device, NULL),
                 NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_model_open("x", &(struct nib_model_params){.struct_size = 1}, &model, NULL),
                 NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_create(NULL, &(struct nib_engine_params){.context = 1}, &engine, NULL),
                 NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_begin(NULL, &(struct nib_generate_params){.max_tokens = 1}, NULL),
                 NIB_ERROR_ARGUMENT);
    cr_assert_eq(
        nib_session_generate(NULL, &(struct nib_generate_params){.max_tokens = 1}, NULL, NULL),
        NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_evaluate(NULL, &(struct nib_evaluate_params){.context = 1}, &evaluation, NULL),
                 NIB_ERROR_ARGUMENT);
    cr_assert_eq(
        nib_model_predict_memory(NULL, &(struct nib_memory_params){.context = 1}, &memory, NULL),
        NIB_ERROR_ARGUMENT);
    struct nib_detokenizer *detokenizer;
    int32_t *ids;
    size_t n_ids;
    struct nib_error error;
    cr_assert_eq(nib_tokenizer_encode(NULL, (struct nib_text){"a", 1},
                                      &(struct nib_encode_params){.add_bos = true}, &ids, &n_ids,
                                      &error),
                 NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "struct_size"));
    cr_assert_eq(nib_tokenizer_encode_chat(NULL, NULL, 0,
                                           &(struct nib_chat_params){.continue_conversation = true},
                                           &ids, &n_ids, &error),
                 NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "struct_size"));
    cr_assert_eq(nib_detokenizer_create(NULL,
                                        &(struct nib_detokenizer_params){.continuation = true},
                                        &detokenizer, &error),
                 NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "struct_size"));
}

Test(params, null_objects_are_refused)
{
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_model *model = NULL;
    struct nib_evaluation evaluation;
    struct nib_op_profile profile;
    uint32_t count;
    bool ready;
    cr_assert_eq(nib_model_open(NULL, NULL, &model, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_create(NULL, NULL, &engine, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_prepare(NULL, 0, &ready, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_step(NULL, &count, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_get_profile(NULL, &profile, 1, &count, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_create(NULL, &session, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_begin(NULL, NULL, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_evaluate(NULL, NULL, &evaluation, NULL), NIB_ERROR_ARGUMENT);
    struct nib_detokenizer *detokenizer = NULL;
    int32_t *ids;
    size_t n_ids;
    const struct nib_text text = {"a", 1};
    cr_assert_eq(nib_tokenizer_encode(NULL, text, NULL, &ids, &n_ids, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_tokenizer_encode_chat(NULL, NULL, 0, NULL, &ids, &n_ids, NULL),
                 NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_detokenizer_create(NULL, NULL, &detokenizer, NULL), NIB_ERROR_ARGUMENT);
    nib_detokenizer_destroy(NULL);
    nib_device_destroy(NULL);
    nib_model_destroy(NULL);
    nib_engine_destroy(NULL);
    nib_session_destroy(NULL);
    nib_engine_destroy(&engine);
    nib_session_destroy(&session);
    nib_model_destroy(&model);
}
