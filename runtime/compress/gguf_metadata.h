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

#endif
