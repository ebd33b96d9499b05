#ifdef __linux__
#define _GNU_SOURCE // affinity
#else
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE
#endif

#include "runtime/base/os.h"
#include "runtime/base/os_file.h"
#include "runtime/base/status.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

/// Sets "cannot <verb> <path>: <the system's reason>". strerror's text is static or the thread's
/// own for every error number that these calls set.
static enum nib_status fail_io(struct nib_error *err, const char *verb, const char *path, int error)
{
    return nib_fail(err, error == ENOMEM ? NIB_ERROR_MEMORY : NIB_ERROR_IO, "cannot %s %s: %s",
                    verb, path, strerror(error));
}

static int open_file(const char *path, int flags)
{
    int file;
    do {
        file = open(path, flags | O_CLOEXEC, 0666);
    } while (file < 0 && errno == EINTR);
    return file;
}

// Memory maps

static enum nib_status map_file(int file, const char *path, struct nib_file_map *out_map,
                                struct nib_error *err)
{
    struct stat info;
    if (fstat(file, &info) != 0)
        return fail_io(err, "read", path, errno);
    if (S_ISDIR(info.st_mode))
        return fail_io(err, "read", path, EISDIR);
    if (!S_ISREG(info.st_mode)) {
        return nib_fail(err, NIB_ERROR_IO, "cannot read %s: it is not a regular file", path);
    }
    if ((uintmax_t)info.st_size > SIZE_MAX)
        return fail_io(err, "map", path, EFBIG);
    if (info.st_size == 0)
        return NIB_OK;

    size_t size = (size_t)info.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED)
        return fail_io(err, "map", path, errno);
    *out_map = (struct nib_file_map){.data = data, .size = size};
    return NIB_OK;
}

enum nib_status nib_file_map_open(const char *path, struct nib_file_map *out_map,
                                  struct nib_error *err)
{
    *out_map = (struct nib_file_map){0};
    // A pipe without a writer must not block the call.
    int file = open_file(path, O_RDONLY | O_NONBLOCK);
    if (file < 0)
        return fail_io(err, "open", path, errno);
    enum nib_status status = map_file(file, path, out_map, err);
    close(file);
    return status;
}

void nib_file_map_close(struct nib_file_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct nib_file_map){0};
}

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

void nib_file_map_will_need(const struct nib_file_map *map, size_t offset, size_t size)
{
    if (!map->data || offset >= map->size)
        return;
    if (size > map->size - offset)
        size = map->size - offset;
    size_t ahead = offset % page_size();
    posix_madvise((void *)(uintptr_t)(map->data + offset - ahead), size + ahead,
                  POSIX_MADV_WILLNEED);
}

void nib_file_map_drop(const struct nib_file_map *map, size_t offset, size_t size)
{
    if (!map->data || offset >= map->size)
        return;
    size_t page = page_size();
    size_t end = size < map->size - offset ? offset + size : map->size;
    // Pages that the range shares with its neighbours stay, but for the file's last one.
    size_t first = offset + (page - offset % page) % page;
    size_t last = end == map->size ? end : end - end % page;
    if (first >= last)
        return;
    void *start = (void *)(uintptr_t)(map->data + first);
#ifdef __linux__
    madvise(start, last - first, MADV_DONTNEED); // glibc's posix_madvise ignores this advice
#else
    posix_madvise(start, last - first, POSIX_MADV_DONTNEED);
#endif
}

// Paths and files

enum nib_path_kind nib_path_kind(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return NIB_PATH_ABSENT;
    if (S_ISREG(info.st_mode))
        return NIB_PATH_FILE;
    return S_ISDIR(info.st_mode) ? NIB_PATH_FOLDER : NIB_PATH_OTHER;
}

/// Returns whether the file or folder that is open is what `path` still names, is this user's, and
/// has no other name.
static bool is_own(int file, const char *path)
{
    struct stat opened, named;
    return fstat(file, &opened) == 0 && lstat(path, &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino && opened.st_uid == geteuid() &&
           (S_ISDIR(opened.st_mode) || opened.st_nlink == 1);
}

/// Opens what an ended process left, which nobody else has locked; -1 where that cannot be.
static int take_over(const char *path, int flags)
{
    int file = open_file(path, flags | O_NOFOLLOW | O_NONBLOCK);
    if (file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0 && is_own(file, path))
        return file;
    if (file >= 0)
        close(file);
    return -1;
}

/// Locks what was just made; returns whether another process has been faster. File systems without
/// locks have nothing to take over either.
static bool is_lost(int file)
{
    return flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

enum nib_status nib_os_file_create(const char *path, intptr_t *out_file, bool *out_exists,
                                   struct nib_error *err)
{
    int file = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    *out_file = file;
    *out_exists = false;
    if (file < 0 && errno != EEXIST)
        return fail_io(err, "create", path, errno);
    if (file < 0) {
        file = take_over(path, O_WRONLY);
        *out_exists = file < 0 || ftruncate(file, 0) != 0;
    } else {
        *out_exists = is_lost(file);
    }
    if (*out_exists && file >= 0)
        close(file);
    *out_file = *out_exists ? -1 : file;
    return *out_exists ? NIB_ERROR_IO : NIB_OK;
}

enum nib_status nib_os_file_open(const char *path, intptr_t *out_file, struct nib_error *err)
{
    int file = open_file(path, O_WRONLY);
    *out_file = file;
    return file < 0 ? fail_io(err, "write", path, errno) : NIB_OK;
}

enum nib_status nib_os_file_append(intptr_t file, const void *bytes, size_t size, const char *path,
                                   struct nib_error *err)
{
    const char *rest = bytes;
    while (size > 0) {
        ssize_t n_written = write((int)file, rest, size);
        if (n_written < 0 && errno == EINTR)
            continue;
        if (n_written < 0)
            return fail_io(err, "write", path, errno);
        rest += n_written;
        size -= (size_t)n_written;
    }
    return NIB_OK;
}

enum nib_status nib_os_file_write_at(intptr_t file, uint64_t offset, const void *bytes, size_t size,
                                     const char *path, struct nib_error *err)
{
    const char *rest = bytes;
    while (size > 0) {
        ssize_t n_written = pwrite((int)file, rest, size, (off_t)offset);
        if (n_written < 0 && errno == EINTR)
            continue;
        if (n_written < 0)
            return fail_io(err, "write", path, errno);
        rest += n_written;
        offset += (uint64_t)n_written;
        size -= (size_t)n_written;
    }
    return NIB_OK;
}

enum nib_status nib_os_file_sync(intptr_t file, const char *path, struct nib_error *err)
{
    int result;
    do {
        result = fsync((int)file);
    } while (result != 0 && errno == EINTR);
    // EINVAL: the file system knows no syncing.
    return result == 0 || errno == EINVAL ? NIB_OK : fail_io(err, "write", path, errno);
}

enum nib_status nib_os_file_close(intptr_t file, const char *path, struct nib_error *err)
{
    // After EINTR the descriptor is closed on Linux, and trying again could close another's.
    return close((int)file) == 0 || errno == EINTR ? NIB_OK : fail_io(err, "write", path, errno);
}

enum nib_status nib_os_rename(const char *from, const char *to, struct nib_error *err)
{
    return rename(from, to) == 0 ? NIB_OK : fail_io(err, "write", to, errno);
}

void nib_os_remove(const char *path)
{
    unlink(path);
}

enum nib_status nib_os_folder_create(const char *path, bool *out_exists, struct nib_error *err)
{
    int result = mkdir(path, 0777);
    *out_exists = result != 0 && errno == EEXIST;
    if (*out_exists)
        return NIB_ERROR_IO;
    return result != 0 ? fail_io(err, "create", path, errno) : NIB_OK;
}

/// Removes the files of a folder; returns whether it is empty then.
static bool remove_files(int folder)
{
    bool is_empty = true;
    int copy = fcntl(folder, F_DUPFD_CLOEXEC, 0);
    DIR *entries = copy >= 0 ? fdopendir(copy) : NULL;
    if (!entries) {
        if (copy >= 0)
            close(copy);
        return false;
    }
    for (const struct dirent *entry; (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            is_empty &= unlinkat(folder, entry->d_name, 0) == 0;
    }
    closedir(entries);
    return is_empty;
}

enum nib_status nib_os_folder_claim(const char *path, intptr_t *out_claim, bool *out_exists,
                                    struct nib_error *err)
{
    enum nib_status status = nib_os_folder_create(path, out_exists, err);
    *out_claim = -1;
    if (status != NIB_OK && !*out_exists)
        return status;
    int folder = *out_exists ? take_over(path, O_RDONLY | O_DIRECTORY)
                             : open_file(path, O_RDONLY | O_DIRECTORY);
    const bool is_taken =
        *out_exists ? folder < 0 || !remove_files(folder) : folder >= 0 && is_lost(folder);
    if (is_taken && folder >= 0)
        close(folder);
    *out_exists = is_taken;
    *out_claim = is_taken ? -1 : folder;
    return is_taken ? NIB_ERROR_IO : NIB_OK;
}

void nib_os_folder_release(intptr_t claim)
{
    if (claim >= 0)
        close((int)claim);
}

void nib_os_folder_remove(const char *path)
{
    rmdir(path);
}

char *nib_os_resolve(const char *path)
{
    // A pipe's or device's resolved name need not be one that can be opened.
    char *resolved = nib_path_kind(path) == NIB_PATH_FILE ? realpath(path, NULL) : NULL;
    return resolved ? resolved : strdup(path);
}

// Clock and machine

uint64_t nib_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#ifdef __linux__
/// Reads the start of a small text file, terminated; returns false if it cannot.
static bool read_text(const char *path, char *out, size_t capacity)
{
    int file = open_file(path, O_RDONLY);
    if (file < 0)
        return false;
    ssize_t size;
    do {
        size = read(file, out, capacity - 1);
    } while (size < 0 && errno == EINTR);
    close(file);
    out[size < 0 ? 0 : size] = '\0';
    return size > 0;
}

/// Reads the file `name` of a folder as one or two numbers; "max", which stands for no limit, is
/// UINT64_MAX. Returns how many there are.
static int read_numbers(const char *folder, const char *name, uint64_t out[2])
{
    char path[512];
    char text[128];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path || !read_text(path, text, sizeof text)) {
        return 0;
    }
    const char *at = text;
    for (int i = 0; i < 2; i++) {
        char *end;
        out[i] = strtoull(at, &end, 10);
        if (end == at && strncmp(at, "max", 3) == 0) {
            out[i] = UINT64_MAX;
            end += 3;
        }
        if (end == at)
            return i;
        at = end;
    }
    return 2;
}

/// Returns the limit that one control group sets, UINT64_MAX if none.
typedef uint64_t group_limit_fn(const char *folder);

static uint64_t memory_limit(const char *folder)
{
    uint64_t limit[2];
    if (read_numbers(folder, "memory.max", limit) > 0)
        return limit[0];
    return read_numbers(folder, "memory.limit_in_bytes", limit) > 0 ? limit[0] : UINT64_MAX;
}

/// In processors, rounded up.
static uint64_t cpu_limit(const char *folder)
{
    uint64_t quota[2];
    if (read_numbers(folder, "cpu.max", quota) < 2) {
        uint64_t period[2];
        if (read_numbers(folder, "cpu.cfs_quota_us", quota) < 1)
            return UINT64_MAX;
        if (read_numbers(folder, "cpu.cfs_period_us", period) < 1)
            return UINT64_MAX;
        quota[1] = period[0];
    }
    // Version 1 writes -1 for no limit, which strtoull returns as a huge number.
    if (quota[0] > INT64_MAX || quota[1] == 0)
        return UINT64_MAX;
    return (quota[0] + quota[1] - 1) / quota[1];
}

/// Returns the least limit of a control group and of those that hold it. `folder` is the group's
/// folder and is cut down to `root_size` characters, the root's.
static uint64_t least_limit(char *folder, size_t root_size, group_limit_fn *limit_of)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t limit = limit_of(folder);
        if (limit < least)
            least = limit;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root_size)
            return least;
        *slash = '\0';
    }
}

/// Returns whether `word` stands in a list with commas between.
static bool list_has(const char *list, const char *word)
{
    size_t size = strlen(word);
    while (*list) {
        size_t length = strcspn(list, ",");
        if (length == size && memcmp(list, word, size) == 0)
            return true;
        list += length + (list[length] == ',');
    }
    return false;
}

/// Returns the least limit of this process's control groups, of version 2 and of version 1's
/// hierarchy that is named after `controller`.
static uint64_t group_limit(const char *controller, group_limit_fn *limit_of)
{
    uint64_t least = UINT64_MAX;
    FILE *groups = fopen("/proc/self/cgroup", "re");
    if (!groups)
        return least;
    char line[512];
    while (fgets(line, sizeof line, groups)) {
        // hierarchy:controllers:path
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        bool version_2 = *++controllers == '\0';
        if (!version_2 && !list_has(controllers, controller))
            continue;

        char folder[640];
        int root_size = snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s", version_2 ? "" : "/",
                                 version_2 ? "" : controller);
        snprintf(folder + root_size, sizeof folder - (size_t)root_size, "%s",
                 strcmp(path, "/") == 0 ? "" : path);
        uint64_t limit = least_limit(folder, (size_t)root_size, limit_of);
        if (limit < least)
            least = limit;
    }
    fclose(groups);
    return least;
}

/// Returns whether `cpu` is the first of those logical CPUs of its core that are in `allowed`.
static bool is_first_of_core(int cpu, const cpu_set_t *allowed)
{
    char path[96];
    char siblings[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!read_text(path, siblings, sizeof siblings))
        return true;
    // A list of numbers and ranges, ascending: "0,8" or "0-1".
    const char *at = siblings;
    for (;;) {
        char *end;
        long first = strtol(at, &end, 10);
        if (end == at)
            return true;
        long last = *end == '-' ? strtol(end + 1, &end, 10) : first;
        for (long sibling = first; sibling <= last && sibling < cpu; sibling++) {
            if (sibling >= 0 && CPU_ISSET((size_t)sibling, allowed))
                return false;
        }
        if (*end != ',')
            return true;
        at = end + 1;
    }
}

/// Returns the physical cores that the process may use, 0 if unknown; `*out_cpu` is a logical CPU
/// of core number `index`, counted around, or -1.
static uint32_t list_cores(uint32_t index, int *out_cpu)
{
    *out_cpu = -1;
    cpu_set_t allowed;
    // Fails on machines of more than 1024 CPUs, which need a larger set; they are not bound.
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 0;
    int cpus[CPU_SETSIZE];
    uint32_t n_cores = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET((size_t)cpu, &allowed) && is_first_of_core(cpu, &allowed)) {
            cpus[n_cores++] = cpu;
        }
    }
    if (n_cores > 0)
        *out_cpu = cpus[index % n_cores];
    return n_cores;
}

static void bind_thread(int core)
{
    int cpu;
    list_cores((uint32_t)core, &cpu);
    if (cpu < 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

uint32_t nib_cpu_cores(void)
{
    int cpu;
    uint32_t n_cores = list_cores(0, &cpu);
    if (n_cores == 0) {
        long n_online = sysconf(_SC_NPROCESSORS_ONLN);
        n_cores = n_online > 0 ? (uint32_t)n_online : 1;
    }
    uint64_t limit = group_limit("cpu", cpu_limit);
    if (limit < n_cores)
        n_cores = (uint32_t)limit;
    return n_cores > 0 ? n_cores : 1;
}

uint64_t nib_memory_size(void)
{
    long n_pages = sysconf(_SC_PHYS_PAGES);
    uint64_t size = n_pages > 0 ? (uint64_t)n_pages * page_size() : 0;
    uint64_t limit = group_limit("memory", memory_limit);
    return size > limit ? limit : size;
}

void nib_cpu_name(char *out_name, size_t capacity)
{
    snprintf(out_name, capacity, "CPU");
    FILE *info = fopen("/proc/cpuinfo", "re");
    if (!info)
        return;
    char line[512];
    while (fgets(line, sizeof line, info)) {
        const char *name = strchr(line, ':');
        if (!name || strncmp(line, "model name", 10) != 0)
            continue;
        name += 1 + strspn(name + 1, " \t");
        snprintf(out_name, capacity, "%.*s", (int)strcspn(name, "\n"), name);
        break;
    }
    fclose(info);
}
#else
static void bind_thread(int core)
{
    (void)core; // POSIX cannot
}

uint32_t nib_cpu_cores(void)
{
    long n_online = sysconf(_SC_NPROCESSORS_ONLN);
    return n_online > 0 ? (uint32_t)n_online : 1;
}

uint64_t nib_memory_size(void)
{
    long n_pages = sysconf(_SC_PHYS_PAGES);
    return n_pages > 0 ? (uint64_t)n_pages * page_size() : 0;
}

void nib_cpu_name(char *out_name, size_t capacity)
{
    snprintf(out_name, capacity, "CPU");
}
#endif

uint32_t nib_arm_features(void)
{
    uint32_t features = 0;
#if defined(__linux__) && defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        features |= NIB_ARM_DOTPROD;
    if (getauxval(AT_HWCAP2) & HWCAP2_I8MM)
        features |= NIB_ARM_I8MM;
#endif
    return features;
}

bool nib_amx_enable(void)
{
#if defined(__linux__) && defined(__x86_64__)
    // ARCH_REQ_XCOMP_PERM of asm/prctl.h since Linux 5.16, and the number of the tiles' state.
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}

uint64_t nib_entropy(void)
{
    uint64_t bits = 0;
    int file = open_file("/dev/urandom", O_RDONLY);
    if (file >= 0) {
        ssize_t size = read(file, &bits, sizeof bits);
        close(file);
        if (size == (ssize_t)sizeof bits)
            return bits;
    }
    return nib_clock_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 32 ^ (uintptr_t)&bits;
}

void *nib_pages_alloc(size_t size)
{
    if (size == 0)
        return NULL;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

void *nib_pages_alloc_large(size_t size)
{
#ifdef MADV_HUGEPAGE
    const size_t large = (size_t)2 << 20;
    if (size < large || size > SIZE_MAX - large)
        return nib_pages_alloc(size);
    uint8_t *pages = nib_pages_alloc(size + large);
    if (!pages)
        return NULL;
    // What lies before the first large page, and after the last byte's page, goes back.
    size_t ahead = (large - (uintptr_t)pages % large) % large;
    size_t used = (size + page_size() - 1) / page_size() * page_size();
    if (ahead > 0)
        munmap(pages, ahead);
    if (used < size + large - ahead)
        munmap(pages + ahead + used, size + large - ahead - used);
    madvise(pages + ahead, used, MADV_HUGEPAGE); // refused: pages stay small
    return pages + ahead;
#else
    return nib_pages_alloc(size);
#endif
}

void nib_pages_free(void *pages, size_t size)
{
    if (pages)
        munmap(pages, size);
}

// Threads

struct nib_thread {
    pthread_t handle;
    void (*run)(void *user);
    void *user;
    int core;
};

struct nib_mutex {
    pthread_mutex_t handle;
};

struct nib_condition {
    pthread_cond_t handle;
};

static void *thread_main(void *argument)
{
    const struct nib_thread *thread = argument;
    if (thread->core >= 0)
        bind_thread(thread->core);
    thread->run(thread->user);
    return NULL;
}

enum nib_status nib_thread_create(void (*run)(void *user), void *user, int core,
                                  struct nib_thread **out_thread, struct nib_error *err)
{
    *out_thread = NULL;
    struct nib_thread *thread = malloc(sizeof *thread);
    if (!thread)
        return nib_fail_memory(err);
    thread->run = run;
    thread->user = user;
    thread->core = core;

    // The application's signals are for its own threads; the new one inherits the mask.
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&thread->handle, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        free(thread);
        return nib_fail(err, NIB_ERROR_IO, "cannot start a thread: %s", strerror(error));
    }
    *out_thread = thread;
    return NIB_OK;
}

void nib_thread_join(struct nib_thread **thread)
{
    if (!*thread)
        return;
    pthread_join((*thread)->handle, NULL);
    free(*thread);
    *thread = NULL;
}

void nib_thread_lower_priority(void)
{
#ifdef __linux__
    // Against POSIX, Linux counts niceness by thread.
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
#endif
}

uint64_t nib_thread_id(void)
{
    return (uint64_t)(uintptr_t)pthread_self();
}

enum nib_status nib_mutex_create(struct nib_mutex **out_mutex, struct nib_error *err)
{
    *out_mutex = NULL;
    struct nib_mutex *mutex = malloc(sizeof *mutex);
    if (!mutex || pthread_mutex_init(&mutex->handle, NULL) != 0) {
        free(mutex);
        return nib_fail_memory(err);
    }
    *out_mutex = mutex;
    return NIB_OK;
}

void nib_mutex_destroy(struct nib_mutex **mutex)
{
    if (!*mutex)
        return;
    pthread_mutex_destroy(&(*mutex)->handle);
    free(*mutex);
    *mutex = NULL;
}

void nib_mutex_lock(struct nib_mutex *mutex)
{
    pthread_mutex_lock(&mutex->handle);
}

bool nib_mutex_try_lock(struct nib_mutex *mutex)
{
    return pthread_mutex_trylock(&mutex->handle) == 0;
}

void nib_mutex_unlock(struct nib_mutex *mutex)
{
    pthread_mutex_unlock(&mutex->handle);
}

/// Makes a condition whose waits end by the clock of nib_clock_ns, where the system can.
static bool init_condition(pthread_cond_t *out_condition)
{
#ifdef __APPLE__
    return pthread_cond_init(out_condition, NULL) == 0;
#else
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return false;
    bool is_good = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
                   pthread_cond_init(out_condition, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return is_good;
#endif
}

enum nib_status nib_condition_create(struct nib_condition **out_condition, struct nib_error *err)
{
    *out_condition = NULL;
    struct nib_condition *condition = malloc(sizeof *condition);
    if (!condition || !init_condition(&condition->handle)) {
        free(condition);
        return nib_fail_memory(err);
    }
    *out_condition = condition;
    return NIB_OK;
}

void nib_condition_destroy(struct nib_condition **condition)
{
    if (!*condition)
        return;
    pthread_cond_destroy(&(*condition)->handle);
    free(*condition);
    *condition = NULL;
}

void nib_condition_wait(struct nib_condition *condition, struct nib_mutex *mutex)
{
    pthread_cond_wait(&condition->handle, &mutex->handle);
}

bool nib_condition_wait_until(struct nib_condition *condition, struct nib_mutex *mutex,
                              uint64_t end_ns)
{
#ifdef __APPLE__
    uint64_t now = nib_clock_ns(), rest = end_ns > now ? end_ns - now : 0;
    struct timespec time = {.tv_sec = (time_t)(rest / 1000000000u),
                            .tv_nsec = (long)(rest % 1000000000u)};
    return pthread_cond_timedwait_relative_np(&condition->handle, &mutex->handle, &time) == 0;
#else
    struct timespec time = {.tv_sec = (time_t)(end_ns / 1000000000u),
                            .tv_nsec = (long)(end_ns % 1000000000u)};
    return pthread_cond_timedwait(&condition->handle, &mutex->handle, &time) == 0;
#endif
}

void nib_condition_broadcast(struct nib_condition *condition)
{
    pthread_cond_broadcast(&condition->handle);
}

struct nib_library {
    void *handle;
};

enum nib_status nib_library_open(const char *name, struct nib_library **out_library,
                                 struct nib_error *err)
{
    *out_library = NULL;
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "%s", dlerror());
    struct nib_library *library = malloc(sizeof *library);
    if (!library) {
        dlclose(handle);
        return nib_fail_memory(err);
    }
    library->handle = handle;
    *out_library = library;
    return NIB_OK;
}

void nib_library_close(struct nib_library **library)
{
    if (!*library)
        return;
    dlclose((*library)->handle);
    free(*library);
    *library = NULL;
}

void (*nib_library_function(const struct nib_library *library, const char *symbol))(void)
{
    // ISO C has no cast from an object's address to a function's; POSIX says they are alike.
    void *address = dlsym(library->handle, symbol);
    void (*function)(void);
    _Static_assert(sizeof function == sizeof address, "POSIX");
    memcpy(&function, &address, sizeof function);
    return function;
}
