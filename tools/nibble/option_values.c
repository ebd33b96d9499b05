#include "tools/nibble/option_values.h"
#include "tools/nibble/message.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const kv_names[] = {
    [NIB_KV_F32] = "f32", [NIB_KV_F16] = "f16",        [NIB_KV_I8] = "i8",
    [NIB_KV_I4] = "i4",   [NIB_KV_I4_CHANNEL] = "i4c",
};

const char *options_kv_name(enum nib_kv_format format)
{
    return kv_names[format == NIB_KV_DEFAULT ? NIB_KV_F16 : format];
}

/// Parses the digits at the start of `text`; NULL where there are none or they are too many.
static const char *parse_digits(const char *text, uint64_t *out_value)
{
    uint64_t value = 0;
    const char *c = text;
    for (; *c >= '0' && *c <= '9'; c++) {
        uint64_t digit = (uint64_t)(*c - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return NULL;
        value = value * 10 + digit;
    }
    *out_value = value;
    return c == text ? NULL : c;
}

bool value_parse_count(const char *text, uint64_t *out_value)
{
    const char *end = parse_digits(text, out_value);
    return end && *end == '\0';
}

bool value_parse_real(const char *text, double *out_value)
{
    if (text[0] == '\0' || text[strspn(text, "+-.0123456789eE")] != '\0')
        return false;
    char *end;
    *out_value = strtod(text, &end);
    return *end == '\0' && isfinite(*out_value);
}

bool value_parse_choice(const char *text, const char *choices, unsigned *out_index)
{
    size_t size = strlen(text);
    for (unsigned i = 0;; i++) {
        size_t length = strcspn(choices, "|");
        if (length == size && memcmp(choices, text, size) == 0) {
            *out_index = i;
            return true;
        }
        if (choices[length] == '\0')
            return false;
        choices += length + 1;
    }
}

bool value_parse_device(const char *text, struct option_device *out_device)
{
    static const char prefix[] = "vulkan:";
    unsigned choice;
    if (value_parse_choice(text, "auto|cpu|vulkan", &choice)) {
        *out_device = (struct option_device){.choice = (enum device_choice)choice};
        return true;
    }
    struct option_device device = {.choice = DEVICE_VULKAN_INDEX};
    for (const char *c = text; device.count < MAX_GPUS; c++) {
        uint64_t index = 0;
        if (strncmp(c, prefix, sizeof prefix - 1) != 0)
            return false;
        c = parse_digits(c + sizeof prefix - 1, &index);
        if (!c || (*c != '\0' && *c != ',') || index > UINT32_MAX)
            return false;
        device.indices[device.count++] = (uint32_t)index;
        if (*c == '\0') {
            *out_device = device;
            return true;
        }
    }
    return false;
}

bool value_parse_split(const char *text, struct option_split *out_split)
{
    struct option_split split = {.count = 0};
    for (const char *c = text; split.count < MAX_GPUS; c++) {
        char number[32];
        double value;
        size_t size = strcspn(c, ",");
        snprintf(number, sizeof number, "%.*s", (int)(size < sizeof number ? size : 0), c);
        if (!value_parse_real(number, &value) || !(value >= 1e-6 && value <= 1e12))
            return false;
        split.shares[split.count++] = (float)value;
        c += size;
        if (*c == '\0') {
            *out_split = split;
            return true;
        }
    }
    return false;
}

/// Finds the format named by `text[0 .. size)`.
static bool find_kv(const char *text, size_t size, enum nib_kv_format *out_format)
{
    for (int i = NIB_KV_F32; i <= NIB_KV_I4_CHANNEL; i++) {
        if (strlen(kv_names[i]) == size && memcmp(kv_names[i], text, size) == 0) {
            *out_format = (enum nib_kv_format)i;
            return true;
        }
    }
    return false;
}

/// Returns what stands behind `name`, which ends with "=", in a part; NULL: it does not begin so.
static const char *value_behind(const char *part, size_t length, const char *name)
{
    size_t prefix = strlen(name);
    return length > prefix && memcmp(part, name, prefix) == 0 ? part + prefix : NULL;
}

static bool parse_recent(const char *text, const char *end, struct option_kv *kv)
{
    uint64_t n;
    if (kv->recent != NIB_KV_RECENT_DEFAULT || parse_digits(text, &n) != end || n >= UINT32_MAX)
        return false;
    kv->recent = n ? (uint32_t)n : NIB_KV_RECENT_NONE;
    return true;
}

static bool parse_first(const char *text, const char *end, struct option_kv *kv)
{
    uint64_t n;
    if (kv->has_first || parse_digits(text, &n) != end || n > UINT32_MAX)
        return false;
    kv->has_first = true;
    kv->first = (uint32_t)n;
    return true;
}

static bool parse_transform(const char *text, const char *end, struct option_kv *kv)
{
    static const char *const names[] = {
        [NIB_KV_TRANSFORM_ON] = "on",
        [NIB_KV_TRANSFORM_OFF] = "off",
        [NIB_KV_TRANSFORM_AUTO] = "auto",
    };
    size_t size = (size_t)(end - text);
    if (kv->transform != NIB_KV_TRANSFORM_DEFAULT)
        return false;
    for (size_t i = NIB_KV_TRANSFORM_ON; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i]) == size && memcmp(names[i], text, size) == 0)
            kv->transform = (enum nib_kv_transform)i;
    }
    return kv->transform != NIB_KV_TRANSFORM_DEFAULT;
}

/// Reads `k=FORMAT`, `v=FORMAT`, `recent=N`, `first=N` or `transform=on|off|auto`, each once.
static bool parse_kv_part(const char *part, size_t length, struct option_kv *kv)
{
    const char *value = value_behind(part, length, "recent=");
    if (value)
        return parse_recent(value, part + length, kv);
    value = value_behind(part, length, "first=");
    if (value)
        return parse_first(value, part + length, kv);
    value = value_behind(part, length, "transform=");
    if (value)
        return parse_transform(value, part + length, kv);
    enum nib_kv_format *side = part[0] == 'k' ? &kv->keys : part[0] == 'v' ? &kv->values : NULL;
    return length >= 3 && side && part[1] == '=' && *side == NIB_KV_DEFAULT &&
           find_kv(part + 2, length - 2, side);
}

bool value_parse_kv(const char *text, struct option_kv *out_kv)
{
    struct option_kv kv = {.given = true};
    const char *part = text;
    size_t length = strcspn(part, ",");
    if (find_kv(part, length, &kv.keys)) {
        kv.values = kv.keys;
        part += length;
        if (*part == ',')
            part++;
        else
            part = NULL;
    }
    while (part) {
        length = strcspn(part, ",");
        if (!parse_kv_part(part, length, &kv))
            return false;
        part = part[length] ? part + length + 1 : NULL;
    }
    *out_kv = kv;
    return true;
}

enum nib_status value_parse_ids(const char *flag, const char *text, struct option_ids *out_ids,
                                struct nib_error *err)
{
    size_t capacity = 1;
    for (const char *c = text; *c; c++)
        capacity += *c == ',';
    int32_t *ids = calloc(capacity, sizeof *ids);
    if (!ids)
        return fail_memory(err);
    size_t count = 0;
    for (const char *c = text; *c != '\0';) {
        c += strspn(c, " \t\n");
        uint64_t id;
        const char *end = parse_digits(c, &id);
        bool follows = end && end[0] == ',' && end[1] != '\0';
        if (!end || id > INT32_MAX || (*end != '\0' && !follows)) {
            free(ids);
            return fail_with(err, NIB_ERROR_ARGUMENT,
                             "%s: '%.20s' does not begin a list of token ids such as 1,2,3", flag,
                             c);
        }
        ids[count++] = (int32_t)id;
        c = end + follows;
    }
    free(out_ids->ids);
    *out_ids = (struct option_ids){.given = true, .ids = ids, .count = count};
    return NIB_OK;
}

/// Inserts a value into the sorted list, once; there is room.
static void insert(struct option_list *list, uint32_t value)
{
    size_t at = list->count;
    while (at > 0 && list->values[at - 1] >= value)
        at--;
    if (at < list->count && list->values[at] == value)
        return;
    memmove(list->values + at + 1, list->values + at, (list->count - at) * sizeof *list->values);
    list->values[at] = value;
    list->count++;
}

enum nib_status value_parse_list(const char *flag, const char *text, struct option_list *out_list,
                                 struct nib_error *err)
{
    *out_list = (struct option_list){0};
    size_t capacity = 1;
    for (const char *c = text; *c; c++)
        capacity += *c == ',';
    struct option_list list = {.given = true, .values = calloc(capacity, sizeof *list.values)};
    if (!list.values)
        return fail_memory(err);
    for (const char *c = text;; c++) {
        uint64_t value;
        const char *end = parse_digits(c, &value);
        uint64_t unit = 1;
        if (end && *end == 'k') {
            unit = 1024;
            end++;
        }
        if (!end || (*end != '\0' && *end != ',') || value > UINT32_MAX / unit) {
            free(list.values);
            return fail_with(err, NIB_ERROR_ARGUMENT,
                             "%s: '%.20s' does not begin a list of numbers such as 512,2k", flag,
                             c);
        }
        insert(&list, (uint32_t)(value * unit));
        c = end;
        if (*c == '\0')
            break;
    }
    *out_list = list;
    return NIB_OK;
}
