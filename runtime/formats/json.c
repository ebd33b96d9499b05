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

enum nib_status nib_json_parse(const char *data, size_t size, const char *path, json_t **out_json,
                               struct nib_error *err)
{
    *out_json = NULL;
    if (size > MAX_JSON_SIZE)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: %" PRIu64 " bytes are more than the %" PRIu64 " that JSON may have",
                        path, (uint64_t)size, (uint64_t)MAX_JSON_SIZE);

    json_error_t error = {0};
    *out_json =
        json_loadb(size ? data : "", size, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &error);
    if (*out_json)
        return NIB_OK;
    // jansson leaves the text empty where an allocation fails outside its own checks.
    if (!error.text[0] || json_error_code(&error) == json_error_out_of_memory)
        return nib_fail_memory(err);
    return nib_fail(err, NIB_ERROR_FORMAT, "%s: line %d, column %d: %s", path, error.line,
                    error.column, error.text);
}

enum nib_status nib_json_open(const char *folder, const char *name, bool required,
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
    NIB_TRY(nib_json_parse((const char *)map.data, map.size, path.data, out_json, err));
fail:
    nib_file_map_close(&map);
    nib_buffer_free(&path);
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
