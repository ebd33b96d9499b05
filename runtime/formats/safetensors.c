#include "runtime/formats/safetensors.h"

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/formats/safetensors_dtype.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER_SIZE = 100000000, MAX_DIMS = 4 };

/// What the steps of parsing one file share.
struct parse {
    const char *path;
    const uint8_t *data; ///< of the tensors
    uint64_t size;       ///< bytes of `data`
    struct nib_safetensors *file;
    struct nib_error *err;
};

const char *nib_safetensors_dtype_name(enum nib_dtype dtype)
{
    static const char *const names[NIB_DTYPE_COUNT] = {
        [NIB_DTYPE_F32] = "F32",   [NIB_DTYPE_F16] = "F16",         [NIB_DTYPE_BF16] = "BF16",
        [NIB_DTYPE_F64] = "F64",   [NIB_DTYPE_F8_E4M3] = "F8_E4M3", [NIB_DTYPE_F8_E5M2] = "F8_E5M2",
        [NIB_DTYPE_BOOL] = "BOOL", [NIB_DTYPE_I8] = "I8",           [NIB_DTYPE_U8] = "U8",
        [NIB_DTYPE_I16] = "I16",   [NIB_DTYPE_U16] = "U16",         [NIB_DTYPE_I32] = "I32",
        [NIB_DTYPE_U32] = "U32",   [NIB_DTYPE_I64] = "I64",         [NIB_DTYPE_U64] = "U64",
    };
    return names[dtype];
}

static enum nib_status tensor_error(const struct parse *parse, const char *name, const char *what)
{
    return nib_fail(parse->err, NIB_ERROR_FORMAT, "%s: tensor '%s' %s", parse->path, name, what);
}

static enum nib_status parse_dtype(const struct parse *parse, const json_t *json,
                                   struct nib_tensor *tensor)
{
    const char *text = json_string_value(json);
    if (!text)
        return tensor_error(parse, tensor->name, "has no dtype");
    for (int i = 0; i < NIB_DTYPE_COUNT; i++) {
        const char *name = nib_safetensors_dtype_name((enum nib_dtype)i);
        if (name && strcmp(name, text) == 0) {
            tensor->dtype = (enum nib_dtype)i;
            return NIB_OK;
        }
    }
    return nib_fail(parse->err, NIB_ERROR_UNSUPPORTED,
                    "%s: tensor '%s' is of dtype '%s', which cannot be read", parse->path,
                    tensor->name, text);
}

/// Reads an integer from 0 to 2^63 - 1.
static bool get_u64(const json_t *json, uint64_t *out)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0)
        return false;
    *out = (uint64_t)json_integer_value(json);
    return true;
}

static enum nib_status parse_shape(const struct parse *parse, const json_t *json,
                                   struct nib_tensor *tensor)
{
    if (!json_is_array(json))
        return tensor_error(parse, tensor->name, "has no shape");
    const size_t n_dims = json_array_size(json);
    if (n_dims > MAX_DIMS)
        return nib_fail(parse->err, NIB_ERROR_UNSUPPORTED,
                        "%s: tensor '%s' has %" PRIu64 " dimensions; 4 at most can be read",
                        parse->path, tensor->name, (uint64_t)n_dims);
    tensor->n_dims = (uint32_t)n_dims;
    for (size_t i = 0; i < MAX_DIMS; i++) {
        tensor->dims[i] = 1;
        if (i < n_dims && !get_u64(json_array_get(json, i), &tensor->dims[i]))
            return tensor_error(parse, tensor->name, "has a dimension that is no size");
    }
    return NIB_OK;
}

static enum nib_status parse_offsets(const struct parse *parse, const json_t *json,
                                     struct nib_tensor *tensor)
{
    uint64_t begin, end;
    if (json_array_size(json) != 2 || !get_u64(json_array_get(json, 0), &begin) ||
        !get_u64(json_array_get(json, 1), &end))
        return tensor_error(parse, tensor->name, "has no data_offsets");
    if (begin > end || end > parse->size)
        return nib_fail(parse->err, NIB_ERROR_FORMAT,
                        "%s: tensor '%s' has data_offsets %" PRIu64 " to %" PRIu64
                        " in a file with %" PRIu64 " bytes of data (is it cut off?)",
                        parse->path, tensor->name, begin, end, parse->size);
    if (end - begin != tensor->size)
        return nib_fail(parse->err, NIB_ERROR_FORMAT,
                        "%s: tensor '%s' has %" PRIu64 " bytes of data; its shape needs %" PRIu64,
                        parse->path, tensor->name, end - begin, tensor->size);
    tensor->data = parse->data + begin;
    return NIB_OK;
}

static enum nib_status parse_tensor(const struct parse *parse, const char *name, const json_t *json)
{
    enum nib_status status = NIB_OK;
    struct nib_tensor_directory *directory = &parse->file->directory;
    struct nib_tensor *tensor = &directory->tensors[directory->n_tensors];
    tensor->name = nib_arena_text(&parse->file->arena, name, strlen(name));
    if (!tensor->name)
        return nib_fail_memory(parse->err);
    NIB_TRY(parse_dtype(parse, json_object_get(json, "dtype"), tensor));
    NIB_TRY(parse_shape(parse, json_object_get(json, "shape"), tensor));
    status = nib_tensor_compute_size(tensor, &tensor->size, parse->err);
    NIB_TRY(nib_fail_context(parse->err, status, "%s", parse->path));
    NIB_TRY(parse_offsets(parse, json_object_get(json, "data_offsets"), tensor));
    directory->n_tensors++;
fail:
    return status;
}

static enum nib_status parse_metadata(const struct parse *parse, json_t *json)
{
    enum nib_status status = NIB_OK;
    struct nib_safetensors *file = parse->file;
    const char *key;
    json_t *value;
    uint32_t n_values = 0;
    if (!json_is_object(json))
        return nib_fail(parse->err, NIB_ERROR_FORMAT, "%s: \"__metadata__\" is no object",
                        parse->path);
    file->metadata_values =
        nib_arena_array(&file->arena, json_object_size(json), sizeof(*file->metadata_values));
    if (!file->metadata_values)
        return nib_fail_memory(parse->err);
    json_object_foreach(json, key, value)
    {
        if (!json_is_string(value))
            return nib_fail(parse->err, NIB_ERROR_FORMAT,
                            "%s: the value of \"%s\" in \"__metadata__\" is no text", parse->path,
                            key);
        const struct nib_text copy = {nib_arena_text(&file->arena, key, strlen(key)), strlen(key)};
        file->metadata_values[n_values] =
            nib_arena_text(&file->arena, json_string_value(value), json_string_length(value));
        if (!copy.ptr || !file->metadata_values[n_values])
            return nib_fail_memory(parse->err);
        NIB_TRY(nib_string_map_add(&file->metadata, copy, n_values++, NULL, parse->err));
    }
fail:
    return status;
}

static int compare_tensors(const void *a, const void *b)
{
    const struct nib_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data > y->data ? 1 : -1;
    if (x->size != y->size)
        return x->size > y->size ? 1 : -1;
    return strcmp(x->name, y->name);
}

/// Sorts the tensors by place, checks that they fill the data without hole or overlap, and enters
/// their names.
static enum nib_status arrange_tensors(const struct parse *parse)
{
    enum nib_status status = NIB_OK;
    struct nib_tensor_directory *directory = &parse->file->directory;
    qsort(directory->tensors, directory->n_tensors, sizeof(*directory->tensors), compare_tensors);
    uint64_t end = 0;
    for (uint32_t i = 0; i < directory->n_tensors; i++) {
        const struct nib_tensor *tensor = &directory->tensors[i];
        const uint64_t begin = (uint64_t)(tensor->data - parse->data);
        if (begin != end)
            return tensor_error(parse, tensor->name,
                                begin < end ? "overlaps another one"
                                            : "has a hole before its data");
        end += tensor->size;
        NIB_TRY(nib_tensor_directory_enter(directory, i, parse->err));
    }
    if (end != parse->size)
        return nib_fail(parse->err, NIB_ERROR_FORMAT,
                        "%s: %" PRIu64 " bytes at the end belong to no tensor", parse->path,
                        parse->size - end);
fail:
    return status;
}

static enum nib_status parse_entries(const struct parse *parse, json_t *header)
{
    enum nib_status status = NIB_OK;
    struct nib_tensor_directory *directory = &parse->file->directory;
    const char *name;
    json_t *entry;
    directory->tensors =
        nib_arena_array(&parse->file->arena, json_object_size(header), sizeof(*directory->tensors));
    if (!directory->tensors)
        return nib_fail_memory(parse->err);
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            NIB_TRY(parse_metadata(parse, entry));
        else
            NIB_TRY(parse_tensor(parse, name, entry));
    }
    NIB_TRY(arrange_tensors(parse));
fail:
    return status;
}

static enum nib_status parse_header(const uint8_t *text, uint64_t size, const char *path,
                                    json_t **out_header, struct nib_error *err)
{
    *out_header = NULL;
    if (size == 0 || text[0] != '{')
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: not a safetensors file (its header does not begin with '{')", path);
    json_error_t error = {0};
    *out_header = json_loadb((const char *)text, (size_t)size,
                             JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (*out_header)
        return NIB_OK;
    if (!error.text[0] || json_error_code(&error) == json_error_out_of_memory)
        return nib_fail_memory(err);
    return nib_fail(err, NIB_ERROR_FORMAT, "%s: header, byte %d: %s", path, error.position,
                    error.text);
}

enum nib_status nib_safetensors_parse(const uint8_t *data, size_t size, const char *path,
                                      struct nib_safetensors **out_file, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    json_t *header = NULL;
    *out_file = NULL;
    if (size < 8)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: not a safetensors file (it has only %" PRIu64 " bytes)", path,
                        (uint64_t)size);
    const uint64_t header_size = nib_load_u64(data);
    if (header_size > size - 8 || header_size > MAX_HEADER_SIZE)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: a header of %" PRIu64
                        " bytes (at most %d) does not fit in a file of %" PRIu64
                        "; is it cut off, or no safetensors file?",
                        path, header_size, MAX_HEADER_SIZE, (uint64_t)size);

    struct nib_safetensors *file = calloc(1, sizeof(*file));
    if (!file)
        return nib_fail_memory(err);
    const struct parse parse = {
        .path = path,
        .data = data + 8 + header_size,
        .size = size - 8 - header_size,
        .file = file,
        .err = err,
    };
    NIB_TRY(parse_header(data + 8, header_size, path, &header, err));
    NIB_TRY(parse_entries(&parse, header));
    *out_file = file;
    file = NULL;
fail:
    json_decref(header);
    nib_safetensors_destroy(&file);
    return status;
}

enum nib_status nib_safetensors_open(const char *path, struct nib_safetensors **out_file,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_file_map map = {0};
    struct nib_safetensors *file = NULL;
    *out_file = NULL;

    NIB_TRY(nib_file_map_open(path, &map, err));
    NIB_TRY(nib_safetensors_parse(map.data, map.size, path, &file, err));
    NIB_TRY(nib_tensor_directory_own_map(&file->directory, &file->arena, &map, err));
    *out_file = file;
    return NIB_OK;
fail:
    nib_safetensors_destroy(&file);
    nib_file_map_close(&map);
    return status;
}

void nib_safetensors_destroy(struct nib_safetensors **files)
{
    struct nib_safetensors *dead = *files;
    if (!dead)
        return;
    nib_tensor_directory_close(&dead->directory);
    nib_string_map_free(&dead->metadata);
    nib_arena_free(&dead->arena);
    free(dead);
    *files = NULL;
}

const char *nib_safetensors_metadata(const struct nib_safetensors *files, const char *key)
{
    uint32_t index;
    const struct nib_text text = {key, strlen(key)};
    return nib_string_map_find(&files->metadata, text, &index) ? files->metadata_values[index]
                                                               : NULL;
}
