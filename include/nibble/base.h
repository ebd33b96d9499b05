/// What every other public header stands on: status, error, log, progress, strings.
///
/// Rules that hold for the whole library; other comments state only the exceptions.
/// - C11; usable from C++ (a C++ host fills params by field, or with the `_defaults()` functions).
/// - Objects are opaque, made by `nib_<noun>_create/open`, and freed by `nib_<noun>_destroy(&x)`,
///   which sets the pointer to NULL and accepts a pointer to NULL.
/// - A params struct begins with `struct_size` (set it to sizeof, or let the `nib_x_params(...)`
///   macro do so), is read during the call alone, and may be NULL where every default will do.
///   A zeroed field means its default, so later versions can add fields at the end.
/// - A function that can fail returns `enum nib_status`; outputs are named `out_*` and are set to
///   NULL or 0 on failure. `struct nib_error *err` may be NULL; it is written only on failure.
/// - On failure the caller keeps what it owned before the call.
/// - Text is UTF-8, given as pointer and length where it may hold NUL bytes.
/// - Nothing here aborts, exits, prints, or reads the environment, and there is no global state.
#ifndef NIBBLE_BASE_H
#define NIBBLE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(NIB_SHARED)
#ifdef NIB_BUILD
#define NIB_API __declspec(dllexport)
#else
#define NIB_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define NIB_API __attribute__((visibility("default")))
#else
#define NIB_API
#endif

#if defined(__MINGW32__) && !defined(__clang__) // "printf" there means the old runtime's formats
#define NIB_PRINTF_KIND gnu_printf
#else
#define NIB_PRINTF_KIND printf
#endif
#if defined(__GNUC__)
#define NIB_PRINTF(format_index, first) \
    __attribute__((format(NIB_PRINTF_KIND, format_index, first)))
#define NIB_MUST_USE __attribute__((warn_unused_result))
#else
#define NIB_PRINTF(format_index, first)
#define NIB_MUST_USE
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define NIB_VERSION_MAJOR 0
#define NIB_VERSION_MINOR 1
#define NIB_VERSION_PATCH 0

/// Returns the library's version as "major.minor.patch", a static string.
/// Thread-safety: safe.
NIB_API const char *nib_version(void);

/// How a call ended. The values are stable.
enum nib_status {
    NIB_OK = 0,
    NIB_ERROR_ARGUMENT = 1,      ///< a parameter is out of range; the call did nothing
    NIB_ERROR_MEMORY = 2,        ///< host memory ran out
    NIB_ERROR_IO = 3,            ///< the operating system refused to open, read, map or write
    NIB_ERROR_FORMAT = 4,        ///< a file's bytes break its format
    NIB_ERROR_UNSUPPORTED = 5,   ///< well-formed, but this library or device cannot do it
    NIB_ERROR_NOT_FOUND = 6,     ///< a named tensor, key, device or template does not exist
    NIB_ERROR_CONTEXT_FULL = 7,  ///< the tokens do not fit in the context
    NIB_ERROR_KV_FULL = 8,       ///< every page of the KV pool is in use
    NIB_ERROR_CANCELLED = 9,     ///< the caller asked to stop
    NIB_ERROR_STATE = 10,        ///< the object is not in a state that allows the call
    NIB_ERROR_DEVICE_LOST = 11,  ///< the device is gone; the session's tokens are kept
    NIB_ERROR_DEVICE_MEMORY = 12 ///< device memory ran out
};

/// Returns a short lower-case name of `status`, such as "out of memory"; a static string, also for
/// values that are no status. Thread-safety: safe.
NIB_API const char *nib_status_name(enum nib_status status);

/// What went wrong, in one line without a line feed: the file, the place and the remedy.
struct nib_error {
    enum nib_status status;
    char message[1024];
};

/// How much a log line matters.
enum nib_log_level { NIB_LOG_ERROR = 0, NIB_LOG_WARNING = 1, NIB_LOG_INFO = 2, NIB_LOG_DEBUG = 3 };

/// Where log lines go. A zeroed struct drops them.
/// Thread-safety: `write` may be called from any of the library's threads, one at a time per
/// object.
struct nib_log {
    /// Takes one line of UTF-8 without a line feed; `text` lives for the call alone.
    void (*write)(void *user, enum nib_log_level level, const char *text);
    void *user;
    enum nib_log_level level; ///< lines above this level are dropped
};

/// Who hears how far long work has come. A zeroed struct hears nothing.
struct nib_progress {
    /// Called at most some ten times a second on the thread that made the call, and once at the end
    /// with `done == total`. `what` names the work ("pack weights"); `done` and `total` count bytes
    /// or tokens, as the function that takes the progress says. Return false to cancel: the
    /// function then returns NIB_ERROR_CANCELLED and nothing is kept.
    bool (*report)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
};

/// A borrowed piece of UTF-8 text, not terminated; `ptr` may be NULL where `size` is 0.
struct nib_text {
    const char *ptr;
    size_t size; ///< bytes
};

#ifdef __cplusplus
}
#endif
#endif
