#include "runtime/base/buffer.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Returns how many elements to make room for when `count` are needed.
static size_t grown_capacity(size_t capacity, size_t count, size_t least)
{
    size_t grown;
    if (!nib_add_size(capacity, capacity / 2, &grown))
        grown = count;
    if (grown < least)
        grown = least;
    return grown < count ? count : grown;
}

/// Makes room for `size` more bytes and the zero byte.
static enum nib_status buffer_reserve(struct nib_buffer *buffer, size_t size, struct nib_error *err)
{
    size_t needed;
    if (!nib_add_size(buffer->size, size, &needed) || !nib_add_size(needed, 1, &needed)) {
        return nib_fail_memory(err);
    }
    if (needed <= buffer->capacity)
        return NIB_OK;
    size_t capacity = grown_capacity(buffer->capacity, needed, 64);
    char *data = realloc(buffer->data, capacity);
    if (!data)
        return nib_fail_memory(err);
    data[buffer->size] = '\0';
    buffer->data = data;
    buffer->capacity = capacity;
    return NIB_OK;
}

enum nib_status nib_buffer_append(struct nib_buffer *buffer, const void *bytes, size_t size,
                                  struct nib_error *err)
{
    enum nib_status status = buffer_reserve(buffer, size, err);
    if (status != NIB_OK)
        return status;
    if (size)
        memcpy(buffer->data + buffer->size, bytes, size);
    buffer->size += size;
    buffer->data[buffer->size] = '\0';
    return NIB_OK;
}

enum nib_status nib_buffer_printf(struct nib_buffer *buffer, struct nib_error *err,
                                  const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "text cannot be formatted");

    enum nib_status status = buffer_reserve(buffer, (size_t)length, err);
    if (status != NIB_OK)
        return status;
    va_start(args, format);
    vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, args);
    va_end(args);
    buffer->size += (size_t)length;
    return NIB_OK;
}

void nib_buffer_free(struct nib_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct nib_buffer){0};
}

enum nib_status nib_array_reserve(void **array, size_t *capacity, size_t count, size_t size,
                                  struct nib_error *err)
{
    if (count <= *capacity)
        return NIB_OK;
    size_t grown = grown_capacity(*capacity, count, 8);
    size_t n_bytes;
    if (!nib_mul_size(grown, size, &n_bytes))
        return nib_fail_memory(err);

    // The caller's variable is a pointer to its own element type, so it is copied, not aliased.
    void *elements;
    memcpy(&elements, array, sizeof elements);
    elements = realloc(elements, n_bytes);
    if (!elements)
        return nib_fail_memory(err);
    memcpy(array, &elements, sizeof elements);
    *capacity = grown;
    return NIB_OK;
}
