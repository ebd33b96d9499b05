#include "runtime/base/status.h"

#include "runtime/base/utf8.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(status, version_is_the_headers)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", NIB_VERSION_MAJOR, NIB_VERSION_MINOR,
             NIB_VERSION_PATCH);
    cr_assert_str_eq(nib_version(), text);
}

Test(status, every_status_has_a_name_of_its_own)
{
    for (int i = NIB_OK; i <= NIB_ERROR_DEVICE_MEMORY; i++) {
        const char *name = nib_status_name((enum nib_status)i);
        cr_assert(strlen(name) > 1);
        cr_assert_str_neq(name, nib_status_name((enum nib_status)1000));
        for (int k = 0; k < i; k++)
            cr_assert_str_neq(name, nib_status_name((enum nib_status)k));
    }
}

Test(status, fail_writes_one_clean_line)
{
    struct nib_error err;
    cr_assert_eq(nib_fail(&err, NIB_ERROR_IO, "%s: %d", "a\nb\tc\x1b[31m\x7f", 7), NIB_ERROR_IO);
    cr_assert_eq(err.status, NIB_ERROR_IO);
    cr_assert_str_eq(err.message, "a?b?c?[31m?: 7");
    nib_fail(&err, NIB_ERROR_IO, "%s", "gr\xc3\xbc\xc3\x9f \xc2\x9b \xff\xe2\x82 end\xe2\x82");
    cr_assert_str_eq(err.message, "gr\xc3\xbc\xc3\x9f ? ?? end");
    cr_assert_eq(nib_fail(NULL, NIB_ERROR_STATE, "%d", 1), NIB_ERROR_STATE);
}

Test(status, long_messages_are_cut_between_characters)
{
    char text[3001] = "x";
    for (size_t i = 1; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    struct nib_error err;
    nib_fail(&err, NIB_ERROR_FORMAT, "%s", text);
    size_t size = strlen(err.message);
    cr_assert(size >= sizeof err.message - 4 && size < sizeof err.message);
    cr_assert(nib_utf8_valid(err.message, size));
    cr_assert_null(strchr(err.message, '?'));
}

Test(status, context_goes_in_front)
{
    struct nib_error err;
    nib_fail(&err, NIB_ERROR_FORMAT, "bad magic");
    cr_assert_eq(nib_fail_context(&err, NIB_ERROR_FORMAT, "file %s", "m.gguf"), NIB_ERROR_FORMAT);
    cr_assert_str_eq(err.message, "file m.gguf: bad magic");
    cr_assert_eq(nib_fail_context(&err, NIB_OK, "never"), NIB_OK);
    cr_assert_str_eq(err.message, "file m.gguf: bad magic");
    nib_fail(&err, NIB_ERROR_IO, "again: %s", err.message);
    cr_assert_str_eq(err.message, "again: file m.gguf: bad magic");
    cr_assert_eq(nib_fail_context(NULL, NIB_ERROR_IO, "x"), NIB_ERROR_IO);
}

static enum nib_status try_twice(enum nib_status first, enum nib_status second, int *out_calls)
{
    enum nib_status status = NIB_OK;
    *out_calls = 0;
    NIB_TRY((++*out_calls, first));
    NIB_TRY((++*out_calls, second));
fail:
    return status;
}

Test(status, try_leaves_at_the_first_failure)
{
    int n_calls;
    cr_assert_eq(try_twice(NIB_OK, NIB_OK, &n_calls), NIB_OK);
    cr_assert_eq(n_calls, 2);
    cr_assert_eq(try_twice(NIB_ERROR_IO, NIB_OK, &n_calls), NIB_ERROR_IO);
    cr_assert_eq(n_calls, 1);
}

struct heard {
    int n_lines;
    enum nib_log_level level;
    char text[64];
};

static void hear(void *user, enum nib_log_level level, const char *text)
{
    struct heard *heard = user;
    heard->n_lines++;
    heard->level = level;
    snprintf(heard->text, sizeof heard->text, "%s", text);
}

Test(status, log_drops_lines_above_its_level)
{
    struct heard heard = {0};
    struct nib_log log = {hear, &heard, NIB_LOG_WARNING};
    nib_log_write(&log, NIB_LOG_INFO, "quiet");
    cr_assert_eq(heard.n_lines, 0);
    nib_log_write(&log, NIB_LOG_WARNING, "line %d\n", 1);
    cr_assert_eq(heard.n_lines, 1);
    cr_assert_eq(heard.level, NIB_LOG_WARNING);
    cr_assert_str_eq(heard.text, "line 1?");
    nib_log_write(&(struct nib_log){0}, NIB_LOG_ERROR, "nobody");
    nib_log_write(NULL, NIB_LOG_ERROR, "nobody");
}
