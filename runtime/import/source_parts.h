/// Sources of what was parsed already, from memory as well as from files.
#ifndef RUNTIME_IMPORT_SOURCE_PARTS_H
#define RUNTIME_IMPORT_SOURCE_PARTS_H

#include "runtime/formats/gguf.h"
#include "runtime/import/config_import.h"
#include "runtime/import/source.h"

#include <jansson.h>

/// Each is the part of nib_source_open that comes after parsing, with its errors, which name no
/// file. What is given is borrowed by the source; a folder's tokenizer is left out.
enum nib_status nib_source_from_gguf(const struct nib_gguf *gguf, struct nib_source **out_source,
                                     struct nib_error *err);
enum nib_status nib_source_from_files(const json_t *config,
                                      const struct nib_tensor_directory *tensors,
                                      struct nib_source **out_source, struct nib_error *err);

/// For those who write a source anew.

/// Returns the configuration; `tied` is true where no head is in the file, in GGUF files too.
const struct nib_import_config *nib_source_import_config(const struct nib_source *source);
/// Returns the path that the source was opened by; "" where it came from memory.
const char *nib_source_path(const struct nib_source *source);
/// Returns the parsed file, or NULL: the source is a folder.
const struct nib_gguf *nib_source_gguf(const struct nib_source *source);

#endif
