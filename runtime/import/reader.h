/// Row readers over one tensor. Checkpoints whose matrices are sets of tensors (codes, scales,
/// zeros) get readers of their own beside these.
#ifndef RUNTIME_IMPORT_READER_H
#define RUNTIME_IMPORT_READER_H

#include "runtime/formats/tensor.h"
#include "runtime/import/roles.h"
#include "runtime/quant/row_reader.h"

/// Makes a reader for a tensor whose rows lie in blocks of the table of formats, as all of GGUF's
/// do, and f32, f16 and bf16 of safetensors: they are used in place. A vector is one row.
/// Borrows `directory`, which drops pages. Errors: format (the shape differs from `shape`),
/// unsupported (element type; for a vector all but float types).
enum nib_status nib_reader_blocks(const struct nib_tensor_directory *directory,
                                  const struct nib_tensor *tensor, struct nib_shape shape,
                                  struct nib_row_reader *out_reader, struct nib_error *err);
/// Makes a reader of the vector that `reader` reads with `*offset` added to each number; borrows
/// `offset`. The sums are fp32.
void nib_reader_add_offset(struct nib_row_reader *reader, const float *offset);

#endif
