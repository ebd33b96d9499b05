/// Standard output: written errors are found, and a model's text cannot drive the terminal.
#ifndef TOOLS_NIBBLE_OUTPUT_H
#define TOOLS_NIBBLE_OUTPUT_H

#include <nibble/base.h>

/// Writes text at once, so that a reader sees each token as it comes. Where standard output is a
/// terminal, control characters other than tab and line feed become U+FFFD.
/// Returns false where standard output takes no more; output_finish says why.
bool output_text(const char *text, size_t size);

/// Flushes standard output. Errors: io; the message is empty where the reader of a pipe has gone,
/// which is no news to anyone.
enum nib_status output_finish(struct nib_error *err);

#endif
