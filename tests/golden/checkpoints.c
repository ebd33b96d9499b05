/// The tiny quantized checkpoints against the logits that transformers computes with each tool's
/// own dequantization: largest and rms difference, in standard deviations of the logits, within
/// what the references allow to such a way of computing.
#include "tests/golden/golden.h"

#include "runtime/base/bytes.h"
#include "runtime/formats/safetensors.h"
#include "tests/support/worst.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#define MAX_IDS 64

/// The rounding of int8 activations is discontinuous: one ulp of difference flips codes, which
/// moves logits by up to 0.16 standard deviations. The rms tells more about such models.
#define LEAST_MAX_INT8 0.35

struct expected {
    json_t *json;
    struct nib_safetensors *tensors;
    double std;
};

/// Differences of logits, in standard deviations.
struct difference {
    double max;
    double square_sum;
    uint64_t count;
};

static void expected_open(struct expected *expected, const char *folder)
{
    char path[1024];
    struct nib_error error;
    snprintf(path, sizeof path, "checkpoints/%s/expected.json", folder);
    expected->json = golden_json(path);
    expected->std =
        json_number_value(json_object_get(json_object_get(expected->json, "info"), "logits_std"));
    snprintf(path, sizeof path, "%s/checkpoints/%s/expected.safetensors", NIB_TEST_DATA, folder);
    cr_assert_eq(nib_safetensors_open(path, &expected->tensors, &error), NIB_OK, "%s",
                 error.message);
}

static void expected_close(struct expected *expected)
{
    nib_safetensors_destroy(&expected->tensors);
    json_decref(expected->json);
}

/// Compares the logits of prompt `index`, from position `first` on, with tensor `name`.
static void compare(struct golden *golden, const struct expected *expected, uint32_t index,
                    const char *name, struct difference *difference)
{
    int32_t ids[MAX_IDS];
    const json_t *prompts = json_object_get(expected->json, "prompts");
    uint32_t n_ids = golden_ids(json_array_get(prompts, index), ids, MAX_IDS);
    const struct nib_tensor *tensor = nib_tensor_find(&expected->tensors->directory, name);
    cr_assert_not_null(tensor);
    uint32_t n_rows = tensor->n_dims == 2 ? (uint32_t)tensor->dims[0] : 1;
    struct golden_rows rows = golden_forward(golden, ids, n_ids, 0, n_ids - n_rows);
    cr_assert_eq(tensor->size, (uint64_t)n_rows * rows.vocabulary * sizeof(float));
    for (uint64_t i = 0; i < (uint64_t)n_rows * rows.vocabulary; i++) {
        double wanted = (double)nib_load_f32(tensor->data + 4 * i);
        double off = fabs((double)rows.logits[i] - wanted) / expected->std;
        difference->max = worst_of(difference->max, off);
        difference->square_sum += off * off;
        difference->count++;
    }
    golden_rows_free(&rows);
}

static void check_mode(struct golden *golden, const struct expected *expected,
                       const char *tolerance, double least_max)
{
    const json_t *limits = json_object_get(json_object_get(expected->json, "tolerance"), tolerance);
    double max = fmax(json_number_value(json_object_get(limits, "max")), least_max);
    double rms = json_number_value(json_object_get(limits, "rms"));
    struct difference difference = {0};
    compare(golden, expected, 0, "logits", &difference);
    compare(golden, expected, 1, "last_logits", &difference);
    double own_rms = sqrt(difference.square_sum / (double)difference.count);
    cr_log_info("%s: max %g of %g, rms %g of %g", tolerance, difference.max, max, own_rms, rms);
    cr_expect(difference.max <= max, "%s: max %g, allowed %g", tolerance, difference.max, max);
    cr_expect(own_rms <= rms, "%s: rms %g, allowed %g", tolerance, own_rms, rms);
}

/// `int8`: the checkpoint itself asks for int8 activations, in both modes.
static void check_folder(const char *folder, bool int8)
{
    char path[1024];
    struct golden golden;
    struct expected expected;
    snprintf(path, sizeof path, "%s/checkpoints/%s", NIB_TEST_DATA, folder);
    expected_open(&expected, folder);

    golden_open_precise(&golden, path);
    check_mode(&golden, &expected, "fp32", int8 ? LEAST_MAX_INT8 : 0.0);
    golden_close(&golden);

    golden_open(&golden, path, NULL);
    check_mode(&golden, &expected, int8 ? "fp16" : "int8_block32", int8 ? LEAST_MAX_INT8 : 0.0);
    golden_close(&golden);
    expected_close(&expected);
}

Test(checkpoints, original)
{
    check_folder("base", false);
}

Test(checkpoints, gptq_int4_symmetric)
{
    check_folder("gptq-int4-g32-sym", false);
}

Test(checkpoints, gptq_int4_act_order)
{
    check_folder("gptq-int4-g64-actorder", false);
}

Test(checkpoints, gptq_int8)
{
    check_folder("gptq-int8-g32", false);
}

Test(checkpoints, awq_int4)
{
    check_folder("awq-int4-g32", false);
}

Test(checkpoints, bnb_nf4)
{
    check_folder("bnb-nf4", false);
}

Test(checkpoints, bnb_fp4)
{
    check_folder("bnb-fp4", false);
}

Test(checkpoints, bnb_int8)
{
    check_folder("bnb-int8", true);
}

Test(checkpoints, compressed_tensors_w4a16)
{
    check_folder("ct-w4a16-g32", false);
}

Test(checkpoints, compressed_tensors_w4a16_asymmetric)
{
    check_folder("ct-awq-w4a16-asym-g32", false);
}

Test(checkpoints, compressed_tensors_w8a16)
{
    check_folder("ct-w8a16-channel", false);
}

Test(checkpoints, compressed_tensors_w8a8_static)
{
    check_folder("ct-w8a8-static", true);
}

Test(checkpoints, compressed_tensors_w8a8_dynamic)
{
    check_folder("ct-w8a8-dynamic", true);
}
