// What an instance refuses and what it tells about itself.
#include <criterion/criterion.h>
#include <string.h>

#include "runtime/cpu/instance.h"
#include "tiny_model.h"

static const struct tiny_params params = {NIB_FORMAT_Q4_1, NIB_ACTIVATION_INT8_GROUP, NIB_KV_F16,
                                          NIB_KV_F16, false};

Test(cpu_backend, memory_is_what_was_taken)
{
    struct tiny_model m;
    struct tiny_instance t;
    struct nib_instance_memory memory;
    tiny_model_init(&m, &params);
    tiny_open(&t, &m, 1, 0, TINY_SEGMENTS);
    nib_cpu_backend.memory(t.self, &memory);
    uint64_t weights = 0, kv = 0;
    for (uint32_t w = 0; w < m.plan.n_weights; w++)
        weights += m.weights[w].shared_with == NIB_NO_WEIGHT ? m.weights[w].bytes : 0;
    for (uint32_t i = 0; i < TINY_LAYERS; i++)
        kv += TINY_PAGES * (m.kv_layers[i].key_page_size + m.kv_layers[i].value_page_size);
    // Panels have a whole number of 16 rows, which is much for a tiny model.
    cr_assert_geq(memory.weights, weights);
    cr_assert_leq(memory.weights, 2 * weights);
    cr_assert_eq(memory.kv, kv);
    cr_assert_eq(memory.device, 0);
    cr_assert_geq(memory.scratch, nib_plan_scratch_bytes(&m.plan, 1));
    tiny_close(&t);
    tiny_model_free(&m);
}

Test(cpu_backend, scratch_is_what_was_predicted)
{
    struct tiny_model m;
    struct tiny_instance t;
    struct nib_instance_memory memory;
    uint64_t predicted[2];
    tiny_model_init(&m, &params);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t n_threads = 1 + 6 * i;
        tiny_open(&t, &m, n_threads, 0, TINY_SEGMENTS);
        nib_cpu_backend.memory(t.self, &memory);
        cr_assert_eq(nib_cpu_backend.predict_scratch(&m.plan, n_threads, &predicted[i], NULL),
                     NIB_OK);
        cr_assert_geq(predicted[i], memory.scratch);
        tiny_close(&t);
    }
    cr_assert_gt(predicted[1], predicted[0]);
    cr_assert_eq(nib_cpu_backend.predict_scratch(&m.plan, 1025, predicted, NULL),
                 NIB_ERROR_ARGUMENT);
    tiny_model_free(&m);
}

/// Ends the run, and counts rows.
static bool stop_here(void *user, uint32_t tap, const float *rows, uint64_t stride, uint32_t n_rows)
{
    uint32_t *count = user;
    (void)tap;
    (void)rows;
    (void)stride;
    *count += n_rows;
    return false;
}

/// Where only rows that want logits are left, nothing of these outlives the run.
Test(cpu_backend, a_run_that_a_tap_ends_draws_nothing)
{
    enum { N_ROWS = 4, N_BEFORE = TINY_VOCABULARY };
    struct tiny_model m;
    struct tiny_instance t;
    struct nib_error error;
    struct nib_step_row rows[N_ROWS];
    const uint32_t table[2 * TINY_TABLE] = {0};
    const struct nib_step_sequence sequence = {.kv_length = N_ROWS, .n_rows = N_ROWS};
    const struct nib_step_draw draw = {0};
    float logits[N_ROWS * TINY_VOCABULARY];
    uint32_t drawn[N_ROWS] = {N_BEFORE, N_BEFORE, N_BEFORE, N_BEFORE}, count = 0;
    for (uint32_t r = 0; r < N_ROWS; r++)
        rows[r] = (struct nib_step_row){
            .token = r, .position = r, .logit_row = r + 1 < N_ROWS ? NIB_NONE : 0};
    const struct nib_step step = {.header = {.n_rows = N_ROWS,
                                             .n_used_rows = N_ROWS,
                                             .n_sequences = 1,
                                             .n_logits = 1,
                                             .page_table_stride = TINY_TABLE},
                                  .rows = rows,
                                  .sequences = &sequence,
                                  .page_tables = table,
                                  .logits = logits,
                                  .draws = &draw,
                                  .drawn = drawn};
    tiny_model_init(&m, &params);
    tiny_open(&t, &m, 1, 0, TINY_SEGMENTS);
    struct nib_cpu_instance *instance = t.self;
    instance->on_tap = stop_here;
    instance->tap_user = &count;
    uint32_t last = 0; // matmul of the layers
    for (uint32_t i = 0; i < m.plan.n_ops; i++) {
        if (m.ops[i].kind == NIB_OP_MATMUL && m.ops[i].segment == TINY_LAYERS)
            last = i;
    }
    m.ops[last].matmul.tap = 0;
    cr_assert_eq(nib_cpu_backend.run(t.self, 0, TINY_SEGMENTS - 1, &step, NULL, NULL, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_eq(count, 1, "rows that want logits");
    for (uint32_t r = 0; r < N_ROWS; r++)
        cr_assert_eq(drawn[r], N_BEFORE);
    m.ops[last].matmul.tap = NIB_NO_WEIGHT;
    cr_assert_eq(nib_cpu_backend.run(t.self, 0, TINY_SEGMENTS - 1, &step, NULL, NULL, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_lt(drawn[0], TINY_VOCABULARY);
    tiny_close(&t);
    tiny_model_free(&m);
}

/// Packed matrices lie one after the other in the order in which steps read them.
Test(cpu_backend, one_arena_holds_the_matrices)
{
    struct tiny_model m;
    struct tiny_instance t;
    struct nib_instance_memory memory;
    tiny_model_init(&m, &params);
    tiny_open(&t, &m, 2, 0, TINY_SEGMENTS);
    const struct nib_cpu_instance *instance = t.self;
    uint64_t end = 0, vectors = 0;
    for (uint32_t i = 0; i < m.plan.n_ops; i++) {
        const struct nib_op *op = &m.ops[i];
        uint32_t w = op->kind == NIB_OP_EMBED    ? op->embed.weight
                     : op->kind == NIB_OP_MATMUL ? op->matmul.weight
                                                 : NIB_NO_WEIGHT;
        if (w == NIB_NO_WEIGHT || m.weights[w].shared_with != NIB_NO_WEIGHT)
            continue;
        const struct nib_cpu_matrix *matrix = &instance->weights[w];
        if (!matrix->packed) // level scalar uses the rows in place
            continue;
        cr_assert_eq(matrix->packed, instance->arena + end);
        cr_assert_eq((uintptr_t)matrix->packed % 64, 0);
        end += (matrix->bytes + 63) / 64 * 64;
    }
    cr_assert_eq(end, instance->arena_size);
    for (uint32_t w = 0; w < m.plan.n_weights; w++)
        vectors += instance->weights[w].packed ? 0 : instance->weights[w].bytes;
    nib_cpu_backend.memory(t.self, &memory);
    cr_assert_geq(memory.weights, vectors);
    cr_assert_leq(memory.weights - vectors, end);
    cr_assert_gt(memory.weights - vectors + 64 * m.plan.n_weights, end);
    tiny_close(&t);
    tiny_model_free(&m);
}

Test(cpu_backend, counts_and_times_ops)
{
    struct tiny_model m;
    struct tiny_instance t;
    float logits[5 * TINY_VOCABULARY];
    struct nib_instance_counters counters;
    uint64_t calls[TINY_MAX_OPS] = {0}, ns[TINY_MAX_OPS] = {0};
    uint32_t counted_as[TINY_MAX_OPS] = {0};
    struct nib_op_times times = {.calls = calls, .ns = ns, .counted_as = counted_as};
    tiny_model_init(&m, &params);
    tiny_open(&t, &m, 1, 0, TINY_SEGMENTS);
    tiny_run_chunk(&t, 0, 0, 5, logits);
    tiny_run_chunk(&t, 0, 5, 1, logits);
    nib_cpu_backend.counters(t.self, &counters);
    cr_assert_eq(counters.dispatches, 2 * m.plan.n_ops);
    cr_assert_eq(counters.n_replaced + counters.n_fallbacks, 0);
    nib_cpu_backend.profile(t.self, &times);
    for (uint32_t i = 0; i < m.plan.n_ops; i++)
        cr_assert_eq(calls[i], 2);
    tiny_close(&t);

    tiny_open(&t, &m, 1, 1, 1);
    nib_cpu_backend.profile(t.self, &times);
    cr_assert_eq(calls[0], 2, "ops of other placements stay untouched");
    cr_assert_eq(calls[m.segments[1].first_op], 0);
    cr_assert_eq(calls[m.segments[2].first_op], 2);
    tiny_close(&t);
    tiny_model_free(&m);
}

Test(cpu_backend, measures_what_it_can_do)
{
    static const char *const levels[] = {"scalar", NULL};
    for (int i = 0; i < 2; i++) {
        void *device = NULL;
        struct nib_device_limits limits;
        struct nib_error error;
        cr_assert_eq(
            nib_cpu_backend.device_open(nib_device_params(.cpu_mask = levels[i]), &device, &error),
            NIB_OK);
        cr_assert_eq(nib_cpu_backend.measure(device, &limits, &error), NIB_OK, "%s", error.message);
        cr_expect(limits.read_bytes > 1e6 && limits.read_bytes < 1e14);
        cr_expect(limits.int8_macs > 1e6 && limits.int8_macs < 1e16);
        cr_expect(limits.f32_macs > 1e6 && limits.f32_macs < 1e16);
        nib_cpu_backend.device_close(device);
    }
}

Test(cpu_backend, does_not_run_without_its_weights)
{
    struct tiny_model m;
    struct nib_error error;
    void *device, *self;
    tiny_model_init(&m, &params);
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.threads = 1), &device, &error),
                 NIB_OK);
    struct nib_instance_params p = {
        .plan = &m.plan, .device = device, .n_segments = 1, .max_logits = 1};
    cr_assert_eq(nib_cpu_backend.create(&p, &self, &error), NIB_OK);
    struct nib_step step = {0};
    cr_assert_eq(nib_cpu_backend.run(self, 0, 0, &step, NULL, NULL, &error), NIB_ERROR_STATE);
    cr_assert(strstr(error.message, "1 weights"), "%s", error.message);

    struct nib_row_reader other = m.readers[0];
    other.cols /= 2;
    cr_assert_eq(nib_cpu_backend.pack(self, 0, &other, &error), NIB_ERROR_ARGUMENT);
    cr_assert(strstr(error.message, "token_embedding"), "%s", error.message);
    cr_assert_eq(nib_cpu_backend.pack(self, 1, &m.readers[1], &error), NIB_OK);
    cr_assert_eq(nib_cpu_backend.run(self, 0, 0, &step, NULL, NULL, &error), NIB_ERROR_STATE);
    for (int i = 0; i < 2; i++) { // a second time replaces the first
        cr_assert_eq(nib_cpu_backend.pack(self, 0, &m.readers[0], &error), NIB_OK);
        cr_assert_eq(nib_cpu_backend.run(self, 0, 0, &step, NULL, NULL, &error), NIB_OK);
    }
    nib_cpu_backend.destroy(self);
    nib_cpu_backend.destroy(NULL);
    nib_cpu_backend.device_close(device);
    tiny_model_free(&m);
}

Test(cpu_backend, needs_pages_for_its_layers)
{
    struct tiny_model m;
    struct nib_error error;
    void *device, *self = &device;
    tiny_model_init(&m, &params);
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.threads = 1), &device, &error),
                 NIB_OK);
    struct nib_instance_params p = {.plan = &m.plan,
                                    .device = device,
                                    .n_segments = TINY_SEGMENTS,
                                    .n_pages = {4, 0},
                                    .max_logits = 1};
    cr_assert_eq(nib_cpu_backend.create(&p, &self, &error), NIB_ERROR_ARGUMENT);
    cr_assert_null(self);
    nib_cpu_backend.device_close(device);
    tiny_model_free(&m);
}

Test(cpu_backend, supports_what_is_not_reserved)
{
    struct tiny_model m;
    struct nib_error error;
    tiny_model_init(&m, &params);
    for (uint32_t i = 0; i < m.plan.n_ops; i++)
        cr_assert_eq(nib_cpu_backend.supports(NULL, &m.plan, i, &error), NIB_OK);
    m.ops[0].kind = NIB_OP_REDUCE;
    cr_assert_eq(nib_cpu_backend.supports(NULL, &m.plan, 0, &error), NIB_ERROR_UNSUPPORTED);
    cr_assert(strstr(error.message, "reduce"));
    tiny_model_free(&m);
}
