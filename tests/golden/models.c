/// SmolLM2 and Gemma 3 against transformers' fp32 logits, in precise mode.
#include "tests/golden/golden.h"

#include <criterion/criterion.h>
#include <math.h>

#define MAX_IDS 512

/// What a model is held to.
struct limits {
    double logit;  ///< largest difference of a logit
    double margin; ///< greedy tokens are equal up to the first smaller margin
    double nll;    ///< largest difference of the prompt's mean negative log-likelihood
};

static double mean_nll(const struct golden_rows *rows, const int32_t *ids, uint32_t n_ids)
{
    double sum = 0.0;
    for (uint32_t p = 0; p + 1 < n_ids; p++) {
        const float *row = golden_row(rows, p);
        double max = -INFINITY;
        double total = 0.0;
        for (uint32_t i = 0; i < rows->vocabulary; i++)
            max = fmax(max, (double)row[i]);
        for (uint32_t i = 0; i < rows->vocabulary; i++)
            total += exp((double)row[i] - max);
        sum += log(total) + max - (double)row[ids[p + 1]];
    }
    return sum / (n_ids - 1);
}

static void check_row(const float *row, uint32_t vocabulary, const json_t *prompt, double limit)
{
    const json_t *top_ids = json_object_get(prompt, "top8_ids");
    const json_t *top_logits = json_object_get(prompt, "top8_logits");
    for (size_t i = 0; i < json_array_size(top_ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(top_ids, i));
        double wanted = json_number_value(json_array_get(top_logits, i));
        cr_assert_leq(fabs((double)row[id] - wanted), limit, "logit of %d: %g, not %g", id,
                      (double)row[id], wanted);
    }
    double sum = 0.0;
    double squares = 0.0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        sum += (double)row[i];
        squares += (double)row[i] * (double)row[i];
    }
    double mean = sum / vocabulary;
    double wanted_mean = json_number_value(json_object_get(prompt, "logit_mean"));
    double wanted_std = json_number_value(json_object_get(prompt, "logit_std"));
    cr_assert_leq(fabs(mean - wanted_mean), limit);
    cr_assert_leq(fabs(sqrt(squares / vocabulary - mean * mean) - wanted_std), limit);
}

static void check_prompt(struct golden *golden, const json_t *prompt, const struct limits *limits)
{
    int32_t ids[MAX_IDS];
    int32_t wanted[MAX_IDS];
    int32_t greedy[MAX_IDS];
    uint32_t n_ids = golden_ids(json_object_get(prompt, "ids"), ids, MAX_IDS);
    struct golden_rows rows = golden_forward(golden, ids, n_ids, 0, 0);
    check_row(golden_row(&rows, n_ids - 1), rows.vocabulary, prompt, limits->logit);
    if (n_ids > 1) {
        double nll = json_number_value(json_object_get(prompt, "prompt_nll"));
        cr_assert_leq(fabs(mean_nll(&rows, ids, n_ids) - nll), limits->nll);
    }
    golden_rows_free(&rows);

    golden_ids(json_object_get(prompt, "greedy"), wanted, MAX_IDS);
    uint32_t certain = golden_certain(json_object_get(prompt, "margin"), limits->margin);
    golden_greedy(golden, ids, n_ids, certain, greedy);
    for (uint32_t i = 0; i < certain; i++)
        cr_assert_eq(greedy[i], wanted[i], "greedy token %u of '%s'", i,
                     json_string_value(json_object_get(prompt, "text")));
}

static void check_model(const char *file, const char *reference, const struct limits *limits)
{
    char path[1024];
    struct golden golden;
    golden_model_path(file, path, sizeof path);
    json_t *prompts = golden_json(reference);
    golden_open_precise(&golden, path);
    cr_assert_gt(json_array_size(prompts), 0);
    for (size_t i = 0; i < json_array_size(prompts); i++)
        check_prompt(&golden, json_array_get(prompts, i), limits);
    golden_close(&golden);
    json_decref(prompts);
}

Test(models, smollm2)
{
    const struct limits limits = {.logit = 0.02, .margin = 0.05, .nll = 0.002};
    check_model("SmolLM2-135M-Instruct.Q4_1.gguf", "golden/smollm2.json", &limits);
}

Test(models, gemma3)
{
    const struct limits limits = {.logit = 0.1, .margin = 0.2, .nll = 0.01};
    check_model("gemma-3-270m-q4_k_m.gguf", "golden/gemma3.json", &limits);
}
