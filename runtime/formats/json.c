#include "runtime/formats/json.h"

#include "runtime/base/buffer.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>

/// jansson takes up to some 40 bytes of memory for a byte of text; the largest tokenizer.json known
/// has 34 MB.
static const size_t MAX_JSON_SIZE = (size_t)256 << 20;

static enum nib_status parse(const char *data, size_t size, const char *path, size_t flags,
                             json_t **out_json, struct nib_error *err)
{
    *out_json = NULL;
    if (size > MAX_JSON_SIZE)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: %" PRIu64 " bytes are more than the %" PRIu64 " that JSON may have",
                        path, (uint64_t)size, (uint64_t)MAX_JSON_SIZE);

    json_error_t error = {0};
    *out_json = json_loadb(size ? data : "", size, flags | JSON_ALLOW_NUL, &error);
    if (*out_json)
        return NIB_OK;
    // jansson leaves the text empty where an allocation fails outside its own checks.
    if (!error.text[0] || json_error_code(&error) == json_error_out_of_memory)
        return nib_fail_memory(err);
    return nib_fail(err, NIB_ERROR_FORMAT, "%s: line %d, column %d: %s", path, error.line,
                    error.column, error.text);
}

enum nib_status nib_json_parse(const char *data, size_t size, const char *path, json_t **out_json,
                               struct nib_error *err)
{
    return parse(data, size, path, JSON_DECODE_INT_AS_REAL, out_json, err);
}

static enum nib_status open_file(const char *folder, const char *name, size_t flags, bool required,
                                 json_t **out_json, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer path = {0};
    struct nib_file_map map = {0};
    *out_json = NULL;

    NIB_TRY(nib_buffer_printf(&path, err, "%s/%s", folder, name));
    if (nib_path_kind(path.data) == NIB_PATH_ABSENT) {
        if (required)
            status = nib_fail(err, NIB_ERROR_NOT_FOUND, "%s: no such file", path.data);
        goto fail;
    }
    NIB_TRY(nib_file_map_open(path.data, &map, err));
    NIB_TRY(parse((const char *)map.data, map.size, path.data, flags, out_json, err));
fail:
    nib_file_map_close(&map);
    nib_buffer_free(&path);
    return status;
}

enum nib_status nib_json_open(const char *folder, const char *name, bool required,
                              json_t **out_json, struct nib_error *err)
{
    return open_file(folder, name, JSON_DECODE_INT_AS_REAL, required, out_json, err);
}

enum nib_status nib_json_open_exact(const char *folder, const char *name, json_t **out_json,
                                    struct nib_error *err)
{
    return open_file(folder, name, 0, true, out_json, err);
}

/// What json_dump_callback hands pieces of text to.
struct sink {
    struct nib_file_writer *file;
    enum nib_status status;
    struct nib_error *err;
};

static int take(const char *text, size_t size, void *user)
{
    struct sink *sink = user;
    sink->status = nib_file_writer_append(sink->file, text, size, sink->err);
    return sink->status == NIB_OK ? 0 : -1;
}

enum nib_status nib_json_write(const char *path, const json_t *json, struct nib_error *err)
{
    struct sink sink = {.err = err};
    enum nib_status status;
    NIB_TRY(nib_file_writer_open(path, &sink.file, err));
    if (json_dump_callback(json, take, &sink, JSON_INDENT(2) | JSON_REAL_PRECISION(16)) != 0)
        NIB_TRY(sink.status != NIB_OK ? sink.status : nib_fail_memory(err));
    NIB_TRY(nib_file_writer_append(sink.file, "\n", 1, err));
    NIB_TRY(nib_file_writer_commit(&sink.file, err));
fail:
    nib_file_writer_destroy(&sink.file);
    return status;
}

bool nib_json_get_u32(const json_t *object, const char *key, uint32_t *out)
{
    const json_t *member = json_object_get(object, key);
    const double value = json_number_value(member);
    if (!json_is_number(member) || !(value >= 0 && value <= UINT32_MAX) || value != floor(value))
        return false;
    *out = (uint32_t)value;
    return true;
}

bool nib_json_get_f32(const json_t *object, const char *key, float *out)
{
    const json_t *member = json_object_get(object, key);
    const double value = json_number_value(member);
    if (!json_is_number(member) || !(fabs(value) <= FLT_MAX))
        return false;
    *out = (float)value;
    return true;
}

bool nib_json_get_bool(const json_t *object, const char *key, bool *out)
{
    const json_t *member = json_object_get(object, key);
    if (!json_is_boolean(member))
        return false;
    *out = json_is_true(member);
    return true;
}

bool nib_json_get_text(const json_t *object, const char *key, struct nib_text *out)
{
    const json_t *member = json_object_get(object, key);
    if (!json_is_string(member))
        return false;
    *out = (struct nib_text){json_string_value(member), json_string_length(member)};
    return true;
}
