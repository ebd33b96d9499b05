/// Safetensors: parsed in place, with shards and index, and written.
/// Specification: the format section of the safetensors project's README.
#ifndef RUNTIME_FORMATS_SAFETENSORS_H
#define RUNTIME_FORMATS_SAFETENSORS_H

#include "runtime/base/arena.h"
#include "runtime/formats/tensor.h"

/// Parsed files. Immutable. Thread-safety: safe.
struct nib_safetensors {
    struct nib_tensor_directory directory;
    struct nib_arena arena;
    struct nib_string_map metadata; ///< "__metadata__": key to index in `metadata_values`
    const char **metadata_values;
};

/// Parses `data[0 .. size)`, a whole file; the bytes must outlive the result. `path` is for
/// messages. Checks what the specification asks for: header at most 100 MB, no overlap, no hole,
/// shapes that match sizes, no duplicate names. Safe for untrusted input. Errors: format,
/// unsupported, memory.
enum nib_status nib_safetensors_parse(const uint8_t *data, size_t size, const char *path,
                                      struct nib_safetensors **out_file, struct nib_error *err);
/// Opens `folder`/model.safetensors, or all shards of `folder`/model.safetensors.index.json (whose
/// file names must be plain names in that folder). Errors: also io, not found.
enum nib_status nib_safetensors_open_folder(const char *folder, struct nib_safetensors **out_files,
                                            struct nib_error *err);
/// Maps and parses one file.
enum nib_status nib_safetensors_open(const char *path, struct nib_safetensors **out_file,
                                     struct nib_error *err);
void nib_safetensors_destroy(struct nib_safetensors **files);
/// Returns the value of a metadata key, or NULL.
const char *nib_safetensors_metadata(const struct nib_safetensors *files, const char *key);

/// Writing one file: metadata, tensors, data in order, commit; as the GGUF writer, with its errors.
struct nib_safetensors_writer;
enum nib_status nib_safetensors_writer_open(const char *path,
                                            struct nib_safetensors_writer **out_writer,
                                            struct nib_error *err);
/// Adds a pair to "__metadata__"; both are UTF-8.
enum nib_status nib_safetensors_writer_add_metadata(struct nib_safetensors_writer *writer,
                                                    const char *key, const char *value,
                                                    struct nib_error *err);
/// Announces a tensor. A first dimension of NIB_DIM_OPEN is allowed for the only tensor of a file:
/// it is what the appended data turns out to hold when the file is committed.
#define NIB_DIM_OPEN UINT64_MAX
enum nib_status nib_safetensors_writer_add_tensor(struct nib_safetensors_writer *writer,
                                                  const struct nib_tensor *tensor,
                                                  struct nib_error *err);
enum nib_status nib_safetensors_writer_append(struct nib_safetensors_writer *writer,
                                              const void *bytes, size_t size,
                                              struct nib_error *err);
/// Errors: also state (an open dimension ends within a row).
enum nib_status nib_safetensors_writer_commit(struct nib_safetensors_writer **writer,
                                              struct nib_error *err);
void nib_safetensors_writer_destroy(struct nib_safetensors_writer **writer);

#endif
