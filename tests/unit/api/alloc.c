// From a path to a generated token: each allocation on the way fails once, which is told and leaks
// nothing.
#include "tests/support/alloc_fail.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdio.h>

TestSuite(alloc, .init = make_folder, .fini = remove_folder);

static enum nib_status generate(struct nib_engine *engine, struct nib_error *err)
{
    const int32_t ids[] = {1, 2, 3};
    const struct nib_logit_bias bias = {.id = 5, .bias = 1};
    const struct nib_generate_params *params =
        nib_generate_params(.sampling = {.temperature = 1, .top_k = 20, .top_p = 0.9f},
                            .max_tokens = 2, .biases = &bias, .n_biases = 1, .n_top_logprobs = 3);
    struct nib_session *session = NULL;
    enum nib_status status = nib_session_create(engine, &session, err);
    if (status == NIB_OK)
        status = nib_session_append(session, ids, 3, err);
    if (status == NIB_OK)
        status = nib_session_forward(session, 0, NULL, NULL, err);
    if (status == NIB_OK)
        status = nib_session_generate(session, params, NULL, err);
    nib_session_destroy(&session);
    return status;
}

static enum nib_status evaluate(struct nib_engine *engine, struct nib_error *err)
{
    const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    struct nib_evaluation evaluation;
    return nib_evaluate(engine,
                        nib_evaluate_params(.ids = ids, .n_ids = 9, .bos = -1, .context = 4),
                        &evaluation, err);
}

static enum nib_status save_logits(struct nib_error *err)
{
    const float logits[4] = {1, 2, 3, 4};
    struct nib_logits_writer *writer = NULL;
    enum nib_status status =
        nib_logits_writer_open(path_in_folder("f.safetensors"), 4, &writer, err);
    if (status == NIB_OK)
        status = nib_logits_writer_append(writer, logits, err);
    if (status == NIB_OK)
        status = nib_logits_writer_commit(&writer, err);
    nib_logits_writer_destroy(&writer);
    return status;
}

static enum nib_status live(const char *path, struct nib_error *err)
{
    struct nib_model *model = NULL;
    struct nib_device *device = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    struct nib_memory memory;
    bool ready;
    enum nib_status status = nib_model_open(path, NULL, &model, err);
    if (status == NIB_OK)
        status = nib_model_predict_memory(model, NULL, &memory, err);
    if (status == NIB_OK)
        status = nib_device_open(nib_device_params(.threads = 2), &device, err);
    if (status == NIB_OK) {
        nib_model_get_info(model, &info);
        const struct nib_placement placements[] = {{device, 0, 2}, {device, 2, info.layers}};
        status = nib_engine_create(model,
                                   nib_engine_params(.placements = placements, .n_placements = 2,
                                                     .context = 32, .max_rows = 4, .profile = true),
                                   &engine, err);
    }
    nib_device_destroy(&device);
    nib_model_destroy(&model);
    if (status == NIB_OK)
        status = nib_engine_prepare(engine, 0, &ready, err);
    if (status == NIB_OK)
        status = generate(engine, err);
    if (status == NIB_OK)
        status = evaluate(engine, err);
    nib_engine_destroy(&engine);
    return status == NIB_OK ? save_logits(err) : status;
}

static void fail_each(const char *name)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", NIB_TEST_DATA, name);
    uint32_t n = 0;
    for (bool failed = true; failed; n++) {
        struct nib_error error = {0};
        alloc_fail_after(n);
        enum nib_status status = live(path, &error);
        failed = alloc_fail_off();
        cr_assert_eq(status, failed ? NIB_ERROR_MEMORY : NIB_OK, "%s, allocation %u: %d %s", name,
                     n, status, error.message);
        cr_assert_eq(error.status, status, "%s, allocation %u", name, n);
    }
    cr_assert_gt(n, 100);
}

Test(alloc, whole_lives)
{
    fail_each("architectures/gemma3");
    fail_each("checkpoints/gptq-int4-g64-actorder");
    fail_each("checkpoints/bnb-int8");
}
