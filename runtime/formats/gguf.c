#include "runtime/formats/gguf.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/formats/gguf_type.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_ALIGNMENT = 32,
    MAX_DIMS = 4,
    // The largest models have some thousand keys and some ten thousand tensors.
    MAX_ENTRIES = 1 << 20,
    // The least that a value (key of one byte, type, one byte) and a tensor (name of one byte,
    // number of dimensions, none of them, type, offset) take in a file.
    MIN_VALUE_SIZE = 8 + 1 + 4 + 1,
    MIN_TENSOR_SIZE = 8 + 1 + 4 + 4 + 8
};

/// The unread rest of a file's header.
struct reader {
    const uint8_t *data;
    uint64_t size;
    uint64_t offset; ///< of the next byte, at most `size`
    const char *path;
    struct nib_error *err;
};

/// Where a tensor's data lie, relative to the start of all data.
struct extent {
    uint64_t offset;
    uint32_t tensor;
};

static enum nib_status take(struct reader *reader, uint64_t size, const uint8_t **out_bytes)
{
    if (size > reader->size - reader->offset)
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: %" PRIu64 " bytes needed at offset %" PRIu64
                        ", but the file ends at %" PRIu64 " (is it cut off or damaged?)",
                        reader->path, size, reader->offset, reader->size);
    *out_bytes = reader->data + reader->offset;
    reader->offset += size;
    return NIB_OK;
}

static enum nib_status take_u32(struct reader *reader, uint32_t *out)
{
    const uint8_t *bytes;
    const enum nib_status status = take(reader, 4, &bytes);
    *out = status == NIB_OK ? nib_load_u32(bytes) : 0;
    return status;
}

static enum nib_status take_u64(struct reader *reader, uint64_t *out)
{
    const uint8_t *bytes;
    const enum nib_status status = take(reader, 8, &bytes);
    *out = status == NIB_OK ? nib_load_u64(bytes) : 0;
    return status;
}

/// Takes the name of a value or tensor: 1 to `max_size` bytes of UTF-8 without NUL.
static enum nib_status take_name(struct reader *reader, uint64_t max_size, const char *what,
                                 struct nib_text *out_name)
{
    enum nib_status status = NIB_OK;
    const uint64_t offset = reader->offset;
    uint64_t size;
    const uint8_t *bytes;
    *out_name = (struct nib_text){0};

    NIB_TRY(take_u64(reader, &size));
    if (size == 0 || size > max_size)
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: the %s at offset %" PRIu64 " has %" PRIu64 " bytes, not 1 to %" PRIu64,
                        reader->path, what, offset, size, max_size);
    NIB_TRY(take(reader, size, &bytes));
    if (memchr(bytes, 0, (size_t)size) || !nib_utf8_valid((const char *)bytes, (size_t)size))
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: the %s at offset %" PRIu64 " is no UTF-8 text", reader->path, what,
                        offset);
    *out_name = (struct nib_text){(const char *)bytes, (size_t)size};
fail:
    return status;
}

static enum nib_status parse_version(struct reader *reader, uint32_t *out_version)
{
    enum nib_status status = NIB_OK;
    const uint8_t *magic;
    if (reader->size < 4 || memcmp(reader->data, "GGUF", 4) != 0)
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: not a GGUF file (it does not begin with \"GGUF\")", reader->path);
    NIB_TRY(take(reader, 4, &magic));
    NIB_TRY(take_u32(reader, out_version));
    if (*out_version != 0 && (*out_version & 0xffff) == 0)
        return nib_fail(reader->err, NIB_ERROR_UNSUPPORTED,
                        "%s: a big-endian GGUF file; convert it to little-endian", reader->path);
    if (*out_version != 2 && *out_version != 3)
        return nib_fail(reader->err, NIB_ERROR_UNSUPPORTED,
                        "%s: GGUF version %" PRIu32 "; versions 2 and 3 can be read", reader->path,
                        *out_version);
fail:
    return status;
}

/// Takes a number of entries of at least `min_size` bytes each, which the rest of the file must
/// have room for.
static enum nib_status take_count(struct reader *reader, uint64_t min_size, const char *what,
                                  uint32_t *out_count)
{
    uint64_t count;
    const enum nib_status status = take_u64(reader, &count);
    *out_count = 0;
    if (status != NIB_OK)
        return status;
    if (count > MAX_ENTRIES || count > (reader->size - reader->offset) / min_size)
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: %" PRIu64 " %s at offset %" PRIu64
                        " are more than fit in the file's %" PRIu64 " bytes, or than %d",
                        reader->path, count, what, reader->offset - 8, reader->size, MAX_ENTRIES);
    *out_count = (uint32_t)count;
    return NIB_OK;
}

static enum nib_status value_error(const struct reader *reader, enum nib_status status,
                                   const struct nib_gguf_value *value, const char *what)
{
    const int shown = value->key.size < 128 ? (int)value->key.size : 128;
    return nib_fail(reader->err, status, "%s: the value of key '%.*s' %s", reader->path, shown,
                    value->key.ptr, what);
}

static enum nib_status parse_value(struct reader *reader, struct nib_gguf_value *value)
{
    enum nib_status status = NIB_OK;
    uint32_t type, element_type;
    NIB_TRY(take_name(reader, NIB_GGUF_MAX_KEY_SIZE, "key", &value->key));
    NIB_TRY(take_u32(reader, &type));
    element_type = type;
    value->count = 1;
    if (type == NIB_GGUF_ARRAY) {
        NIB_TRY(take_u32(reader, &element_type));
        NIB_TRY(take_u64(reader, &value->count));
        if (element_type == NIB_GGUF_ARRAY)
            return value_error(reader, NIB_ERROR_UNSUPPORTED, value, "is an array of arrays");
    }
    if (element_type != NIB_GGUF_STRING && nib_gguf_type_size(element_type) == 0)
        return value_error(reader, NIB_ERROR_FORMAT, value, "has an unknown type");
    value->type = (enum nib_gguf_type)type;
    value->element_type = (enum nib_gguf_type)element_type;

    value->data = reader->data + reader->offset;
    if (!nib_gguf_elements_size(element_type, value->count, value->data,
                                reader->size - reader->offset, &value->size))
        return value_error(reader, NIB_ERROR_FORMAT, value,
                           "reaches beyond the end of the file (is it cut off or damaged?)");
    reader->offset += value->size;
    for (uint64_t i = 0; element_type == NIB_GGUF_BOOL && i < value->count; i++) {
        if (value->data[i] > 1)
            return value_error(reader, NIB_ERROR_FORMAT, value, "is neither true nor false");
    }
fail:
    return status;
}

static enum nib_status parse_values(struct reader *reader, struct nib_gguf *gguf, uint32_t n_values)
{
    enum nib_status status = NIB_OK;
    gguf->values = nib_arena_array(&gguf->arena, n_values, sizeof(*gguf->values));
    if (!gguf->values)
        return nib_fail_memory(reader->err);
    for (uint32_t i = 0; i < n_values; i++) {
        bool was_there;
        NIB_TRY(parse_value(reader, &gguf->values[i]));
        NIB_TRY(nib_string_map_add(&gguf->by_key, gguf->values[i].key, i, &was_there, reader->err));
        if (was_there)
            return value_error(reader, NIB_ERROR_FORMAT, &gguf->values[i], "is there twice");
        gguf->n_values++;
    }
fail:
    return status;
}

static enum nib_status parse_alignment(const struct reader *reader, const struct nib_gguf *gguf,
                                       uint64_t *out_alignment)
{
    *out_alignment = DEFAULT_ALIGNMENT;
    const struct nib_gguf_value *value = nib_gguf_find(gguf, NIB_GGUF_ALIGNMENT_KEY);
    if (value &&
        (!nib_gguf_get_u64(value, out_alignment) || !nib_gguf_alignment_valid(*out_alignment)))
        return value_error(reader, NIB_ERROR_FORMAT, value, "is no power of two from 8 to 65536");
    return NIB_OK;
}

/// Takes the dimensions, which lie in the file with the fastest first.
static enum nib_status take_dims(struct reader *reader, struct nib_tensor *tensor)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(take_u32(reader, &tensor->n_dims));
    if (tensor->n_dims > MAX_DIMS)
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: tensor '%s' has %" PRIu32 " dimensions; 4 at most are allowed",
                        reader->path, tensor->name, tensor->n_dims);
    for (uint32_t i = 0; i < MAX_DIMS; i++)
        tensor->dims[i] = 1;
    for (uint32_t i = tensor->n_dims; i-- > 0;) {
        NIB_TRY(take_u64(reader, &tensor->dims[i]));
        if (tensor->dims[i] == 0)
            return nib_fail(reader->err, NIB_ERROR_FORMAT, "%s: tensor '%s' has a dimension of 0",
                            reader->path, tensor->name);
    }
fail:
    return status;
}

static enum nib_status take_dtype(struct reader *reader, struct nib_tensor *tensor)
{
    uint32_t type;
    const enum nib_status status = take_u32(reader, &type);
    if (status != NIB_OK || nib_gguf_dtype_from_type(type, &tensor->dtype))
        return status;
    const char *name = nib_gguf_foreign_type_name(type);
    return nib_fail(reader->err, NIB_ERROR_UNSUPPORTED,
                    "%s: tensor '%s' is of type %" PRIu32 " (%s), which cannot be read",
                    reader->path, tensor->name, type, name ? name : "unknown");
}

static enum nib_status parse_tensor(struct reader *reader, struct nib_arena *arena,
                                    struct nib_tensor *tensor, uint64_t *out_offset)
{
    enum nib_status status = NIB_OK;
    struct nib_text name;
    NIB_TRY(take_name(reader, NIB_GGUF_MAX_NAME_SIZE, "tensor name", &name));
    tensor->name = nib_arena_text(arena, name.ptr, name.size);
    if (!tensor->name)
        return nib_fail_memory(reader->err);
    NIB_TRY(take_dims(reader, tensor));
    NIB_TRY(take_dtype(reader, tensor));
    NIB_TRY(take_u64(reader, out_offset));
    status = nib_tensor_compute_size(tensor, &tensor->size, reader->err);
    nib_fail_context(reader->err, status, "%s", reader->path);
fail:
    return status;
}

static enum nib_status parse_tensors(struct reader *reader, struct nib_gguf *gguf,
                                     uint32_t n_tensors, struct extent *extents)
{
    enum nib_status status = NIB_OK;
    struct nib_tensor_directory *directory = &gguf->directory;
    directory->tensors = nib_arena_array(&gguf->arena, n_tensors, sizeof(*directory->tensors));
    if (!directory->tensors)
        return nib_fail_memory(reader->err);
    for (uint32_t i = 0; i < n_tensors; i++) {
        extents[i].tensor = i;
        NIB_TRY(parse_tensor(reader, &gguf->arena, &directory->tensors[i], &extents[i].offset));
        status = nib_tensor_directory_enter(directory, i, reader->err);
        NIB_TRY(nib_fail_context(reader->err, status, "%s", reader->path));
        directory->n_tensors++;
    }
fail:
    return status;
}

static int compare_extents(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/// Checks that every tensor lies in the file, aligned, and on no other one, and sets its `data`.
/// Sorts `extents`.
static enum nib_status place_tensors(struct reader *reader, struct nib_gguf *gguf,
                                     uint64_t alignment, struct extent *extents)
{
    struct nib_tensor *tensors = gguf->directory.tensors;
    const uint32_t n_tensors = gguf->directory.n_tensors;
    if (n_tensors == 0)
        return NIB_OK;
    uint64_t start;
    if (!nib_round_up_u64(reader->offset, alignment, &start) || start > reader->size)
        return nib_fail(reader->err, NIB_ERROR_FORMAT,
                        "%s: the file ends before the data of its tensors (is it cut off?)",
                        reader->path);

    uint64_t end = 0;
    qsort(extents, n_tensors, sizeof(*extents), compare_extents);
    for (uint32_t i = 0; i < n_tensors; i++) {
        struct nib_tensor *tensor = &tensors[extents[i].tensor];
        const uint64_t offset = extents[i].offset, room = reader->size - start;
        if (offset > room || tensor->size > room - offset)
            return nib_fail(reader->err, NIB_ERROR_FORMAT,
                            "%s: tensor '%s' (%" PRIu64 " bytes at offset %" PRIu64
                            ") reaches beyond the end of the file at %" PRIu64 " (is it cut off?)",
                            reader->path, tensor->name, tensor->size, offset + start, reader->size);
        if (offset % alignment != 0)
            return nib_fail(reader->err, NIB_ERROR_FORMAT,
                            "%s: tensor '%s' at data offset %" PRIu64 " is not aligned to %" PRIu64
                            " bytes",
                            reader->path, tensor->name, offset, alignment);
        if (offset < end)
            return nib_fail(reader->err, NIB_ERROR_FORMAT, "%s: tensors '%s' and '%s' overlap",
                            reader->path, tensors[extents[i - 1].tensor].name, tensor->name);
        tensor->data = reader->data + start + offset;
        end = offset + tensor->size;
    }
    return NIB_OK;
}

enum nib_status nib_gguf_parse(const uint8_t *data, size_t size, const char *path,
                               struct nib_gguf **out_gguf, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct reader reader = {.data = data, .size = size, .path = path, .err = err};
    struct extent *extents = NULL;
    uint32_t n_tensors, n_values;
    uint64_t alignment;
    *out_gguf = NULL;

    struct nib_gguf *gguf = calloc(1, sizeof(*gguf));
    if (!gguf)
        return nib_fail_memory(err);
    NIB_TRY(parse_version(&reader, &gguf->version));
    NIB_TRY(take_count(&reader, MIN_TENSOR_SIZE, "tensors", &n_tensors));
    NIB_TRY(take_count(&reader, MIN_VALUE_SIZE, "metadata values", &n_values));
    NIB_TRY(parse_values(&reader, gguf, n_values));
    NIB_TRY(parse_alignment(&reader, gguf, &alignment));

    extents = malloc(((size_t)n_tensors + 1) * sizeof(*extents));
    if (!extents)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(parse_tensors(&reader, gguf, n_tensors, extents));
    NIB_TRY(place_tensors(&reader, gguf, alignment, extents));
    *out_gguf = gguf;
    gguf = NULL;
fail:
    free(extents);
    nib_gguf_destroy(&gguf);
    return status;
}

void nib_gguf_destroy(struct nib_gguf **gguf)
{
    struct nib_gguf *dead = *gguf;
    if (!dead)
        return;
    nib_tensor_directory_close(&dead->directory);
    nib_string_map_free(&dead->by_key);
    nib_arena_free(&dead->arena);
    free(dead);
    *gguf = NULL;
}
