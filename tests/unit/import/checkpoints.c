// The folders that real tools have written: every quantized matrix, read and dequantized, has the
// sum that an independent decoder has found (tools/convert/make_checkpoint_vectors.py).
#include "tests/unit/import/parts.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/arch.h"
#include "runtime/import/source.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FOLDERS NIB_TEST_DATA "/checkpoints"

/// What the matrices of a folder must be.
struct folder {
    const char *name;
    const char *quantization;
    enum nib_format_id format;
    uint32_t group;
    enum nib_scale_type scale;
    enum nib_activation activation;
    bool has_permutation;
};

static const struct folder folders[] = {
    {"gptq-int4-g32-sym", "gptq-int4", NIB_FORMAT_INT4, 32, NIB_SCALE_F16, NIB_ACTIVATION_F32,
     false},
    {"gptq-int4-g64-actorder", "gptq-int4", NIB_FORMAT_INT4, 64, NIB_SCALE_F16, NIB_ACTIVATION_F32,
     true},
    {"gptq-int8-g32", "gptq-int8", NIB_FORMAT_INT8, 32, NIB_SCALE_F16, NIB_ACTIVATION_F32, false},
    {"awq-int4-g32", "awq-int4", NIB_FORMAT_INT4_ZERO, 32, NIB_SCALE_F16, NIB_ACTIVATION_F32,
     false},
    {"bnb-nf4", "bnb-nf4", NIB_FORMAT_NF4, 64, NIB_SCALE_F32, NIB_ACTIVATION_F32, false},
    {"bnb-fp4", "bnb-fp4", NIB_FORMAT_FP4, 64, NIB_SCALE_F32, NIB_ACTIVATION_F32, false},
    {"bnb-int8", "bnb-int8", NIB_FORMAT_INT8, 0, NIB_SCALE_F32, NIB_ACTIVATION_LLM_INT8, false},
    {"ct-w4a16-g32", "compressed-tensors-int4", NIB_FORMAT_INT4, 32, NIB_SCALE_BF16,
     NIB_ACTIVATION_F32, false},
    {"ct-awq-w4a16-asym-g32", "compressed-tensors-int4", NIB_FORMAT_INT4_ZERO, 32, NIB_SCALE_BF16,
     NIB_ACTIVATION_F32, false},
    {"ct-w8a16-channel", "compressed-tensors-int8", NIB_FORMAT_INT8, 0, NIB_SCALE_BF16,
     NIB_ACTIVATION_F32, false},
    {"ct-w8a8-static", "compressed-tensors-int8", NIB_FORMAT_INT8, 0, NIB_SCALE_BF16,
     NIB_ACTIVATION_INT8_STATIC, false},
    {"ct-w8a8-dynamic", "compressed-tensors-int8", NIB_FORMAT_INT8, 0, NIB_SCALE_BF16,
     NIB_ACTIVATION_INT8_TOKEN, false},
};
enum { N_FOLDERS = sizeof folders / sizeof folders[0] };

/// The sum of zlib (reflected polynomial 0xedb88320).
static uint32_t crc32_of(const float *numbers, size_t count)
{
    uint32_t sum = 0xffffffffu;
    for (size_t i = 0; i < count; i++) {
        sum ^= nib_f32_bits(numbers[i]);
        for (int bit = 0; bit < 32; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
    }
    return ~sum;
}

static void check_module(struct checkpoint *opened, const struct folder *folder, const char *module,
                         const json_t *expected)
{
    const json_t *dims = json_object_get(expected, "shape");
    const struct nib_shape shape = {(uint64_t)json_number_value(json_array_get(dims, 0)),
                                    (uint64_t)json_number_value(json_array_get(dims, 1))};
    const struct nib_row_reader *reader;
    struct nib_error error = {0};
    uint32_t sum;
    cr_assert(nib_json_get_u32(expected, "crc32", &sum));
    cr_assert_eq(nib_quantization_reader(opened->quantization, &opened->files->directory, module,
                                         shape, &reader, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_not_null(reader, "%s", module);
    cr_expect_eq(reader->format.id, folder->format, "%s", module);
    cr_expect_eq(reader->format.group, folder->group, "%s", module);
    cr_expect_eq(reader->format.scale, folder->scale, "%s", module);
    cr_expect_eq(reader->activation, folder->activation, "%s", module);
    cr_expect_eq(reader->permutation != NULL, folder->has_permutation, "%s", module);
    if (folder->activation == NIB_ACTIVATION_INT8_STATIC)
        cr_expect_gt(reader->activation_scale, 0, "%s", module);
    if (folder->activation == NIB_ACTIVATION_LLM_INT8)
        cr_expect_eq(reader->outlier_threshold, 6, "%s", module);

    for (uint64_t step = 1; step <= 64; step *= 4) {
        float *weights = read_weights(reader, step);
        cr_expect_eq(crc32_of(weights, shape.rows * shape.cols), sum, "%s: %s, %u rows at once",
                     folder->name, module, (unsigned)step);
        free(weights);
    }
}

static struct criterion_test_params all_folders(void)
{
    static size_t indices[N_FOLDERS];
    for (size_t i = 0; i < N_FOLDERS; i++)
        indices[i] = i;
    return cr_make_param_array(size_t, indices, N_FOLDERS);
}

ParameterizedTestParameters(checkpoints, weights)
{
    return all_folders();
}

ParameterizedTest(size_t *index, checkpoints, weights)
{
    const struct folder *folder = &folders[*index];
    struct checkpoint opened;
    struct nib_error error = {0};
    json_t *all;
    const char *module;
    json_t *expected;
    uint32_t n = 0;
    cr_assert_eq(nib_json_open(FOLDERS, "weights.json", true, &all, &error), NIB_OK, "%s",
                 error.message);
    checkpoint_open(&opened, folder->name);
    cr_expect_str_eq(opened.quantization->name, folder->quantization);
    json_object_foreach(json_object_get(all, folder->name), module, expected)
    {
        check_module(&opened, folder, module, expected);
        n++;
    }
    cr_expect_eq(n, 21);

    const struct nib_row_reader *reader;
    cr_assert_eq(nib_quantization_reader(opened.quantization, &opened.files->directory, "lm_head",
                                         (struct nib_shape){512, 128}, &reader, &error),
                 NIB_OK);
    cr_expect_null(reader, "the head is not quantized");
    // Embedding, head and seven norms are all that the readers leave.
    cr_expect_eq(opened.quantization->n_tensors, opened.files->directory.n_tensors - 9);
    checkpoint_close(&opened);
    json_decref(all);
}

Test(checkpoints, not_quantized)
{
    struct checkpoint opened;
    checkpoint_open(&opened, "base");
    cr_expect_null(opened.quantization);
    checkpoint_close(&opened);
}

/// Matrices that read the same input have one permutation.
Test(checkpoints, shared_permutation)
{
    static const char *const modules[] = {"q_proj", "k_proj", "v_proj"};
    struct checkpoint opened;
    struct nib_error error = {0};
    const uint32_t *first = NULL;
    checkpoint_open(&opened, "gptq-int4-g64-actorder");
    for (size_t i = 0; i < 3; i++) {
        char module[64];
        const struct nib_row_reader *reader;
        snprintf(module, sizeof module, "model.layers.1.self_attn.%s", modules[i]);
        const struct nib_shape shape = {i == 0 ? 128 : 64, 128};
        cr_assert_eq(nib_quantization_reader(opened.quantization, &opened.files->directory, module,
                                             shape, &reader, &error),
                     NIB_OK, "%s", error.message);
        if (i == 0)
            first = reader->permutation;
        cr_expect_eq(reader->permutation, first);
    }
    cr_expect_not_null(first);
    checkpoint_close(&opened);
}

/// `w = q · SCB / 127` to 1e-7, though the row's scale is rounded first.
Test(checkpoints, llm_int8_exactness)
{
    struct checkpoint opened;
    struct nib_error error = {0};
    const struct nib_row_reader *reader;
    checkpoint_open(&opened, "bnb-int8");
    const char *module = "model.layers.0.mlp.down_proj";
    cr_assert_eq(nib_quantization_reader(opened.quantization, &opened.files->directory, module,
                                         (struct nib_shape){128, 256}, &reader, &error),
                 NIB_OK);
    const struct nib_tensor *codes =
        nib_tensor_find(&opened.files->directory, "model.layers.0.mlp.down_proj.weight");
    const struct nib_tensor *scb =
        nib_tensor_find(&opened.files->directory, "model.layers.0.mlp.down_proj.SCB");
    float *weights = read_weights(reader, 128);
    for (size_t i = 0; i < (size_t)128 * 256; i++) {
        const double exact =
            (double)(int8_t)codes->data[i] * (double)nib_load_f32(scb->data + 4 * (i / 256)) / 127;
        cr_assert_leq(fabs(weights[i] - exact), 1.2e-7 * fabs(exact), "weight %zu", i);
    }
    free(weights);
    checkpoint_close(&opened);
}

/// A source of each folder has all its matrices, with their formats.
ParameterizedTestParameters(checkpoints, source)
{
    return all_folders();
}

ParameterizedTest(size_t *index, checkpoints, source)
{
    const struct folder *folder = &folders[*index];
    char path[512];
    struct nib_error error = {0};
    struct nib_source *source;
    snprintf(path, sizeof path, FOLDERS "/%s", folder->name);
    cr_assert_eq(nib_source_open(path, NULL, &source, &error), NIB_OK, "%s", error.message);
    cr_expect_str_eq(nib_source_quantization(source), folder->quantization);
    uint32_t n_quantized = 0;
    for (uint32_t layer = 0; layer < 3; layer++) {
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            struct nib_row_reader reader;
            if (!nib_source_has(source, role, layer))
                continue;
            cr_assert_eq(nib_source_reader(source, role, layer, &reader, &error), NIB_OK, "%s",
                         error.message);
            cr_expect_eq(nib_role_is_matrix(role) && nib_arch_in_layer(role),
                         reader.format.code != NIB_CODE_FLOAT, "%s", reader.name);
            n_quantized += reader.format.id == folder->format;
        }
    }
    cr_expect_eq(n_quantized, 21);
    nib_source_destroy(&source);
}
