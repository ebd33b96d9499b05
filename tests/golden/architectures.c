/// The ten tiny models against transformers' fp32 logits, in precise mode: each logit within 5e-4
/// of their standard deviation, greedy tokens equal up to the first margin below 1 % of it.
#include "tests/golden/golden.h"
#include "tests/support/worst.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

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
