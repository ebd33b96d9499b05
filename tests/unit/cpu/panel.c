#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/base/os.h"
#include "runtime/cpu/kernels.h"

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/// A number of the type, NaN and inexact ones where `odd` is set.
static float make_number(uint64_t *state, enum nib_scale_type type, bool odd)
{
    uint16_t bits = (uint16_t)next_random(state);
    if (odd && bits % 64 == 0)
        return bits % 128 ? 0.1f : nib_f32_from_bits(0x7f812345);
    if (type == NIB_SCALE_E8M0)
        return nib_f32_from_bits(bits % 256 < 2 ? 0x00200000u << bits % 256
                                                : (bits % 256 - 1u) << 23);
    if (type == NIB_SCALE_F16)
        return nib_f32_from_f16((bits & 0x7c00) == 0x7c00 ? bits & 0x83ff : bits);
    return nib_f32_from_bf16((bits & 0x7f80) == 0x7f80 ? bits & 0x807f : bits);
}

static enum nib_scale_type type_of_floats(const struct nib_format *format)
{
    return format->id == NIB_FORMAT_F16    ? NIB_SCALE_F16
           : format->id == NIB_FORMAT_BF16 ? NIB_SCALE_BF16
                                           : NIB_SCALE_F32;
}

static void fill(struct nib_row_block *b, const struct nib_format *format, uint64_t *state,
                 bool odd)
{
    uint64_t groups = b->rows * nib_format_groups(format, b->cols);
    uint64_t scales = format->super ? b->rows * nib_format_supers(format, b->cols) : groups;
    uint32_t most = format->bits == 2 ? 16 : format->zero == NIB_ZERO_MINIMUM ? 64 : 128;
    for (uint64_t i = 0; b->values && i < b->rows * b->cols; i++)
        b->values[i] = make_number(state, type_of_floats(format), odd);
    for (uint64_t i = 0; b->codes && i < b->rows * b->cols; i++)
        b->codes[i] = (uint8_t)(next_random(state) & ((1u << format->bits) - 1));
    for (uint64_t i = 0; b->scale && i < scales; i++)
        b->scale[i] = make_number(state, format->scale, odd);
    for (uint64_t i = 0; b->min && i < scales; i++)
        b->min[i] = make_number(state, format->scale, odd);
    for (uint64_t i = 0; b->sub_scale && i < groups; i++)
        b->sub_scale[i] = (int8_t)(next_random(state) % most);
    for (uint64_t i = 0; b->sub_min && i < groups; i++)
        b->sub_min[i] = (uint8_t)(next_random(state) % most);
    for (uint64_t i = 0; b->zero && i < groups; i++)
        b->zero[i] = (int16_t)(next_random(state) % ((1u << format->bits) + 1));
}

/// Stores a panel twice, over what the memory held, and compares all bytes.
static void compare(const struct nib_cpu_kernels *kernels, const struct nib_format *format,
                    uint64_t rows, uint64_t cols, bool odd)
{
    struct nib_panel_layout layout;
    struct nib_row_block block;
    uint64_t state = rows * 1000003 + cols;
    cr_assert(nib_panel_layout_init(&layout, format, cols));
    size_t size = (size_t)layout.bytes;
    void *memory = malloc(nib_row_block_size(format, rows, cols));
    uint8_t *expected = nib_pages_alloc(size), *actual = nib_pages_alloc(size);
    cr_assert(memory && expected && actual);
    nib_row_block_init(&block, format, rows, cols, memory);
    fill(&block, format, &state, odd);
    memset(expected, 0x5a, size);
    memset(actual, 0xa5, size);
    bool is_exact = nib_panel_store(&layout, format, &block, expected);
    cr_assert_eq(kernels->store_panel(&layout, format, &block, actual), is_exact);
    for (size_t i = 0; i < size; i++)
        cr_assert_eq(actual[i], expected[i], "%s, %u x %u, byte %u of %u", format->name,
                     (unsigned)rows, (unsigned)cols, (unsigned)i, (unsigned)size);
    nib_pages_free(expected, size);
    nib_pages_free(actual, size);
    free(memory);
}

static void compare_sizes(const struct nib_cpu_kernels *kernels, const struct nib_format *format)
{
    static const uint64_t sizes[] = {1, 31, 32, 33, 64, 77, 96, 256, 544, 1000};
    uint64_t unit = format->block_weights > 1 ? format->block_weights : 1;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t cols = (sizes[i] + unit - 1) / unit * unit;
        compare(kernels, format, 16, cols, false);
        compare(kernels, format, 16, cols, true);
        compare(kernels, format, 1 + i, cols, i % 2);
    }
}

/// Every level writes the bytes that nib_panel_store does, and all of them.
Test(cpu_panel, levels_store_the_same)
{
    static const char *const levels[] = {
#define X(id, name) name,
        NIB_CPU_LEVELS(X)
#undef X
    };
    static const enum nib_scale_type types[] = {NIB_SCALE_F32, NIB_SCALE_F16, NIB_SCALE_BF16};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        enum nib_cpu_level level;
        struct nib_cpu_kernels kernels;
        if (nib_cpu_level_find(levels[i], &level, NULL) != NIB_OK)
            continue;
        nib_cpu_kernels_init(&kernels, level);
        for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
            struct nib_format format = *nib_format_get((enum nib_format_id)id);
            compare_sizes(&kernels, &format);
            // Formats in planes come with the checkpoint's own scale type and group.
            for (int t = 0; t < 3 && format.code != NIB_CODE_FLOAT && !format.block_bytes; t++) {
                format.scale = types[t];
                format.group = t == 1 ? 0 : 64;
                compare_sizes(&kernels, &format);
            }
        }
    }
}
