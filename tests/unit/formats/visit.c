#include "tests/unit/formats/visit.h"

#include <string.h>

/// Keeps reads from being optimised away.
static volatile uint64_t sink;

static void read_bytes(const void *data, uint64_t size)
{
    const uint8_t *bytes = data;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < size; i++)
        sum += bytes[i];
    sink += sum;
}

static bool visit_tensors(const struct nib_tensor_directory *directory, const uint8_t *data,
                          size_t size)
{
    for (uint32_t i = 0; i < directory->n_tensors; i++) {
        const struct nib_tensor *tensor = &directory->tensors[i];
        uint64_t expected;
        if (tensor->data < data || tensor->data > data + size ||
            tensor->size > (uint64_t)(data + size - tensor->data))
            return false;
        if (tensor->n_dims > 4 || (unsigned)tensor->dtype >= NIB_DTYPE_COUNT ||
            nib_tensor_find(directory, tensor->name) != tensor ||
            nib_tensor_compute_size(tensor, &expected, NULL) != NIB_OK || expected != tensor->size)
            return false;
        for (uint32_t d = tensor->n_dims; d < 4; d++) {
            if (tensor->dims[d] != 1)
                return false;
        }
        read_bytes(tensor->data, tensor->size);
        nib_tensor_drop(directory, tensor, 0, UINT64_MAX);
    }
    return true;
}

static void visit_value(const struct nib_gguf_value *value)
{
    uint32_t u32;
    uint64_t u64;
    int64_t i64;
    float f32;
    bool flag;
    struct nib_text text;
    read_bytes(value->data, value->size);
    sink += nib_gguf_get_u32(value, &u32) + nib_gguf_get_u64(value, &u64) +
            nib_gguf_get_f32(value, &f32) + nib_gguf_get_bool(value, &flag);
    if (nib_gguf_get_text(value, &text))
        read_bytes(text.ptr, text.size);
    for (uint64_t i = 0; i < value->count + 2 && i < 1000; i++)
        sink += nib_gguf_element_i64(value, i, &i64) + nib_gguf_element_f32(value, i, &f32);
    sink += nib_gguf_element_i64(value, UINT64_MAX, &i64);
    for (uint64_t cursor = 0; nib_gguf_next_text(value, &cursor, &text);)
        read_bytes(text.ptr, text.size);
}

bool visit_gguf(const struct nib_gguf *gguf, const uint8_t *data, size_t size)
{
    for (uint32_t i = 0; i < gguf->n_values; i++)
        visit_value(&gguf->values[i]);
    nib_gguf_find(gguf, "general.architecture");
    return visit_tensors(&gguf->directory, data, size);
}

bool visit_safetensors(const struct nib_safetensors *file, const uint8_t *data, size_t size)
{
    const char *format = nib_safetensors_metadata(file, "format");
    if (format)
        read_bytes(format, strlen(format));
    return visit_tensors(&file->directory, data, size);
}

void visit_json(json_t *json)
{
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        uint32_t u32;
        float f32;
        bool flag;
        struct nib_text text;
        sink += nib_json_get_u32(json, key, &u32) + nib_json_get_f32(json, key, &f32) +
                nib_json_get_bool(json, key, &flag);
        if (nib_json_get_text(json, key, &text))
            read_bytes(text.ptr, text.size);
    }
}
