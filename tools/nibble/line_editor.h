/// Reads lines from the user: edited, with history, where standard input is a terminal and libedit
/// is there; else as they come.
#ifndef TOOLS_NIBBLE_LINE_EDITOR_H
#define TOOLS_NIBBLE_LINE_EDITOR_H

#include <nibble/base.h>

struct line_editor;

enum line_result {
    LINE_TEXT,        ///< a line was read
    LINE_END,         ///< end of input, or Ctrl-D on an empty line
    LINE_INTERRUPTED, ///< Ctrl-C: what was typed is dropped
    LINE_FAILED       ///< standard input cannot be read, or memory ran out
};

/// Makes an editor, with the history of earlier runs where it can be read. NULL: memory ran out.
struct line_editor *line_editor_create(void);
void line_editor_destroy(struct line_editor **editor);

/// Reads one line after showing `prompt`, which nobody sees where standard input is no terminal.
/// `*out_line`, without its line feed and with `*out_size` bytes, lives until the next call.
enum line_result line_editor_read(struct line_editor *editor, const char *prompt,
                                  const char **out_line, size_t *out_size);
/// Adds a line to the history, which is kept for later runs.
void line_editor_remember(struct line_editor *editor, const char *line);

#endif
