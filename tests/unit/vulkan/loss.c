// Devices that fail at every call that can fail, that are lost in the middle of a text, that hang,
// and that have too little memory: always a status, or the CPU going on from the tokens.
#ifdef __linux__
#define _GNU_SOURCE // RTLD_NODELETE
#include <dlfcn.h>
#endif

#include "tests/support/folder.h"
#include "tests/support/vulkan_fault.h"

#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 200
#define MAX_PROMPT 64

TestSuite(vulkan_loss, .init = make_folder, .fini = remove_folder);

/// A text that is to be generated, and what becomes of it.
struct life {
    const char *model;
    uint32_t n_prompt;
    uint32_t seed;
    uint32_t n_wanted;
    bool fallback;
    bool is_split;  ///< the last layer and the head are the CPU's in any case
    bool is_shared; ///< the device and a second one share the layers
    uint32_t hang_ms;
    struct nib_device *device; ///< open already, or NULL
    enum vulkan_function lost_in;
    uint32_t lost_at; ///< token after which a call of `lost_in` fails; 0: none
    uint32_t n_good;  ///< calls before that one
    VkResult result;

    int32_t prompt[MAX_PROMPT];
    int32_t tokens[MAX_TOKENS]; ///< delivered
    uint32_t n_tokens;
    uint32_t n_before; ///< of these, before the fault
    bool has_kept;     ///< the session has what was delivered
    bool has_retried;  ///< making the engine ready failed, and did not when it was called again
    struct nib_execution execution;
    char fallback_text[256];
};

static uint32_t device_index(void)
{
    const char *number = getenv("NIB_TEST_VULKAN");
    return number ? (uint32_t)strtoul(number, NULL, 10) : 0;
}

static enum nib_status open_device(uint32_t hang_ms, struct nib_device **out, struct nib_error *err)
{
    return nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN, .index = device_index(),
                                             .self_test = NIB_SELF_TEST_OFF, .hang_ms = hang_ms),
                           out, err);
}

/// Skips the test where there is no device.
static void require_device(void)
{
    struct nib_error error;
    struct nib_device *device = NULL;
#ifdef __linux__
    // What lavapipe keeps would count as a leak once its code is gone.
    dlopen("libvulkan_lvp.so", RTLD_NOW | RTLD_NODELETE);
#endif
    enum nib_status status = open_device(0, &device, &error);
    if (status == NIB_ERROR_NOT_FOUND)
        cr_skip_test("no Vulkan device: %s", error.message);
    cr_assert_eq(status, NIB_OK, "%s", error.message);
    nib_device_destroy(&device);
}

static bool on_token(void *user, const struct nib_token_event *event)
{
    struct life *life = user;
    if (life->n_tokens < MAX_TOKENS)
        life->tokens[life->n_tokens] = event->id;
    life->n_tokens++;
    if (!vulkan_fault_struck())
        life->n_before = life->n_tokens;
    if (life->lost_at > 0 && life->n_tokens == life->lost_at)
        vulkan_fault_after(life->lost_in, life->n_good, life->result);
    return true;
}

static void make_prompt(struct life *life)
{
    for (uint32_t i = 0; i < life->n_prompt; i++)
        life->prompt[i] = (int32_t)((i * 37 + life->seed * 101 + i * i % 11) % 256);
}

static struct nib_generate_params params_of(const struct life *life, uint32_t n)
{
    return (struct nib_generate_params){
        .struct_size = sizeof(struct nib_generate_params),
        .sampling = {.temperature = life->seed % 2 ? 0.9f : 0,
                     .top_k = 40,
                     // The device draws where there is none.
                     .repeat_penalty = life->seed % 4 == 2 ? 1.1f : 0,
                     .repeat_last = 16,
                     .seed = life->seed},
        .max_tokens = n,
        .ignore_eos = true,
    };
}

/// Writes a session to a file and reads it back, which moves pages; then forks it, which copies
/// one.
static enum nib_status move_pages(struct nib_engine *engine, const struct nib_session *session,
                                  struct nib_error *err)
{
    const char *path = path_in_folder("session");
    struct nib_session *copy = NULL;
    enum nib_status status = nib_session_save(session, path, err);
    if (status == NIB_OK)
        status = nib_session_load(engine, path, &copy, err);
    nib_session_destroy(&copy);
    if (status == NIB_OK)
        status = nib_session_fork(session, &copy, err);
    const int32_t id = 7;
    if (status == NIB_OK)
        status = nib_session_append(copy, &id, 1, err);
    if (status == NIB_OK)
        status = nib_session_forward(copy, 0, NULL, NULL, err);
    nib_session_destroy(&copy);
    return status;
}

static enum nib_status generate(struct life *life, struct nib_engine *engine, struct nib_error *err)
{
    struct nib_session *session = NULL;
    struct nib_generate_params params = params_of(life, life->n_wanted);
    params.on_token = on_token;
    params.user = life;
    size_t n = 0;
    enum nib_status status = nib_session_create(engine, &session, err);
    if (status == NIB_OK)
        status = nib_session_append(session, life->prompt, life->n_prompt, err);
    if (status == NIB_OK)
        status = nib_session_generate(session, &params, NULL, err);
    if (session) {
        const int32_t *tokens = nib_session_tokens(session, &n);
        life->has_kept =
            n == life->n_prompt + life->n_tokens &&
            memcmp(tokens + life->n_prompt, life->tokens, life->n_tokens * sizeof *tokens) == 0;
    }
    if (status == NIB_OK && life->lost_at == 0)
        status = move_pages(engine, session, err);
    nib_session_destroy(&session);
    return status;
}

static enum nib_status live(struct life *life, struct nib_error *err)
{
    struct nib_model *model = NULL;
    struct nib_device *device = life->device, *second = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    bool ready;
    if (life->lost_at > 0)
        vulkan_fault_off();
    make_prompt(life);
    enum nib_status status = nib_model_open(life->model, NULL, &model, err);
    cr_assert_eq(status, NIB_OK, "%s", err->message);
    nib_model_get_info(model, &info);
    if (!device)
        status = open_device(life->hang_ms, &device, err);
    uint32_t n_gpu = life->is_split ? info.layers : info.layers + 2;
    if (status == NIB_OK && life->is_shared)
        status = open_device(life->hang_ms, &second, err);
    const struct nib_placement placements[] = {{device, 0, n_gpu},
                                               {NULL, n_gpu, info.layers + 2 - n_gpu}};
    const struct nib_placement shared[] = {{device, 0, 0}, {second, 0, 0}};
    if (status == NIB_OK)
        status = nib_engine_create(
            model,
            nib_engine_params(.placements = second ? shared : placements,
                              .n_placements = life->is_split || second ? 2 : 1, .context = 300,
                              .max_sessions = 2, .max_rows = 16, .fallback = life->fallback,
                              .profile = life->lost_at == 0),
            &engine, err);
    if (status == NIB_OK)
        status = nib_engine_prepare(engine, 0, &ready, err);
    if (status != NIB_OK && engine && life->device) {
        status = nib_engine_prepare(engine, 0, &ready, err);
        life->has_retried = status == NIB_OK;
    }
    if (status == NIB_OK)
        status = generate(life, engine, err);
    if (engine) {
        struct nib_engine_info engine_info;
        nib_engine_get_info(engine, &engine_info);
        life->execution = engine_info.execution;
        if (life->execution.n_fallbacks > 0)
            snprintf(life->fallback_text, sizeof life->fallback_text, "%s",
                     life->execution.fallbacks[0]);
    }
    nib_engine_destroy(&engine);
    nib_device_destroy(&second);
    if (!life->device)
        nib_device_destroy(&device);
    nib_model_destroy(&model);
    return status;
}

/// Checks that what came after the fault is what a CPU run gives that starts from the prompt and
/// the tokens before it.
static void check_continuation(const struct life *life)
{
    struct nib_error error;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_generate_params params = params_of(life, life->n_tokens - life->n_before);
    size_t n = 0;
    if (life->n_tokens == life->n_before)
        return;
    cr_assert_eq(nib_model_open(life->model, NULL, &model, &error), NIB_OK);
    cr_assert_eq(nib_engine_create(model, nib_engine_params(.context = 300, .max_rows = 16),
                                   &engine, &error),
                 NIB_OK);
    cr_assert_eq(nib_session_create(engine, &session, &error), NIB_OK);
    cr_assert_eq(nib_session_append(session, life->prompt, life->n_prompt, &error), NIB_OK);
    cr_assert_eq(nib_session_append(session, life->tokens, life->n_before, &error), NIB_OK);
    cr_assert_eq(nib_session_generate(session, &params, NULL, &error), NIB_OK, "%s", error.message);
    const int32_t *tokens = nib_session_tokens(session, &n) + life->n_prompt;
    cr_assert_eq(n, life->n_prompt + life->n_tokens);
    for (uint32_t i = life->n_before; i < life->n_tokens; i++)
        cr_assert_eq(tokens[i], life->tokens[i], "seed %u: token %u, lost after %u, is another",
                     life->seed, i, life->n_before);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
}

#define MODEL(name) NIB_TEST_DATA "/architectures/" name

enum { N_FAILING = 4 };

/// A short text in which single calls fail.
static struct life failing_life(bool fallback, struct nib_device *device)
{
    return (struct life){.model = MODEL("gemma3"),
                         .n_prompt = 40,
                         .seed = 3,
                         .n_wanted = N_FAILING,
                         .fallback = fallback,
                         .device = device};
}

/// The call of each function that is numbered `n` fails. Returns false where there are fewer. A
/// `warm` device gives the tokens `whole` where nothing fails.
static bool fail_one(enum vulkan_function function, uint32_t n, struct nib_device *warm,
                     const int32_t *whole)
{
    static const VkResult results[] = {VK_ERROR_OUT_OF_HOST_MEMORY, VK_ERROR_OUT_OF_DEVICE_MEMORY,
                                       VK_ERROR_DEVICE_LOST, VK_ERROR_INITIALIZATION_FAILED};
    VkResult result = results[n / 2 % 4];
    // A device that is lost stays so.
    if (warm && result == VK_ERROR_DEVICE_LOST)
        result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    struct nib_error error = {0};
    struct life life = failing_life(n % 2 == 1, warm);
    int64_t before = vulkan_fault_objects();
    vulkan_fault_after(function, n, result);
    enum nib_status status = live(&life, &error);
    bool has_struck = vulkan_fault_struck();
    vulkan_fault_off();
    const char *name = vulkan_function_name(function);
    if (!warm)
        cr_assert_eq(vulkan_fault_objects(), before, "%s, call %u: %lld objects are left", name, n,
                     (long long)(vulkan_fault_objects() - before));
    cr_assert(status == NIB_OK || error.status == status, "%s, call %u: %d", name, n, status);
    cr_assert(life.n_tokens == 0 || life.has_kept, "%s, call %u", name, n);
    if (!has_struck) {
        cr_assert_eq(status, NIB_OK, "%s: %s", name, error.message);
        cr_assert_eq(life.execution.n_fallbacks, 0);
    }
    if (status == NIB_OK) {
        cr_assert_eq(life.n_tokens, life.n_wanted, "%s, call %u", name, n);
        cr_assert(life.fallback || life.execution.n_fallbacks == 0, "%s, call %u", name, n);
        // Fewer layers may have been enough.
        if (life.execution.gpu_layers == 0)
            check_continuation(&life);
        if (life.has_retried)
            cr_assert_eq(memcmp(life.tokens, whole, N_FAILING * sizeof *whole), 0,
                         "%s, call %u: other tokens after another try", name, n);
    }
    return has_struck;
}

/// Returns whether a device that is open already calls the function no more.
static bool is_of_opening(enum vulkan_function function)
{
    switch (function) {
    case VULKAN_CreateInstance:
    case VULKAN_EnumeratePhysicalDevices:
    case VULKAN_EnumerateDeviceExtensionProperties:
    case VULKAN_CreateDevice:
    case VULKAN_CreateShaderModule:
    case VULKAN_CreateComputePipelines:
    case VULKAN_CreatePipelineCache:
    case VULKAN_GetPipelineCacheData:
    case VULKAN_CreatePipelineLayout:
    case VULKAN_CreateDescriptorSetLayout:
        return true;
    default:
        return false;
    }
}

Test(vulkan_loss, every_call_of_an_open_device)
{
    require_device();
    struct nib_error error;
    uint32_t n_faults = 0;
    for (int f = 0; f < VULKAN_FUNCTION_COUNT; f++) {
        enum vulkan_function function = (enum vulkan_function)f;
        struct nib_device *device = NULL;
        cr_assert_eq(open_device(0, &device, &error), NIB_OK, "%s", error.message);
        struct life whole = failing_life(false, device);
        cr_assert_eq(live(&whole, &error), NIB_OK, "%s", error.message);
        for (uint32_t n = 0;
             !is_of_opening(function) && fail_one(function, n, device, whole.tokens); n++)
            n_faults++;
        nib_device_destroy(&device);
        cr_assert_eq(vulkan_fault_objects(), 0, "%s: objects are left",
                     vulkan_function_name(function));
    }
    cr_assert_gt(n_faults, 100);
    cr_log_info("%u faults", n_faults);
}

Test(vulkan_loss, every_call_of_opening)
{
    require_device();
    uint32_t n_faults = 0;
    for (int f = 0; f < VULKAN_FUNCTION_COUNT; f++) {
        enum vulkan_function function = (enum vulkan_function)f;
        for (uint32_t n = 0; is_of_opening(function) && fail_one(function, n, NULL, NULL); n++)
            n_faults++;
    }
    cr_assert_gt(n_faults, 15);
    cr_log_info("%u faults", n_faults);
}

/// Loses the device at `n_places` places of the texts of `n_prompts` prompts of different lengths.
static void lose(const char *model, uint32_t n_prompts, uint32_t n_places)
{
    static const enum vulkan_function functions[] = {VULKAN_QueueSubmit, VULKAN_WaitSemaphores};
    for (uint32_t i = 0; i < n_prompts * n_places; i++) {
        uint32_t prompt = i / n_places, place = i % n_places;
        struct nib_error error = {0};
        struct life life = {.model = model,
                            .n_prompt = 1 + (prompt * 29 + 13) % MAX_PROMPT,
                            .seed = prompt,
                            .n_wanted = MAX_TOKENS,
                            .fallback = true,
                            .is_split = i % 2 == 1,
                            .is_shared = i % 4 == 2,
                            .n_good = i % 4 == 2 ? i / 4 % 2 : 0, // those of the first device
                            .lost_in = functions[i / 2 % 2],
                            .lost_at = 1 + place * (MAX_TOKENS - 2) / (n_places - 1),
                            .result = VK_ERROR_DEVICE_LOST};
        cr_assert_eq(live(&life, &error), NIB_OK, "%s", error.message);
        cr_assert(vulkan_fault_struck());
        cr_assert_eq(vulkan_fault_objects(), 0);
        cr_assert_eq(life.n_tokens, MAX_TOKENS);
        cr_assert(life.has_kept);
        // Of three steps under way two may end before the next is submitted, which then fails.
        cr_assert(life.n_before >= life.lost_at && life.n_before <= life.lost_at + 2,
                  "%u tokens before the loss at %u", life.n_before, life.lost_at);
        cr_assert_eq(life.execution.gpu_layers, 0);
        cr_assert_eq(life.execution.n_fallbacks, 1);
        cr_assert(strstr(life.fallback_text, "lost"), "%s", life.fallback_text);
        check_continuation(&life);
    }
}

/// NIB_LOSS_MODEL: another model, with more prompts and places (tests/heavy/loss).
Test(vulkan_loss, lost_in_the_middle_of_a_text)
{
    require_device();
    const char *model = getenv("NIB_LOSS_MODEL");
    if (model)
        lose(model, 20, 20);
    else
        lose(MODEL("gemma3"), 3, 3);
}

Test(vulkan_loss, without_fallback_the_tokens_are_kept)
{
    require_device();
    static const VkResult results[] = {VK_ERROR_DEVICE_LOST, VK_ERROR_OUT_OF_DEVICE_MEMORY,
                                       VK_ERROR_OUT_OF_HOST_MEMORY};
    static const enum nib_status expected[] = {NIB_ERROR_DEVICE_LOST, NIB_ERROR_DEVICE_MEMORY,
                                               NIB_ERROR_MEMORY};
    for (int i = 0; i < 3; i++) {
        struct nib_error error = {0};
        struct life life = {.model = MODEL("qwen3"),
                            .n_prompt = 20,
                            .n_wanted = 30,
                            .lost_in = VULKAN_QueueSubmit,
                            .lost_at = 11,
                            .result = results[i]};
        cr_assert_eq(live(&life, &error), expected[i], "%s", error.message);
        // Steps that were under way may have ended before the next was submitted.
        cr_assert(life.n_tokens >= 11 && life.n_tokens <= 13, "%u tokens", life.n_tokens);
        cr_assert_eq(life.n_tokens, life.n_before);
        cr_assert(life.has_kept);
        cr_assert_eq(life.execution.n_fallbacks, 0);
        cr_assert_gt(life.execution.gpu_layers, 0);
    }
}

Test(vulkan_loss, hangs)
{
    require_device();
    struct nib_error error = {0};
    struct life life = {.model = MODEL("qwen3"),
                        .n_prompt = 20,
                        .n_wanted = 30,
                        .fallback = true,
                        .lost_in = VULKAN_WaitSemaphores,
                        .lost_at = 5,
                        .result = VK_TIMEOUT};
    cr_assert_eq(live(&life, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(life.n_tokens, 30);
    cr_assert_eq(life.n_before, 5);
    cr_assert(strstr(life.fallback_text, "has not finished"), "%s", life.fallback_text);
    check_continuation(&life);
    cr_assert_eq(vulkan_fault_objects(), 0);

    // A step that takes longer than a millisecond counts as hung in earnest.
    life = (struct life){
        .model = MODEL("qwen3"), .n_prompt = 64, .n_wanted = 30, .fallback = true, .hang_ms = 1};
    vulkan_fault_off();
    cr_assert_eq(live(&life, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(life.n_tokens, 30);
}

/// Makes an engine on the device alone and returns what came of it; frees all.
static enum nib_status make(const char *path, bool fit, bool fallback,
                            struct nib_engine_info *out_info, uint64_t *out_peak,
                            struct nib_error *err)
{
    struct nib_model *model = NULL;
    struct nib_device *device = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    bool ready;
    cr_assert_eq(nib_model_open(path, NULL, &model, err), NIB_OK, "%s", err->message);
    nib_model_get_info(model, &info);
    cr_assert_eq(open_device(0, &device, err), NIB_OK, "%s", err->message);
    const struct nib_placement placement = {device, 0, info.layers + 2};
    vulkan_fault_peak_memory();
    enum nib_status status =
        nib_engine_create(model,
                          nib_engine_params(.placements = &placement, .n_placements = 1,
                                            .context = 256, .fallback = fallback, .fit = fit),
                          &engine, err);
    if (status == NIB_OK)
        status = nib_engine_prepare(engine, 0, &ready, err);
    if (status == NIB_OK)
        nib_engine_get_info(engine, out_info);
    nib_engine_destroy(&engine);
    nib_device_destroy(&device);
    nib_model_destroy(&model);
    *out_peak = vulkan_fault_peak_memory();
    return status;
}

Test(vulkan_loss, places_what_fits)
{
    require_device();
    struct nib_error error = {0};
    struct nib_engine_info info;
    uint64_t peak;
    cr_assert_eq(make(MODEL("gemma3"), false, false, &info, &peak, &error), NIB_OK);
    uint64_t whole = info.device_bytes;
    cr_assert_eq(info.execution.gpu_layers, 3);

    uint32_t last = 3, n_split = 0;
    for (uint64_t part = 20; part > 0; part--) {
        vulkan_fault_shrink_heaps(whole * part / 20 * 10 / 9 + 10);
        enum nib_status strict = make(MODEL("gemma3"), false, false, &info, &peak, &error);
        cr_assert_eq(strict, part == 20 ? NIB_OK : NIB_ERROR_DEVICE_MEMORY, "%s", error.message);
        enum nib_status status = make(MODEL("gemma3"), true, false, &info, &peak, &error);
        if (status != NIB_OK) { // not even one layer
            cr_assert_eq(status, NIB_ERROR_DEVICE_MEMORY);
            cr_assert_eq(make(MODEL("gemma3"), false, true, &info, &peak, &error), NIB_OK);
            cr_assert_eq(info.execution.gpu_layers, 0);
            cr_assert_eq(info.execution.cpu_layers, 3);
            break;
        }
        cr_assert_leq(info.execution.gpu_layers, last);
        cr_assert_eq(info.execution.gpu_layers + info.execution.cpu_layers, 3);
        cr_assert_eq(info.execution.n_fallbacks, part == 20 ? 0 : 1);
        cr_assert_leq(info.device_bytes, whole * part / 20);
        n_split += info.execution.gpu_layers > 0 && info.execution.gpu_layers < last;
        last = info.execution.gpu_layers;
    }
    vulkan_fault_shrink_heaps(0);
    cr_assert_gt(n_split, 0);
}

Test(vulkan_loss, takes_no_more_memory_than_it_needs)
{
    require_device();
    struct nib_error error = {0};
    struct nib_engine_info info;
    uint64_t peak;
    const char *model = getenv("NIB_LOSS_MODEL");
    cr_assert_eq(make(model ? model : MODEL("gemma3"), false, false, &info, &peak, &error), NIB_OK);
    uint64_t needed = info.memory.weights_bytes + info.memory.kv_bytes;
    cr_assert_leq(peak, needed + needed * 3 / 100 + (32u << 20),
                  "%llu MiB for %llu MiB of weights and cache", (unsigned long long)(peak >> 20),
                  (unsigned long long)(needed >> 20));
}
