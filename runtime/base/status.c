#include "runtime/base/status.h"

#include "runtime/base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_OF_NUMBER(number) #number
#define TEXT_OF(number) TEXT_OF_NUMBER(number)

const char *nib_version(void)
{
    return TEXT_OF(NIB_VERSION_MAJOR) "." TEXT_OF(NIB_VERSION_MINOR) "." TEXT_OF(NIB_VERSION_PATCH);
}

const char *nib_status_name(enum nib_status status)
{
    switch (status) {
    case NIB_OK:
        return "ok";
    case NIB_ERROR_ARGUMENT:
        return "bad argument";
    case NIB_ERROR_MEMORY:
        return "out of memory";
    case NIB_ERROR_IO:
        return "input or output failed";
    case NIB_ERROR_FORMAT:
        return "damaged file";
    case NIB_ERROR_UNSUPPORTED:
        return "not supported";
    case NIB_ERROR_NOT_FOUND:
        return "not found";
    case NIB_ERROR_CONTEXT_FULL:
        return "context full";
    case NIB_ERROR_KV_FULL:
        return "KV cache full";
    case NIB_ERROR_CANCELLED:
        return "cancelled";
    case NIB_ERROR_STATE:
        return "wrong state";
    case NIB_ERROR_DEVICE_LOST:
        return "device lost";
    case NIB_ERROR_DEVICE_MEMORY:
        return "out of device memory";
    }
    return "unknown status";
}

/// Control characters, C1's too, could break the line or steer a terminal.
static bool is_printable(uint32_t code_point)
{
    return code_point >= 0x20 && (code_point < 0x7f || code_point > 0x9f);
}

/// Makes one line of well-formed UTF-8 of `text`, in place; each bad part becomes one '?'.
static void clean_line(char *text)
{
    size_t size = strlen(text);
    size -= nib_utf8_incomplete_tail(text, size);
    size_t n_written = 0;
    for (size_t i = 0; i < size;) {
        uint32_t code_point;
        bool valid;
        size_t length = nib_utf8_decode(text + i, size - i, &code_point, &valid);
        if (valid && is_printable(code_point)) {
            memmove(text + n_written, text + i, length);
            n_written += length;
        } else {
            text[n_written++] = '?';
        }
        i += length;
    }
    text[n_written] = '\0';
}

static void format_line(char *out, size_t capacity, const char *format, va_list args)
{
    if (vsnprintf(out, capacity, format, args) < 0)
        out[0] = '\0';
    clean_line(out);
}

enum nib_status(nib_fail)(struct nib_error *err, enum nib_status status, const char *format, ...)
{
    if (!err)
        return status;
    // An argument may be the old message.
    char line[sizeof err->message];
    va_list args;
    va_start(args, format);
    format_line(line, sizeof line, format, args);
    va_end(args);
    err->status = status;
    memcpy(err->message, line, sizeof line);
    return status;
}

enum nib_status nib_fail_context(struct nib_error *err, enum nib_status status, const char *format,
                                 ...)
{
    if (!err || status == NIB_OK)
        return status;
    char context[sizeof err->message];
    va_list args;
    va_start(args, format);
    format_line(context, sizeof context, format, args);
    va_end(args);
    return nib_fail(err, status, "%s: %s", context, err->message);
}

void nib_log_write(const struct nib_log *log, enum nib_log_level level, const char *format, ...)
{
    if (!log || !log->write || level > log->level)
        return;
    char line[1024];
    va_list args;
    va_start(args, format);
    format_line(line, sizeof line, format, args);
    va_end(args);
    log->write(log->user, level, line);
}
