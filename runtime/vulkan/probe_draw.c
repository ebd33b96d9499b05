// The probe of the kernels that draw tokens, whose reference is the sampler.
#include "runtime/vulkan/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/philox.h"
#include "runtime/base/status.h"
#include "runtime/ops/sampler.h"

/// Three workgroups' logits, the last one's few.
#define VOCABULARY 4099u
#define N_LINES 8u
#define VALUE_LOGITS 1

void nib_vk_probe_make_draw(struct nib_vk_probe *out_probe)
{
    struct nib_vk_probe *probe = out_probe;
    *probe = (struct nib_vk_probe){.limit = 0, .is_draw = true};
    snprintf(probe->name, sizeof probe->name, "draw");
    probe->ops[0] = (struct nib_op){.kind = NIB_OP_GATHER, .segment = 2};
    probe->ops[0].gather = (struct nib_op_gather){
        .in = {.width = VOCABULARY}, .out = {.value = VALUE_LOGITS, .width = VOCABULARY}};
    probe->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    probe->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER};
    probe->segments[2] = (struct nib_segment){.kind = NIB_SEGMENT_HEAD, .n_ops = 1};
    probe->plan = (struct nib_plan){.values = {{"hidden", VOCABULARY}, {"logits", VOCABULARY}},
                                    .n_values = 2,
                                    .ops = probe->ops,
                                    .n_ops = 1,
                                    .segments = probe->segments,
                                    .n_segments = 3,
                                    .logits_value = VALUE_LOGITS,
                                    .hidden_size = VOCABULARY,
                                    .vocabulary = VOCABULARY,
                                    .context = NIB_KV_PAGE_TOKENS,
                                    .max_rows = N_LINES,
                                    .key_format = NIB_KV_F32,
                                    .value_format = NIB_KV_F32};
}

/// Logits that hurt: many equal ones, infinities, no numbers; of the last line nothing is left.
static void fill(uint32_t line, float *logits)
{
    static const float special[] = {NAN, -INFINITY, -0.0f, 0.0f, 1e-42f};
    for (uint32_t i = 0; i < VOCABULARY; i++) {
        float x = 16.0f * nib_philox_uniform(line, i) * nib_philox_uniform(line, i) - 6.0f;
        logits[i] = line % 2 ? rintf(x) : i % 3 ? x : special[i % 5];
    }
    if (line == N_LINES - 2)
        logits[VOCABULARY - 1] = INFINITY;
    for (uint32_t i = 0; i < VOCABULARY && line == N_LINES - 1; i++)
        logits[i] = special[i % 2];
}

static enum nib_status draw(struct nib_vk_instance *instance, const float *logits,
                            const struct nib_step_draw *draws, uint32_t *out_ids,
                            struct nib_error *err)
{
    struct nib_step_row rows[N_LINES] = {0};
    const struct nib_step_sequence sequence = {.kv_length = N_LINES, .n_rows = N_LINES};
    const uint32_t table = 0;
    for (uint32_t r = 0; r < N_LINES; r++)
        rows[r] = (struct nib_step_row){.position = r, .logit_row = r};
    const struct nib_step step = {.header = {.n_rows = N_LINES,
                                             .n_used_rows = N_LINES,
                                             .n_sequences = 1,
                                             .n_logits = N_LINES,
                                             .page_table_stride = 1},
                                  .rows = rows,
                                  .sequences = &sequence,
                                  .page_tables = &table,
                                  .draws = draws,
                                  .drawn = out_ids};
    enum nib_status status = nib_vk_run(instance, 2, 2, &step, logits, NULL, err);
    return status == NIB_OK ? nib_vk_instance_wait(instance, err) : status;
}

/// Draws with two runs, the second of the largest logits alone, and counts what differs.
static enum nib_status compare(struct nib_vk_instance *instance, float *logits,
                               struct nib_sampler *sampler, uint32_t *out_wrong,
                               struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    static const struct nib_sampling samplings[N_LINES] = {
        {.temperature = 1.0f},
        {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.02f},
        {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f},
        {.temperature = 2.0f, .top_k = 100},
        {.temperature = 0.7f, .top_p = 0.5f},
        {.temperature = 0},
        {.temperature = 1.0f, .top_k = 3},
        {.temperature = 1.0f}};
    static const int32_t tokens[N_LINES];
    for (uint32_t l = 0; l < N_LINES; l++)
        fill(l, logits + (size_t)l * VOCABULARY);
    for (int is_greedy = 0; is_greedy < 2; is_greedy++) {
        struct nib_step_draw draws[N_LINES] = {0};
        uint32_t ids[N_LINES];
        for (uint32_t l = 0; l < N_LINES && !is_greedy; l++)
            draws[l] = nib_sampler_plan_draw(&samplings[l], l);
        NIB_TRY(draw(instance, logits, draws, ids, err));
        for (uint32_t l = 0; l < N_LINES; l++) {
            const struct nib_sampling greedy = {0};
            const struct nib_choice choice = {
                .sampling = is_greedy ? &greedy : &samplings[l], .tokens = tokens, .n_tokens = l};
            int32_t id;
            bool has_id = nib_sampler_choose(sampler, logits + (size_t)l * VOCABULARY, &choice, &id,
                                             NULL) == NIB_OK;
            *out_wrong += ids[l] != (has_id ? (uint32_t)id : NIB_NONE);
        }
    }
fail:
    return status;
}

enum nib_status nib_vk_probe_run_draw(const struct nib_vk_probe *probe,
                                      struct nib_vk_device *device,
                                      const struct nib_vk_choices *choices,
                                      struct nib_vk_probe_result *out_result, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    void *self = NULL;
    struct nib_sampler *sampler = NULL;
    uint32_t n_wrong = 0;
    bool ready;
    float *logits = calloc((size_t)N_LINES * VOCABULARY, sizeof *logits);
    const struct nib_instance_params params = {.plan = &probe->plan,
                                               .device = device,
                                               .first_segment = 2,
                                               .n_segments = 1,
                                               .max_sequences = 1,
                                               .max_logits = N_LINES};
    if (!logits)
        return nib_fail_memory(err);
    NIB_TRY(nib_sampler_create(VOCABULARY, &sampler, err));
    NIB_TRY(nib_vk_instance_create(&params, &self, err));
    struct nib_vk_instance *instance = self;
    instance->choices = *choices;
    instance->is_trusted = true;
    NIB_TRY(nib_vk_instance_ready(instance, 0, &ready, err));
    if (instance->has_draw)
        NIB_TRY(compare(instance, logits, sampler, &n_wrong, err));
    *out_result = (struct nib_vk_probe_result){.error = n_wrong, .kernels = instance->kernels};
fail:
    nib_vk_instance_destroy(self);
    nib_sampler_destroy(&sampler);
    free(logits);
    return status;
}
