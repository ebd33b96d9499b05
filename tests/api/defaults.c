// A host in C11: the params macros and what they default to, parameters that must be refused.
#include <nibble/nibble.h>

#include <stdio.h>
#include <string.h>

static int failures;

static void expect(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        failures++;
    }
}

static void check_macros(void)
{
    const struct nib_device_params *device = nib_device_params();
    expect(device->struct_size == sizeof(*device) && !device->threads && !device->cpu_mask &&
               device->backend == NIB_BACKEND_CPU && device->self_test == NIB_SELF_TEST_CACHED,
           "the device's defaults are zero");
    const struct nib_engine_params *engine = nib_engine_params(.context = 64);
    expect(engine->struct_size == sizeof(*engine) && engine->context == 64 &&
               engine->key_format == NIB_KV_DEFAULT && !engine->placements,
           "the engine's macro takes fields by name");
    const struct nib_generate_params *generate = nib_generate_params(.max_tokens = 3);
    expect(generate->struct_size == sizeof(*generate) && generate->max_tokens == 3,
           "the generation's macro takes fields by name");
    expect(nib_memory_params()->struct_size == sizeof(struct nib_memory_params) &&
               nib_model_params()->struct_size == sizeof(struct nib_model_params) &&
               nib_encode_params()->struct_size == sizeof(struct nib_encode_params) &&
               nib_chat_params()->struct_size == sizeof(struct nib_chat_params) &&
               nib_evaluate_params()->struct_size == sizeof(struct nib_evaluate_params) &&
               nib_detokenizer_params()->struct_size == sizeof(struct nib_detokenizer_params),
           "every macro sets struct_size");
}

static void check_null_objects(void)
{
    struct nib_device *device = NULL;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_detokenizer *detokenizer = NULL;
    nib_device_destroy(&device);
    nib_model_destroy(&model);
    nib_engine_destroy(&engine);
    nib_session_destroy(&session);
    nib_detokenizer_destroy(&detokenizer);
    nib_ids_free(NULL);
}

static void check_refusals(void)
{
    struct nib_error error = {0};
    struct nib_device *device = NULL;
    struct nib_device_params params = {.struct_size = 1};
    expect(nib_device_open(&params, &device, &error) == NIB_ERROR_ARGUMENT && !device,
           "a struct_size that no version had is refused");
    expect(error.status == NIB_ERROR_ARGUMENT && error.message[0], "and the error says so");
    expect(!strchr(error.message, '\n'), "in one line");

    expect(nib_device_open(nib_device_params(.threads = 100000), &device, &error) ==
               NIB_ERROR_ARGUMENT,
           "a hundred thousand threads are refused");
    expect(nib_device_open(nib_device_params(.cpu_mask = "no-such-level"), &device, &error) ==
               NIB_ERROR_UNSUPPORTED,
           "an unknown instruction set is refused");

    struct nib_engine *engine = NULL;
    expect(nib_engine_create(NULL, NULL, &engine, &error) == NIB_ERROR_ARGUMENT && !engine,
           "an engine needs a model");
    struct nib_model *model = NULL;
    expect(nib_model_open(NULL, NULL, &model, &error) == NIB_ERROR_ARGUMENT && !model,
           "a model needs a path");
}

static void check_names(void)
{
    for (int status = NIB_OK; status <= NIB_ERROR_DEVICE_MEMORY; status++)
        expect(nib_status_name((enum nib_status)status)[0], "every status has a name");
    expect(nib_chat_template_name(0) != NULL, "there is a chat template");
    expect(nib_chat_template_name(UINT32_MAX) == NULL, "and there is a last one");
    expect(!strcmp(nib_stop_name(NIB_STOP_NONE), "none"), "stop reasons have names");
}

int main(void)
{
    check_macros();
    check_null_objects();
    check_refusals();
    check_names();
    return failures != 0;
}
