/// How far long work has come: one line on standard error, where that is a terminal.
#ifndef TOOLS_NIBBLE_PROGRESS_H
#define TOOLS_NIBBLE_PROGRESS_H

#include <nibble/base.h>

/// What is counted.
enum progress_unit { PROGRESS_BYTES, PROGRESS_TOKENS, PROGRESS_KERNELS, PROGRESS_SHARE };

/// A line of progress; make it with `unit` alone.
struct progress {
    enum progress_unit unit;
    char note[64];     ///< written behind the numbers, such as a result so far
    char what[64];     ///< the work that the line is about
    uint64_t start_ns; ///< of the first report about it
    uint64_t first;    ///< what was done by then
    bool shown;
};

/// Returns the hook that shows the line, from a third of a second after the work began, and
/// cancels the work after a Ctrl-C. It borrows `progress`.
struct nib_progress progress_hook(struct progress *progress);
/// Erases the line.
void progress_end(struct progress *progress);

#endif
