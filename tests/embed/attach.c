// An engine on a device of the host, which goes on drawing on the same queue.
#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdlib.h>
#include <string.h>

#include "tests/embed/watch.h"

#define MODEL NIB_TEST_DATA "/architectures/qwen3"
#define N_PROMPT 40
#define N_TOKENS 24

/// Gives the same tokens wherever it is run.
static void generate(struct nib_engine *engine, int32_t *out_ids)
{
    struct nib_session *session = NULL;
    struct nib_generation generation;
    struct nib_error error;
    int32_t prompt[N_PROMPT];
    size_t count = 0;
    for (int32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = 1 + i * 7 % 60;
    cr_assert_eq(nib_session_create(engine, &session, &error), NIB_OK);
    cr_assert_eq(nib_session_append(session, prompt, N_PROMPT, &error), NIB_OK);
    cr_assert_eq(nib_session_generate(
                     session, nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true),
                     &generation, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_eq(generation.n_generated, N_TOKENS);
    const int32_t *tokens = nib_session_tokens(session, &count);
    memcpy(out_ids, tokens + N_PROMPT, N_TOKENS * sizeof *out_ids);
    nib_session_destroy(&session);
}

static struct nib_engine *make_engine(struct nib_model *model, struct nib_device *device)
{
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    struct nib_error error;
    nib_model_get_info(model, &info);
    const struct nib_placement whole = {.device = device, .n_segments = info.layers + 2};
    cr_assert_eq(nib_engine_create(
                     model,
                     nib_engine_params(.placements = &whole, .n_placements = 1, .context = 128),
                     &engine, &error),
                 NIB_OK, "%s", error.message);
    return engine;
}

static void expect_nothing_fell_back(const struct nib_engine *engine)
{
    struct nib_engine_info info;
    nib_engine_get_info(engine, &info);
    cr_assert_eq(info.device.backend, NIB_BACKEND_VULKAN);
    cr_assert_eq(info.execution.cpu_layers, 0);
    cr_assert_eq(info.execution.n_replaced + info.execution.n_fallbacks, 0);
    cr_assert_gt(info.execution.dispatches, 0);
}

/// What a device of Nibble's own gives.
static void generate_apart(struct nib_model *model, int32_t *out_ids)
{
    struct nib_device *device = NULL;
    struct nib_error error;
    cr_assert_eq(nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN), &device, &error),
                 NIB_OK, "%s", error.message);
    struct nib_engine *engine = make_engine(model, device);
    nib_device_destroy(&device);
    generate(engine, out_ids);
    nib_engine_destroy(&engine);
}

static struct nib_model *open_model(void)
{
    struct nib_model *model = NULL;
    struct nib_error error;
    cr_assert_eq(nib_model_open(MODEL, NULL, &model, &error), NIB_OK, "%s", error.message);
    return model;
}

/// Loads and runs on a host's device while the host draws; all that is left is the host's.
static void run_embedded(const struct host_params *host_params, uint64_t submit_ns)
{
    static struct host host;
    int32_t ids[N_TOKENS], expected[N_TOKENS];
    struct nib_device *device = NULL;
    struct nib_error error;
    bool ready = false;
    host_open(&host, host_params);
    struct nib_model *model = open_model();
    struct nib_attach_params params = host_attach_params(&host);
    params.get_instance_proc_addr = watch_begin(&host);
    params.submit_ns = submit_ns;
    host_start(&host);
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    struct nib_engine *engine = make_engine(model, device);
    nib_device_destroy(&device);
    while (!ready)
        cr_assert_eq(nib_engine_prepare(engine, 2000000, &ready, &error), NIB_OK, "%s",
                     error.message);
    generate(engine, ids);
    expect_nothing_fell_back(engine);
    if (host_params->has_names)
        cr_assert(watch_all_named());
    cr_assert_eq(watch.labelled > 0, host_params->has_names);
    nib_engine_destroy(&engine);
    watch_end();
    host_stop(&host);
    cr_assert(host_draw(&host, 1000));
    generate_apart(model, expected);
    cr_assert_arr_eq(ids, expected, sizeof ids);
    nib_model_destroy(&model);
    host_close(&host);
}

Test(attach, the_host_goes_on_drawing)
{
    run_embedded(&(struct host_params){0}, 0);
}

Test(attach, vulkan_1_1_with_the_extension)
{
    run_embedded(&(struct host_params){.api_version = VK_API_VERSION_1_1}, 0);
}

Test(attach, objects_have_names_where_the_host_wants_them)
{
    run_embedded(&(struct host_params){.has_names = true}, 0);
}

Test(attach, two_engines_share_a_device)
{
    static struct host host;
    int32_t ids[2][N_TOKENS];
    struct nib_device *device = NULL;
    struct nib_error error;
    host_open(&host, &(struct host_params){0});
    struct nib_model *model = open_model();
    struct nib_attach_params params = host_attach_params(&host);
    params.get_instance_proc_addr = watch_begin(&host);
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    struct nib_engine *engines[2] = {make_engine(model, device), make_engine(model, device)};
    nib_device_destroy(&device);
    for (int i = 0; i < 2; i++)
        generate(engines[i], ids[i]);
    cr_assert_arr_eq(ids[0], ids[1], sizeof ids[0]);
    for (int i = 0; i < 2; i++)
        nib_engine_destroy(&engines[i]);
    watch_end();
    nib_model_destroy(&model);
    host_close(&host);
}

/// Measuring leaves nothing behind, and its submissions are under the host's lock.
Test(attach, measures_the_device)
{
    static struct host host;
    struct nib_device *device = NULL;
    struct nib_device_limits limits;
    struct nib_error error;
    host_open(&host, &(struct host_params){.has_names = true});
    struct nib_attach_params params = host_attach_params(&host);
    params.get_instance_proc_addr = watch_begin(&host);
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    host_start(&host);
    cr_assert_eq(nib_device_measure(device, &limits, &error), NIB_OK, "%s", error.message);
    host_stop(&host);
    cr_expect(limits.read_bytes > 1e6 && limits.read_bytes < 1e14);
    cr_expect(limits.f32_macs > 1e6 && limits.f32_macs < 1e16);
    cr_expect(limits.int8_macs >= limits.f32_macs);
    cr_expect_eq(nib_device_measure(NULL, &limits, &error), NIB_ERROR_ARGUMENT);
    cr_expect_eq(nib_device_measure(device, NULL, &error), NIB_ERROR_ARGUMENT);
    nib_device_destroy(&device);
    watch_end();
    host_close(&host);
}

/// Attaches with `params` and expects a failure whose message has `words`.
static void expect_refusal(const struct nib_attach_params *params, enum nib_status expected,
                           const char *words)
{
    struct nib_device *device = NULL;
    struct nib_error error = {0};
    cr_expect_eq(nib_device_attach(params, &device, &error), expected, "%s: %s", words,
                 error.message);
    cr_expect_null(device);
    cr_expect_not_null(strstr(error.message, words), "'%s' is not in: %s", words, error.message);
    cr_expect_null(strchr(error.message, '\n'));
}

Test(attach, says_what_is_missing)
{
    static struct host host;
    host_open(&host, &(struct host_params){0});
    const struct nib_attach_params good = host_attach_params(&host);
    struct nib_attach_params p;
    expect_refusal(NULL, NIB_ERROR_ARGUMENT, "get_instance_proc_addr");
#define REFUSED(change, status, words)     \
    do {                                   \
        p = good;                          \
        p.change;                          \
        expect_refusal(&p, status, words); \
    } while (0)
    REFUSED(struct_size = 0, NIB_ERROR_ARGUMENT, "struct_size");
    REFUSED(instance = NULL, NIB_ERROR_ARGUMENT, "instance");
    REFUSED(physical_device = NULL, NIB_ERROR_ARGUMENT, "physical_device");
    REFUSED(device = NULL, NIB_ERROR_ARGUMENT, "nib_attach_params.device");
    REFUSED(queue = NULL, NIB_ERROR_ARGUMENT, "queue");
    REFUSED(lock_queue = NULL, NIB_ERROR_ARGUMENT, "lock_queue");
    REFUSED(unlock_queue = NULL, NIB_ERROR_ARGUMENT, "unlock_queue");
    REFUSED(queue_family = 100, NIB_ERROR_ARGUMENT, "queue_family is 100");
    REFUSED(api_version = 0, NIB_ERROR_UNSUPPORTED, "VK_API_VERSION_1_1");
    REFUSED(api_version = VK_API_VERSION_1_0, NIB_ERROR_UNSUPPORTED, "VkApplicationInfo");
    REFUSED(features = NULL, NIB_ERROR_UNSUPPORTED, "timelineSemaphore");
    // A host that says less than it enabled is believed.
    REFUSED(api_version = VK_API_VERSION_1_1, NIB_ERROR_UNSUPPORTED, "VK_KHR_timeline_semaphore");
#undef REFUSED
    host_close(&host);
}

Test(attach, needs_the_feature)
{
    static struct host host;
    host_open(&host, &(struct host_params){.lacks_feature = true});
    struct nib_attach_params params = host_attach_params(&host);
    expect_refusal(&params, NIB_ERROR_UNSUPPORTED, "nib_vulkan_required_features");
    host_close(&host);
}

Test(attach, needs_the_extension_before_1_2)
{
    static struct host host;
    host_open(&host,
              &(struct host_params){.api_version = VK_API_VERSION_1_1, .lacks_extension = true});
    struct nib_attach_params params = host_attach_params(&host);
    expect_refusal(&params, NIB_ERROR_UNSUPPORTED, "nib_vulkan_required_extensions");
    host_close(&host);
}
