/// Errors and messages: one line each, on standard error.
#ifndef TOOLS_NIBBLE_MESSAGE_H
#define TOOLS_NIBBLE_MESSAGE_H

#include <nibble/base.h>

/// Exit statuses of the program.
enum exit_status {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_INTERRUPTED = 130 ///< 128 + SIGINT, as shells count
};

/// Runs a fallible call in a function that has `enum nib_status status` and a label `fail`.
#define TRY(expression)        \
    do {                       \
        status = (expression); \
        if (status != NIB_OK)  \
            goto fail;         \
    } while (0)

/// Fills `err` and returns `status`.
enum nib_status fail_with(struct nib_error *err, enum nib_status status, const char *format, ...)
    NIB_PRINTF(3, 4);
/// Fills `err` for memory that ran out and returns NIB_ERROR_MEMORY.
enum nib_status fail_memory(struct nib_error *err);

/// Prints "nibble: ..." and a line feed to standard error; control characters become U+FFFD, so
/// that a name out of a hostile file stays a name.
void message_print(const char *format, ...) NIB_PRINTF(1, 2);

/// Returns a log that prints the library's warnings and errors.
struct nib_log message_log(void);

#endif
