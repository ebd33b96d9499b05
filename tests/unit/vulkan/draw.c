// Tokens drawn on the device, beside those of the sampler.
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "runtime/base/philox.h"
#include "runtime/ops/logits.h"
#include "runtime/ops/sampler.h"
#include "tests/support/alloc_fail.h"

/// No multiple of what a workgroup looks at, and more than a list holds.
#define VOCABULARY 20011u
#define N_LINES 16u

/// A model that is a head alone: its logits are the hidden state.
struct head {
    struct nib_op op;
    struct nib_segment segments[3];
    struct nib_plan plan;
    void *self;
};

static void open_head(struct head *h, void *device)
{
    struct nib_error error;
    h->op = (struct nib_op){.kind = NIB_OP_GATHER, .segment = 2};
    h->op.gather = (struct nib_op_gather){.in = {.width = VOCABULARY},
                                          .out = {.value = 1, .width = VOCABULARY}};
    h->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    h->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER};
    h->segments[2] = (struct nib_segment){.kind = NIB_SEGMENT_HEAD, .n_ops = 1};
    h->plan = (struct nib_plan){.values = {{"hidden", VOCABULARY}, {"logits", VOCABULARY}},
                                .n_values = 2,
                                .ops = &h->op,
                                .n_ops = 1,
                                .segments = h->segments,
                                .n_segments = 3,
                                .logits_value = 1,
                                .hidden_size = VOCABULARY,
                                .vocabulary = VOCABULARY,
                                .context = 32,
                                .max_rows = N_LINES,
                                .key_format = NIB_KV_F32,
                                .value_format = NIB_KV_F32};
    const struct nib_instance_params params = {.plan = &h->plan,
                                               .device = device,
                                               .first_segment = 2,
                                               .n_segments = 1,
                                               .max_sequences = 1,
                                               .max_logits = N_LINES};
    cr_assert_eq(nib_vulkan_backend.create(&params, &h->self, &error), NIB_OK, "%s", error.message);
}

/// Begins to draw a token from each of n lines.
static void begin_draw(const struct head *h, uint32_t n, const float *logits,
                       const struct nib_step_draw *draws, uint32_t *out_ids)
{
    struct nib_step_row rows[N_LINES];
    struct nib_step_sequence sequence = {.kv_length = n, .n_rows = n};
    struct nib_error error;
    uint32_t table = 0;
    for (uint32_t r = 0; r < n; r++)
        rows[r] = (struct nib_step_row){.position = r, .logit_row = r};
    struct nib_step step = {.header = {.n_rows = n,
                                       .n_used_rows = n,
                                       .n_sequences = 1,
                                       .n_logits = n,
                                       .page_table_stride = 1},
                            .rows = rows,
                            .sequences = &sequence,
                            .page_tables = &table,
                            .draws = draws,
                            .drawn = out_ids};
    cr_assert_eq(nib_vulkan_backend.run(h->self, 2, 2, &step, logits, NULL, &error), NIB_OK, "%s",
                 error.message);
}

static void end_draw(const struct head *h)
{
    struct nib_error error;
    cr_assert_eq(nib_vulkan_backend.wait(h->self, &error), NIB_OK, "%s", error.message);
}

/// Draws a token from each of n lines.
static void draw(const struct head *h, uint32_t n, const float *logits,
                 const struct nib_step_draw *draws, uint32_t *out_ids)
{
    begin_draw(h, n, logits, draws, out_ids);
    end_draw(h);
}

static const struct nib_sampling samplings[] = {
    {.temperature = 0},
    {.temperature = 1.0f},
    {.temperature = 0.7f, .top_k = 40},
    {.temperature = 1.3f, .top_p = 0.9f},
    {.temperature = 0.8f, .min_p = 0.05f},
    {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f, .min_p = 0.02f},
    {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f},
    {.temperature = 1.0f, .top_p = 0.5f, .min_p = 0.001f},
    {.temperature = 0.3f, .top_k = 300},
    {.temperature = 2.0f, .top_k = 1},
    {.temperature = 1.0f, .top_p = 1e-6f},
    {.temperature = 1e-30f, .top_k = 5},
    {.temperature = 1e6f, .top_p = 0.4f},
    {.temperature = 5.0f, .top_k = 9000, .top_p = 0.99f},
    {.temperature = 1.0f, .top_k = VOCABULARY, .min_p = 1.0f},
};
#define N_SAMPLINGS (sizeof samplings / sizeof samplings[0])

/// Logits that hurt.
static void fill(float *logits, uint32_t kind, uint64_t seed)
{
    static const float special[] = {NAN, -INFINITY, 0.0f, -0.0f, 1e-42f, -FLT_MAX};
    for (uint32_t i = 0; i < VOCABULARY; i++) {
        float x = nib_philox_uniform(seed, 2 * i) + nib_philox_uniform(seed, 2 * i + 1) - 1.0f;
        x *= 4.0f + (float)(seed % 7) * 3.0f;
        switch (kind) {
        case 0:
            logits[i] = x;
            break;
        case 1: // many equal ones
            logits[i] = roundf(x * 2.0f) / 2.0f;
            break;
        case 2: // all
            logits[i] = 3.25f;
            break;
        case 3: // one that leaves nothing to the others
            logits[i] = i == VOCABULARY - 1 ? 3e38f : x;
            break;
        case 4:
            logits[i] = i % 3 ? special[i % 6] : x;
            break;
        case 5: // the largest ones are infinite
            logits[i] = i == 4097 || i == 9000 ? INFINITY : x;
            break;
        case 6: // one token is left
            logits[i] = i == 12345 ? -7.0f : i % 2 ? NAN : -INFINITY;
            break;
        default: // none
            logits[i] = i % 2 ? NAN : -INFINITY;
        }
    }
}

Test(vulkan_draw, draws_what_the_sampler_draws)
{
    void *device = rig_open(NULL);
    struct head h;
    struct nib_sampler *sampler = NULL;
    float *logits = calloc((size_t)N_LINES * VOCABULARY, sizeof *logits);
    static const int32_t tokens[N_LINES];
    cr_assert_not_null(logits);
    cr_assert_eq(nib_sampler_create(VOCABULARY, &sampler, NULL), NIB_OK);
    open_head(&h, device);
    for (uint32_t round = 0; round < 24; round++) {
        struct nib_step_draw draws[N_LINES];
        uint32_t ids[N_LINES], n = (uint32_t)(round % 3 == 2 ? 5 : N_SAMPLINGS);
        for (uint32_t l = 0; l < n; l++) {
            struct nib_sampling sampling = samplings[l];
            sampling.seed = round;
            fill(logits + (size_t)l * VOCABULARY, round % 8, round * 31 + l % 4);
            draws[l] = nib_sampler_plan_draw(&sampling, l);
        }
        draw(&h, n, logits, draws, ids);
        for (uint32_t l = 0; l < n; l++) {
            struct nib_sampling sampling = samplings[l];
            sampling.seed = round;
            const struct nib_choice choice = {
                .sampling = &sampling, .tokens = tokens, .n_tokens = l};
            int32_t id;
            enum nib_status status =
                nib_sampler_choose(sampler, logits + (size_t)l * VOCABULARY, &choice, &id, NULL);
            uint32_t wanted = status == NIB_OK ? (uint32_t)id : NIB_NONE;
            cr_expect_eq(ids[l], wanted, "round %u, sampling %u: %u, the sampler has %u", round, l,
                         ids[l], wanted);
        }
    }
    nib_vulkan_backend.destroy(h.self);
    nib_sampler_destroy(&sampler);
    free(logits);
    rig_close(device);
}

/// The largest logit alone: another, shorter run of kernels.
Test(vulkan_draw, greedy_takes_the_first_of_equal_ones)
{
    void *device = rig_open(NULL);
    struct head h;
    uint32_t ids[N_LINES];
    static const struct nib_step_draw greedy[N_LINES];
    float *logits = calloc((size_t)N_LINES * VOCABULARY, sizeof *logits);
    cr_assert_not_null(logits);
    open_head(&h, device);
    for (uint32_t l = 0; l < 8; l++)
        fill(logits + (size_t)l * VOCABULARY, l, 5);
    draw(&h, 8, logits, greedy, ids);
    for (uint32_t l = 0; l < 8; l++) {
        uint32_t best = nib_logits_argmax(logits + (size_t)l * VOCABULARY, VOCABULARY);
        cr_expect_eq(ids[l], best == VOCABULARY ? NIB_NONE : best, "line %u: %u", l, ids[l]);
    }
    nib_vulkan_backend.destroy(h.self);
    free(logits);
    rig_close(device);
}

/// Neither does one that is begun while another one is under way.
Test(vulkan_draw, a_step_takes_no_memory)
{
    void *device = rig_open(NULL);
    struct head h;
    uint32_t ids[2][N_LINES];
    struct nib_step_draw draws[N_LINES];
    float *logits = calloc((size_t)N_LINES * VOCABULARY, sizeof *logits);
    cr_assert_not_null(logits);
    open_head(&h, device);
    for (uint32_t l = 0; l < 8; l++) {
        fill(logits + (size_t)l * VOCABULARY, l, 5);
        draws[l] = nib_sampler_plan_draw(&samplings[l], l);
    }
    draw(&h, 8, logits, draws, ids[0]); // the first step ends what loading left
    alloc_fail_after(0);
    for (uint32_t i = 0; i < 4; i++) {
        begin_draw(&h, 8, logits, draws, ids[0]);
        begin_draw(&h, 8, logits, draws, ids[1]);
        end_draw(&h);
        end_draw(&h);
    }
    cr_expect_not(alloc_fail_off(), "a step took memory");
    cr_expect_arr_eq(ids[0], ids[1], 8 * sizeof ids[0][0]);
    nib_vulkan_backend.destroy(h.self);
    free(logits);
    rig_close(device);
}
