// Small models of several layers on both backends.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "tests/support/alloc_fail.h"
#include "tests/support/worst.h"
#include "tests/unit/cpu/tiny_model.h"

/// Three sequences in chunks that mix, with windows, pages out of order and padding.
static void run_all(struct tiny_instance *t, float *logits)
{
    static const struct tiny_chunk first[] = {{0, 0, 33, 0}, {1, 0, 7, 0}};
    static const struct tiny_chunk second[] = {{1, 7, 40, 0}, {0, 33, 1, 0}, {2, 0, 2, 0}};
    static const struct tiny_chunk third[] = {{0, 34, 1, 0}, {1, 47, 1, 0}, {2, 2, 1, 0}};
    const struct tiny_step steps[] = {
        {first, 2, 3, 5, 9}, {second, 3, 0, 5, 0}, {third, 3, 1, 5, 0}};
    for (int i = 0; i < 3; i++) {
        tiny_run(t, &steps[i], logits);
        for (uint32_t c = 0; c < steps[i].n_chunks; c++)
            logits += steps[i].chunks[c].n * TINY_VOCABULARY;
    }
}
#define N_LOGITS ((40 + 43 + 3) * TINY_VOCABULARY)

static void compare(void *device, const struct tiny_params *params, double limit)
{
    struct tiny_model m;
    struct tiny_instance cpu, gpu;
    static float a[N_LOGITS], b[N_LOGITS];
    tiny_model_init(&m, params);
    tiny_open(&cpu, &m, 1, 0, TINY_SEGMENTS);
    tiny_open_on(&gpu, &m, &nib_vulkan_backend, device, 0, TINY_SEGMENTS);
    run_all(&cpu, a);
    run_all(&gpu, b);
    double worst = 0;
    for (int i = 0; i < N_LOGITS; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        worst = worst_of(worst, difference);
    }
    cr_expect(worst <= limit, "%s, keys %d, values %d: off by %g",
              nib_format_get(params->format)->name, (int)params->key_format,
              (int)params->value_format, worst);
    struct nib_instance_counters counters;
    nib_vulkan_backend.counters(gpu.self, &counters);
    cr_assert_gt(counters.dispatches, 0);
    cr_assert_eq(counters.n_replaced + counters.n_fallbacks, 0);
    tiny_close(&cpu);
    tiny_close(&gpu);
    tiny_model_free(&m);
}

Test(vulkan_backend, runs_what_the_cpu_runs)
{
    static const enum nib_kv_format kv[] = {NIB_KV_F32, NIB_KV_F16};
    void *device = rig_open(NULL);
    for (int i = 0; i < 4; i++) {
        struct tiny_params params = {NIB_FORMAT_Q4_1, NIB_ACTIVATION_F32, kv[i & 1], kv[i >> 1],
                                     false};
        compare(device, &params, i ? 2e-3 : 1e-4);
    }
    compare(device,
            &(struct tiny_params){NIB_FORMAT_INT4_ZERO, NIB_ACTIVATION_F32, NIB_KV_F32, NIB_KV_F32,
                                  true},
            1e-4);
    rig_close(device);
}

Test(vulkan_backend, pages_move_between_backends)
{
    void *device = rig_open(NULL);
    struct tiny_model m;
    struct tiny_instance cpu, gpu;
    struct nib_error error;
    static float a[40 * TINY_VOCABULARY], b[TINY_VOCABULARY];
    static uint8_t bytes[1 << 16], other[1 << 16];
    tiny_model_init(&m, &(struct tiny_params){NIB_FORMAT_Q8_0, NIB_ACTIVATION_F32, NIB_KV_F16,
                                              NIB_KV_F16, false});
    tiny_open(&cpu, &m, 1, 0, TINY_SEGMENTS);
    tiny_open_on(&gpu, &m, &nib_vulkan_backend, device, 0, TINY_SEGMENTS);
    tiny_run_chunk(&cpu, 0, 0, 40, a);
    for (uint32_t page = 0; page < TINY_PAGES; page++) {
        for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
            struct nib_kv_page place = {.kv_layer = layer, .page = page};
            cr_assert_eq(nib_cpu_backend.kv_export(cpu.self, place, bytes, &error), NIB_OK);
            cr_assert_eq(nib_vulkan_backend.kv_import(gpu.self, place, bytes, &error), NIB_OK);
            cr_assert_eq(nib_vulkan_backend.kv_export(gpu.self, place, other, &error), NIB_OK);
            size_t size = m.kv_layers[layer].key_page_size + m.kv_layers[layer].value_page_size;
            cr_assert_arr_eq(bytes, other, size);
        }
    }
    tiny_run_chunk(&gpu, 0, 40, 1, b);
    tiny_run_chunk(&cpu, 0, 40, 1, a);
    for (int i = 0; i < TINY_VOCABULARY; i++)
        cr_assert_float_eq(a[i], b[i], 1e-4);

    cr_assert_eq(nib_vulkan_backend.kv_copy(gpu.self, 0, 1, 3, &error), NIB_OK);
    cr_assert_eq(
        nib_vulkan_backend.kv_export(gpu.self, (struct nib_kv_page){.page = 1}, bytes, &error),
        NIB_OK);
    cr_assert_eq(
        nib_vulkan_backend.kv_export(gpu.self, (struct nib_kv_page){.page = 3}, other, &error),
        NIB_OK);
    cr_assert_arr_eq(bytes, other, m.kv_layers[0].key_page_size);
    tiny_close(&cpu);
    tiny_close(&gpu);
    tiny_model_free(&m);
    rig_close(device);
}

Test(vulkan_backend, takes_no_memory_in_a_step)
{
    void *device = rig_open(NULL);
    struct tiny_model m;
    struct tiny_instance gpu;
    static float logits[40 * TINY_VOCABULARY];
    tiny_model_init(&m, &(struct tiny_params){NIB_FORMAT_Q4_1, NIB_ACTIVATION_INT8_GROUP,
                                              NIB_KV_F16, NIB_KV_F16, false});
    tiny_open_on(&gpu, &m, &nib_vulkan_backend, device, 0, TINY_SEGMENTS);
    tiny_run_chunk(&gpu, 0, 0, 33, logits); // the first step ends what loading left
    alloc_fail_after(0);
    for (uint32_t i = 33; i < 40; i++)
        tiny_run_chunk(&gpu, 0, i, 1, logits);
    cr_expect_not(alloc_fail_off(), "a step took memory");
    tiny_close(&gpu);
    tiny_model_free(&m);
    rig_close(device);
}

Test(vulkan_backend, does_not_run_without_its_weights)
{
    void *device = rig_open(NULL), *self;
    struct tiny_model m;
    struct nib_error error;
    tiny_model_init(&m, &(struct tiny_params){NIB_FORMAT_Q4_1, NIB_ACTIVATION_F32, NIB_KV_F16,
                                              NIB_KV_F16, false});
    struct nib_instance_params p = {
        .plan = &m.plan, .device = device, .n_segments = 1, .max_logits = 1};
    cr_assert_eq(nib_vulkan_backend.create(&p, &self, &error), NIB_OK, "%s", error.message);
    struct nib_step step = {.header.n_used_rows = 1};
    cr_assert_eq(nib_vulkan_backend.run(self, 0, 0, &step, NULL, NULL, &error), NIB_ERROR_STATE);
    cr_assert(strstr(error.message, "1 weights"), "%s", error.message);
    struct nib_row_reader other = m.readers[0];
    other.cols /= 2;
    cr_assert_eq(nib_vulkan_backend.pack(self, 0, &other, &error), NIB_ERROR_ARGUMENT);
    nib_vulkan_backend.destroy(self);
    nib_vulkan_backend.destroy(NULL);
    tiny_model_free(&m);
    rig_close(device);
}

Test(vulkan_backend, refuses_what_it_has_not)
{
    void *device = rig_open(NULL);
    struct tiny_model m;
    struct nib_error error;
    tiny_model_init(&m, &(struct tiny_params){NIB_FORMAT_Q4_1, NIB_ACTIVATION_F32, NIB_KV_F16,
                                              NIB_KV_F16, false});
    for (uint32_t i = 0; i < m.plan.n_ops; i++)
        cr_assert_eq(nib_vulkan_backend.supports(device, &m.plan, i, &error), NIB_OK);
    m.ops[0].kind = NIB_OP_REDUCE;
    cr_assert_eq(nib_vulkan_backend.supports(device, &m.plan, 0, &error), NIB_ERROR_UNSUPPORTED);
    tiny_model_free(&m);
    rig_close(device);

    void *none = &m;
    cr_assert_eq(
        nib_vulkan_backend.device_open(
            nib_device_params(.backend = NIB_BACKEND_VULKAN, .index = 1000), &none, &error),
        NIB_ERROR_NOT_FOUND);
    cr_assert_null(none);
    cr_assert_eq(
        nib_vulkan_backend.device_open(
            nib_device_params(.backend = NIB_BACKEND_VULKAN, .vulkan_mask = "x"), &none, &error),
        NIB_ERROR_UNSUPPORTED);
}
