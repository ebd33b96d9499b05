// Models from any bytes: a GGUF file, or a config.json, a NUL byte and a safetensors file. What
// opens becomes a plan, and a row of each of its weights is read.
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/source_parts.h"
#include "runtime/model/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_row(const struct nib_source *source, const struct nib_weight *weight)
{
    struct nib_row_reader reader;
    if (nib_source_reader(source, weight->role, weight->layer, &reader, NULL) != NIB_OK)
        abort();
    if (reader.rows != weight->rows || reader.cols != weight->cols)
        abort();
    size_t size = nib_row_block_size(&reader.format, 1, reader.cols);
    void *memory = malloc(size);
    struct nib_row_block block;
    if (memory) {
        nib_row_block_init(&block, &reader.format, 1, reader.cols, memory);
        if (reader.read(&reader, reader.rows - 1, &block, NULL) != NIB_OK)
            abort();
    }
    free(memory);
}

static void plan(const struct nib_source *source)
{
    struct nib_error error;
    struct nib_plan *made;
    const struct nib_plan_params params = {.precise = true};
    const struct nib_memory_params memory_params = {.weight_format = "int4"};
    struct nib_memory memory;
    enum nib_status status = nib_plan_create(source, &params, &made, &error);
    if (status == NIB_OK) {
        if (nib_plan_validate(made, &error) != NIB_OK)
            abort();
        for (uint32_t i = 0; i < made->n_weights; i++)
            read_row(source, &made->weights[i]);
        if (nib_plan_predict_memory(source, &memory_params, NULL, &memory, &error) != NIB_OK)
            abort();
    }
    nib_plan_destroy(&made);
}

static void open_gguf(const uint8_t *data, size_t size)
{
    struct nib_error error;
    struct nib_gguf *gguf;
    struct nib_source *source = NULL;
    if (nib_gguf_parse(data, size, "fuzz", &gguf, &error) == NIB_OK &&
        nib_source_from_gguf(gguf, &source, &error) == NIB_OK)
        plan(source);
    nib_source_destroy(&source);
    nib_gguf_destroy(&gguf);
}

static void open_folder(const uint8_t *data, size_t size)
{
    struct nib_error error;
    json_t *config = NULL;
    struct nib_safetensors *tensors = NULL;
    struct nib_source *source = NULL;
    const uint8_t *end = memchr(data, 0, size);
    size_t config_size = end ? (size_t)(end - data) : size;
    size_t rest = end ? size - config_size - 1 : 0;
    static const struct nib_tensor_directory none = {0};
    if (nib_json_parse((const char *)data, config_size, "fuzz", &config, &error) == NIB_OK) {
        if (rest)
            nib_safetensors_parse(end + 1, rest, "fuzz", &tensors, &error);
        if (nib_source_from_files(config, tensors ? &tensors->directory : &none, &source, &error) ==
            NIB_OK)
            plan(source);
    }
    nib_source_destroy(&source);
    nib_safetensors_destroy(&tensors);
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0)
        open_gguf(data, size);
    else
        open_folder(data, size);
    return 0;
}
