/// A growable run of bytes, and growable arrays.
/// Thread-safety: one thread at a time.
#ifndef RUNTIME_BASE_BUFFER_H
#define RUNTIME_BASE_BUFFER_H

#include <nibble/base.h>

/// A zeroed struct is an empty buffer. `data` is always followed by one zero byte once it is not
/// NULL, so that text can be handed on as a C string.
struct nib_buffer {
    char *data;
    size_t size;
    size_t capacity;
};

/// Appends bytes. Errors: memory (the buffer is unchanged).
enum nib_status nib_buffer_append(struct nib_buffer *buffer, const void *bytes, size_t size,
                                  struct nib_error *err);
/// Appends text made by printf's rules. Errors: memory.
enum nib_status nib_buffer_printf(struct nib_buffer *buffer, struct nib_error *err,
                                  const char *format, ...) NIB_PRINTF(3, 4);
void nib_buffer_free(struct nib_buffer *buffer);

/// Makes room for `count` elements of `size` bytes in `*array`, an array from malloc that now holds
/// `*capacity` elements; grows by at least half. Errors: memory (nothing changes).
enum nib_status nib_array_reserve(void **array, size_t *capacity, size_t count, size_t size,
                                  struct nib_error *err);

#endif
