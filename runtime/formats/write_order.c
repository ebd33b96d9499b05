#include "runtime/formats/write_order.h"

#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME_SIZE = 256 };

enum nib_status nib_write_order_add(struct nib_write_order *order, const struct nib_tensor *tensor,
                                    uint64_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_text name = {tensor->name, strlen(tensor->name)};
    uint32_t index;
    if (name.size == 0 || name.size > MAX_NAME_SIZE || !nib_utf8_valid(name.ptr, name.size))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "tensor name '%s' is not 1 to %d bytes of UTF-8 text", name.ptr,
                        MAX_NAME_SIZE);
    if (nib_string_map_find(&order->by_name, name, &index))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "tensor '%s' is added twice", name.ptr);
    if (order->n_tensors == UINT32_MAX)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "too many tensors");

    void *tensors = order->tensors;
    NIB_TRY(nib_array_reserve(&tensors, &order->capacity, order->n_tensors + 1,
                              sizeof(*order->tensors), err));
    order->tensors = tensors;
    struct nib_tensor copy = *tensor;
    copy.size = size;
    copy.data = NULL;
    copy.name = nib_arena_text(&order->arena, name.ptr, name.size);
    if (!copy.name)
        return nib_fail_memory(err);
    const struct nib_text key = {copy.name, name.size};
    NIB_TRY(nib_string_map_add(&order->by_name, key, (uint32_t)order->n_tensors, NULL, err));
    order->tensors[order->n_tensors++] = copy;
fail:
    return status;
}

/// Moves on to the first tensor whose data are not complete.
static void skip_complete(struct nib_write_order *order)
{
    while (order->current < order->n_tensors &&
           order->written == order->tensors[order->current].size) {
        order->current++;
        order->written = 0;
    }
}

enum nib_status nib_write_order_advance(struct nib_write_order *order, uint64_t size,
                                        const struct nib_tensor **out_tensor, struct nib_error *err)
{
    *out_tensor = NULL;
    skip_complete(order);
    if (order->current == order->n_tensors)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "%" PRIu64 " bytes of data after those of the last tensor", size);
    const struct nib_tensor *tensor = &order->tensors[order->current];
    if (size > tensor->size - order->written)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "tensor '%s' holds %" PRIu64 " bytes, but %" PRIu64
                        " more come after %" PRIu64,
                        tensor->name, tensor->size, size, order->written);
    order->written += size;
    *out_tensor = tensor;
    return NIB_OK;
}

enum nib_status nib_write_order_finish(struct nib_write_order *order, struct nib_error *err)
{
    skip_complete(order);
    if (order->current == order->n_tensors)
        return NIB_OK;
    const struct nib_tensor *tensor = &order->tensors[order->current];
    return nib_fail(err, NIB_ERROR_STATE,
                    "tensor '%s' has %" PRIu64 " of its %" PRIu64 " bytes of data", tensor->name,
                    order->written, tensor->size);
}

void nib_write_order_free(struct nib_write_order *order)
{
    nib_string_map_free(&order->by_name);
    nib_arena_free(&order->arena);
    free(order->tensors);
    *order = (struct nib_write_order){0};
}
