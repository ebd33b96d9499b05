// Quantized matrices from any bytes: rows, columns, a config.json, a NUL byte, and a safetensors
// file that holds the parts of matrix "m". What gives a reader is read whole.
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/quantization.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_rows(const struct nib_row_reader *reader)
{
    const size_t size = nib_row_block_size(&reader->format, reader->rows, reader->cols);
    void *memory = malloc(size);
    float *row = malloc(reader->cols * sizeof *row);
    struct nib_row_block block;
    if (memory && row) {
        nib_row_block_init(&block, &reader->format, reader->rows, reader->cols, memory);
        if (reader->read(reader, 0, &block, NULL) != NIB_OK)
            abort();
        for (uint64_t r = 0; r < reader->rows; r++)
            nib_row_dequantize(&reader->format, &block, r, row);
        for (uint64_t j = 0; j < reader->cols; j++) {
            if (reader->permutation && reader->permutation[j] >= reader->cols)
                abort();
        }
        reader->drop(reader, 0, reader->rows);
    }
    free(row);
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nib_error error;
    json_t *config = NULL;
    struct nib_safetensors *tensors = NULL;
    struct nib_arena arena = {0};
    struct nib_quantization *quantization = NULL;
    const struct nib_row_reader *reader;
    if (size < 2 || data[0] == 0 || data[1] == 0)
        return 0;
    const struct nib_shape shape = {data[0], data[1]};
    const uint8_t *text = data + 2;
    const uint8_t *end = memchr(text, 0, size - 2);
    if (!end)
        return 0;
    const size_t rest = size - (size_t)(end + 1 - data);
    if (nib_json_parse((const char *)text, (size_t)(end - text), "fuzz", &config, &error) ==
            NIB_OK &&
        nib_quantization_parse(config, &arena, &quantization, &error) == NIB_OK && quantization &&
        nib_safetensors_parse(end + 1, rest, "fuzz", &tensors, &error) == NIB_OK &&
        nib_quantization_reader(quantization, &tensors->directory, "m", shape, &reader, &error) ==
            NIB_OK &&
        reader)
        read_rows(reader);
    nib_arena_free(&arena);
    nib_safetensors_destroy(&tensors);
    json_decref(config);
    return 0;
}
