#include "runtime/compress/mix.h"

#include "runtime/base/status.h"
#include "runtime/import/arch.h"
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

/// Returns whether the rule's selector is a role, or all, with or without layers.
static bool read_selector(const char *text, const char *end, struct nib_mix_rule *out)
{
    const char *at = memchr(text, '@', (size_t)(end - text));
    const size_t size = (size_t)((at ? at : end) - text);
    if (is_word(text, size, "*"))
        out->role = NIB_ROLE_COUNT;
    else
        while (out->role < NIB_ROLE_COUNT &&
               !(nib_role_is_matrix(out->role) && is_word(text, size, nib_role_name(out->role))))
            out->role++;
    if (out->role == NIB_ROLE_COUNT && !is_word(text, size, "*"))
        return false;
    if (!at)
        return true;
    at++;
    out->has_layers = true;
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

/// Returns whether a selector that is no role may be a pattern: names have dots.
static bool is_pattern(const char *text, const char *end)
{
    for (const char *p = text; p < end; p++) {
        if (*p == '.' || *p == '*' || *p == '?')
            return !memchr(text, '@', (size_t)(end - text));
    }
    return false;
}

static enum nib_status read_rule(struct nib_mix_rule *rule, struct nib_error *err)
{
    const char *text = rule->text, *end = text + rule->size;
    const char *equals = memchr(text, '=', rule->size);
    if (equals && !read_selector(text, equals, rule)) {
        rule->pattern_size = (size_t)(equals - text);
        if (!is_pattern(text, equals))
            equals = NULL;
    }
    if (!equals)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "--mix: '%.*s' is no rule; rules are like ffn_down=int8, *@0-3=int4/32 or "
                        "blk.0.*=q6_k",
                        (int)rule->size, text);
    enum nib_status status =
        nib_mix_format(equals + 1, (size_t)(end - equals - 1), &rule->choice, err);
    return status == NIB_OK ? NIB_OK : nib_fail_context(err, status, "--mix");
}

enum nib_status nib_mix_parse(const char *text, struct nib_arena *arena, struct nib_mix *out_mix,
                              struct nib_error *err)
{
    size_t capacity = 1;
    *out_mix = (struct nib_mix){0};
    if (!text)
        return NIB_OK;
    for (const char *p = text; *p; p++)
        capacity += *p == ',';
    out_mix->rules = nib_arena_array(arena, capacity, sizeof *out_mix->rules);
    if (!out_mix->rules)
        return nib_fail_memory(err);
    while (*text) {
        const size_t size = strcspn(text, ",");
        struct nib_mix_rule *rule = &out_mix->rules[out_mix->n_rules++];
        *rule = (struct nib_mix_rule){.text = text, .size = size};
        enum nib_status status = read_rule(rule, err);
        if (status != NIB_OK)
            return status;
        text += text[size] ? size + 1 : size;
    }
    return NIB_OK;
}

/// Returns whether a pattern fits all of a name. What a "*" stands for grows only where the rest
/// does not fit, and then only the last one's need to.
static bool fits_text(const char *pattern, size_t pattern_size, const char *name, size_t size)
{
    size_t p = 0, i = 0, star = SIZE_MAX, star_end = 0;
    while (i < size) {
        if (p < pattern_size && pattern[p] == '*') {
            star = p++;
            star_end = i;
        } else if (p < pattern_size && (pattern[p] == '?' || pattern[p] == name[i])) {
            p++;
            i++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            i = ++star_end;
        } else {
            return false;
        }
    }
    while (p < pattern_size && pattern[p] == '*')
        p++;
    return p == pattern_size;
}

static bool fits_name(const struct nib_mix_rule *rule, const char *name)
{
    static const char ending[] = ".weight";
    const size_t size = name ? strlen(name) : 0, end = sizeof ending - 1;
    if (!name)
        return false;
    return fits_text(rule->text, rule->pattern_size, name, size) ||
           (size > end && strcmp(name + size - end, ending) == 0 &&
            fits_text(rule->text, rule->pattern_size, name, size - end));
}

static bool fits(const struct nib_mix_rule *rule, const struct nib_mix_matrix *matrix)
{
    if (rule->pattern_size)
        return fits_name(rule, matrix->names[0]) || fits_name(rule, matrix->names[1]);
    return (rule->role == NIB_ROLE_COUNT || rule->role == matrix->role) &&
           (!rule->has_layers || (nib_arch_in_layer(matrix->role) && matrix->layer >= rule->first &&
                                  matrix->layer <= rule->last));
}

const struct nib_mix_choice *nib_mix_find(struct nib_mix *mix, const struct nib_mix_matrix *matrix)
{
    const struct nib_mix_choice *choice = NULL;
    for (uint32_t i = 0; i < mix->n_rules; i++) {
        if (fits(&mix->rules[i], matrix)) {
            mix->rules[i].fits = true;
            choice = &mix->rules[i].choice;
        }
    }
    return choice;
}

enum nib_status nib_mix_check_used(const struct nib_mix *mix, struct nib_error *err)
{
    for (uint32_t i = 0; i < mix->n_rules; i++) {
        const struct nib_mix_rule *rule = &mix->rules[i];
        if (!rule->fits)
            return nib_fail(
                err, NIB_ERROR_ARGUMENT,
                "--mix: '%.*s' fits no matrix of this model; 'nibble inspect --tensors' "
                "lists their names",
                (int)rule->size, rule->text);
    }
    return NIB_OK;
}
