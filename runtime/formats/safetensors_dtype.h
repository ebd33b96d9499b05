/// Names of element types in safetensors files.
#ifndef RUNTIME_FORMATS_SAFETENSORS_DTYPE_H
#define RUNTIME_FORMATS_SAFETENSORS_DTYPE_H

#include "runtime/formats/tensor.h"

/// Returns the name of `dtype`, static, or NULL where safetensors has none (block formats).
/// Thread-safety: safe.
const char *nib_safetensors_dtype_name(enum nib_dtype dtype);

#endif
