#define _WIN32_WINNT 0x0602 // Windows 8
#define WIN32_LEAN_AND_MEAN

#include "runtime/base/os.h"
#include "runtime/base/os_file.h"
#include "runtime/base/os_machine.h"
#include "runtime/base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

/// The most bytes that one call writes; the system takes 32 bits.
enum { MAX_WRITE = 1 << 30 };

/// Sets "cannot <verb> <path>: <the system's reason>".
static enum nib_status fail_io(struct nib_error *err, const char *verb, const char *path,
                               DWORD error)
{
    wchar_t wide[256];
    char reason[512] = "";
    DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS;
    DWORD length = FormatMessageW(flags, NULL, error, 0, wide, 256, NULL);
    // The system's texts end in ".\r\n".
    while (length > 0 && (wide[length - 1] <= L' ' || wide[length - 1] == L'.'))
        length--;
    int size =
        WideCharToMultiByte(CP_UTF8, 0, wide, (int)length, reason, sizeof reason - 1, NULL, NULL);
    reason[size > 0 ? size : 0] = '\0';
    bool no_memory = error == ERROR_NOT_ENOUGH_MEMORY || error == ERROR_OUTOFMEMORY;
    return nib_fail(err, no_memory ? NIB_ERROR_MEMORY : NIB_ERROR_IO,
                    "cannot %s %s: %s (error %lu)", verb, path, reason, (unsigned long)error);
}

/// Returns `path` in UTF-16, from malloc, or NULL with the system's error set.
static wchar_t *wide_path(const char *path)
{
    int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    if (length <= 0)
        return NULL;
    wchar_t *wide = malloc((size_t)length * sizeof *wide);
    if (!wide) {
        SetLastError(ERROR_NOT_ENOUGH_MEMORY);
        return NULL;
    }
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, length);
    return wide;
}

/// Opens a file or folder; INVALID_HANDLE_VALUE with the system's error set where it cannot.
static HANDLE open_path(const char *path, DWORD access, DWORD creation, DWORD flags)
{
    wchar_t *wide = wide_path(path);
    if (!wide)
        return INVALID_HANDLE_VALUE;
    DWORD share =
        FILE_SHARE_READ | FILE_SHARE_DELETE | (access & GENERIC_WRITE ? 0 : FILE_SHARE_WRITE);
    HANDLE file = CreateFileW(wide, access, share, NULL, creation, flags, NULL);
    DWORD error = GetLastError();
    free(wide);
    SetLastError(error);
    return file;
}

// Memory maps

static enum nib_status map_file(HANDLE file, const char *path, struct nib_file_map *out_map,
                                struct nib_error *err)
{
    LARGE_INTEGER size;
    if (GetFileType(file) != FILE_TYPE_DISK) {
        return nib_fail(err, NIB_ERROR_IO, "cannot read %s: it is not a regular file", path);
    }
    if (!GetFileSizeEx(file, &size))
        return fail_io(err, "read", path, GetLastError());
    if ((uint64_t)size.QuadPart > SIZE_MAX)
        return fail_io(err, "map", path, ERROR_FILE_TOO_LARGE);
    if (size.QuadPart == 0)
        return NIB_OK;

    HANDLE mapping = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    if (!mapping)
        return fail_io(err, "map", path, GetLastError());
    void *data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    if (!data) {
        DWORD error = GetLastError();
        CloseHandle(mapping);
        return fail_io(err, "map", path, error);
    }
    *out_map = (struct nib_file_map){
        .data = data,
        .size = (size_t)size.QuadPart,
        .handle = mapping,
    };
    return NIB_OK;
}

enum nib_status nib_file_map_open(const char *path, struct nib_file_map *out_map,
                                  struct nib_error *err)
{
    *out_map = (struct nib_file_map){0};
    if (nib_path_kind(path) == NIB_PATH_FOLDER) {
        return nib_fail(err, NIB_ERROR_IO, "cannot read %s: it is a folder", path);
    }
    HANDLE file = open_path(path, GENERIC_READ, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL);
    if (file == INVALID_HANDLE_VALUE)
        return fail_io(err, "open", path, GetLastError());
    enum nib_status status = map_file(file, path, out_map, err);
    CloseHandle(file);
    return status;
}

void nib_file_map_close(struct nib_file_map *map)
{
    if (map->data)
        UnmapViewOfFile(map->data);
    if (map->handle)
        CloseHandle(map->handle);
    *map = (struct nib_file_map){0};
}

void nib_file_map_will_need(const struct nib_file_map *map, size_t offset, size_t size)
{
    if (!map->data || offset >= map->size)
        return;
    if (size > map->size - offset)
        size = map->size - offset;
    WIN32_MEMORY_RANGE_ENTRY range = {
        .VirtualAddress = (void *)(uintptr_t)(map->data + offset),
        .NumberOfBytes = size,
    };
    PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
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
    // Unlocking pages that are not locked takes them out of the working set.
    VirtualUnlock((void *)(uintptr_t)(map->data + first), last - first);
}

// Paths and files

enum nib_path_kind nib_path_kind(const char *path)
{
    HANDLE file = open_path(path, 0, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS);
    if (file == INVALID_HANDLE_VALUE) {
        DWORD error = GetLastError();
        bool exists = error == ERROR_ACCESS_DENIED || error == ERROR_SHARING_VIOLATION;
        return exists ? NIB_PATH_FILE : NIB_PATH_ABSENT;
    }
    enum nib_path_kind kind = NIB_PATH_OTHER;
    BY_HANDLE_FILE_INFORMATION info;
    if (GetFileType(file) == FILE_TYPE_DISK && GetFileInformationByHandle(file, &info)) {
        bool is_folder = info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY;
        kind = is_folder ? NIB_PATH_FOLDER : NIB_PATH_FILE;
    }
    CloseHandle(file);
    return kind;
}

enum nib_status nib_os_file_create(const char *path, intptr_t *out_file, bool *out_exists,
                                   struct nib_error *err)
{
    HANDLE file = open_path(path, GENERIC_WRITE, CREATE_NEW, FILE_ATTRIBUTE_NORMAL);
    DWORD error = GetLastError();
    // A file that a process has open for writing can be opened so by no other.
    if (file == INVALID_HANDLE_VALUE && error == ERROR_FILE_EXISTS)
        file = open_path(path, GENERIC_WRITE, TRUNCATE_EXISTING, FILE_ATTRIBUTE_NORMAL);
    *out_file = (intptr_t)file;
    *out_exists = file == INVALID_HANDLE_VALUE && error == ERROR_FILE_EXISTS;
    if (*out_exists)
        return NIB_ERROR_IO;
    return file == INVALID_HANDLE_VALUE ? fail_io(err, "create", path, error) : NIB_OK;
}

enum nib_status nib_os_file_open(const char *path, intptr_t *out_file, struct nib_error *err)
{
    HANDLE file = open_path(path, GENERIC_WRITE, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL);
    *out_file = (intptr_t)file;
    return file == INVALID_HANDLE_VALUE ? fail_io(err, "write", path, GetLastError()) : NIB_OK;
}

enum nib_status nib_os_file_append(intptr_t file, const void *bytes, size_t size, const char *path,
                                   struct nib_error *err)
{
    const char *rest = bytes;
    while (size > 0) {
        DWORD piece = size < MAX_WRITE ? (DWORD)size : MAX_WRITE;
        DWORD n_written;
        if (!WriteFile((HANDLE)file, rest, piece, &n_written, NULL)) {
            return fail_io(err, "write", path, GetLastError());
        }
        rest += n_written;
        size -= n_written;
    }
    return NIB_OK;
}

enum nib_status nib_os_file_write_at(intptr_t file, uint64_t offset, const void *bytes, size_t size,
                                     const char *path, struct nib_error *err)
{
    LARGE_INTEGER target = {.QuadPart = (LONGLONG)offset};
    LARGE_INTEGER zero = {.QuadPart = 0};
    if (!SetFilePointerEx((HANDLE)file, target, NULL, FILE_BEGIN)) {
        return fail_io(err, "write", path, GetLastError());
    }
    enum nib_status status = nib_os_file_append(file, bytes, size, path, err);
    if (status != NIB_OK)
        return status;
    if (!SetFilePointerEx((HANDLE)file, zero, NULL, FILE_END)) {
        return fail_io(err, "write", path, GetLastError());
    }
    return NIB_OK;
}

enum nib_status nib_os_file_sync(intptr_t file, const char *path, struct nib_error *err)
{
    return FlushFileBuffers((HANDLE)file) ? NIB_OK : fail_io(err, "write", path, GetLastError());
}

enum nib_status nib_os_file_close(intptr_t file, const char *path, struct nib_error *err)
{
    return CloseHandle((HANDLE)file) ? NIB_OK : fail_io(err, "write", path, GetLastError());
}

enum nib_status nib_os_rename(const char *from, const char *to, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    wchar_t *wide_from = wide_path(from);
    wchar_t *wide_to = wide_from ? wide_path(to) : NULL;
    DWORD flags = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
    if (!wide_to || !MoveFileExW(wide_from, wide_to, flags)) {
        status = fail_io(err, "write", to, GetLastError());
    }
    free(wide_to);
    free(wide_from);
    return status;
}

void nib_os_remove(const char *path)
{
    wchar_t *wide = wide_path(path);
    if (wide)
        DeleteFileW(wide);
    free(wide);
}

enum nib_status nib_os_folder_create(const char *path, bool *out_exists, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    wchar_t *wide = wide_path(path);
    *out_exists = false;
    if (!wide || !CreateDirectoryW(wide, NULL)) {
        DWORD reason = GetLastError();
        *out_exists = wide && reason == ERROR_ALREADY_EXISTS;
        status = *out_exists ? NIB_ERROR_IO : fail_io(err, "create", path, reason);
    }
    free(wide);
    return status;
}

/// Removes the files of a folder; returns whether it is empty then.
static bool remove_files(const char *path)
{
    bool is_empty = true;
    WIN32_FIND_DATAW found;
    const size_t size = strlen(path) + 3;
    char *pattern = malloc(size);
    if (!pattern)
        return false;
    snprintf(pattern, size, "%s/*", path);
    wchar_t *wide = wide_path(pattern);
    HANDLE search = wide ? FindFirstFileW(wide, &found) : INVALID_HANDLE_VALUE;
    bool is_found = search != INVALID_HANDLE_VALUE;
    const size_t folder_size = wide ? wcslen(wide) - 1 : 0;
    for (; is_found; is_found = FindNextFileW(search, &found)) {
        if (wcscmp(found.cFileName, L".") == 0 || wcscmp(found.cFileName, L"..") == 0)
            continue;
        const size_t name_size = wcslen(found.cFileName) + 1;
        wchar_t *name = malloc((folder_size + name_size) * sizeof *name);
        if (name) {
            memcpy(name, wide, folder_size * sizeof *name);
            memcpy(name + folder_size, found.cFileName, name_size * sizeof *name);
        }
        is_empty &= name && DeleteFileW(name);
        free(name);
    }
    if (search != INVALID_HANDLE_VALUE)
        FindClose(search);
    free(wide);
    free(pattern);
    return is_empty;
}

enum nib_status nib_os_folder_claim(const char *path, intptr_t *out_claim, bool *out_exists,
                                    struct nib_error *err)
{
    enum nib_status status = nib_os_folder_create(path, out_exists, err);
    *out_claim = (intptr_t)INVALID_HANDLE_VALUE;
    if (status != NIB_OK && !*out_exists)
        return status;
    // As long as it is open like this, no other process can open it so.
    wchar_t *wide = wide_path(path);
    HANDLE folder = wide ? CreateFileW(wide, GENERIC_READ, FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                                       FILE_FLAG_BACKUP_SEMANTICS, NULL)
                         : INVALID_HANDLE_VALUE;
    free(wide);
    *out_exists = folder == INVALID_HANDLE_VALUE || !remove_files(path);
    if (*out_exists && folder != INVALID_HANDLE_VALUE)
        CloseHandle(folder);
    *out_claim = (intptr_t)(*out_exists ? INVALID_HANDLE_VALUE : folder);
    return *out_exists ? NIB_ERROR_IO : NIB_OK;
}

void nib_os_folder_release(intptr_t claim)
{
    if ((HANDLE)claim != INVALID_HANDLE_VALUE)
        CloseHandle((HANDLE)claim);
}

void nib_os_folder_remove(const char *path)
{
    wchar_t *wide = wide_path(path);
    if (wide)
        RemoveDirectoryW(wide);
    free(wide);
}

char *nib_os_resolve(const char *path)
{
    return _strdup(path); // a link is replaced by the file
}
