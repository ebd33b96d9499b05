#include "tests/unit/engine/rig.h"

#include "runtime/base/philox.h"
#include <criterion/criterion.h>
#include <stdlib.h>

void rig_open_file(struct rig *rig, const char *path, struct nib_engine_params params)
{
    struct nib_error error;
    struct nib_model_params model_params = {0};
    fake_device_init(&rig->fake);
    cr_assert_eq(nib_shared_model_open(path, &model_params, &rig->model, &error), NIB_OK, "%s",
                 error.message);
    struct nib_placement whole = {
        .device = &rig->fake.device,
        .n_segments = nib_source_config(rig->model->source)->n_layers + 2,
    };
    if (params.n_placements == 0) {
        params.placements = &whole;
        params.n_placements = 1;
    }
    cr_assert_eq(nib_engine_build(rig->model, &params, &rig->engine, &error), NIB_OK, "%s",
                 error.message);
}

void rig_open(struct rig *rig, struct nib_engine_params params)
{
    rig_open_file(rig, NIB_TEST_DATA "/" RIG_MODEL, params);
}

void rig_close(struct rig *rig)
{
    nib_engine_destroy(&rig->engine);
    nib_model_release(rig->model);
    cr_assert_eq(rig->fake.violations, 0);
}

struct nib_session *rig_session(struct rig *rig)
{
    struct nib_error error;
    struct nib_session *session = NULL;
    cr_assert_eq(nib_session_create(rig->engine, &session, &error), NIB_OK, "%s", error.message);
    return session;
}

void rig_append(struct nib_session *session, uint32_t count, uint32_t seed)
{
    struct nib_error error;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t random[4];
        nib_philox(seed, i, random);
        int32_t id = (int32_t)(random[0] % session->engine->plan->vocabulary);
        cr_assert_eq(nib_session_append(session, &id, 1, &error), NIB_OK, "%s", error.message);
    }
}

int32_t rig_expected(struct nib_session *session, const struct nib_sampling *sampling, uint32_t n)
{
    const struct nib_plan *plan = session->engine->plan;
    struct nib_sampler *sampler = NULL;
    int32_t id = -1;
    float *logits = malloc(plan->vocabulary * sizeof *logits);
    struct nib_choice choice = {.sampling = sampling, .tokens = session->tokens, .n_tokens = n};
    fake_simulate(plan, session->tokens, n, logits);
    cr_assert_eq(nib_sampler_create(plan->vocabulary, &sampler, NULL), NIB_OK);
    cr_assert_eq(nib_sampler_choose(sampler, logits, &choice, &id, NULL), NIB_OK);
    nib_sampler_destroy(&sampler);
    free(logits);
    return id;
}
