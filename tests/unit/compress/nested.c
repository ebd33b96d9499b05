// Double quantization against the folder that bitsandbytes has made of the same weights.
#include "runtime/compress/nested.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FOLDERS NIB_TEST_DATA "/checkpoints"

static struct nib_safetensors *open_folder(const char *name)
{
    struct nib_error error = {0};
    struct nib_safetensors *files;
    char path[512];
    snprintf(path, sizeof path, FOLDERS "/%s", name);
    cr_assert_eq(nib_safetensors_open_folder(path, &files, &error), NIB_OK, "%s", error.message);
    return files;
}

static const struct nib_tensor *find(const struct nib_safetensors *files, const char *module,
                                     const char *part)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", module, part);
    const struct nib_tensor *tensor = nib_tensor_find(&files->directory, name);
    cr_assert_not_null(tensor, "%s", name);
    return tensor;
}

/// The book's own formula: decades of evenly spaced means, either sign, 0 and 1.
Test(nested, book)
{
    uint32_t n = 0;
    for (int decade = 0; decade < 7; decade++) {
        const uint32_t count = 1u << decade;
        for (uint32_t i = 0; i < count; i++) {
            const double mean = 0.1 + 0.9 * (2 * i + 1) / (2 * count);
            const double value = mean * pow(10, decade - 6);
            // Negative ones fill the first 127 places from the largest magnitude down.
            const float *positive = &nib_nested_book[128 + (1u << decade) - 1 + i];
            const float *negative = &nib_nested_book[127 - (1u << decade) - i];
            cr_expect_float_eq(*positive, value, 2e-7 * value, "decade %d, %u", decade, i);
            cr_expect_float_eq(*negative, -value, 2e-7 * value, "decade %d, %u", decade, i);
            n += 2;
        }
    }
    cr_expect_eq(n, 254);
    cr_expect_eq(nib_nested_book[127], 0);
    cr_expect_eq(nib_nested_book[255], 1);
}

static void check_module(const struct nib_safetensors *base, const struct nib_safetensors *nf4,
                         const char *module)
{
    const struct nib_tensor *weight = find(base, module, "weight");
    const struct nib_tensor *absmax = find(nf4, module, "weight.absmax");
    const struct nib_tensor *nested = find(nf4, module, "weight.nested_absmax");
    const struct nib_tensor *state = find(nf4, module, "weight.quant_state.bitsandbytes__nf4");
    const uint64_t n = absmax->size;
    float *scales = calloc(n, sizeof *scales);
    struct nib_scale_codes codes = {.codes = calloc(n, 1), .scale = calloc(nested->size, 1)};
    json_t *json;
    struct nib_error error = {0};
    float offset = 0;
    cr_assert_eq(nib_json_parse((const char *)state->data, state->size, module, &json, &error),
                 NIB_OK, "%s", error.message);
    cr_assert(nib_json_get_f32(json, "nested_offset", &offset));
    for (uint64_t i = 0; i < n * 64; i++)
        scales[i / 64] =
            fmaxf(scales[i / 64], fabsf(nib_f32_from_bf16(nib_load_u16(weight->data + 2 * i))));
    float *original = malloc(n * sizeof *original);
    memcpy(original, scales, n * sizeof *original);

    nib_nested_quantize(scales, n, &codes);
    cr_expect_float_eq(codes.offset, offset, 2e-7f * offset, "%s", module);
    cr_expect_eq(codes.book, nib_nested_book);
    for (uint64_t b = 0; b < nested->size / 4; b++) {
        const float expected = nib_load_f32(nested->data + 4 * b);
        cr_expect_float_eq(codes.scale[b], expected, 1e-6f * expected, "%s", module);
    }
    for (uint64_t i = 0; i < n; i++) {
        // The tool's search stops short of the nearest code now and then, by one.
        const int theirs = absmax->data[i];
        cr_expect_leq(abs(codes.codes[i] - theirs), 1, "%s: code %u", module, (unsigned)i);
        cr_expect_leq(fabsf(scales[i] - original[i]),
                      fabsf(nib_nested_book[theirs] * codes.scale[i / 256] + offset - original[i]) +
                          1e-7f,
                      "%s: code %u", module, (unsigned)i);
        cr_expect_float_eq(scales[i],
                           nib_nested_book[codes.codes[i]] * codes.scale[i / 256] + codes.offset,
                           1e-9f, "%s", module);
    }
    free(original);
    json_decref(json);
    free(scales);
    free(codes.codes);
    free(codes.scale);
}

Test(nested, as_the_tool)
{
    static const char *const modules[] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    struct nib_safetensors *base = open_folder("base");
    struct nib_safetensors *nf4 = open_folder("bnb-nf4");
    for (int layer = 0; layer < 3; layer++) {
        for (size_t m = 0; m < sizeof modules / sizeof modules[0]; m++) {
            char module[96];
            snprintf(module, sizeof module, "model.layers.%d.%s", layer, modules[m]);
            check_module(base, nf4, module);
        }
    }
    nib_safetensors_destroy(&base);
    nib_safetensors_destroy(&nf4);
}

Test(nested, degenerate)
{
    float scales[300];
    uint8_t bytes[300];
    float absmax[2];
    struct nib_scale_codes codes = {.codes = bytes, .scale = absmax};
    for (int i = 0; i < 300; i++)
        scales[i] = 0.5f;
    nib_nested_quantize(scales, 300, &codes);
    for (int i = 0; i < 300; i++)
        cr_expect_eq(scales[i], 0.5f);
    nib_nested_quantize(scales, 0, &codes);
    cr_expect_eq(codes.offset, 0);
}
