#include "tools/nibble/output.h"
#include "tools/nibble/message.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/// errno of the first failed write; stdio keeps only that there was one.
static int failure;

bool output_text(const char *text, size_t size)
{
    bool terminal = system_is_terminal(stdout);
    errno = 0;
    if (terminal)
        text_print_harmless(stdout, text, size);
    else
        fwrite(text, 1, size, stdout);
    bool good = fflush(stdout) == 0 && !ferror(stdout);
    if (!good && failure == 0)
        failure = errno;
    return good;
}

enum nib_status output_finish(struct nib_error *err)
{
    if (output_text("", 0))
        return NIB_OK;
    if (failure == 0) {
        // A write by printf failed, and its errno is lost; one more fails for the same reason.
        clearerr(stdout);
        output_text("\n", 1);
    }
    if (failure == EPIPE) {
        err->message[0] = '\0';
        return err->status = NIB_ERROR_IO;
    }
    return fail_with(err, NIB_ERROR_IO, "standard output: cannot write: %s",
                     failure ? strerror(failure) : "an earlier write failed");
}
