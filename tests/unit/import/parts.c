#include "tests/unit/import/parts.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

json_t *parts_json(const char *text)
{
    char json[4096];
    const size_t size = strlen(text);
    json_t *parsed;
    struct nib_error error = {0};
    cr_assert_lt(size, sizeof json);
    for (size_t i = 0; i < size; i++)
        json[i] = text[i] == '\'' ? '"' : text[i];
    cr_assert_eq(nib_json_parse(json, size, "test", &parsed, &error), NIB_OK, "%s", error.message);
    return parsed;
}

void parts_begin(struct parts *parts, const char *quantization_config)
{
    struct nib_error error = {0};
    *parts = (struct parts){.directory.tensors = parts->tensors};
    parts->config = json_object();
    json_object_set_new(parts->config, "quantization_config", parts_json(quantization_config));
    cr_assert_eq(nib_quantization_parse(parts->config, &parts->arena, &parts->quantization, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_not_null(parts->quantization);
}

void parts_end(struct parts *parts)
{
    nib_string_map_free(&parts->directory.by_name);
    nib_arena_free(&parts->arena);
    json_decref(parts->config);
    for (size_t i = 0; i < MAX_PARTS; i++)
        free(parts->data[i]);
}

uint8_t *parts_add(struct parts *parts, const char *name, enum nib_dtype dtype, uint64_t rows,
                   uint64_t cols)
{
    struct nib_error error = {0};
    const uint32_t index = parts->directory.n_tensors++;
    cr_assert_lt(index, MAX_PARTS);
    struct nib_tensor *tensor = &parts->tensors[index];
    *tensor = (struct nib_tensor){
        .name = name,
        .dtype = dtype,
        .n_dims = cols ? 2 : 1,
        .dims = {rows, cols ? cols : 1, 1, 1},
    };
    cr_assert_eq(nib_tensor_compute_size(tensor, &tensor->size, &error), NIB_OK);
    parts->data[index] = calloc(1, tensor->size);
    cr_assert_not_null(parts->data[index]);
    tensor->data = parts->data[index];
    cr_assert_eq(nib_tensor_directory_enter(&parts->directory, index, &error), NIB_OK, "%s",
                 error.message);
    return parts->data[index];
}

const struct nib_row_reader *parts_reader(struct parts *parts, uint64_t rows, uint64_t cols)
{
    struct nib_error error = {0};
    const struct nib_row_reader *reader;
    cr_assert_eq(nib_quantization_reader(parts->quantization, &parts->directory, "m",
                                         (struct nib_shape){rows, cols}, &reader, &error),
                 NIB_OK, "%s", error.message);
    cr_assert_not_null(reader);
    cr_assert_eq(reader->rows, rows);
    cr_assert_eq(reader->cols, cols);
    cr_assert_eq(parts->quantization->n_tensors, parts->directory.n_tensors);
    return reader;
}

void put_word(uint8_t *data, uint64_t index, uint32_t word)
{
    nib_store_u32(data + 4 * index, word);
}

void put_field(uint8_t *data, uint64_t word, uint32_t bits, uint32_t field, uint32_t code)
{
    put_word(data, word, nib_load_u32(data + 4 * word) | code << bits * field);
}

void put_float(uint8_t *data, uint64_t index, enum nib_dtype dtype, float value)
{
    switch (dtype) {
    case NIB_DTYPE_F16:
        nib_store_u16(data + 2 * index, nib_f16_from_f32(value));
        break;
    case NIB_DTYPE_BF16:
        nib_store_u16(data + 2 * index, nib_bf16_from_f32(value));
        break;
    default:
        put_word(data, index, nib_f32_bits(value));
        break;
    }
}

float *read_weights(const struct nib_row_reader *reader, uint64_t step)
{
    struct nib_error error = {0};
    const uint64_t cols = reader->cols;
    float *weights = calloc(reader->rows * cols, sizeof *weights);
    float *row = calloc(cols, sizeof *row);
    void *memory = malloc(nib_row_block_size(&reader->format, step, cols));
    cr_assert(weights && row && memory);
    for (uint64_t first = 0; first < reader->rows; first += step) {
        const uint64_t n = reader->rows - first < step ? reader->rows - first : step;
        struct nib_row_block block;
        nib_row_block_init(&block, &reader->format, n, cols, memory);
        cr_assert_eq(reader->read(reader, first, &block, &error), NIB_OK, "%s", error.message);
        for (uint64_t r = 0; r < n; r++) {
            nib_row_dequantize(&reader->format, &block, r, row);
            for (uint64_t j = 0; j < cols; j++) {
                const uint64_t i = reader->permutation ? reader->permutation[j] : j;
                weights[(first + r) * cols + i] = row[j];
            }
        }
        if (reader->drop)
            reader->drop(reader, first, n);
    }
    struct nib_row_block block;
    nib_row_block_init(&block, &reader->format, 1, cols, memory);
    cr_expect_eq(reader->read(reader, reader->rows, &block, &error), NIB_ERROR_ARGUMENT);
    free(memory);
    free(row);
    return weights;
}

uint32_t random_below(uint32_t *state, uint32_t limit)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % limit;
}

void checkpoint_open(struct checkpoint *checkpoint, const char *name)
{
    char path[512];
    struct nib_error error = {0};
    *checkpoint = (struct checkpoint){0};
    snprintf(path, sizeof path, NIB_TEST_DATA "/checkpoints/%s", name);
    cr_assert_eq(nib_json_open(path, "config.json", true, &checkpoint->config, &error), NIB_OK,
                 "%s", error.message);
    cr_assert_eq(nib_safetensors_open_folder(path, &checkpoint->files, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_quantization_parse(checkpoint->config, &checkpoint->arena,
                                        &checkpoint->quantization, &error),
                 NIB_OK, "%s", error.message);
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    json_decref(checkpoint->config);
    nib_safetensors_destroy(&checkpoint->files);
    nib_arena_free(&checkpoint->arena);
}
