#include "runtime/base/bytes.h"
#include "runtime/formats/gguf_type.h"

#include <float.h>
#include <math.h>
#include <string.h>

/// An integer of up to 64 bits with its sign; the bits are those of two's complement.
struct integer {
    uint64_t bits;
    bool negative;
};

static bool read_integer(enum nib_gguf_type type, const uint8_t *data, struct integer *out)
{
    int64_t number;
    switch (type) {
    case NIB_GGUF_U8:
        number = data[0];
        break;
    case NIB_GGUF_I8:
        number = (int8_t)data[0];
        break;
    case NIB_GGUF_U16:
        number = nib_load_u16(data);
        break;
    case NIB_GGUF_I16:
        number = (int16_t)nib_load_u16(data);
        break;
    case NIB_GGUF_U32:
        number = nib_load_u32(data);
        break;
    case NIB_GGUF_I32:
        number = (int32_t)nib_load_u32(data);
        break;
    case NIB_GGUF_U64:
        *out = (struct integer){nib_load_u64(data), false};
        return true;
    case NIB_GGUF_I64:
        number = (int64_t)nib_load_u64(data);
        break;
    default:
        return false;
    }
    *out = (struct integer){(uint64_t)number, number < 0};
    return true;
}

static bool read_f32(enum nib_gguf_type type, const uint8_t *data, float *out)
{
    struct integer integer;
    if (type == NIB_GGUF_F32) {
        *out = nib_load_f32(data);
    } else if (type == NIB_GGUF_F64) {
        const uint64_t bits = nib_load_u64(data);
        double number;
        memcpy(&number, &bits, sizeof(number));
        if (isfinite(number) && fabs(number) > FLT_MAX)
            return false;
        *out = (float)number;
    } else if (read_integer(type, data, &integer)) {
        *out = integer.negative ? (float)(int64_t)integer.bits : (float)integer.bits;
    } else {
        return false;
    }
    return true;
}

const struct nib_gguf_value *nib_gguf_find(const struct nib_gguf *gguf, const char *key)
{
    uint32_t index;
    const struct nib_text text = {key, strlen(key)};
    return nib_string_map_find(&gguf->by_key, text, &index) ? &gguf->values[index] : NULL;
}

bool nib_gguf_get_u32(const struct nib_gguf_value *value, uint32_t *out)
{
    uint64_t number;
    if (!nib_gguf_get_u64(value, &number) || number > UINT32_MAX)
        return false;
    *out = (uint32_t)number;
    return true;
}

bool nib_gguf_get_u64(const struct nib_gguf_value *value, uint64_t *out)
{
    struct integer integer;
    if (!value || !read_integer(value->type, value->data, &integer) || integer.negative)
        return false;
    *out = integer.bits;
    return true;
}

bool nib_gguf_get_f32(const struct nib_gguf_value *value, float *out)
{
    return value && read_f32(value->type, value->data, out);
}

bool nib_gguf_get_bool(const struct nib_gguf_value *value, bool *out)
{
    if (!value || value->type != NIB_GGUF_BOOL)
        return false;
    *out = value->data[0] != 0;
    return true;
}

bool nib_gguf_get_text(const struct nib_gguf_value *value, struct nib_text *out)
{
    if (!value || value->type != NIB_GGUF_STRING)
        return false;
    *out = (struct nib_text){(const char *)value->data + 8, (size_t)(value->size - 8)};
    return true;
}

/// Returns where element `index` of an array of numbers lies, or NULL.
static const uint8_t *element(const struct nib_gguf_value *value, uint64_t index)
{
    if (!value || value->type != NIB_GGUF_ARRAY || index >= value->count)
        return NULL;
    return value->data + index * nib_gguf_type_size(value->element_type);
}

bool nib_gguf_element_i64(const struct nib_gguf_value *value, uint64_t index, int64_t *out)
{
    const uint8_t *data = element(value, index);
    if (!data)
        return false;
    struct integer integer;
    if (value->element_type == NIB_GGUF_BOOL)
        integer = (struct integer){data[0] != 0, false};
    else if (!read_integer(value->element_type, data, &integer))
        return false;
    if (!integer.negative && integer.bits > INT64_MAX)
        return false;
    *out = (int64_t)integer.bits;
    return true;
}

bool nib_gguf_element_f32(const struct nib_gguf_value *value, uint64_t index, float *out)
{
    const uint8_t *data = element(value, index);
    return data && read_f32(value->element_type, data, out);
}

bool nib_gguf_next_text(const struct nib_gguf_value *value, uint64_t *cursor, struct nib_text *out)
{
    if (!value || value->type != NIB_GGUF_ARRAY || value->element_type != NIB_GGUF_STRING ||
        *cursor >= value->size)
        return false;
    const uint8_t *data = value->data + *cursor;
    const uint64_t size = nib_load_u64(data);
    *out = (struct nib_text){(const char *)data + 8, (size_t)size};
    *cursor += 8 + size;
    return true;
}
