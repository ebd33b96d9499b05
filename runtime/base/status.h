/// The one error idiom of the code below the public interface.
#ifndef RUNTIME_BASE_STATUS_H
#define RUNTIME_BASE_STATUS_H

#include <nibble/base.h>

/// Writes `status` and the formatted line to `err` (may be NULL; cut to fit, control characters
/// replaced by '?', so that text from a file cannot break the line) and returns `status`.
enum nib_status nib_fail(struct nib_error *err, enum nib_status status, const char *format, ...)
    NIB_PRINTF(3, 4);

static inline enum nib_status nib_status_after(enum nib_status written, enum nib_status status)
{
    (void)written;
    return status;
}
/// Shows the caller's compiler that what comes back is `status`, which it evaluates twice: else it
/// must think that a failed call may return NIB_OK, and warns of outputs that were not set.
#define nib_fail(err, status, ...) \
    nib_status_after(nib_fail((err), (status), __VA_ARGS__), (status))

/// Puts the formatted text and ": " before the message in `err`, to name a file or tensor on the
/// way up, and returns `status`. Nothing happens where `status` is NIB_OK.
enum nib_status nib_fail_context(struct nib_error *err, enum nib_status status, const char *format,
                                 ...) NIB_PRINTF(3, 4);

/// Shorthand for the most frequent failure.
#define nib_fail_memory(err) nib_fail((err), NIB_ERROR_MEMORY, "out of memory")

/// Evaluates a call that returns enum nib_status into the local variable `status`, and jumps to the
/// function's single label `fail` if it failed.
#define NIB_TRY(call)         \
    do {                      \
        status = (call);      \
        if (status != NIB_OK) \
            goto fail;        \
    } while (0)

/// Writes a formatted line to `log` if its level lets it through.
void nib_log_write(const struct nib_log *log, enum nib_log_level level, const char *format, ...)
    NIB_PRINTF(3, 4);

#endif
