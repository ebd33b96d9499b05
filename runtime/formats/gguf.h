/// GGUF versions 2 and 3, little-endian: parsed in place, split files included, and written.
/// Specification: docs/gguf.md of the ggml project.
#ifndef RUNTIME_FORMATS_GGUF_H
#define RUNTIME_FORMATS_GGUF_H

#include "runtime/base/arena.h"
#include "runtime/formats/tensor.h"

enum nib_gguf_type {
    NIB_GGUF_U8 = 0,
    NIB_GGUF_I8 = 1,
    NIB_GGUF_U16 = 2,
    NIB_GGUF_I16 = 3,
    NIB_GGUF_U32 = 4,
    NIB_GGUF_I32 = 5,
    NIB_GGUF_F32 = 6,
    NIB_GGUF_BOOL = 7,
    NIB_GGUF_STRING = 8,
    NIB_GGUF_ARRAY = 9,
    NIB_GGUF_U64 = 10,
    NIB_GGUF_I64 = 11,
    NIB_GGUF_F64 = 12
};

/// A metadata value, in the file's bytes. An array of arrays is refused when parsing.
struct nib_gguf_value {
    struct nib_text key;
    enum nib_gguf_type type;         ///< ARRAY for arrays
    enum nib_gguf_type element_type; ///< of an array; else `type`
    uint64_t count;                  ///< elements of an array; else 1
    const uint8_t *data;             ///< the first element, unaligned; strings: u64 length, bytes
    uint64_t size;                   ///< bytes of all elements, checked
};

/// A parsed file. Immutable. Thread-safety: safe.
struct nib_gguf {
    uint32_t version;
    struct nib_gguf_value *values; ///< of the first file
    uint32_t n_values;
    struct nib_string_map by_key;
    struct nib_tensor_directory directory; ///< of all files of a split model
    struct nib_arena arena;
};

/// Parses `data[0 .. size)`, a whole file, as one part; nothing is copied but names. The bytes must
/// outlive the result, which does not own them. `path` is for messages. Safe for untrusted input.
/// Errors: format, unsupported (version, big-endian file, tensor type), memory.
enum nib_status nib_gguf_parse(const uint8_t *data, size_t size, const char *path,
                               struct nib_gguf **out_gguf, struct nib_error *err);
/// Maps and parses `path`; any part of a split model ("…-00002-of-00005.gguf") brings in all of
/// them. Errors: those of nib_gguf_parse, io, not found (a part).
enum nib_status nib_gguf_open(const char *path, struct nib_gguf **out_gguf, struct nib_error *err);
void nib_gguf_destroy(struct nib_gguf **gguf);

/// Returns the value of `key`, or NULL.
const struct nib_gguf_value *nib_gguf_find(const struct nib_gguf *gguf, const char *key);
/// Each reads a scalar of any integer type that holds a value of the range asked for (for f32: of
/// any number type, rounded to nearest), and returns whether `value` (may be NULL) is one; `*out`
/// is untouched otherwise.
bool nib_gguf_get_u32(const struct nib_gguf_value *value, uint32_t *out);
bool nib_gguf_get_u64(const struct nib_gguf_value *value, uint64_t *out);
bool nib_gguf_get_f32(const struct nib_gguf_value *value, float *out);
bool nib_gguf_get_bool(const struct nib_gguf_value *value, bool *out);
bool nib_gguf_get_text(const struct nib_gguf_value *value, struct nib_text *out);
/// The same for element `index` of an array (false beyond the end); i64 takes booleans, too.
/// Strings are reached in order with nib_gguf_next_text alone, since they have no index.
bool nib_gguf_element_i64(const struct nib_gguf_value *value, uint64_t index, int64_t *out);
bool nib_gguf_element_f32(const struct nib_gguf_value *value, uint64_t index, float *out);
/// Walks an array of strings: `*cursor` starts at 0. Returns false at the end.
bool nib_gguf_next_text(const struct nib_gguf_value *value, uint64_t *cursor, struct nib_text *out);

/// Writing: values, then tensors with their sizes, then data in the order of the tensors, then
/// commit. The file appears whole or not at all.
struct nib_gguf_writer;
/// Opens a version-3 writer with data alignment 32. Errors: io, memory.
enum nib_status nib_gguf_writer_open(const char *path, struct nib_gguf_writer **out_writer,
                                     struct nib_error *err);
/// Adds a value whose `data` is laid out as in the file; "general.alignment" is obeyed. Errors:
/// argument (the key is there already, the size does not fit the type and count), memory, state
/// (data has begun). The functions below are shorthands for one type each.
enum nib_status nib_gguf_writer_add_value(struct nib_gguf_writer *writer,
                                          const struct nib_gguf_value *value,
                                          struct nib_error *err);
enum nib_status nib_gguf_writer_add_u32(struct nib_gguf_writer *writer, const char *key,
                                        uint32_t value, struct nib_error *err);
enum nib_status nib_gguf_writer_add_f32(struct nib_gguf_writer *writer, const char *key,
                                        float value, struct nib_error *err);
enum nib_status nib_gguf_writer_add_bool(struct nib_gguf_writer *writer, const char *key,
                                         bool value, struct nib_error *err);
enum nib_status nib_gguf_writer_add_text(struct nib_gguf_writer *writer, const char *key,
                                         struct nib_text value, struct nib_error *err);
enum nib_status nib_gguf_writer_add_texts(struct nib_gguf_writer *writer, const char *key,
                                          const struct nib_text *texts, uint64_t count,
                                          struct nib_error *err);
/// Announces a tensor: name, dtype, dims; `data`, `size` and `file` are not looked at. Errors:
/// argument (the name is there already or too long, no bytes, more than four dimensions), format
/// (rows of no whole blocks), unsupported (GGUF has no such dtype), memory, state (data has begun).
enum nib_status nib_gguf_writer_add_tensor(struct nib_gguf_writer *writer,
                                           const struct nib_tensor *tensor, struct nib_error *err);
/// Appends data of the next tensor (it may come in pieces; padding is inserted after each tensor).
/// Errors: io, memory, argument (more than the tensor holds). After a failure the writer can only
/// be destroyed.
enum nib_status nib_gguf_writer_append(struct nib_gguf_writer *writer, const void *bytes,
                                       size_t size, struct nib_error *err);
/// Ends the file, `*out_size` bytes large (may be NULL), and frees the writer, on failure too.
/// Errors: io, memory, state (data is missing).
enum nib_status nib_gguf_writer_commit(struct nib_gguf_writer **writer, uint64_t *out_size,
                                       struct nib_error *err);
/// Drops what was written and frees the writer.
void nib_gguf_writer_destroy(struct nib_gguf_writer **writer);

#endif
