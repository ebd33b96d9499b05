/// The keys of a GGUF file that is written: copied from a GGUF source, or made of a folder's
/// configuration and tokenizer. Keys after the ggml project's docs/gguf.md and what its loader
/// reads.
#ifndef RUNTIME_COMPRESS_GGUF_METADATA_H
#define RUNTIME_COMPRESS_GGUF_METADATA_H

#include "runtime/compress/compress.h"
#include "runtime/formats/gguf.h"

/// Adds all keys of the plan's output to `writer`, which has none yet. Errors: unsupported (what
/// GGUF has no key or value for), format, io, memory.
enum nib_status nib_gguf_metadata_write(const struct nib_compress_plan *plan,
                                        struct nib_gguf_writer *writer, struct nib_error *err);

/// Gives the vectors of RoPE factors that GGUF keeps beside the weights where a folder has them in
/// its configuration: number `index` from 0 on, `*out_count` numbers, 0 past the last.
/// `*out_factors` is to be freed; the name is static. Errors: memory.
enum nib_status nib_gguf_factors(const struct nib_compress_plan *plan, uint32_t index,
                                 const char **out_name, float **out_factors, uint32_t *out_count,
                                 struct nib_error *err);

#endif
