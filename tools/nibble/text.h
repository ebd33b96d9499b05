/// Text whose bytes may be anything, made fit for a terminal, and numbers for people.
#ifndef TOOLS_NIBBLE_TEXT_H
#define TOOLS_NIBBLE_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/// U+FFFD, which stands for what is no text.
#define TEXT_REPLACEMENT "\xEF\xBF\xBD"

/// Returns the length, 1 to 4, of the well-formed UTF-8 character at `text[0 .. size)`, size > 0,
/// or 0 where there is none.
size_t text_character(const char *text, size_t size);

/// Returns how many bytes at the start of `text[0 .. size)` are safe to write to a terminal:
/// well-formed UTF-8 without control characters, but for tab and line feed.
size_t text_harmless(const char *text, size_t size);

/// Writes `text[0 .. size)` to `file` with U+FFFD for each byte or character that is not harmless.
void text_print_harmless(FILE *file, const char *text, size_t size);

/// The longest result of the functions below, with its end.
#define TEXT_NUMBER_SIZE 32

/// Writes bytes in binary units ("93.8 MiB") to `out` and returns it.
const char *text_bytes(char out[TEXT_NUMBER_SIZE], uint64_t bytes);
/// Writes a count in decimal units ("134.5 M") to `out` and returns it.
const char *text_count(char out[TEXT_NUMBER_SIZE], uint64_t count);
/// Writes a number of tokens ("8k" where it is whole, "1000") to `out` and returns it.
const char *text_tokens(char out[TEXT_NUMBER_SIZE], uint32_t tokens);

#endif
