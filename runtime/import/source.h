/// A checkpoint opened and understood: configuration, tensors by role, row readers, tokenizer.
#ifndef RUNTIME_IMPORT_SOURCE_H
#define RUNTIME_IMPORT_SOURCE_H

#include "runtime/formats/tensor.h"
#include "runtime/import/arch.h"
#include "runtime/quant/row_reader.h"
#include "runtime/tokenizer/tokenizer.h"
#include <nibble/model.h>

/// Thread-safety: immutable after opening; safe.
struct nib_source;

/// Opens `path`, a .gguf file or a Hugging Face folder. Checks that every tensor that the
/// architecture needs is there with the right shape and a known format. Safe for untrusted input.
/// Errors: io, format, unsupported (architecture, quantization method, tensor type), not found,
/// cancelled, memory.
enum nib_status nib_source_open(const char *path, const struct nib_model_params *params,
                                struct nib_source **out_source, struct nib_error *err);
void nib_source_destroy(struct nib_source **source);

const struct nib_model_config *nib_source_config(const struct nib_source *source);
/// Returns the row of the table of architectures; static.
const struct nib_arch *nib_source_arch(const struct nib_source *source);
/// Returns the tokenizer, or NULL where the checkpoint has none.
const struct nib_tokenizer *nib_source_tokenizer(const struct nib_source *source);
const struct nib_tensor_directory *nib_source_tensors(const struct nib_source *source);
void nib_source_generation_defaults(const struct nib_source *source,
                                    struct nib_generation_defaults *out_defaults);
/// Returns "gguf" or "safetensors".
const char *nib_source_container(const struct nib_source *source);
/// Returns the format of most weights' bytes: a name of the table of formats, or that of a method
/// and its bits ("gptq-int4").
const char *nib_source_quantization(const struct nib_source *source);
/// Returns the bytes of all files.
uint64_t nib_source_file_bytes(const struct nib_source *source);

/// Returns whether the checkpoint has a tensor (or a set of tensors) for `role` in `layer`. A tied
/// head has no NIB_ROLE_OUTPUT, be its tensor in the file or not.
bool nib_source_has(const struct nib_source *source, enum nib_role role, uint32_t layer);
/// Writes the name that the tensor of `role` has in a checkpoint of `container`, whatever the
/// source's own is, to `out`; returns false where the architecture has none there.
bool nib_source_tensor_name(const struct nib_source *source, enum nib_container container,
                            enum nib_role role, uint32_t layer, char out[NIB_ARCH_NAME_SIZE]);
/// Gives a reader for the matrix or vector; vectors have one row and a float format, and norm
/// weights come with norm_offset added. The reader borrows from the source.
/// Errors: not found, format (shape), unsupported (type).
enum nib_status nib_source_reader(const struct nib_source *source, enum nib_role role,
                                  uint32_t layer, struct nib_row_reader *out_reader,
                                  struct nib_error *err);

#endif
