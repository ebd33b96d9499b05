#include "tools/nibble/progress.h"
#include "tools/nibble/system.h"
#include "tools/nibble/text.h"
#include <string.h>

/// Short work is done before anyone could read about it.
#define PATIENCE_NS 333000000u

static void show(struct progress *progress, uint64_t elapsed_ns, uint64_t done, uint64_t total)
{
    double seconds = (double)elapsed_ns / 1e9;
    double rate = (double)(done - progress->first) / seconds;
    double left = (double)(total - done) / rate;
    char amount[TEXT_NUMBER_SIZE], speed[TEXT_NUMBER_SIZE + 8] = "";
    text_bytes(amount, (uint64_t)rate);
    if (progress->unit == PROGRESS_TOKENS || progress->unit == PROGRESS_KERNELS)
        snprintf(amount, sizeof amount, "%.1f %s", rate,
                 progress->unit == PROGRESS_TOKENS ? "tokens" : "kernels");
    if (progress->unit != PROGRESS_SHARE)
        snprintf(speed, sizeof speed, "%s/s  ", amount);
    fprintf(stderr, "\r\033[K%s  %3.0f %%  %s%.0f s left%s%s", progress->what,
            100.0 * (double)done / (double)total, speed, left, progress->note[0] ? "  " : "",
            progress->note);
    fflush(stderr);
    progress->shown = true;
}

static bool report(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct progress *progress = user;
    uint64_t now = system_now_ns();
    if (strncmp(progress->what, what, sizeof progress->what - 1) != 0) {
        snprintf(progress->what, sizeof progress->what, "%s", what);
        progress->start_ns = now;
        progress->first = done;
    }
    uint64_t elapsed = now - progress->start_ns;
    if (system_is_terminal(stderr) && elapsed > PATIENCE_NS && done > progress->first &&
        done <= total)
        show(progress, elapsed, done, total);
    return !system_interrupted();
}

struct nib_progress progress_hook(struct progress *progress)
{
    return (struct nib_progress){.report = report, .user = progress};
}

void progress_end(struct progress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = false;
}
