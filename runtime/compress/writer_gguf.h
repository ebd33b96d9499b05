/// The writer of GGUF files.
#ifndef RUNTIME_COMPRESS_WRITER_GGUF_H
#define RUNTIME_COMPRESS_WRITER_GGUF_H

#include "runtime/compress/compress.h"

/// Writes one file of version 3. From a GGUF source all keys and all tensors that are no matrices
/// of the plan are kept.
extern const struct nib_checkpoint_writer nib_writer_gguf;

#endif
