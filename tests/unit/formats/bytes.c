#include "tests/unit/formats/bytes.h"

#include "runtime/base/bytes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(struct nib_buffer *file, const void *bytes, size_t size)
{
    cr_assert_eq(nib_buffer_append(file, bytes, size, NULL), NIB_OK);
}

void put_u8(struct nib_buffer *file, uint8_t value)
{
    put(file, &value, 1);
}

void put_u32(struct nib_buffer *file, uint32_t value)
{
    uint8_t bytes[4];
    nib_store_u32(bytes, value);
    put(file, bytes, sizeof(bytes));
}

void put_u64(struct nib_buffer *file, uint64_t value)
{
    uint8_t bytes[8];
    nib_store_u64(bytes, value);
    put(file, bytes, sizeof(bytes));
}

void put_zeros(struct nib_buffer *file, size_t count)
{
    while (count-- > 0)
        put_u8(file, 0);
}

void put_padding(struct nib_buffer *file, size_t alignment)
{
    while (file->size % alignment != 0)
        put_u8(file, 0);
}

void put_text(struct nib_buffer *file, const char *text)
{
    put_u64(file, strlen(text));
    put(file, text, strlen(text));
}

void put_gguf_header(struct nib_buffer *file, uint64_t n_tensors, uint64_t n_values)
{
    put(file, "GGUF", 4);
    put_u32(file, 3);
    put_u64(file, n_tensors);
    put_u64(file, n_values);
}

void put_gguf_u32(struct nib_buffer *file, const char *key, uint32_t value)
{
    put_text(file, key);
    put_u32(file, NIB_GGUF_U32);
    put_u32(file, value);
}

void put_gguf_tensor(struct nib_buffer *file, const char *name, uint32_t type, uint64_t dim,
                     uint64_t offset)
{
    put_text(file, name);
    put_u32(file, 1);
    put_u64(file, dim);
    put_u32(file, type);
    put_u64(file, offset);
}

void put_safetensors(struct nib_buffer *file, const char *header, size_t data_size)
{
    put_text(file, header);
    put_zeros(file, data_size);
}

uint8_t *exact_copy(const void *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    cr_assert_not_null(copy);
    if (size)
        memcpy(copy, data, size);
    return copy;
}

struct nib_buffer read_test_file(const char *name)
{
    struct nib_buffer data = {0};
    struct nib_file_map map;
    char path[400];
    snprintf(path, sizeof(path), "%s/formats/%s", NIB_TEST_DATA, name);
    cr_assert_eq(nib_file_map_open(path, &map, NULL), NIB_OK, "%s", path);
    put(&data, map.data, map.size);
    nib_file_map_close(&map);
    return data;
}
