#include "runtime/formats/tensor.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"

#include <inttypes.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t elements;
    uint32_t bytes;
} dtypes[NIB_DTYPE_COUNT] = {
#define X(id, name, elements, bytes) [NIB_DTYPE_##id] = {name, elements, bytes},
    NIB_DTYPES(X)
#undef X
};

const char *nib_dtype_name(enum nib_dtype dtype)
{
    return dtypes[dtype].name;
}

const struct nib_tensor *nib_tensor_find(const struct nib_tensor_directory *directory,
                                         const char *name)
{
    const struct nib_text key = {name, strlen(name)};
    uint32_t index;
    return nib_string_map_find(&directory->by_name, key, &index) ? &directory->tensors[index]
                                                                 : NULL;
}

void nib_tensor_drop(const struct nib_tensor_directory *directory, const struct nib_tensor *tensor,
                     uint64_t offset, uint64_t size)
{
    if (tensor->file >= directory->n_maps || offset >= tensor->size)
        return;
    const struct nib_file_map *map = &directory->maps[tensor->file];
    const uint64_t rest = tensor->size - offset;
    nib_file_map_drop(map, (size_t)(tensor->data - map->data) + (size_t)offset,
                      (size_t)(size < rest ? size : rest));
}

enum nib_status nib_tensor_compute_size(const struct nib_tensor *tensor, uint64_t *out_size,
                                        struct nib_error *err)
{
    const uint32_t block_elements = dtypes[tensor->dtype].elements;
    const uint32_t block_bytes = dtypes[tensor->dtype].bytes;
    const uint32_t max_dims = sizeof tensor->dims / sizeof tensor->dims[0];
    *out_size = 0;
    if (tensor->n_dims > max_dims)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "tensor '%s' has more than %" PRIu32 " dimensions",
                        tensor->name, max_dims);

    const uint64_t row = tensor->n_dims ? tensor->dims[tensor->n_dims - 1] : 1;
    if (row % block_elements != 0)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "tensor '%s' has rows of %" PRIu64 " elements, no multiple of the %" PRIu32
                        " in a block of %s",
                        tensor->name, row, block_elements, nib_dtype_name(tensor->dtype));

    uint64_t size = row / block_elements;
    bool fits = nib_mul_u64(size, block_bytes, &size);
    for (uint32_t i = 0; fits && i + 1 < tensor->n_dims; i++)
        fits = nib_mul_u64(size, tensor->dims[i], &size);
    if (!fits)
        return nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' has dimensions too large to multiply",
                        tensor->name);
    *out_size = size;
    return NIB_OK;
}

enum nib_status nib_tensor_directory_enter(struct nib_tensor_directory *directory, uint32_t index,
                                           struct nib_error *err)
{
    const char *name = directory->tensors[index].name;
    const struct nib_text key = {name, strlen(name)};
    bool was_there;
    const enum nib_status status =
        nib_string_map_add(&directory->by_name, key, index, &was_there, err);
    if (status == NIB_OK && was_there)
        return nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' is there twice", name);
    return status;
}

enum nib_status nib_tensor_directory_own_map(struct nib_tensor_directory *directory,
                                             struct nib_arena *arena,
                                             const struct nib_file_map *map, struct nib_error *err)
{
    directory->maps = nib_arena_alloc(arena, sizeof(*map));
    if (!directory->maps)
        return nib_fail_memory(err);
    directory->maps[0] = *map;
    directory->n_maps = 1;
    return NIB_OK;
}

/// Copies the tensors of part `file` behind those that `to` holds; there is room for them.
static enum nib_status append_part(struct nib_tensor_directory *to,
                                   const struct nib_tensor_directory *part, uint32_t file,
                                   struct nib_arena *arena, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < part->n_tensors; i++) {
        struct nib_tensor *tensor = &to->tensors[to->n_tensors];
        *tensor = part->tensors[i];
        tensor->file = file;
        tensor->name = nib_arena_text(arena, tensor->name, strlen(tensor->name));
        if (!tensor->name)
            return nib_fail_memory(err);
        NIB_TRY(nib_tensor_directory_enter(to, to->n_tensors, err));
        to->n_tensors++;
    }
fail:
    return status;
}

enum nib_status nib_tensor_directory_merge(struct nib_tensor_directory *const *parts,
                                           uint32_t n_parts, struct nib_arena *arena,
                                           struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_tensor_directory *to = parts[0];
    uint64_t total = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        total += parts[i]->n_tensors;
    if (total > UINT32_MAX)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%" PRIu64 " tensors are too many", total);

    struct nib_tensor *tensors = nib_arena_array(arena, (size_t)total, sizeof(*tensors));
    struct nib_file_map *maps = nib_arena_array(arena, n_parts, sizeof(*maps));
    if (!tensors || !maps)
        return nib_fail_memory(err);
    if (to->n_tensors > 0)
        memcpy(tensors, to->tensors, to->n_tensors * sizeof(*tensors));
    to->tensors = tensors;
    for (uint32_t i = 1; i < n_parts; i++)
        NIB_TRY(append_part(to, parts[i], i, arena, err));

    maps[0] = to->maps[0];
    for (uint32_t i = 1; i < n_parts; i++) {
        maps[i] = parts[i]->maps[0];
        parts[i]->n_maps = 0;
    }
    to->maps = maps;
    to->n_maps = n_parts;
fail:
    return status;
}

void nib_tensor_directory_close(struct nib_tensor_directory *directory)
{
    for (uint32_t i = 0; i < directory->n_maps; i++)
        nib_file_map_close(&directory->maps[i]);
    directory->n_maps = 0;
    nib_string_map_free(&directory->by_name);
}
