// Attention over every format of cache against the scalar code, on shapes that do not fit.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "rig.h"
#include "rig_attention.h"
#include "runtime/vulkan/instance.h"
#include "runtime/vulkan/probe.h"
#include "tests/support/worst.h"

/// Steps that one sequence or several take, in order.
struct course {
    struct rig_step steps[4];
    uint32_t n_steps;
};

/// Prompts in chunks, single tokens, and both in one step; lengths around the edges of pages.
static const struct course mixed = {{{{{0, 0, 33}, {1, 0, 7}}},
                                     {{{1, 7, 40}, {0, 33, 1}, {2, 0, 2}}},
                                     {{{0, 34, 1}, {1, 47, 1}, {2, 2, 1}}},
                                     {{{2, 3, 200}, {0, 35, 5}, {1, 48, 1}}}},
                                    4};

static void *open_scalar(void)
{
    void *cpu = NULL;
    struct nib_error error;
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.cpu_mask = "scalar", .threads = 1),
                                             &cpu, &error),
                 NIB_OK, "%s", error.message);
    return cpu;
}

/// Returns the largest difference between the backends, as a part of the largest output.
static double compare(void *device, void *cpu, const struct rig_attention *p,
                      const struct course *course)
{
    struct rig_cache caches[2];
    double worst = 0, size = 0;
    rig_cache_open(&caches[0], p, &nib_cpu_backend, cpu);
    rig_cache_open(&caches[1], p, &nib_vulkan_backend, device);
    for (uint32_t s = 0; s < course->n_steps; s++) {
        size_t n = (size_t)rig_step_rows(&course->steps[s]) * rig_out_width(p);
        float *expected = malloc(n * sizeof *expected), *got = malloc(n * sizeof *got);
        cr_assert(expected && got);
        rig_cache_run(&caches[0], &course->steps[s], expected);
        rig_cache_run(&caches[1], &course->steps[s], got);
        for (size_t i = 0; i < n; i++) {
            double difference = fabs((double)expected[i] - (double)got[i]);
            worst = worst_of(worst, difference);
            size = fmax(size, fabs((double)expected[i]));
        }
        free(expected);
        free(got);
    }
    rig_cache_close(&caches[0]);
    rig_cache_close(&caches[1]);
    return worst / size;
}

static void check(void *device, void *cpu, const struct rig_attention *p,
                  const struct course *course, double limit)
{
    double worst = compare(device, cpu, p, course);
    cr_expect(worst <= limit, "heads %u/%u dims %u/%u window %u cache %d/%d cap %g query %g: %g",
              p->n_heads, p->n_kv_heads, p->key_dim, p->value_dim, p->window, (int)p->key_format,
              (int)p->value_format, (double)p->softcap, (double)p->query_size, worst);
}

/// Shapes of which every `step`-th one is checked.
static void check_shapes(const char *mask, uint32_t step)
{
    static const uint32_t heads[][2] = {{9, 3}, {4, 1}, {40, 2}, {2, 2}, {16, 1}};
    static const uint32_t dims[][2] = {{64, 64},   {16, 24},   {80, 80}, {128, 128},
                                       {256, 256}, {192, 128}, {32, 32}, {512, 512}};
    static const uint32_t windows[] = {0, 1, 16, 33, 100};
    static const enum nib_kv_format formats[] = {NIB_KV_F32, NIB_KV_F16};
    void *device = rig_open(mask), *cpu = open_scalar();
    for (uint32_t d = 0; d < 8; d += step) {
        if (rig_leaves_out(d, 4))
            continue;
        struct rig_attention p = {.n_heads = heads[d % 5][0],
                                  .n_kv_heads = heads[d % 5][1],
                                  .key_dim = dims[d][0],
                                  .value_dim = dims[d][1],
                                  .window = windows[d % 5],
                                  .key_format = formats[d & 1],
                                  .value_format = formats[(d >> 1) & 1],
                                  .softcap = d % 3 == 1 ? 5.0f : 0.0f,
                                  .query_size = d % 4 == 3 ? 30.0f : 1.0f,
                                  .context = 256,
                                  .n_sequences = 3};
        check(device, cpu, &p, &mixed, 2e-5);
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

Test(vulkan_attention, shapes)
{
    check_shapes(NULL, 2);
}

Test(vulkan_attention, shapes_on_the_least_device)
{
    check_shapes("baseline", 1);
}

Test(vulkan_attention, heads_of_odd_size)
{
    void *device = rig_open(NULL), *cpu = open_scalar();
    static const uint32_t dims[][2] = {{7, 1}, {2, 10}, {66, 34}, {12, 20}};
    for (uint32_t d = 0; d < 4; d++) {
        if (rig_leaves_out(d, 2))
            continue;
        struct rig_attention p = {.n_heads = 6,
                                  .n_kv_heads = 2,
                                  .key_dim = dims[d][0],
                                  .value_dim = dims[d][1],
                                  .key_format = d ? NIB_KV_F16 : NIB_KV_F32,
                                  .value_format = d ? NIB_KV_F16 : NIB_KV_F32,
                                  .query_size = 1.0f,
                                  .context = 256,
                                  .n_sequences = 3};
        check(device, cpu, &p, &mixed, 2e-5);
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

Test(vulkan_attention, long_contexts)
{
    static const struct course course = {
        {{{{0, 0, 512}}}, {{{0, 512, 500}, {1, 0, 12}}}, {{{0, 1012, 1}}}, {{{0, 1013, 3}}}}, 4};
    void *device = rig_open(NULL), *cpu = open_scalar();
    for (uint32_t w = 0; w < 2; w++) {
        if (rig_leaves_out(w, 2))
            continue;
        struct rig_attention p = {.n_heads = 3,
                                  .n_kv_heads = 1,
                                  .key_dim = 64,
                                  .value_dim = 64,
                                  .window = w ? 600 : 0,
                                  .key_format = NIB_KV_F16,
                                  .value_format = NIB_KV_F16,
                                  .query_size = 4.0f,
                                  .context = 1024,
                                  .n_sequences = 2};
        check(device, cpu, &p, &course, 2e-5);
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

/// Runs the last step of a course and returns its output, [rows][width].
static float *run_course(const struct nib_backend *backend, void *device,
                         const struct rig_attention *p, const struct course *course)
{
    struct rig_cache cache;
    float *out = malloc(512 * rig_out_width(p) * sizeof *out);
    cr_assert_not_null(out);
    rig_cache_open(&cache, p, backend, device);
    for (uint32_t s = 0; s < course->n_steps; s++)
        rig_cache_run(&cache, &course->steps[s], out);
    rig_cache_close(&cache);
    return out;
}

/// Codes must stand for numbers near those that were stored: what a group's rounding allows.
Test(vulkan_attention, codes_are_near_the_numbers)
{
    static const enum nib_kv_format formats[][2] = {
        {NIB_KV_I8, NIB_KV_F32}, {NIB_KV_F32, NIB_KV_I8}, {NIB_KV_I4, NIB_KV_F32},
        {NIB_KV_F32, NIB_KV_I4}, {NIB_KV_I8, NIB_KV_I4},  {NIB_KV_I4, NIB_KV_F16}};
    void *device = rig_open(NULL);
    struct rig_attention p = {.n_heads = 6,
                              .n_kv_heads = 2,
                              .key_dim = 64,
                              .value_dim = 80,
                              .key_format = NIB_KV_F32,
                              .value_format = NIB_KV_F32,
                              .query_size = 1.0f,
                              .context = 256,
                              .n_sequences = 3};
    float *expected = run_course(&nib_vulkan_backend, device, &p, &mixed);
    size_t n = (size_t)rig_step_rows(&mixed.steps[mixed.n_steps - 1]) * rig_out_width(&p);
    for (uint32_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        if (rig_leaves_out(f, 3))
            continue;
        p.key_format = formats[f][0];
        p.value_format = formats[f][1];
        float *got = run_course(&nib_vulkan_backend, device, &p, &mixed);
        double error = 0, size = 0;
        for (size_t i = 0; i < n; i++) {
            error +=
                ((double)got[i] - (double)expected[i]) * ((double)got[i] - (double)expected[i]);
            size += (double)expected[i] * (double)expected[i];
        }
        bool is_i4 = formats[f][0] == NIB_KV_I4 || formats[f][1] == NIB_KV_I4;
        cr_expect(sqrt(error / size) < (is_i4 ? 0.3 : 0.03), "cache %d/%d: %g", (int)formats[f][0],
                  (int)formats[f][1], sqrt(error / size));
        free(got);
    }
    free(expected);
    rig_close(device);
}

static const enum nib_kv_format every_format[] = {NIB_KV_F32, NIB_KV_F16, NIB_KV_I8, NIB_KV_I4};

/// Every pair of formats against the scalar code. A head of 80 has a group that is filled up.
Test(vulkan_attention, every_pair_of_formats)
{
    void *device = rig_open(NULL), *cpu = open_scalar();
    for (int k = 0; k < 4; k++) {
        for (int v = 0; v < 4; v++) {
            if (rig_leaves_out((uint32_t)(k + 3 * v), 4))
                continue;
            struct rig_attention p = {.n_heads = 6,
                                      .n_kv_heads = 2,
                                      .key_dim = (k + v) % 2 ? 64 : 80,
                                      .value_dim = (k + v) % 3 ? 64 : 80,
                                      .window = v == 2 ? 50 : 0,
                                      .key_format = every_format[k],
                                      .value_format = every_format[v],
                                      .query_size = 1.0f,
                                      .context = 256,
                                      .n_sequences = 3,
                                      .is_plain = (k + v) % 4 == 3};
            // A code may round to the other side where 1 / scale does.
            check(device, cpu, &p, &mixed, k > 1 || v > 1 ? 2e-4 : 2e-5);
        }
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

/// Sequences that go beyond a place that no newest tokens are seen from, in chunks and alone.
static const struct course long_mixed = {{{{{0, 0, 90}, {1, 0, 250}}},
                                          {{{0, 90, 1}, {1, 250, 30}, {2, 0, 40}}},
                                          {{{0, 91, 1}, {1, 280, 1}, {2, 40, 1}}},
                                          {{{0, 92, 200}, {1, 281, 40}, {2, 41, 7}}}},
                                         4};

/// Newest and first tokens in f16 beside codes, for heads of 32 to 256 numbers, against the scalar
/// code.
Test(vulkan_attention, tokens_in_f16)
{
    static const uint32_t dims[][2] = {{64, 64},   {32, 80}, {80, 32}, {128, 128},
                                       {256, 256}, {66, 34}, {64, 80}, {80, 64}};
    static const enum nib_kv_format formats[][2] = {
        {NIB_KV_I4, NIB_KV_I4},         {NIB_KV_I8, NIB_KV_I4},         {NIB_KV_I4, NIB_KV_F16},
        {NIB_KV_F32, NIB_KV_I8},        {NIB_KV_I8, NIB_KV_I8},         {NIB_KV_I4, NIB_KV_I8},
        {NIB_KV_I4_CHANNEL, NIB_KV_I4}, {NIB_KV_I4_CHANNEL, NIB_KV_F32}};
    void *device = rig_open(NULL), *cpu = open_scalar();
    for (uint32_t i = 0; i < 8; i++) {
        if (i < 6 && rig_leaves_out(i, 2))
            continue;
        struct rig_attention p = {.n_heads = i % 2 ? 4 : 9,
                                  .n_kv_heads = i % 2 ? 1 : 3,
                                  .key_dim = dims[i][0],
                                  .value_dim = dims[i][1],
                                  .window = i == 4   ? 50
                                            : i == 1 ? 1
                                                     : 0,
                                  .key_format = formats[i][0],
                                  .value_format = formats[i][1],
                                  .softcap = i == 3 ? 5.0f : 0.0f,
                                  .query_size = 1.0f,
                                  .context = 320,
                                  .n_sequences = 3,
                                  .recent_pages = 1 + i % 3,
                                  .is_plain = i % 4 == 2};
        check(device, cpu, &p, &mixed, 2e-4);
        p.context = 352;
        check(device, cpu, &p, &long_mixed, 2e-4);
        if (i % 2)
            continue;
        // First tokens as well, or alone.
        p.first_pages = 1 + i / 2 % 2;
        p.recent_pages = i % 3 ? 0 : p.recent_pages;
        check(device, cpu, &p, &long_mixed, 2e-4);
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

/// As `mixed` for sequence 2, in chunks that begin in several pages.
static const struct course chunked = {
    {{{{2, 0, 100}}}, {{{2, 100, 28}, {0, 0, 3}}}, {{{2, 128, 1}}}, {{{2, 129, 74}}}}, 4};

/// Pages made by kernels and by the scalar code: equal byte for byte where devices divide exactly,
/// as lavapipe does; elsewhere a code in a thousand may differ.
static void check_bytes(void *device, void *cpu, const enum nib_kv_format formats[2],
                        const struct course *course)
{
    bool has_codes = nib_kv_has_codes(formats[0]), has_first_alone = formats[0] == NIB_KV_I8;
    double limit = has_codes ? 1e-3 : 0;
    struct rig_attention p = {.n_heads = 4,
                              .n_kv_heads = 2,
                              .key_dim = 80,
                              .value_dim = 64,
                              .key_format = formats[0],
                              .value_format = formats[1],
                              .query_size = 1.0f,
                              .context = 256,
                              .n_sequences = 3,
                              .recent_pages = has_codes && !has_first_alone ? 2 : 0,
                              .first_pages = has_codes ? 1 + has_first_alone : 0};
    struct rig_cache caches[2];
    struct nib_error error;
    float *out = malloc(512 * rig_out_width(&p) * sizeof *out);
    rig_cache_open(&caches[0], &p, &nib_cpu_backend, cpu);
    rig_cache_open(&caches[1], &p, &nib_vulkan_backend, device);
    const struct nib_kv_layer *l = &caches[0].layer;
    size_t size = nib_kv_page_bytes(l) + nib_kv_recent_bytes(l);
    uint8_t *bytes[2] = {calloc(size, 1), calloc(size, 1)};
    cr_assert(out && bytes[0] && bytes[1]);
    for (uint32_t s = 0; s < course->n_steps; s++) {
        rig_cache_run(&caches[0], &course->steps[s], out);
        rig_cache_run(&caches[1], &course->steps[s], out);
    }
    size_t differing = 0;
    uint32_t stride = p.context / NIB_KV_PAGE_TOKENS, n_classes = caches[0].plan.n_kv_classes;
    // Whole pages alone: what lies behind a last token may be anything.
    for (uint32_t i = 0; i < n_classes * (203 / NIB_KV_PAGE_TOKENS); i++) {
        uint32_t c = i % n_classes;
        const struct nib_kv_page page = {
            .page = caches[0].tables[(2 * n_classes + c) * stride + i / n_classes],
            .is_recent = c == 1};
        if (c == 1 && p.recent_pages == 0 && i / n_classes >= p.first_pages)
            continue;
        size = page.is_recent ? nib_kv_recent_bytes(l) : nib_kv_page_bytes(l);
        for (int k = 0; k < 2; k++)
            cr_assert_eq(caches[k].backend->kv_export(caches[k].self, page, bytes[k], &error),
                         NIB_OK, "%s", error.message);
        for (size_t k = 0; k < size; k++)
            differing += bytes[0][k] != bytes[1][k];
        // What was exported comes back by an import.
        cr_assert_eq(nib_vulkan_backend.kv_import(caches[1].self, page, bytes[0], &error), NIB_OK,
                     "%s", error.message);
        cr_assert_eq(nib_vulkan_backend.kv_export(caches[1].self, page, bytes[1], &error), NIB_OK,
                     "%s", error.message);
        cr_assert_arr_eq(bytes[0], bytes[1], size);
    }
    cr_expect((double)differing <= limit * (double)size,
              "format %d: %zu of %zu bytes a page differ", (int)formats[0], differing, size);
    free(out);
    free(bytes[0]);
    free(bytes[1]);
    rig_cache_close(&caches[0]);
    rig_cache_close(&caches[1]);
}

Test(vulkan_attention, pages_have_the_bytes_of_the_scalar_code)
{
    void *device = rig_open(NULL), *cpu = open_scalar();
    static const enum nib_kv_format formats[][2] = {{NIB_KV_F32, NIB_KV_F32},
                                                    {NIB_KV_F16, NIB_KV_F16},
                                                    {NIB_KV_I8, NIB_KV_I8},
                                                    {NIB_KV_I4, NIB_KV_I4},
                                                    {NIB_KV_I4_CHANNEL, NIB_KV_I4}};
    for (int f = 0; f < 5; f++) {
        check_bytes(device, cpu, formats[f], &mixed);
        check_bytes(device, cpu, formats[f], &chunked);
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

/// Tiles of halves against the scalar code: queries and weights are rounded to 11 digits.
Test(vulkan_attention, prompts_by_cooperative_matrices)
{
    static const uint32_t heads[][2] = {{9, 3}, {4, 1}, {32, 2}, {2, 2}, {12, 1}};
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {96, 96}, {32, 64}, {128, 32}};
    static const uint32_t windows[] = {0, 1, 16, 33, 100};
    void *device = rig_open_variant("half"), *cpu = open_scalar();
    for (uint32_t d = 0; d < 5; d++) {
        struct rig_attention p = {.n_heads = heads[d][0],
                                  .n_kv_heads = heads[d][1],
                                  .key_dim = dims[d][0],
                                  .value_dim = dims[d][1],
                                  .window = windows[d],
                                  .key_format = NIB_KV_F16,
                                  .value_format = NIB_KV_F16,
                                  .softcap = d % 3 == 1 ? 5.0f : 0.0f,
                                  .query_size = d == 3 ? 30.0f : 1.0f,
                                  .context = 256,
                                  .n_sequences = 3};
        check(device, cpu, &p, &mixed, d == 3 ? 2e-2 : 2e-3);
        // That it was they.
        struct rig_cache cache;
        rig_cache_open(&cache, &p, &nib_vulkan_backend, device);
        float *out = malloc(512ull * rig_out_width(&p) * sizeof *out);
        cr_assert_not_null(out);
        rig_cache_run(&cache, &mixed.steps[0], out);
        const struct nib_vk_instance *instance = cache.self;
        cr_expect(instance->kernels & NIB_VK_KERNEL_ATTENTION_COOP, "heads of %u", p.key_dim);
        free(out);
        rig_cache_close(&cache);
    }
    rig_close(device);
    nib_cpu_backend.device_close(cpu);
}

/// Layers without position codes, whose queries come straight from the hidden state, pass the check
/// of kernels before use.
Test(vulkan_attention, probes_of_layers_that_turn_nothing)
{
    void *device = rig_open(NULL);
    struct nib_vk_reference reference = {0};
    struct nib_error error;
    cr_assert_eq(nib_vk_reference_open(&nib_cpu_backend, &reference, &error), NIB_OK);
    static const enum nib_kv_format formats[] = {NIB_KV_F16, NIB_KV_I8, NIB_KV_I4};
    for (int f = 0; f < 3; f++) {
        const struct nib_vk_probe_attention params = {
            .layer = {.n_heads = 2, .key_dim = 64, .value_dim = 64},
            .key_format = formats[f],
            .value_format = formats[f],
            .n_heads = 4,
            .scale = 0.125f};
        struct nib_vk_probe probe = {0};
        struct nib_vk_probe_result result = {0};
        const struct nib_vk_choices choices = {0};
        cr_assert_eq(nib_vk_probe_make_attention(&params, &probe, &error), NIB_OK);
        cr_assert_eq(nib_vk_probe_run(&probe, device, &choices, &reference, &result, &error),
                     NIB_OK, "%s", error.message);
        cr_expect(result.error <= probe.limit, "%s: %g", probe.name, result.error);
        nib_vk_probe_free(&probe);
    }
    nib_vk_reference_close(&reference);
    rig_close(device);
}
