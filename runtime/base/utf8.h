/// UTF-8 by the Unicode Standard's table 3-7: no surrogates, no overlong forms, up to U+10FFFF.
#ifndef RUNTIME_BASE_UTF8_H
#define RUNTIME_BASE_UTF8_H

#include <nibble/base.h>

/// Decodes the character at `text[0 .. size)`, size > 0, into `*out_code_point` and returns its
/// length, 1 to 4; for a malformed sequence U+FFFD and the length of its maximal valid prefix,
/// at least 1 (the Standard's "substitution of maximal subparts").
size_t nib_utf8_decode(const char *text, size_t size, uint32_t *out_code_point, bool *out_valid);
/// Encodes a code point to `out[0 .. 4)` and returns its length; surrogates and values above
/// U+10FFFF are written as U+FFFD.
size_t nib_utf8_encode(uint32_t code_point, char *out);
/// Returns whether all of `text` is well-formed.
bool nib_utf8_valid(const char *text, size_t size);
/// Returns how many bytes at the end of `text` are a well-formed but unfinished character (0 to 3).
size_t nib_utf8_incomplete_tail(const char *text, size_t size);

#endif
