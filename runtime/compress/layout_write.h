/// For the packers of single layouts.
#ifndef RUNTIME_COMPRESS_LAYOUT_WRITE_H
#define RUNTIME_COMPRESS_LAYOUT_WRITE_H

#include "runtime/compress/layout.h"

/// Words in which eight rows at least are whole.
enum { NIB_LAYOUT_ROWS = 64 };

/// What a layout's own functions get.
struct nib_layout_job {
    const struct nib_layout *layout;
    const struct nib_row_reader *matrix;
    struct nib_layout_set *set;
};

/// Adds a tensor to the set; a second dimension of 0: one dimension.
/// Errors: format (a size beyond 64 bits).
enum nib_status nib_layout_add(const struct nib_layout_job *job, const char *part,
                               enum nib_dtype dtype, uint64_t rows, uint64_t cols,
                               struct nib_error *err);
/// Returns the data of `part`, which is in the set.
uint8_t *nib_layout_data(const struct nib_layout_job *job, const char *part);
/// Fails since the layout cannot hold the matrix.
enum nib_status nib_layout_refuse(const struct nib_layout_job *job, const char *why,
                                  struct nib_error *err);

/// A layout's functions: `describe` adds its tensors, `rows` packs a block whose first row is row
/// `first` of the matrix, codes in the order of the input features, and `end`, which may be NULL,
/// comes after all rows.
struct nib_layout_functions {
    enum nib_status (*describe)(const struct nib_layout_job *job, struct nib_error *err);
    enum nib_status (*rows)(const struct nib_layout_job *job, uint64_t first,
                            const struct nib_row_block *block, struct nib_error *err);
    enum nib_status (*end)(const struct nib_layout_job *job, struct nib_error *err);
};
extern const struct nib_layout_functions nib_layout_gptq;
extern const struct nib_layout_functions nib_layout_awq;
extern const struct nib_layout_functions nib_layout_bnb_4bit;
extern const struct nib_layout_functions nib_layout_bnb_int8;
extern const struct nib_layout_functions nib_layout_compressed_packed;
extern const struct nib_layout_functions nib_layout_compressed_int;

#endif
