/// The tensors that a writer has been told of, and how far their data have come.
/// Thread-safety: one thread at a time.
#ifndef RUNTIME_FORMATS_WRITE_ORDER_H
#define RUNTIME_FORMATS_WRITE_ORDER_H

#include "runtime/formats/tensor.h"

/// A zeroed struct is an empty order.
struct nib_write_order {
    struct nib_tensor *tensors; ///< `name`, `dtype`, `n_dims`, `dims` and `size` are set
    size_t n_tensors;
    size_t capacity;
    struct nib_string_map by_name;
    struct nib_arena arena; ///< of the names
    size_t current;         ///< index of the tensor whose data are due
    uint64_t written;       ///< bytes of it that have come
};

/// Adds a copy of what describes `tensor`, with `size` as its bytes, as nib_tensor_compute_size
/// found it. Errors: argument (a name that is empty, no UTF-8, over 256 bytes, or there already),
/// memory.
enum nib_status nib_write_order_add(struct nib_write_order *order, const struct nib_tensor *tensor,
                                    uint64_t size, struct nib_error *err);
/// Counts `size` bytes of data, which must all belong to one tensor, and returns that tensor in
/// `*out_tensor`. Errors: argument (more than the tensor holds, or no tensor is due).
enum nib_status nib_write_order_advance(struct nib_write_order *order, uint64_t size,
                                        const struct nib_tensor **out_tensor,
                                        struct nib_error *err);
/// Returns whether all data have come. Errors: state (the tensor is named).
enum nib_status nib_write_order_finish(struct nib_write_order *order, struct nib_error *err);
void nib_write_order_free(struct nib_write_order *order);

#endif
