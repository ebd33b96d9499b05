/// What the tests of this folder share: files of tests/data/quant and blocks on the heap.
#ifndef TESTS_UNIT_QUANT_VECTORS_H
#define TESTS_UNIT_QUANT_VECTORS_H

#include "runtime/quant/row_reader.h"

/// A file of blocks and their weights, see tools/convert/make_quant_vectors.py.
struct vectors {
    uint64_t cols; ///< weights in all blocks: they are tested as one row
    uint64_t row_bytes;
    uint8_t *raw;
    float *weights;
    uint8_t *file;
};
/// Reads `<kind>_<format's name>.bin`, kind "unpack" or "pack"; returns whether it exists. Whatever
/// else goes wrong fails the test.
bool vectors_read(struct vectors *v, const char *kind, const struct nib_format *format);
void vectors_free(struct vectors *v);

/// Returns zeroed memory laid out as `block`, to be freed by the caller.
void *block_alloc(struct nib_row_block *block, const struct nib_format *format, uint64_t rows,
                  uint64_t cols);

/// Returns whether the bits are equal, or both are NaN.
bool same_float(float a, float b);

/// A pseudo-random number, uniform in [-1, 1); `*state` is any number.
float random_float(uint32_t *state);

#endif
