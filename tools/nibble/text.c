#include "tools/nibble/text.h"
#include <stdbool.h>
#include <string.h>

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

size_t text_character(const char *text, size_t size)
{
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] < 0x80)
        return 1;
    size_t length = c[0] < 0xC2 ? 0 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : c[0] < 0xF5 ? 4 : 0;
    if (length == 0 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation(c[i]))
            return 0;
    }
    // The Unicode Standard's table 3-7: no overlong forms, no surrogates, up to U+10FFFF.
    bool bad = (c[0] == 0xE0 && c[1] < 0xA0) || (c[0] == 0xED && c[1] > 0x9F) ||
               (c[0] == 0xF0 && c[1] < 0x90) || (c[0] == 0xF4 && c[1] > 0x8F);
    return bad ? 0 : length;
}

static bool is_control(const char *text, size_t length)
{
    unsigned char first = (unsigned char)text[0];
    if (length == 1)
        return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7F;
    // U+0080 to U+009F, which some terminals obey like escape sequences.
    return first == 0xC2 && (unsigned char)text[1] < 0xA0;
}

size_t text_harmless(const char *text, size_t size)
{
    size_t done = 0;
    while (done < size) {
        size_t length = text_character(text + done, size - done);
        if (length == 0 || is_control(text + done, length))
            break;
        done += length;
    }
    return done;
}

void text_print_harmless(FILE *file, const char *text, size_t size)
{
    while (size > 0) {
        size_t good = text_harmless(text, size);
        fwrite(text, 1, good, file);
        text += good;
        size -= good;
        if (size == 0)
            break;
        fputs(TEXT_REPLACEMENT, file);
        size_t length = text_character(text, size);
        length = length == 0 ? 1 : length;
        text += length;
        size -= length;
    }
}

/// Writes `value` divided by `base` as often as it can be, with the unit reached.
static const char *scaled(char out[TEXT_NUMBER_SIZE], uint64_t value, double base,
                          const char *const units[5])
{
    double number = (double)value;
    unsigned unit = 0;
    while (number >= base && unit < 4) {
        number /= base;
        unit++;
    }
    snprintf(out, TEXT_NUMBER_SIZE, "%.*f%s", unit == 0 ? 0 : 1, number, units[unit]);
    return out;
}

const char *text_bytes(char out[TEXT_NUMBER_SIZE], uint64_t bytes)
{
    static const char *const units[5] = {" B", " KiB", " MiB", " GiB", " TiB"};
    return scaled(out, bytes, 1024.0, units);
}

const char *text_count(char out[TEXT_NUMBER_SIZE], uint64_t count)
{
    static const char *const units[5] = {"", " K", " M", " G", " T"};
    return scaled(out, count, 1000.0, units);
}

const char *text_tokens(char out[TEXT_NUMBER_SIZE], uint32_t tokens)
{
    bool whole = tokens >= 1024 && tokens % 1024 == 0;
    snprintf(out, TEXT_NUMBER_SIZE, whole ? "%uk" : "%u", whole ? tokens / 1024 : tokens);
    return out;
}
