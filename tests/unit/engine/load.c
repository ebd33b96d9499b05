#include "runtime/base/os.h"
#include "runtime/engine/placement.h"
#include "runtime/engine/registry.h"
#include "tests/unit/engine/rig.h"
#include <criterion/criterion.h>
#include <string.h>

/// What the progress callback was told.
struct heard {
    uint64_t last;
    uint64_t total;
    uint32_t calls;
    bool refuse;
};

static bool hear(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct heard *heard = user;
    cr_assert_str_eq(what, "load weights");
    cr_assert_geq(done, heard->last);
    cr_assert_leq(done, total);
    heard->last = done;
    heard->total = total;
    heard->calls++;
    return !heard->refuse;
}

static uint32_t own_weights(const struct nib_plan *plan)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->n_weights; i++)
        count += plan->weights[i].shared_with == NIB_NO_WEIGHT;
    return count;
}

/// Looks at the loading once with a budget, and returns whether it is over.
static bool prepare_a_slice(struct nib_engine *engine, uint64_t budget_ns)
{
    struct nib_engine_info info;
    bool ready = false;
    cr_assert_eq(nib_engine_prepare(engine, budget_ns, &ready, NULL), NIB_OK);
    nib_engine_get_info(engine, &info);
    cr_assert_str_eq(info.device.name, "fake");
    return ready;
}

static void prepare_in_slices(struct nib_engine *engine, uint64_t budget_ns)
{
    while (!prepare_a_slice(engine, budget_ns)) {}
}

Test(load, in_slices)
{
    struct rig rig;
    struct heard heard = {0};
    bool ready = false;
    rig_open(&rig, (struct nib_engine_params){.progress = {.report = hear, .user = &heard}});
    rig.fake.ready_calls = 3;
    uint64_t total = nib_load_total(rig.engine);
    rig.fake.most_packed = 1;
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_not(prepare_a_slice(rig.engine, 1));
    rig.fake.most_packed = UINT32_MAX;
    prepare_in_slices(rig.engine, 1);
    cr_assert_eq(rig.fake.n_packed, own_weights(rig.engine->plan));
    cr_assert_eq(heard.last, heard.total);
    cr_assert_eq(heard.total, total);
    cr_assert_eq(nib_load_total(rig.engine), 0);
    cr_assert_eq(nib_engine_prepare(rig.engine, 1, &ready, NULL), NIB_OK);
    cr_assert(ready);
    cr_assert_eq(rig.fake.n_packed, own_weights(rig.engine->plan));
    rig_close(&rig);
}

/// A callback of loading that asks for what would load.
struct meddler {
    struct rig *rig;
    struct nib_session *session;
    uint32_t n_refused;
    uint32_t n_calls;
};

static bool meddle(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct meddler *meddler = user;
    uint32_t n_active;
    (void)what, (void)done, (void)total;
    meddler->n_calls += 2;
    meddler->n_refused += nib_engine_step(meddler->rig->engine, &n_active, NULL) == NIB_ERROR_STATE;
    meddler->n_refused +=
        nib_session_save(meddler->session, "no/such/folder", NULL) == NIB_ERROR_STATE;
    return true;
}

Test(load, callbacks_cannot_meddle)
{
    struct rig rig;
    struct meddler meddler = {.rig = &rig};
    bool ready = false;
    rig_open(&rig, (struct nib_engine_params){.progress = {.report = meddle, .user = &meddler}});
    meddler.session = rig_session(&rig);
    rig.fake.most_packed = 1;
    cr_assert_not(prepare_a_slice(rig.engine, 1)); // a thread loads
    rig.fake.most_packed = UINT32_MAX;
    cr_assert_eq(nib_engine_prepare(rig.engine, 0, &ready, NULL), NIB_OK);
    cr_assert(ready);
    cr_assert_gt(meddler.n_calls, 0);
    cr_expect_eq(meddler.n_refused, meddler.n_calls);
    nib_session_destroy(&meddler.session);
    rig_close(&rig);
}

Test(load, cancelled_and_resumed)
{
    struct rig rig;
    struct heard heard = {.refuse = true};
    bool ready = true;
    rig_open(&rig, (struct nib_engine_params){.progress = {.report = hear, .user = &heard}});
    cr_assert_eq(nib_engine_prepare(rig.engine, 0, &ready, NULL), NIB_ERROR_CANCELLED);
    cr_assert_not(ready);
    cr_assert_eq(heard.calls, 1);
    heard.refuse = false;
    cr_assert_eq(nib_engine_prepare(rig.engine, 0, &ready, NULL), NIB_OK);
    cr_assert(ready);
    cr_assert_eq(rig.fake.n_packed, own_weights(rig.engine->plan));
    rig_close(&rig);
}

Test(load, a_slice_ends_in_time)
{
    struct rig rig;
    bool ready = false;
    rig_open(&rig, (struct nib_engine_params){0});
    rig.fake.most_packed = 0; // a matrix on a disk that does not answer
    uint64_t start_ns = nib_clock_ns();
    cr_assert_eq(nib_engine_prepare(rig.engine, 2000000, &ready, NULL), NIB_OK);
    uint64_t ns = nib_clock_ns() - start_ns;
    cr_assert(!ready && ns >= 900000, "%u µs", (unsigned)(ns / 1000));
    cr_assert_eq(rig.fake.n_packed, 0);
    rig.fake.most_packed = UINT32_MAX;
    rig_close(&rig);
}

Test(load, cancelled_in_a_slice)
{
    struct rig rig;
    struct heard heard = {.refuse = true};
    bool ready = false;
    enum nib_status status = NIB_OK;
    rig_open(&rig, (struct nib_engine_params){.progress = {.report = hear, .user = &heard}});
    rig.fake.most_packed = 1;
    while (status == NIB_OK && !ready)
        status = nib_engine_prepare(rig.engine, 10000000, &ready, NULL);
    cr_assert_eq(status, NIB_ERROR_CANCELLED);
    heard.refuse = false;
    rig.fake.most_packed = UINT32_MAX;
    prepare_in_slices(rig.engine, 10000000);
    cr_assert_eq(rig.fake.n_packed, own_weights(rig.engine->plan));
    cr_assert_eq(heard.last, heard.total);
    rig_close(&rig);
}

Test(load, a_failure_beside_is_told_and_tried_again)
{
    struct rig rig;
    struct nib_error error = {0};
    bool ready = false;
    enum nib_status status = NIB_OK;
    rig_open(&rig, (struct nib_engine_params){0});
    rig.fake.pack_status = NIB_ERROR_IO;
    while (status == NIB_OK && !ready)
        status = nib_engine_prepare(rig.engine, 1000000, &ready, &error);
    cr_assert_eq(status, NIB_ERROR_IO);
    cr_assert_eq(error.status, NIB_ERROR_IO);
    cr_assert_not_null(strstr(error.message, "fake"), "%s", error.message);
    rig.fake.pack_status = NIB_OK;
    // What needs the weights waits for them.
    cr_assert_eq(nib_engine_prepare(rig.engine, 1, &ready, NULL), NIB_OK);
    struct nib_session *session = rig_session(&rig);
    rig_append(session, 10, 1);
    cr_assert_eq(
        nib_generator_run(session, &(struct nib_generate_params){.max_tokens = 1}, NULL, NULL),
        NIB_OK);
    cr_assert_eq(rig.fake.n_packed, own_weights(rig.engine->plan));
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(load, a_shared_weight_goes_to_every_placement)
{
    struct fake_device fakes[2];
    struct nib_placement placements[2];
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){0});
    uint32_t n_segments = rig.engine->plan->n_segments;
    uint32_t packed = own_weights(rig.engine->plan);
    cr_assert_lt(packed, rig.engine->plan->n_weights, "the model's head must be tied");
    rig_close(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        fake_device_init(&fakes[i]);
        placements[i] = (struct nib_placement){.device = &fakes[i].device,
                                               .first_segment = i,
                                               .n_segments = i == 0 ? 1 : n_segments - 1};
    }
    bool ready;
    rig_open(&rig, (struct nib_engine_params){.placements = placements, .n_placements = 2});
    cr_assert_eq(nib_engine_prepare(rig.engine, 0, &ready, NULL), NIB_OK);
    cr_assert_eq(fakes[0].n_packed, 1);
    cr_assert_eq(fakes[1].n_packed, packed);
    rig_close(&rig);
}

/// What a GPU holds of the KV pool is not held against the machine's memory.
Test(load, the_host_holds_the_cache_of_the_cpus_layers)
{
    struct fake_device fakes[2];
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){.context = 64, .max_sessions = 2});
    uint32_t n_segments = rig.engine->plan->n_segments;
    cr_assert_eq(nib_host_kv_bytes(rig.engine), nib_plan_kv_bytes(rig.engine->plan, 2, false));
    rig_close(&rig);
    fake_device_init(&fakes[0]);
    fake_device_init(&fakes[1]);
    fakes[0].kind = NIB_BACKEND_VULKAN;
    for (uint32_t on_gpu = 1; on_gpu <= n_segments; on_gpu++) {
        const struct nib_placement placements[2] = {
            {.device = &fakes[0].device, .n_segments = on_gpu},
            {.device = &fakes[1].device,
             .first_segment = on_gpu,
             .n_segments = n_segments - on_gpu}};
        rig_open(&rig, (struct nib_engine_params){.context = 64,
                                                  .max_sessions = 2,
                                                  .placements = placements,
                                                  .n_placements = on_gpu < n_segments ? 2 : 1});
        const struct nib_plan *plan = rig.engine->plan;
        uint64_t bytes = 0;
        for (uint32_t i = on_gpu - 1; i < plan->n_kv_layers; i++)
            bytes += nib_plan_layers_kv_bytes(plan, (struct nib_layer_range){i, 1}, 2, false);
        cr_assert_eq(nib_host_kv_bytes(rig.engine), bytes, "%u segments on the GPU", on_gpu);
        rig_close(&rig);
    }
}

static void expect_refusal(const struct nib_model *model, struct nib_engine_params params,
                           enum nib_status expected)
{
    struct nib_engine *engine = NULL;
    struct nib_error error = {0};
    cr_assert_eq(nib_engine_build((struct nib_model *)model, &params, &engine, &error), expected,
                 "%s", error.message);
    cr_assert_null(engine);
    cr_assert_eq(error.status, expected);
    cr_assert_gt(strlen(error.message), 10);
}

Test(load, bad_engines_are_refused)
{
    struct rig rig;
    rig_open(&rig, (struct nib_engine_params){0});
    uint32_t n_segments = rig.engine->plan->n_segments;
    struct nib_device *device = &rig.fake.device;
    const struct nib_placement bad[][2] = {
        {{device, 0, 1}, {device, 2, n_segments - 2}},
        {{device, 0, 2}, {device, 1, n_segments - 1}},
        {{device, 0, n_segments - 1}, {device, n_segments - 1, 2}},
        {{device, 0, 1}, {device, 1, 1}},
        {{device, 0, n_segments}, {device, n_segments, 0}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_refusal(rig.model,
                       (struct nib_engine_params){.placements = bad[i], .n_placements = 2},
                       NIB_ERROR_ARGUMENT);
    expect_refusal(rig.model, (struct nib_engine_params){.context = 1u << 30}, NIB_ERROR_ARGUMENT);
    expect_refusal(rig.model, (struct nib_engine_params){.max_rows = 12}, NIB_ERROR_ARGUMENT);
    expect_refusal(rig.model, (struct nib_engine_params){.max_sessions = 5000}, NIB_ERROR_ARGUMENT);
    const struct nib_placement whole = {device, 0, n_segments};
    rig.fake.supports_status = NIB_ERROR_UNSUPPORTED;
    expect_refusal(rig.model, (struct nib_engine_params){.placements = &whole, .n_placements = 1},
                   NIB_ERROR_UNSUPPORTED);
    rig_close(&rig);
}

Test(load, info_and_profile)
{
    struct rig rig;
    struct nib_engine_info info;
    struct nib_op_profile profiles[4];
    struct nib_engine_placement placement;
    uint32_t count = 0;
    rig_open(&rig, (struct nib_engine_params){.profile = true, .context = 64});
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {.max_tokens = 3};
    rig_append(session, 10, 1);
    cr_assert_eq(nib_generator_run(session, &params, NULL, NULL), NIB_OK);
    nib_engine_get_info(rig.engine, &info);
    cr_assert_eq(info.context, 64);
    cr_assert_eq(info.steps, 3);
    cr_assert_eq(info.max_sessions, 1);
    cr_assert_eq(info.memory.weights_bytes, 1000);
    cr_assert_eq(info.memory.total_bytes,
                 info.memory.weights_bytes + info.memory.kv_bytes + info.memory.scratch_bytes);
    cr_assert_str_eq(info.device.name, "fake");
    cr_assert_eq(info.execution.cpu_layers, rig.engine->plan->n_segments - 2);
    cr_assert_eq(info.execution.n_fallbacks, 1);
    cr_assert_str_eq(info.execution.fallbacks[0], "fake note");
    cr_assert_eq(nib_engine_get_profile(rig.engine, profiles, 4, &count, NULL), NIB_OK);
    cr_assert_eq(count, rig.engine->plan->n_ops);
    cr_assert_eq(strncmp(profiles[0].name, "embedding token_embedding embed", 31), 0, "%s",
                 profiles[0].name);
    cr_assert_eq(profiles[0].calls, 3);
    cr_assert_gt(profiles[0].bytes, 0);
    cr_assert_eq(profiles[0].limit_ns, 0);
    cr_assert_eq(nib_engine_get_placement(rig.engine, 0, &placement, NULL), NIB_OK);
    cr_assert_eq(placement.limits.read_bytes, 0);
    nib_session_destroy(&session);
    rig_close(&rig);

    rig_open(&rig, (struct nib_engine_params){0});
    cr_assert_eq(nib_engine_get_profile(rig.engine, profiles, 4, &count, NULL), NIB_ERROR_STATE);
    rig_close(&rig);
}

/// Every byte and multiply-add is counted once, with the op that has the time, and limits are those
/// of the slower of both.
Test(load, profile_counts_fused_ops_once)
{
    struct rig rig;
    struct nib_op_profile profiles[64];
    struct nib_engine_placement placement;
    struct nib_device_limits limits;
    uint32_t count = 0, n_fused = 0;
    rig_open(&rig, (struct nib_engine_params){.profile = true, .context = 64});
    // The fake device reads a byte a nanosecond.
    cr_assert_eq(nib_registry_measure(rig.engine->parts[0].device, &limits, NULL), NIB_OK);
    cr_assert_eq(nib_engine_get_placement(rig.engine, 0, &placement, NULL), NIB_OK);
    cr_assert_eq(placement.limits.read_bytes, 1e9);
    struct nib_session *session = rig_session(&rig);
    struct nib_generate_params params = {.max_tokens = 2};
    rig_append(session, 10, 1);
    cr_assert_eq(nib_generator_run(session, &params, NULL, NULL), NIB_OK);
    const struct nib_engine *engine = rig.engine;
    cr_assert_eq(nib_engine_get_profile(engine, profiles, 64, &count, NULL), NIB_OK);
    cr_assert_leq(count, 64);
    uint64_t bytes = 0, macs = 0, all_bytes = 0, all_macs = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct nib_op_profile *p = &profiles[i];
        bool is_fused = i > 0 && engine->plan->ops[i].kind == NIB_OP_ADD;
        n_fused += is_fused;
        cr_assert(!is_fused || p->bytes + p->macs + p->limit_ns == 0);
        cr_assert(is_fused || p->limit_ns + 3 >= p->bytes);
        bytes += p->bytes;
        macs += p->macs;
        all_bytes += engine->accounts[i].bytes;
        all_macs += engine->accounts[i].macs;
    }
    cr_assert_gt(n_fused, 0);
    cr_assert_eq(bytes, all_bytes);
    cr_assert_eq(macs, all_macs);
    nib_session_destroy(&session);
    rig_close(&rig);
}
