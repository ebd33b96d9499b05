/// Params structs of other versions.
#ifndef RUNTIME_BASE_PARAMS_H
#define RUNTIME_BASE_PARAMS_H

#include <nibble/base.h>

/// Brings a caller's params struct to this version: `out`, `size` bytes, is zeroed, and the
/// struct_size bytes of `params` (NULL: none) are copied over its beginning. Its struct_size is
/// then `size`. Errors: argument (struct_size was not set, or bytes that this version does not know
/// are not 0).
enum nib_status nib_params_read(void *out, uint32_t size, const void *params,
                                struct nib_error *err);

#endif
