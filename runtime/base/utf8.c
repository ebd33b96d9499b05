#include "runtime/base/utf8.h"

enum { REPLACEMENT = 0xfffd };

enum sequence {
    SEQUENCE_WHOLE,
    SEQUENCE_UNFINISHED, ///< the text ends before the character does
    SEQUENCE_MALFORMED
};

/// Reads one sequence; returns its length, or that of its maximal valid prefix, at least 1.
static size_t read_sequence(const char *text, size_t size, uint32_t *out_code_point,
                            enum sequence *out_kind)
{
    uint8_t lead = (uint8_t)text[0];
    *out_code_point = REPLACEMENT;
    *out_kind = SEQUENCE_MALFORMED;
    if (lead < 0x80) {
        *out_code_point = lead;
        *out_kind = SEQUENCE_WHOLE;
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4)
        return 1;

    size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    // The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF.
    uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    uint32_t code_point = lead & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (i == size) {
            *out_kind = SEQUENCE_UNFINISHED;
            return i;
        }
        uint8_t byte = (uint8_t)text[i];
        if (byte < least || byte > most)
            return i;
        code_point = code_point << 6 | (byte & 0x3fu);
        least = 0x80;
        most = 0xbf;
    }
    *out_code_point = code_point;
    *out_kind = SEQUENCE_WHOLE;
    return length;
}

size_t nib_utf8_decode(const char *text, size_t size, uint32_t *out_code_point, bool *out_valid)
{
    enum sequence kind;
    size_t length = read_sequence(text, size, out_code_point, &kind);
    *out_valid = kind == SEQUENCE_WHOLE;
    return length;
}

size_t nib_utf8_encode(uint32_t code_point, char *out)
{
    if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point <= 0xdfff)) {
        code_point = REPLACEMENT;
    }
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code_point & 0x3f));
        code_point >>= 6;
    }
    out[0] = (char)((0xf00u >> length & 0xf0u) | code_point);
    return length;
}

bool nib_utf8_valid(const char *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        uint32_t code_point;
        enum sequence kind;
        i += read_sequence(text + i, size - i, &code_point, &kind);
        if (kind != SEQUENCE_WHOLE)
            return false;
    }
    return true;
}

size_t nib_utf8_incomplete_tail(const char *text, size_t size)
{
    size_t longest = size < 3 ? size : 3;
    for (size_t n = 1; n <= longest; n++) {
        const char *start = text + size - n;
        if (((uint8_t)*start & 0xc0) == 0x80)
            continue;
        uint32_t code_point;
        enum sequence kind;
        read_sequence(start, n, &code_point, &kind);
        return kind == SEQUENCE_UNFINISHED ? n : 0;
    }
    return 0;
}
