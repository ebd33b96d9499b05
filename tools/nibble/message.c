#include "tools/nibble/message.h"
#include "tools/nibble/text.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum nib_status fail_with(struct nib_error *err, enum nib_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    return status;
}

enum nib_status fail_memory(struct nib_error *err)
{
    return fail_with(err, NIB_ERROR_MEMORY, "out of memory");
}

void message_print(const char *format, ...)
{
    char line[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    for (char *c = line; *c; c++) {
        if (*c == '\n' || *c == '\t')
            *c = ' ';
    }
    fputs("nibble: ", stderr);
    text_print_harmless(stderr, line, strlen(line));
    fputc('\n', stderr);
}

static void print_log(void *user, enum nib_log_level level, const char *text)
{
    (void)user;
    message_print("%s%s", level == NIB_LOG_WARNING ? "warning: " : "", text);
}

struct nib_log message_log(void)
{
    return (struct nib_log){.write = print_log, .level = NIB_LOG_WARNING};
}
