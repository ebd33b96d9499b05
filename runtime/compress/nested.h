/// Scales that are quantized themselves, as bitsandbytes does it ("double quantization", Dettmers
/// et al. 2023, QLoRA, section 3): scale = book[code] · absmax[index / NIB_NESTED_BLOCK] + offset.
#ifndef RUNTIME_COMPRESS_NESTED_H
#define RUNTIME_COMPRESS_NESTED_H

#include "runtime/compress/compress.h"

enum { NIB_NESTED_BLOCK = 256, NIB_NESTED_CODES = 256 };

/// The code book, ascending: seven decades with 1 to 64 values of either sign, 0, and 1 (Dettmers
/// 2016, "8-Bit Approximations for Parallelism in Deep Learning").
extern const float nib_nested_book[NIB_NESTED_CODES];
/// Quantizes `count` scales into `codes`, whose arrays are the caller's, and replaces them by what
/// is left of them. Thread-safety: safe.
void nib_nested_quantize(float *scales, uint64_t count, struct nib_scale_codes *codes);

#endif
