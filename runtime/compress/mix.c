#include "runtime/compress/mix.h"

#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

/// Longest name of a role or format, with its end.
#define MAX_NAME 64

/// Reads digits at `*text` up to `end`; returns whether there were any.
static bool read_number(const char **text, const char *end, uint32_t *out)
{
    const char *p = *text;
    uint64_t value = 0;
    while (p < end && *p >= '0' && *p <= '9' && value <= UINT32_MAX)
        value = value * 10 + (uint64_t)(*p++ - '0');
    if (p == *text || value > UINT32_MAX)
        return false;
    *text = p;
    *out = (uint32_t)value;
    return true;
}

static bool is_word(const char *text, size_t size, const char *word)
{
    return strlen(word) == size && memcmp(text, word, size) == 0;
}

/// Narrower integers have no row of their own in the table: they are int4 with fewer codes.
static bool find_format(const char *name, size_t size, struct nib_format *out)
{
    char text[MAX_NAME];
    if (size >= sizeof text)
        return false;
    memcpy(text, name, size);
    text[size] = '\0';
    uint32_t bits = 0;
    if (strncmp(text, "int3", 4) == 0 || strncmp(text, "int2", 4) == 0) {
        bits = (uint32_t)(text[3] - '0');
        text[3] = '4';
    }
    const struct nib_format *format = nib_format_find(text);
    if (!format)
        return false;
    *out = *format;
    if (bits != 0) {
        out->bits = bits;
        out->center = out->center != 0 ? 1 << (bits - 1) : 0;
    }
    return true;
}

enum nib_status nib_mix_format(const char *name, size_t size, struct nib_mix_choice *out_choice,
                               struct nib_error *err)
{
    const char *end = name + size;
    const char *slash = memchr(name, '/', size);
    const char *name_end = slash ? slash : end;
    *out_choice = (struct nib_mix_choice){0};
    if (is_word(name, size, "keep")) {
        out_choice->is_kept = true;
        return NIB_OK;
    }
    if (!find_format(name, (size_t)(name_end - name), &out_choice->format))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "there is no format '%.*s'; formats are f16, bf16, int8, int4, int3, int2, "
                        "nf4, fp4, and GGUF's such as q4_k",
                        (int)(name_end - name), name);
    if (slash) {
        const char *digits = slash + 1;
        uint32_t group;
        if (!read_number(&digits, end, &group) || digits != end ||
            out_choice->format.block_bytes != 0)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "'%.*s' gives no group that the format can have", (int)size, name);
        out_choice->format.group = group;
        out_choice->has_group = true;
    }
    return NIB_OK;
}

/// What a selector picks.
struct selector {
    enum nib_role role; ///< NIB_ROLE_COUNT: all
    uint32_t first, last;
};

static bool read_selector(const char *text, const char *end, struct selector *out)
{
    const char *at = memchr(text, '@', (size_t)(end - text));
    const char *role_end = at ? at : end;
    *out = (struct selector){.role = 0, .first = 0, .last = UINT32_MAX};
    if (is_word(text, (size_t)(role_end - text), "*")) {
        out->role = NIB_ROLE_COUNT;
    } else {
        while (out->role < NIB_ROLE_COUNT &&
               !(nib_role_is_matrix(out->role) &&
                 is_word(text, (size_t)(role_end - text), nib_role_name(out->role))))
            out->role++;
        if (out->role == NIB_ROLE_COUNT)
            return false;
    }
    if (!at)
        return true;
    at++;
    if (!read_number(&at, end, &out->first))
        return false;
    out->last = out->first;
    if (at < end && *at == '-') {
        at++;
        if (!read_number(&at, end, &out->last))
            return false;
    }
    return at == end;
}

enum nib_status nib_mix_find(const char *rules, enum nib_role role, uint32_t layer,
                             struct nib_mix_choice *out_choice, bool *out_found,
                             struct nib_error *err)
{
    *out_found = false;
    for (const char *rule = rules; rule && *rule;) {
        size_t size = strcspn(rule, ",");
        const char *end = rule + size;
        const char *equals = memchr(rule, '=', size);
        struct selector selector;
        struct nib_mix_choice choice;
        if (!equals || !read_selector(rule, equals, &selector))
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "--mix: '%.*s' is no rule; rules are like ffn_down=int8 or "
                            "*@0-3=int4/32",
                            (int)size, rule);
        enum nib_status status =
            nib_mix_format(equals + 1, (size_t)(end - equals - 1), &choice, err);
        if (status != NIB_OK)
            return nib_fail_context(err, status, "--mix");
        if ((selector.role == NIB_ROLE_COUNT || selector.role == role) && layer >= selector.first &&
            layer <= selector.last) {
            *out_choice = choice;
            *out_found = true;
        }
        rule = *end ? end + 1 : end;
    }
    return NIB_OK;
}
