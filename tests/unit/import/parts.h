/// Makes directories of tensors in memory, and reads matrices through readers.
#ifndef TESTS_UNIT_IMPORT_PARTS_H
#define TESTS_UNIT_IMPORT_PARTS_H

#include "runtime/import/quantization.h"

enum { MAX_PARTS = 12 };

/// A directory in the making; a zeroed struct is empty. Each tensor's data lies in a heap block of
/// exactly its size, so that an address sanitizer sees a read beyond its end.
struct parts {
    struct nib_tensor tensors[MAX_PARTS];
    uint8_t *data[MAX_PARTS];
    struct nib_tensor_directory directory;
    struct nib_arena arena;
    json_t *config;
    struct nib_quantization *quantization;
};

/// Parses `quantization_config`, JSON with ' in place of ".
void parts_begin(struct parts *parts, const char *quantization_config);
void parts_end(struct parts *parts);
/// Returns JSON from text with ' in place of ".
json_t *parts_json(const char *text);
/// Adds a tensor of zeros, `cols` 0: of one dimension, and returns its data. `name` is kept.
uint8_t *parts_add(struct parts *parts, const char *name, enum nib_dtype dtype, uint64_t rows,
                   uint64_t cols);
/// Finds the reader of matrix "m" of the shape; anything but a reader fails the test.
const struct nib_row_reader *parts_reader(struct parts *parts, uint64_t rows, uint64_t cols);

/// Ors `code` into field `field` of `bits` bits of 32-bit word `word`.
void put_field(uint8_t *data, uint64_t word, uint32_t bits, uint32_t field, uint32_t code);
void put_word(uint8_t *data, uint64_t index, uint32_t word);
void put_float(uint8_t *data, uint64_t index, enum nib_dtype dtype, float value);

/// Reads all rows, `step` at a time, and returns the weights in the order of the input features, to
/// be freed.
float *read_weights(const struct nib_row_reader *reader, uint64_t step);

/// A pseudo-random number below `limit`; `*state` is any number.
uint32_t random_below(uint32_t *state, uint32_t limit);

/// A checkpoint of tests/data, open.
struct checkpoint {
    json_t *config;
    struct nib_safetensors *files;
    struct nib_arena arena;
    struct nib_quantization *quantization;
};

/// Opens the checkpoint called `name`; the test fails where that cannot be.
void checkpoint_open(struct checkpoint *checkpoint, const char *name);
void checkpoint_close(struct checkpoint *checkpoint);

#endif
