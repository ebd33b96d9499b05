#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/// Runs of combining marks longer than this are sorted before utf8proc sorts them, whose time is
/// quadratic. Real text has a handful (Annex 15's stream-safe format allows 30).
enum { LONG_MARK_RUN = 64 };

/// Unicode's property White_Space.
static bool is_space(uint32_t c)
{
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static bool is_word(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/// Decodes the first character of well-formed text, and returns its length, 0 at the end.
static size_t first_character(struct nib_text text, uint32_t *out_code_point)
{
    *out_code_point = 0;
    bool valid;
    return text.size ? nib_utf8_decode(text.ptr, text.size, out_code_point, &valid) : 0;
}

/// The same for the last character.
static size_t last_character(struct nib_text text, uint32_t *out_code_point)
{
    size_t size = text.size > 0;
    while (size < text.size && ((uint8_t)text.ptr[text.size - size] & 0xc0) == 0x80)
        size++;
    return first_character((struct nib_text){text.ptr + text.size - size, size}, out_code_point);
}

size_t nib_leading_space(struct nib_text text)
{
    size_t total = 0;
    uint32_t c;
    for (size_t size;
         (size = first_character((struct nib_text){text.ptr + total, text.size - total}, &c)) &&
         is_space(c);)
        total += size;
    return total;
}

size_t nib_trailing_space(struct nib_text text)
{
    size_t total = 0;
    uint32_t c;
    for (size_t size; (size = last_character((struct nib_text){text.ptr, text.size - total}, &c)) &&
                      is_space(c);)
        total += size;
    return total;
}

bool nib_begins_with_word(struct nib_text text)
{
    uint32_t c;
    return first_character(text, &c) && is_word(c);
}

bool nib_ends_with_word(struct nib_text text)
{
    uint32_t c;
    return last_character(text, &c) && is_word(c);
}

enum nib_status nib_append_utf8(struct nib_buffer *out, struct nib_text text, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t done = 0;
    if (text.size == 0)
        return NIB_OK;
    for (size_t i = 0; i < text.size;) {
        uint32_t c;
        bool valid;
        size_t size = nib_utf8_decode(text.ptr + i, text.size - i, &c, &valid);
        if (!valid) {
            NIB_TRY(nib_buffer_append(out, text.ptr + done, i - done, err));
            NIB_TRY(nib_buffer_append(out, "\xef\xbf\xbd", 3, err));
            done = i + size;
        }
        i += size;
    }
    NIB_TRY(nib_buffer_append(out, text.ptr + done, text.size - done, err));
fail:
    return status;
}

/// Appends `text` without spaces at its ends and with runs of spaces made one.
static enum nib_status append_single_spaces(struct nib_text text, struct nib_buffer *out,
                                            struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t i = 0;
    while (i < text.size) {
        while (i < text.size && text.ptr[i] == ' ')
            i++;
        size_t begin = i;
        while (i < text.size && text.ptr[i] != ' ')
            i++;
        if (begin == i)
            break;
        if (out->size)
            NIB_TRY(nib_buffer_append(out, " ", 1, err));
        NIB_TRY(nib_buffer_append(out, text.ptr + begin, i - begin, err));
    }
fail:
    return status;
}

/// Sorts [begin, end) of the marks stably by their combining class, by counting.
static void sort_marks(const int32_t *marks, size_t count, int32_t *out)
{
    size_t places[257] = {0};
    for (size_t i = 0; i < count; i++)
        places[utf8proc_get_property(marks[i])->combining_class % 256 + 1]++;
    for (size_t i = 1; i < 257; i++)
        places[i] += places[i - 1];
    for (size_t i = 0; i < count; i++)
        out[places[utf8proc_get_property(marks[i])->combining_class % 256]++] = marks[i];
}

/// Rewrites well-formed UTF-8 in place with each long run of combining marks sorted; lengths stay.
static enum nib_status sort_long_mark_runs(char *text, size_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    int32_t *marks = NULL;
    size_t capacity = 0;
    size_t count = 0;
    size_t run_begin = 0;
    for (size_t i = 0; i <= size;) {
        uint32_t c = 0;
        size_t length = i < size ? first_character((struct nib_text){text + i, size - i}, &c) : 1;
        if (i < size && utf8proc_get_property((int32_t)c)->combining_class != 0) {
            NIB_TRY(
                nib_array_reserve((void **)&marks, &capacity, 2 * (count + 1), sizeof *marks, err));
            if (count == 0)
                run_begin = i;
            marks[count++] = (int32_t)c;
        } else {
            if (count > LONG_MARK_RUN) {
                int32_t *sorted = marks + count;
                sort_marks(marks, count, sorted);
                for (size_t j = 0, place = run_begin; j < count; j++)
                    place += nib_utf8_encode((uint32_t)sorted[j], text + place);
            }
            count = 0;
        }
        i += length;
    }
fail:
    free(marks);
    return status;
}

static bool is_ascii(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((uint8_t)text[i] >= 0x80)
            return false;
    return true;
}

/// Brings `out` into the normal form.
static enum nib_status apply_form(enum nib_normal_form form, struct nib_buffer *out,
                                  struct nib_error *err)
{
    static const int OPTIONS[] = {
        [NIB_NORMAL_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [NIB_NORMAL_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [NIB_NORMAL_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [NIB_NORMAL_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    if (form == NIB_NORMAL_NONE || is_ascii(out->data, out->size))
        return NIB_OK;
    enum nib_status status = sort_long_mark_runs(out->data, out->size, err);
    if (status != NIB_OK)
        return status;
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t size =
        utf8proc_map((const utf8proc_uint8_t *)out->data, (utf8proc_ssize_t)out->size, &mapped,
                     (utf8proc_option_t)OPTIONS[form]);
    if (size == UTF8PROC_ERROR_NOMEM)
        return nib_fail_memory(err);
    if (size < 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "text cannot be normalized: %s",
                        utf8proc_errmsg(size));
    out->size = 0;
    status = nib_buffer_append(out, mapped, (size_t)size, err);
    free(mapped);
    return status;
}

static enum nib_status apply_lowercase(struct nib_buffer *out, struct nib_error *err)
{
    struct nib_buffer lower = {0};
    enum nib_status status = NIB_OK;
    for (size_t i = 0; i < out->size;) {
        uint32_t c;
        i += first_character((struct nib_text){out->data + i, out->size - i}, &c);
        char bytes[4];
        size_t size = nib_utf8_encode((uint32_t)utf8proc_tolower((int32_t)c), bytes);
        NIB_TRY(nib_buffer_append(&lower, bytes, size, err));
    }
    nib_buffer_free(out);
    *out = lower;
    return NIB_OK;
fail:
    nib_buffer_free(&lower);
    return status;
}

bool nib_normalizes(const struct nib_tokenizer *tokenizer)
{
    return tokenizer->remove_extra_spaces || tokenizer->lowercase ||
           tokenizer->normal_form != NIB_NORMAL_NONE;
}

enum nib_status nib_normalize(const struct nib_tokenizer *tokenizer, struct nib_text text,
                              struct nib_buffer *out, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    out->size = 0;
    if (text.size == 0)
        return NIB_OK;
    if (tokenizer->remove_extra_spaces)
        NIB_TRY(append_single_spaces(text, out, err));
    else
        NIB_TRY(nib_buffer_append(out, text.ptr, text.size, err));
    NIB_TRY(apply_form(tokenizer->normal_form, out, err));
    if (tokenizer->lowercase)
        NIB_TRY(apply_lowercase(out, err));
fail:
    return status;
}

enum nib_status nib_escape(const struct nib_tokenizer *tokenizer, struct nib_text text, bool prefix,
                           struct nib_buffer *out, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    out->size = 0;
    struct nib_text space = tokenizer->escape_spaces
                                ? (struct nib_text){NIB_SPACE_MARK, NIB_SPACE_MARK_SIZE}
                                : (struct nib_text){" ", 1};
    if (text.size == 0)
        return NIB_OK;
    bool begins =
        text.ptr[0] == ' ' || (tokenizer->escape_spaces && text.size >= NIB_SPACE_MARK_SIZE &&
                               memcmp(text.ptr, NIB_SPACE_MARK, NIB_SPACE_MARK_SIZE) == 0);
    if (prefix && (tokenizer->space_prefix == NIB_SPACE_PREFIX_ALWAYS ||
                   (tokenizer->space_prefix == NIB_SPACE_PREFIX_MISSING && !begins)))
        NIB_TRY(nib_buffer_append(out, space.ptr, space.size, err));
    if (!tokenizer->escape_spaces)
        return nib_buffer_append(out, text.ptr, text.size, err);

    size_t done = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.ptr[i] != ' ')
            continue;
        NIB_TRY(nib_buffer_append(out, text.ptr + done, i - done, err));
        NIB_TRY(nib_buffer_append(out, space.ptr, space.size, err));
        done = i + 1;
    }
    NIB_TRY(nib_buffer_append(out, text.ptr + done, text.size - done, err));
fail:
    return status;
}
