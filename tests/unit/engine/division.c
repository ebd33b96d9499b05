/// Placements that share a run of segments, and what goes from one to the next.
#include "tests/unit/engine/rig.h"

#include "runtime/engine/placement.h"
#include <criterion/criterion.h>

#define MAX_PARTS 4

/// Devices and the placements that name them.
struct shared {
    struct fake_device fakes[MAX_PARTS];
    struct nib_placement placements[MAX_PARTS];
    struct nib_engine_params params;
};

static void init(struct shared *shared, uint32_t count)
{
    *shared = (struct shared){.params = {.context = 64, .n_placements = count}};
    shared->params.placements = shared->placements;
    for (uint32_t i = 0; i < count; i++) {
        fake_device_init(&shared->fakes[i]);
        shared->fakes[i].kind = NIB_BACKEND_VULKAN;
        shared->placements[i].device = &shared->fakes[i].device;
    }
}

/// Opens an engine, checks that its placements follow one another, and writes the layers of each.
static void layers_of(const struct shared *shared, uint32_t wanted, uint32_t out_layers[MAX_PARTS])
{
    struct rig rig;
    struct nib_engine_info info;
    struct nib_engine_placement placement;
    struct nib_error error;
    uint32_t next = 0;
    rig_open(&rig, shared->params);
    nib_engine_get_info(rig.engine, &info);
    cr_assert_eq(info.n_placements, wanted);
    for (uint32_t i = 0; i < info.n_placements; i++) {
        cr_assert_eq(nib_engine_get_placement(rig.engine, i, &placement, &error), NIB_OK);
        cr_assert_eq(placement.first_segment, next);
        cr_assert_geq(placement.layers, 1u);
        next += placement.n_segments;
        out_layers[i] = placement.layers;
    }
    cr_assert_eq(next, info.n_segments);
    cr_assert_eq(nib_engine_get_placement(rig.engine, info.n_placements, &placement, &error),
                 NIB_ERROR_NOT_FOUND);
    cr_assert_eq(placement.n_segments, 0u);
    rig_close(&rig);
}

static enum nib_status build(const struct shared *shared)
{
    struct rig rig;
    struct nib_engine *engine = NULL;
    struct nib_error error;
    rig_open(&rig, (struct nib_engine_params){.context = 64});
    enum nib_status status = nib_engine_build(rig.model, &shared->params, &engine, &error);
    nib_engine_destroy(&engine);
    rig_close(&rig);
    return status;
}

Test(division, follows_the_shares)
{
    struct shared shared;
    uint32_t layers[MAX_PARTS], before = 0;
    float shares[MAX_PARTS] = {1, 1};
    init(&shared, 2);
    shared.params.shares = shares;
    for (float share = 0.01f; share < 100; share *= 1.5f) {
        shares[0] = share;
        layers_of(&shared, 2, layers);
        cr_assert_eq(layers[0] + layers[1], 3u);
        cr_assert_geq(layers[0], before, "a larger share has fewer layers");
        before = layers[0];
    }
    cr_assert_eq(before, 2u);
}

Test(division, follows_the_memory_that_is_left)
{
    struct shared shared;
    uint32_t layers[MAX_PARTS];
    init(&shared, 2);
    shared.fakes[0].memory_left = 1000;
    shared.fakes[1].memory_left = 1;
    layers_of(&shared, 2, layers);
    cr_assert_eq(layers[0], 2u);
    shared.fakes[0].memory_left = 1;
    shared.fakes[1].memory_left = 1000;
    layers_of(&shared, 2, layers);
    cr_assert_eq(layers[0], 1u);
}

Test(division, leaves_what_has_segments)
{
    struct shared shared;
    uint32_t layers[MAX_PARTS];
    init(&shared, 3);
    shared.placements[2].first_segment = 3;
    shared.placements[2].n_segments = 2;
    layers_of(&shared, 3, layers);
    cr_assert(layers[0] == 1 && layers[1] == 1 && layers[2] == 1);
    init(&shared, 3);
    shared.placements[0].n_segments = 2;
    layers_of(&shared, 3, layers);
    cr_assert(layers[0] == 1 && layers[1] == 1 && layers[2] == 1);
}

Test(division, refuses_what_cannot_be)
{
    struct shared shared;
    float shares[MAX_PARTS] = {1, 0};
    init(&shared, 4); // for 3 layers
    cr_assert_eq(build(&shared), NIB_ERROR_ARGUMENT);
    init(&shared, 2);
    shared.params.shares = shares;
    cr_assert_eq(build(&shared), NIB_ERROR_ARGUMENT);
    init(&shared, 2);
    shared.placements[0].n_segments = 5; // all of them
    cr_assert_eq(build(&shared), NIB_ERROR_ARGUMENT);
    init(&shared, 2);
    shared.placements[1].first_segment = 9;
    shared.placements[1].n_segments = 1;
    cr_assert_eq(build(&shared), NIB_ERROR_ARGUMENT);
}

Test(division, passes_on_what_there_is_no_memory_for)
{
    struct shared shared;
    struct fake_device cpu;
    uint32_t layers[MAX_PARTS];
    fake_device_init(&cpu);
    init(&shared, 2);
    shared.fakes[0].memory_left = 1000;
    shared.fakes[0].most_segments = 2;
    shared.fakes[1].most_segments = 1;
    cr_assert_eq(build(&shared), NIB_ERROR_DEVICE_MEMORY);
    shared.params.fit = true;
    shared.params.fallback_device = &cpu.device;
    layers_of(&shared, 3, layers);
    cr_assert(layers[0] == 1 && layers[1] == 1 && layers[2] == 1);
    shared.fakes[1].most_segments = 0;
    layers_of(&shared, 2, layers);
    cr_assert(layers[0] == 1 && layers[1] == 2);
}

Test(division, keeps_why_a_device_was_left_out)
{
    struct rig rig;
    struct nib_engine_info info;
    rig_open(&rig, (struct nib_engine_params){.context = 64, .fallback_reason = "it is broken"});
    nib_engine_get_info(rig.engine, &info);
    cr_assert_eq(info.execution.n_fallbacks, 2u); // and the fake backend's
    cr_assert_str_eq(info.execution.fallbacks[0], "it is broken");
    rig_close(&rig);
}
