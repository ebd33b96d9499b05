#ifdef __linux__
#define _GNU_SOURCE // affinity
#else
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE
#endif

#include "runtime/base/os.h"
#include "runtime/base/os_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

size_t nib_os_page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

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
    int file = open(path, O_RDONLY | O_CLOEXEC);
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

void nib_os_bind_thread(int core)
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
    uint64_t size = n_pages > 0 ? (uint64_t)n_pages * nib_os_page_size() : 0;
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
void nib_os_bind_thread(int core)
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
    return n_pages > 0 ? (uint64_t)n_pages * nib_os_page_size() : 0;
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
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
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
    size_t used = (size + nib_os_page_size() - 1) / nib_os_page_size() * nib_os_page_size();
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
