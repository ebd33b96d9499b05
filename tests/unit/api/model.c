#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nib_model *open_tiny(const char *name)
{
    char path[1024];
    struct nib_model *model = NULL;
    struct nib_error error;
    snprintf(path, sizeof path, "%s/architectures/%s", NIB_TEST_DATA, name);
    cr_assert_eq(nib_model_open(path, NULL, &model, &error), NIB_OK, "%s", error.message);
    return model;
}

Test(model, info_of_a_folder)
{
    struct nib_model *model = open_tiny("qwen2/");
    struct nib_model_info info;
    nib_model_get_info(model, &info);
    cr_assert_str_eq(info.name, "qwen2");
    cr_assert_str_eq(info.architecture, "qwen2");
    cr_assert_str_eq(info.container, "safetensors");
    cr_assert_str_eq(info.quantization, "bf16");
    cr_assert_eq(info.vocabulary, 320);
    cr_assert_not(info.has_tokenizer);
    cr_assert_null(nib_model_tokenizer(model));

    uint64_t elements = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < nib_model_tensor_count(model); i++) {
        struct nib_tensor_info tensor;
        uint64_t product = 1;
        nib_model_get_tensor(model, i, &tensor);
        cr_assert_str_eq(tensor.format, "bf16");
        for (uint32_t d = 0; d < tensor.n_dims; d++)
            product *= tensor.dims[d];
        cr_assert_eq(tensor.size_bytes, product * 2);
        elements += product;
        bytes += tensor.size_bytes;
    }
    cr_assert_eq(info.parameters, elements);
    cr_assert_eq(info.weight_bytes, bytes);
    cr_assert_gt(info.file_bytes, bytes);
    struct nib_tensor_info beyond;
    nib_model_get_tensor(model, UINT32_MAX, &beyond);
    cr_assert_str_eq(beyond.name, "");
    nib_model_destroy(&model);
    cr_assert_null(model);
}

/// Prediction and report are held to 3 %.
static void expect_prediction(struct nib_model *model, struct nib_device *device,
                              struct nib_memory_params params)
{
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_engine_info info;
    struct nib_memory memory;
    struct nib_error error;
    struct nib_model_info model_info;
    const int32_t id = 1;
    params.struct_size = sizeof params;
    params.value_format = params.key_format;
    nib_model_get_info(model, &model_info);
    const struct nib_placement whole = {.device = device, .n_segments = model_info.layers + 2};
    cr_assert_eq(nib_model_predict_memory(model, &params, &memory, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_engine_create(model,
                                   nib_engine_params(.placements = &whole, .n_placements = 1,
                                                     .context = params.context,
                                                     .key_format = params.key_format,
                                                     .value_format = params.value_format),
                                   &engine, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_create(engine, &session, NULL), NIB_OK);
    cr_assert_eq(nib_session_append(session, &id, 1, NULL), NIB_OK);
    cr_assert_eq(nib_session_forward(session, 0, NULL, NULL, NULL), NIB_OK);
    nib_engine_get_info(engine, &info);
    cr_assert_eq(info.memory.kv_bytes, memory.kv_bytes);
    double ratio = (double)info.memory.weights_bytes / (double)memory.weights_bytes;
    cr_assert(ratio > 0.97 && ratio < 1.03, "weights: %g times the prediction", ratio);
    ratio = (double)info.memory.total_bytes / (double)memory.total_bytes;
    cr_assert(ratio > 0.97 && ratio < 1.03, "memory: %g times the prediction with %u threads",
              ratio, params.threads);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
}

static void expect_predictions(const char *file)
{
    char path[1024];
    struct nib_model *model = NULL;
    snprintf(path, sizeof path, "%s/%s", NIB_MODELS, file);
    FILE *present = fopen(path, "rb");
    if (!present)
        cr_skip_test("models/%s is absent; tools/fetch-model brings it", file);
    fclose(present);
    cr_assert_eq(nib_model_open(path, NULL, &model, NULL), NIB_OK);
    static const uint32_t threads[] = {1, 2, 16, 0};
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        struct nib_device *device = NULL;
        struct nib_memory_params params = {.threads = threads[i]};
        cr_assert_eq(nib_device_open(nib_device_params(.threads = threads[i]), &device, NULL),
                     NIB_OK);
        for (params.context = 512; params.context <= 8192; params.context *= 4) {
            params.key_format = NIB_KV_F16;
            expect_prediction(model, device, params);
            params.key_format = NIB_KV_F32;
            if (threads[i] == 0)
                expect_prediction(model, device, params);
        }
        nib_device_destroy(&device);
    }
    nib_model_destroy(&model);
}

Test(model, memory_is_predicted_for_smollm2)
{
    expect_predictions("SmolLM2-135M-Instruct.Q4_1.gguf");
}

Test(model, memory_is_predicted_for_gemma3)
{
    expect_predictions("gemma-3-270m-q4_k_m.gguf");
}

Test(model, outlives_its_handle)
{
    struct nib_model *model = open_tiny("qwen2");
    struct nib_device *device = NULL;
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_model_info info;
    const int32_t ids[2] = {1, 2};
    nib_model_get_info(model, &info);
    cr_assert_eq(nib_device_open(NULL, &device, NULL), NIB_OK);
    struct nib_placement placement = {.device = device, .n_segments = info.layers + 2};
    cr_assert_eq(nib_engine_create(model,
                                   nib_engine_params(.placements = &placement, .n_placements = 1),
                                   &engine, NULL),
                 NIB_OK);
    nib_model_destroy(&model);
    nib_device_destroy(&device);
    cr_assert_eq(nib_session_create(engine, &session, NULL), NIB_OK);
    cr_assert_eq(nib_session_append(session, ids, 2, NULL), NIB_OK);
    cr_assert_eq(nib_session_generate(session, nib_generate_params(.max_tokens = 2), NULL, NULL),
                 NIB_OK);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
}

Test(model, errors_name_the_file)
{
    struct nib_model *model = NULL;
    struct nib_error error;
    cr_assert_neq(nib_model_open("no/such/model.gguf", NULL, &model, &error), NIB_OK);
    cr_assert_null(model);
    cr_assert_not_null(strstr(error.message, "no/such/model.gguf"), "%s", error.message);
}

Test(model, predictions_refuse_more_threads_than_there_can_be)
{
    struct nib_model *model = open_tiny("qwen2");
    struct nib_memory memory;
    struct nib_error error;
    cr_assert_eq(
        nib_model_predict_memory(model, nib_memory_params(.threads = 1025), &memory, &error),
        NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "1025 threads"), "%s", error.message);
    cr_expect_eq(memory.weights_bytes, 0);
    cr_expect_eq(memory.kv_bytes, 0);
    cr_assert_eq(nib_model_predict_memory(
                     model, nib_memory_params(.threads = 1025, .on_vulkan = true), &memory, &error),
                 NIB_OK);
    nib_model_destroy(&model);
}
