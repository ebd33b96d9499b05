#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/os_file.h"
#include "runtime/base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_SIZE = 1 << 16, MAX_NAME_TRIES = 1000 };

struct nib_file_writer {
    intptr_t file;
    bool is_open;
    bool failed;   ///< a write failed, so the file must not appear
    char *path;    ///< where the file goes
    char *temp;    ///< where it is written; NULL where `path` is a device, written in place
    uint64_t size; ///< bytes appended
    size_t n_held; ///< of them, still in `held`
    char held[BUFFER_SIZE];
};

static const char *written_path(const struct nib_file_writer *writer)
{
    return writer->temp ? writer->temp : writer->path;
}

/// Creates the file beside its place, under the first name that no running process uses: what an
/// ended one has left is used again.
static enum nib_status create_temp(struct nib_file_writer *writer, struct nib_error *err)
{
    size_t capacity;
    if (!nib_add_size(strlen(writer->path), 64, &capacity))
        return nib_fail_memory(err);
    writer->temp = malloc(capacity);
    if (!writer->temp)
        return nib_fail_memory(err);
    bool exists = true;
    enum nib_status status = NIB_OK;
    for (int i = 0; exists && i < MAX_NAME_TRIES; i++) {
        snprintf(writer->temp, capacity, "%s.tmp-%d", writer->path, i);
        status = nib_os_file_create(writer->temp, &writer->file, &exists, err);
    }
    if (exists) {
        status = nib_fail(err, NIB_ERROR_IO, "cannot write %s: remove the old %s", writer->path,
                          writer->temp);
    }
    writer->is_open = status == NIB_OK;
    if (!writer->is_open) { // what has the name is not ours to remove
        free(writer->temp);
        writer->temp = NULL;
    }
    return status;
}

enum nib_status nib_file_writer_open(const char *path, struct nib_file_writer **out_writer,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_writer = NULL;
    if (path[0] == '\0')
        return nib_fail(err, NIB_ERROR_IO, "cannot write a file without a name");
    enum nib_path_kind kind = nib_path_kind(path);
    if (kind == NIB_PATH_FOLDER) {
        return nib_fail(err, NIB_ERROR_IO, "cannot write %s: it is a folder; name a file", path);
    }
    struct nib_file_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return nib_fail_memory(err);
    writer->path = nib_os_resolve(path);
    if (!writer->path) {
        status = nib_fail_memory(err);
        goto fail;
    }
    if (kind == NIB_PATH_OTHER) {
        NIB_TRY(nib_os_file_open(writer->path, &writer->file, err));
        writer->is_open = true;
    } else {
        NIB_TRY(create_temp(writer, err));
    }
    *out_writer = writer;
    return NIB_OK;

fail:
    nib_file_writer_destroy(&writer);
    return status;
}

/// Passes bytes on to the system.
static enum nib_status write_through(struct nib_file_writer *writer, const void *bytes, size_t size,
                                     struct nib_error *err)
{
    if (size == 0)
        return NIB_OK;
    enum nib_status status =
        nib_os_file_append(writer->file, bytes, size, written_path(writer), err);
    if (status != NIB_OK)
        writer->failed = true;
    return status;
}

static enum nib_status flush(struct nib_file_writer *writer, struct nib_error *err)
{
    size_t n_held = writer->n_held;
    writer->n_held = 0;
    return write_through(writer, writer->held, n_held, err);
}

enum nib_status nib_file_writer_append(struct nib_file_writer *writer, const void *bytes,
                                       size_t size, struct nib_error *err)
{
    if (size == 0)
        return NIB_OK;
    if (size > BUFFER_SIZE - writer->n_held) {
        enum nib_status status = flush(writer, err);
        if (status != NIB_OK)
            return status;
    }
    if (size >= BUFFER_SIZE) {
        enum nib_status status = write_through(writer, bytes, size, err);
        if (status != NIB_OK)
            return status;
    } else {
        memcpy(writer->held + writer->n_held, bytes, size);
        writer->n_held += size;
    }
    writer->size += size;
    return NIB_OK;
}

enum nib_status nib_file_writer_patch(struct nib_file_writer *writer, uint64_t offset,
                                      const void *bytes, size_t size, struct nib_error *err)
{
    uint64_t end;
    if (!nib_add_u64(offset, size, &end) || end > writer->size) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "cannot overwrite %zu bytes at offset %llu of %s: only %llu are written",
                        size, (unsigned long long)offset, writer->path,
                        (unsigned long long)writer->size);
    }
    enum nib_status status = flush(writer, err);
    if (status != NIB_OK)
        return status;
    status = nib_os_file_write_at(writer->file, offset, bytes, size, written_path(writer), err);
    if (status != NIB_OK)
        writer->failed = true;
    return status;
}

uint64_t nib_file_writer_size(const struct nib_file_writer *writer)
{
    return writer->size;
}

enum nib_status nib_file_writer_commit(struct nib_file_writer **writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_file_writer *w = *writer;
    if (w->failed) {
        status = nib_fail(err, NIB_ERROR_STATE, "%s is not kept: a write to it failed", w->path);
        goto fail;
    }
    NIB_TRY(flush(w, err));
    if (w->temp)
        NIB_TRY(nib_os_file_sync(w->file, w->temp, err));
    if (w->temp) {
        NIB_TRY(nib_os_rename(w->temp, w->path, err));
        free(w->temp);
        w->temp = NULL;
    }
    w->is_open = false;
    NIB_TRY(nib_os_file_close(w->file, w->path, err));
fail:
    nib_file_writer_destroy(writer);
    return status;
}

void nib_file_writer_destroy(struct nib_file_writer **writer)
{
    struct nib_file_writer *w = *writer;
    if (!w)
        return;
    if (w->temp) // while it is open no other process takes it over
        nib_os_remove(w->temp);
    if (w->is_open)
        nib_os_file_close(w->file, w->path, NULL);
    free(w->temp);
    free(w->path);
    free(w);
    *writer = NULL;
}
