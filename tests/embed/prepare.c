#define _GNU_SOURCE // CLOCK_THREAD_CPUTIME_ID
// Loading while the host draws: no call may hold it up.
#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <time.h>
#include <unistd.h>

#include "tests/embed/watch.h"

#define BUDGET_NS 2000000u

static uint64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/// Times of the calls that loaded a model.
struct calls {
    uint32_t n;
    uint32_t n_late;         ///< that lasted longer than twice the budget
    uint32_t n_control_late; ///< the same of waits that do nothing, one between two calls
    uint64_t longest_ns;
    uint64_t longest_busy_ns; ///< of this thread's own processor time
};

/// Waits as a call does, for half of the budget, and returns how long it took.
static uint64_t wait(void)
{
    uint64_t start_ns = now(CLOCK_MONOTONIC);
    nanosleep(&(struct timespec){.tv_nsec = BUDGET_NS / 2}, NULL);
    return now(CLOCK_MONOTONIC) - start_ns;
}

static struct calls load(struct nib_engine *engine)
{
    struct calls calls = {0};
    struct nib_error error;
    for (bool ready = false; !ready; calls.n++) {
        uint64_t start_ns = now(CLOCK_MONOTONIC), start_busy_ns = now(CLOCK_THREAD_CPUTIME_ID);
        enum nib_status status = nib_engine_prepare(engine, BUDGET_NS, &ready, &error);
        uint64_t busy_ns = now(CLOCK_THREAD_CPUTIME_ID) - start_busy_ns;
        uint64_t ns = now(CLOCK_MONOTONIC) - start_ns;
        cr_assert_eq(status, NIB_OK, "%s", error.message);
        calls.n_late += ns > 2 * BUDGET_NS;
        calls.n_control_late += wait() > 2 * BUDGET_NS;
        calls.longest_ns = ns > calls.longest_ns ? ns : calls.longest_ns;
        calls.longest_busy_ns = busy_ns > calls.longest_busy_ns ? busy_ns : calls.longest_busy_ns;
    }
    return calls;
}

static void prepare(const char *path)
{
    static struct host host;
    struct nib_model *model = NULL;
    struct nib_device *device = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    struct nib_error error;
    host_open(&host, &(struct host_params){0});
    cr_assert_eq(nib_model_open(path, NULL, &model, &error), NIB_OK, "%s", error.message);
    nib_model_get_info(model, &info);
    struct nib_attach_params params = host_attach_params(&host);
    params.get_instance_proc_addr = watch_begin(&host);
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    const struct nib_placement whole = {.device = device, .n_segments = info.layers + 2};
    cr_assert_eq(nib_engine_create(
                     model,
                     nib_engine_params(.placements = &whole, .n_placements = 1, .context = 128),
                     &engine, &error),
                 NIB_OK, "%s", error.message);
    nib_device_destroy(&device);
    host_start(&host);
    struct calls calls = load(engine);
    uint32_t frames = atomic_load(&host.n_frames);
    host_stop(&host);
    cr_log_info("%u calls, %u late (%u of as many waits), longest %.2f ms, %.2f ms of its own, "
                "%u frames",
                calls.n, calls.n_late, calls.n_control_late, (double)calls.longest_ns / 1e6,
                (double)calls.longest_busy_ns / 1e6, frames);
    cr_assert_gt(calls.n, 3); // the times are for people to judge: a shared machine has any
    nib_engine_destroy(&engine);
    watch.submits += watch.submits == 0; // memory that the host sees is written without one
    watch_end();
    nib_model_destroy(&model);
    host_close(&host);
}

Test(prepare, a_small_model)
{
    prepare(NIB_TEST_DATA "/architectures/qwen3");
}

Test(prepare, smollm2)
{
    const char *path = NIB_MODELS "/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0)
        cr_skip_test("SmolLM2 is not here; tools/fetch-model fetches it");
    prepare(path);
}

Test(prepare, loading_can_be_given_up)
{
    static struct host host;
    struct nib_model *model = NULL;
    struct nib_device *device = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    struct nib_error error;
    bool ready = false;
    host_open(&host, &(struct host_params){0});
    cr_assert_eq(nib_model_open(NIB_TEST_DATA "/architectures/gemma3", NULL, &model, &error),
                 NIB_OK);
    nib_model_get_info(model, &info);
    struct nib_attach_params params = host_attach_params(&host);
    params.get_instance_proc_addr = watch_begin(&host);
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    const struct nib_placement whole = {.device = device, .n_segments = info.layers + 2};
    cr_assert_eq(nib_engine_create(model,
                                   nib_engine_params(.placements = &whole, .n_placements = 1),
                                   &engine, &error),
                 NIB_OK, "%s", error.message);
    nib_device_destroy(&device);
    cr_assert_eq(nib_engine_prepare(engine, 20000000, &ready, &error), NIB_OK);
    cr_assert_not(ready);
    nib_engine_destroy(&engine);
    watch.submits += watch.submits == 0;
    watch_end();
    nib_model_destroy(&model);
    cr_assert(host_draw(&host, 1));
    host_close(&host);
}
