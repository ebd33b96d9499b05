/// The type numbers of GGUF files: of metadata values, and of tensors.
/// Thread-safety: safe.
#ifndef RUNTIME_FORMATS_GGUF_TYPE_H
#define RUNTIME_FORMATS_GGUF_TYPE_H

#include "runtime/formats/gguf.h"

/// Limits of the specification and of this library, for the parser and the writer alike.
enum { NIB_GGUF_MAX_KEY_SIZE = 65535, NIB_GGUF_MAX_NAME_SIZE = 256 };
#define NIB_GGUF_ALIGNMENT_KEY "general.alignment"

/// Returns the bytes of a value of `type`, or 0 for strings, arrays and numbers that are no type.
uint32_t nib_gguf_type_size(uint32_t type);
/// Measures `count` elements of `type`, no array, at the start of `data[0 .. available)`, and
/// returns whether they lie within it.
bool nib_gguf_elements_size(uint32_t type, uint64_t count, const uint8_t *data, uint64_t available,
                            uint64_t *out_size);
/// Returns whether tensor data may be aligned to `alignment`: a power of two from 8 to 65536.
bool nib_gguf_alignment_valid(uint64_t alignment);

/// Finds the dtype of a tensor type; false where this library has none.
bool nib_gguf_dtype_from_type(uint32_t type, enum nib_dtype *out_dtype);
/// Finds the tensor type of a dtype; false where GGUF has none.
bool nib_gguf_type_from_dtype(enum nib_dtype dtype, uint32_t *out_type);
/// Returns the name of a tensor type that nib_gguf_dtype_from_type refuses, or NULL where the
/// number is unknown.
const char *nib_gguf_foreign_type_name(uint32_t type);

#endif
