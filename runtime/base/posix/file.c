#ifdef __linux__
#define _GNU_SOURCE // flock
#else
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE
#endif

#include "runtime/base/os.h"
#include "runtime/base/os_file.h"
#include "runtime/base/os_machine.h"
#include "runtime/base/status.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

void nib_file_map_will_need(const struct nib_file_map *map, size_t offset, size_t size)
{
    if (!map->data || offset >= map->size)
        return;
    if (size > map->size - offset)
        size = map->size - offset;
    size_t ahead = offset % nib_os_page_size();
    posix_madvise((void *)(uintptr_t)(map->data + offset - ahead), size + ahead,
                  POSIX_MADV_WILLNEED);
}

void nib_file_map_drop(const struct nib_file_map *map, size_t offset, size_t size)
{
    if (!map->data || offset >= map->size)
        return;
    size_t page = nib_os_page_size();
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
