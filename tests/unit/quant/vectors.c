#include "vectors.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"

bool vectors_read(struct vectors *v, const char *kind, const struct nib_format *format)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/quant/%s_%s.bin", NIB_TEST_DATA, kind, format->name);
    *v = (struct vectors){0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    v->file = malloc(size);
    cr_assert(v->file && fread(v->file, 1, size, file) == size);
    fclose(file);

    size_t n_blocks = size / (format->block_bytes + 4 * format->block_weights);
    v->cols = n_blocks * format->block_weights;
    v->row_bytes = n_blocks * format->block_bytes;
    cr_assert(n_blocks > 0 && v->row_bytes + 4 * v->cols == size, "%s has an odd size", path);
    bool weights_first = strcmp(kind, "pack") == 0;
    const uint8_t *weights = v->file + (weights_first ? 0 : v->row_bytes);
    v->raw = malloc(v->row_bytes);
    v->weights = malloc(4 * v->cols);
    cr_assert(v->raw && v->weights);
    memcpy(v->raw, v->file + (weights_first ? 4 * v->cols : 0), v->row_bytes);
    for (size_t i = 0; i < v->cols; i++)
        v->weights[i] = nib_load_f32(weights + 4 * i);
    return true;
}

void vectors_free(struct vectors *v)
{
    free(v->raw);
    free(v->weights);
    free(v->file);
}

void *block_alloc(struct nib_row_block *block, const struct nib_format *format, uint64_t rows,
                  uint64_t cols)
{
    size_t size = nib_row_block_size(format, rows, cols);
    cr_assert(size > 0);
    void *memory = calloc(1, size);
    cr_assert_not_null(memory);
    nib_row_block_init(block, format, rows, cols, memory);
    return memory;
}

bool same_float(float a, float b)
{
    return nib_f32_bits(a) == nib_f32_bits(b) || (isnan(a) && isnan(b));
}

float random_float(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * 0x1p-23f - 1.0f;
}
