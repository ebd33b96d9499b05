/// The ten tiny models against transformers' fp32 logits, in precise mode: each logit within 5e-4
/// of their standard deviation, greedy tokens equal up to the first margin below 1 % of it.
#define _POSIX_C_SOURCE 200809L // symlink, unsetenv
#include "tests/golden/golden.h"
#include "tests/support/folder.h"
#include "tests/support/worst.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_IDS 64

static void check_logits(const struct golden_rows *rows, const json_t *expected, double std)
{
    const json_t *positions = json_object_get(expected, "positions");
    const json_t *logits = json_object_get(expected, "logits");
    double worst = 0.0;
    for (size_t i = 0; i < json_array_size(positions); i++) {
        uint32_t position = (uint32_t)json_integer_value(json_array_get(positions, i));
        const json_t *line = json_array_get(logits, i);
        const float *row = golden_row(rows, position);
        cr_assert_eq(json_array_size(line), rows->vocabulary);
        for (uint32_t j = 0; j < rows->vocabulary; j++) {
            double difference = fabs((double)row[j] - json_number_value(json_array_get(line, j)));
            worst = worst_of(worst, difference);
        }
    }
    cr_assert_leq(worst, 5e-4 * std, "logits differ by %g standard deviations", worst / std);
}

static void check_architecture(const char *name)
{
    char path[1024];
    struct golden golden;
    int32_t ids[MAX_IDS];
    int32_t greedy[MAX_IDS];
    int32_t wanted[MAX_IDS];
    snprintf(path, sizeof path, "architectures/%s/expected.json", name);
    json_t *expected = golden_json(path);
    double std = json_number_value(json_object_get(expected, "std"));
    uint32_t n_ids = golden_ids(json_object_get(expected, "ids"), ids, MAX_IDS);

    snprintf(path, sizeof path, "%s/architectures/%s", NIB_TEST_DATA, name);
    golden_open_precise(&golden, path);
    struct golden_rows rows = golden_forward(&golden, ids, n_ids, 0, 0);
    check_logits(&rows, expected, std);
    golden_rows_free(&rows);

    uint32_t n = golden_ids(json_object_get(expected, "greedy_next16"), wanted, MAX_IDS);
    golden_greedy(&golden, ids, n_ids, n, greedy);
    uint32_t certain = golden_certain(json_object_get(expected, "margin"), 0.01 * std);
    for (uint32_t i = 0; i < certain; i++)
        cr_assert_eq(greedy[i], wanted[i], "greedy token %u", i);
    golden_close(&golden);
    json_decref(expected);
}

Test(architectures, gemma2)
{
    check_architecture("gemma2");
}

Test(architectures, gemma3)
{
    check_architecture("gemma3");
}

Test(architectures, granite)
{
    check_architecture("granite");
}

Test(architectures, llama3_rope)
{
    check_architecture("llama3-rope");
}

Test(architectures, mistral_window)
{
    check_architecture("mistral-window");
}

Test(architectures, olmo2)
{
    check_architecture("olmo2");
}

Test(architectures, phi3)
{
    check_architecture("phi3");
}

Test(architectures, qwen2)
{
    check_architecture("qwen2");
}

Test(architectures, qwen3)
{
    check_architecture("qwen3");
}

Test(architectures, smollm3)
{
    check_architecture("smollm3");
}

/// Makes the folder one of model `name` whose configuration has `value`, which is taken over, for
/// `key`.
static void make_variant(const char *name, const char *key, json_t *value)
{
    char path[1024], target[1024];
    snprintf(path, sizeof path, "architectures/%s/config.json", name);
    json_t *config = golden_json(path);
    cr_assert_eq(json_object_set_new(config, key, value), 0);
    cr_assert_eq(json_dump_file(config, path_in_folder("config.json"), 0), 0);
    json_decref(config);
    snprintf(target, sizeof target, "%s/architectures/%s/model.safetensors", NIB_TEST_DATA, name);
    cr_assert_eq(symlink(target, path_in_folder("model.safetensors")), 0);
}

static struct golden_rows forward_variant(void)
{
    struct golden golden;
    int32_t ids[40];
    golden_open(&golden, path_in_folder(NULL),
                nib_engine_params(.context = 256, .precise = true, .key_format = NIB_KV_F16,
                                  .value_format = NIB_KV_F16));
    for (uint32_t i = 0; i < 40; i++)
        ids[i] = (int32_t)(10 + i * i * 7 % (golden.vocabulary - 20));
    // Single tokens, whose keys and values attention stores itself.
    struct golden_rows rows = golden_forward(&golden, ids, 40, 1, 0);
    golden_close(&golden);
    return rows;
}

/// The first layer binds its queries alone, the others with keys and values: a device, or half of
/// one, that begins with such a layer.
Test(architectures, smollm3_whose_first_layer_does_not_turn, .init = make_folder,
     .fini = remove_folder)
{
    if (!getenv("NIB_TEST_VULKAN"))
        cr_skip_test("no Vulkan device: run as vulkan_architectures");
    make_variant("smollm3", "no_rope_layers", json_pack("[iii]", 0, 1, 1));
    struct golden_rows got = forward_variant();
    unsetenv("NIB_TEST_VULKAN");
    struct golden_rows wanted = forward_variant();
    cr_assert_eq(got.count, wanted.count);
    double worst = 0.0;
    for (size_t i = 0; i < (size_t)got.count * got.vocabulary; i++)
        worst = worst_of(worst, fabs((double)got.logits[i] - (double)wanted.logits[i]));
    cr_expect(worst <= 1e-3, "logits differ by %g", worst);
    golden_rows_free(&got);
    golden_rows_free(&wanted);
}
