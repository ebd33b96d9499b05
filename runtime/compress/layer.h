/// The weights of one layer in fp32, while they are worked on.
#ifndef RUNTIME_COMPRESS_LAYER_H
#define RUNTIME_COMPRESS_LAYER_H

#include "runtime/compress/compress.h"

/// Neighbouring entries of the plan, with all values: a layer's, or one entry.
struct nib_layer {
    const struct nib_compress_plan *plan;
    uint32_t first; ///< entry
    uint32_t n;
    float **values; ///< [n] of [rows][cols], rows in the source's order
};

/// Reads the entries' values. Errors: format (a weight that is NaN or infinite), io, memory.
enum nib_status nib_layer_read(const struct nib_compress_plan *plan, uint32_t first, uint32_t n,
                               struct nib_thread_pool *pool, struct nib_layer *out_layer,
                               struct nib_error *err);
void nib_layer_free(struct nib_layer *layer);
/// Returns the values of the layer's tensor of `role`, or NULL; `*out_entry` is the plan's entry.
float *nib_layer_values(const struct nib_layer *layer, enum nib_role role,
                        const struct nib_compress_entry **out_entry);

/// Reads rows [first, first + count) of a tensor in the source's order, checks that they are
/// finite, and tells the source that they will not be read again. `out` is [count][cols].
enum nib_status nib_rows_read(const struct nib_compress_plan *plan,
                              const struct nib_compress_entry *entry, uint64_t first,
                              uint64_t count, float *out, struct nib_error *err);
/// Returns the source's row that is row `row` of the output.
uint64_t nib_source_row(const struct nib_compress_plan *plan,
                        const struct nib_compress_entry *entry, uint64_t row);

#endif
