/// Builds files byte by byte, right or wrong, for the tests of the parsers.
#ifndef TESTS_UNIT_FORMATS_BYTES_H
#define TESTS_UNIT_FORMATS_BYTES_H

#include "runtime/base/buffer.h"
#include "runtime/formats/gguf.h"

void put_u8(struct nib_buffer *file, uint8_t value);
void put_u32(struct nib_buffer *file, uint32_t value);
void put_u64(struct nib_buffer *file, uint64_t value);
void put_zeros(struct nib_buffer *file, size_t count);
/// Zeros up to a multiple of `alignment`.
void put_padding(struct nib_buffer *file, size_t alignment);
/// A u64 length and the text without its terminator.
void put_text(struct nib_buffer *file, const char *text);

/// Magic, version 3, counts.
void put_gguf_header(struct nib_buffer *file, uint64_t n_tensors, uint64_t n_values);
void put_gguf_u32(struct nib_buffer *file, const char *key, uint32_t value);
/// The description of a one-dimensional tensor.
void put_gguf_tensor(struct nib_buffer *file, const char *name, uint32_t type, uint64_t dim,
                     uint64_t offset);

/// A safetensors file: header, then `data_size` zeros.
void put_safetensors(struct nib_buffer *file, const char *header, size_t data_size);

/// A copy in a heap block of exactly its size, so that an address sanitizer sees a read beyond its
/// end. Free with free().
uint8_t *exact_copy(const void *data, size_t size);

/// Reads a file of tests/data/formats.
struct nib_buffer read_test_file(const char *name);

#endif
