/// The operating system's part of the file writer: files open for writing, without a buffer.
/// Functions that can fail name `path` and the system's reason in their error (io).
#ifndef RUNTIME_BASE_OS_FILE_H
#define RUNTIME_BASE_OS_FILE_H

#include <nibble/base.h>

/// Makes a new file, or takes over the one of a process that is gone and empties it: a file stays
/// its process's while it is open, so it is to be renamed before it is closed. `*out_exists` tells
/// that it failed because the name is taken, for which `err` is not written.
enum nib_status nib_os_file_create(const char *path, intptr_t *out_file, bool *out_exists,
                                   struct nib_error *err);
/// Opens what exists, such as a pipe or a device, for writing.
enum nib_status nib_os_file_open(const char *path, intptr_t *out_file, struct nib_error *err);
/// Writes all of `bytes` at the end.
enum nib_status nib_os_file_append(intptr_t file, const void *bytes, size_t size, const char *path,
                                   struct nib_error *err);
/// Writes all of `bytes` at `offset`; appends go on at the end.
enum nib_status nib_os_file_write_at(intptr_t file, uint64_t offset, const void *bytes, size_t size,
                                     const char *path, struct nib_error *err);
/// Waits until the file's bytes are on the disk.
enum nib_status nib_os_file_sync(intptr_t file, const char *path, struct nib_error *err);
/// Closes the file, also where it fails.
enum nib_status nib_os_file_close(intptr_t file, const char *path, struct nib_error *err);

/// Renames, replacing what `to` names.
enum nib_status nib_os_rename(const char *from, const char *to, struct nib_error *err);
void nib_os_remove(const char *path);
/// Returns the name, from malloc, of the regular file that `path` leads to over links, or a copy of
/// `path` where it leads to none; NULL where memory has run out.
char *nib_os_resolve(const char *path);

/// Makes a new folder; `*out_exists` as of nib_os_file_create.
enum nib_status nib_os_folder_create(const char *path, bool *out_exists, struct nib_error *err);
/// The same, or takes over the folder of a process that is gone and removes its files; the folder
/// stays this process's until nib_os_folder_release. A folder that has folders in it is taken.
enum nib_status nib_os_folder_claim(const char *path, intptr_t *out_claim, bool *out_exists,
                                    struct nib_error *err);
void nib_os_folder_release(intptr_t claim);
/// Removes an empty folder.
void nib_os_folder_remove(const char *path);

#endif
