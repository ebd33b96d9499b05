// Every GGUF type against the gguf package's own dequantization, bit for bit.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/quant/pack.h"
#include "vectors.h"

static int raw_formats[NIB_FORMAT_COUNT];

static struct criterion_test_params formats_with_blocks(void)
{
    size_t n = 0;
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        if (nib_format_get(id)->block_bytes && id != NIB_FORMAT_F32)
            raw_formats[n++] = id;
    }
    return cr_make_param_array(int, raw_formats, n);
}

ParameterizedTestParameters(unpack, equals_gguf)
{
    return formats_with_blocks();
}

ParameterizedTest(int *id, unpack, equals_gguf)
{
    const struct nib_format *format = nib_format_get(*id);
    struct vectors v;
    cr_assert(vectors_read(&v, "unpack", format), "no vectors for %s", format->name);
    struct nib_row_block block;
    void *memory = block_alloc(&block, format, 2, v.cols);
    float *out = calloc(v.cols, sizeof *out);
    // The second row, to see that rows do not overlap; at an odd address.
    uint8_t *odd = malloc(v.row_bytes + 1);
    memcpy(odd + 1, v.raw, v.row_bytes);
    nib_row_unpack(format, odd + 1, 1, &block);
    nib_row_dequantize(format, &block, 1, out);
    for (uint64_t i = 0; i < v.cols; i++) {
        cr_assert(same_float(out[i], v.weights[i]), "%s, weight %d: %a, not %a", format->name,
                  (int)i, out[i], v.weights[i]);
    }
    nib_row_dequantize(format, &block, 0, out);
    for (uint64_t i = 0; i < v.cols; i++)
        cr_assert(out[i] == 0.0f, "%s: row 0 was written to", format->name);
    free(odd);
    free(out);
    free(memory);
    vectors_free(&v);
}

ParameterizedTestParameters(unpack, group_scales_make_the_weights)
{
    return formats_with_blocks();
}

ParameterizedTest(int *id, unpack, group_scales_make_the_weights)
{
    const struct nib_format *format = nib_format_get(*id);
    if (format->code == NIB_CODE_FLOAT)
        return;
    struct vectors v;
    cr_assert(vectors_read(&v, "unpack", format));
    struct nib_row_block block;
    void *memory = block_alloc(&block, format, 1, v.cols);
    nib_row_unpack(format, v.raw, 0, &block);
    uint64_t groups = nib_format_groups(format, v.cols);
    float *scale = calloc(groups, sizeof *scale), *min = calloc(groups, sizeof *min);
    nib_row_group_scales(format, &block, 0, scale, min);
    double squares = 0.0;
    for (uint64_t i = 0; i < v.cols; i++) {
        uint8_t code = block.codes[i];
        cr_assert(code < 1u << format->bits);
        float value = format->book ? format->book[code] : (float)(code - format->center);
        float w = scale[i / format->group] * value;
        if (format->zero == NIB_ZERO_MINIMUM)
            w += min[i / format->group];
        else
            cr_assert(min[i / format->group] == 0.0f);
        cr_assert(same_float(w, v.weights[i]), "%s, weight %d", format->name, (int)i);
        double size = fabs((double)scale[i / format->group] * (double)value) +
                      fabs((double)min[i / format->group]);
        squares += size * size;
    }
    float norm = nib_row_norm(format, &block, 0);
    if (isfinite(norm))
        cr_assert((double)norm >= sqrt(squares) && (double)norm < sqrt(squares) * 1.0001, "%s",
                  format->name);
    free(scale);
    free(min);
    free(memory);
    vectors_free(&v);
}

Test(unpack, f32_keeps_bits)
{
    const struct nib_format *format = nib_format_get(NIB_FORMAT_F32);
    const float in[3] = {-0.0f, 0x1p-149f, 3.5f};
    struct nib_row_block block;
    void *memory = block_alloc(&block, format, 1, 3);
    float out[3];
    nib_row_unpack(format, (const uint8_t *)in, 0, &block);
    nib_row_dequantize(format, &block, 0, out);
    cr_assert(memcmp(in, out, sizeof in) == 0);
    free(memory);
}

ParameterizedTestParameters(unpack, stored_again_it_is_the_same)
{
    return formats_with_blocks();
}

ParameterizedTest(int *id, unpack, stored_again_it_is_the_same)
{
    const struct nib_format *format = nib_format_get(*id);
    struct vectors v;
    cr_assert(vectors_read(&v, "unpack", format), "no vectors for %s", format->name);
    struct nib_row_block block;
    void *memory = block_alloc(&block, format, 2, v.cols);
    uint8_t *raw = malloc(v.row_bytes);
    nib_row_unpack(format, v.raw, 1, &block);
    nib_row_store(format, &block, 1, raw);
    for (uint64_t i = 0; i < v.row_bytes; i++) {
        if (format->code == NIB_CODE_FLOAT && isnan(v.weights[i / format->block_bytes]))
            continue; // a signaling NaN comes back quiet
        cr_assert(raw[i] == v.raw[i], "%s, block %d, byte %d: %02x, not %02x", format->name,
                  (int)(i / format->block_bytes), (int)(i % format->block_bytes), raw[i], v.raw[i]);
    }
    free(raw);
    free(memory);
    vectors_free(&v);
}
