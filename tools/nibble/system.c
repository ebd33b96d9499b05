#include "tools/nibble/system.h"
#include <errno.h>
#include <fcntl.h>
#include <nibble/session.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// A signal handler sees nothing but globals.
static volatile sig_atomic_t interrupted;
static struct nib_session *_Atomic watched;
static int wake[2] = {-1, -1}; // a pipe, so that a signal just before a wait ends the wait

void system_guard_descriptors(void)
{
    for (int descriptor = 0; descriptor <= 2; descriptor++) {
        // The lowest free descriptor is the missing one. The opposite direction makes its use fail.
        if (fcntl(descriptor, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY) < 0)
            continue;
    }
}

uint64_t system_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t system_peak_rss(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    unsigned long long kib = 0;
    if (file) {
        char line[256];
        while (fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %llu", &kib) != 1) {}
        fclose(file);
    }
    struct rusage usage;
    if (kib == 0 && getrusage(RUSAGE_SELF, &usage) == 0)
        kib = (unsigned long long)usage.ru_maxrss;
    return (uint64_t)kib * 1024;
}

const char *system_why_not_writable(const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return strerror(EISDIR);
    const char *slash = strrchr(path, '/');
    size_t size = slash ? (size_t)(slash - path) + 1 : 0;
    char *folder = calloc(size + 2, 1);
    if (!folder)
        return strerror(ENOMEM);
    memcpy(folder, slash ? path : ".", slash ? size : 1);
    const char *why = access(folder, W_OK | X_OK) == 0 ? NULL : strerror(errno);
    free(folder);
    return why;
}

uint64_t system_random(void)
{
    uint64_t value = system_now_ns() ^ (uint64_t)getpid() << 40;
    FILE *file = fopen("/dev/urandom", "rb");
    if (file) {
        uint64_t drawn;
        if (fread(&drawn, sizeof drawn, 1, file) == 1)
            value ^= drawn;
        fclose(file);
    }
    return value;
}

bool system_is_terminal(FILE *file)
{
    return isatty(fileno(file)) == 1;
}

static void on_interrupt(int signal_number)
{
    if (interrupted) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
        return;
    }
    interrupted = 1;
    struct nib_session *session = atomic_load(&watched);
    if (session)
        nib_session_cancel(session);
    int kept = errno;
    if (write(wake[1], "", 1) < 0) {
        // The flag is set in any case.
    }
    errno = kept;
}

void system_catch_signals(void)
{
    if (pipe(wake) == 0) {
        for (int i = 0; i < 2; i++) {
            fcntl(wake[i], F_SETFL, O_NONBLOCK);
            fcntl(wake[i], F_SETFD, FD_CLOEXEC);
        }
    }
    // Without SA_RESTART, so that a read at the prompt ends.
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

void system_catch_termination(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

bool system_interrupted(void)
{
    return interrupted != 0;
}

void system_forget_interrupt(void)
{
    char drained[16];
    while (read(wake[0], drained, sizeof drained) > 0) {}
    interrupted = 0;
}

bool system_wait_input(void)
{
    struct pollfd waits[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                              {.fd = wake[0], .events = POLLIN}};
    while (!interrupted && poll(waits, 2, -1) < 0 && errno == EINTR) {}
    return !interrupted;
}

void system_watch(struct nib_session *session)
{
    atomic_store(&watched, session);
}

/// Makes each folder on the way to `path`, whose last part is not made. Errors show when the file
/// is opened.
static void make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

char *system_user_path(enum system_folder folder, const char *name)
{
    static const struct {
        const char *variable, *below_home;
    } folders[] = {
        [SYSTEM_CACHE] = {"XDG_CACHE_HOME", ".cache"},
        [SYSTEM_STATE] = {"XDG_STATE_HOME", ".local/state"},
    };
    const char *base = getenv(folders[folder].variable);
    const char *home = getenv("HOME");
    bool absolute = base && base[0] == '/';
    if (!absolute && (!home || home[0] != '/'))
        return NULL;
    size_t size = strlen(absolute ? base : home) + strlen(name) + sizeof "/.local/state/nibble/";
    char *path = malloc(size);
    if (!path)
        return NULL;
    if (absolute)
        snprintf(path, size, "%s/nibble/%s", base, name);
    else
        snprintf(path, size, "%s/%s/nibble/%s", home, folders[folder].below_home, name);
    make_parents(path);
    return path;
}
