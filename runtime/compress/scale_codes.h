/// The second level of NF4's and FP4's scales: one byte for each, as bitsandbytes stores them.
#ifndef RUNTIME_COMPRESS_SCALE_CODES_H
#define RUNTIME_COMPRESS_SCALE_CODES_H

#include "runtime/compress/compress.h"

/// Scales that share a scale of the second level.
#define NIB_SCALES_PER_BLOCK 256u
/// Values of the book.
#define NIB_BOOK_SIZE 256

/// Writes the book of the second level: Dettmers' dynamic type of 8 bits (2015, arXiv 1511.04561),
/// ordered: 0, 1, and ± the middles of 2^i equal parts of [0.1, 1] times 10^(i − 6), i from 0 to 6.
void nib_dynamic_book(float out[NIB_BOOK_SIZE]);

/// Quantizes `scale[0 .. n)`, whose mean is taken off first, into `out`, whose arrays are there;
/// `scale` becomes what the codes stand for.
void nib_scale_codes_make(float *scale, uint64_t n, struct nib_scale_codes *out);

#endif
