/// Opening GGUF files, with all parts of a split model. Conventions: gguf-split of llama.cpp.
#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/formats/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// The most parts that the five digits of a name can count.
enum { MAX_PARTS = 99999 };

/// A part's place in the model; `count` is 0 where the file is no part.
struct split {
    uint32_t index; ///< from 0
    uint32_t count;
};

static enum nib_status open_file(const char *path, struct nib_gguf **out_gguf,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_file_map map = {0};
    struct nib_gguf *gguf = NULL;
    *out_gguf = NULL;

    NIB_TRY(nib_file_map_open(path, &map, err));
    NIB_TRY(nib_gguf_parse(map.data, map.size, path, &gguf, err));
    NIB_TRY(nib_tensor_directory_own_map(&gguf->directory, &gguf->arena, &map, err));
    *out_gguf = gguf;
    return NIB_OK;
fail:
    nib_gguf_destroy(&gguf);
    nib_file_map_close(&map);
    return status;
}

static enum nib_status get_split(const struct nib_gguf *gguf, const char *path,
                                 struct split *out_split, struct nib_error *err)
{
    *out_split = (struct split){0};
    const struct nib_gguf_value *count = nib_gguf_find(gguf, "split.count");
    if (!count)
        return NIB_OK;
    const bool counted = nib_gguf_get_u32(count, &out_split->count);
    // Merging leaves the key behind, with 0.
    if (counted && out_split->count == 0)
        return NIB_OK;
    if (!counted || !nib_gguf_get_u32(nib_gguf_find(gguf, "split.no"), &out_split->index) ||
        out_split->count > MAX_PARTS || out_split->index >= out_split->count)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: keys 'split.no' and 'split.count' do not number the parts of a model",
                        path);
    return NIB_OK;
}

static enum nib_status append_suffix(struct nib_buffer *path, struct split split,
                                     struct nib_error *err)
{
    return nib_buffer_printf(path, err, "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", split.index + 1,
                             split.count);
}

/// Finds the part of `path` before "-0000i-of-0000n.gguf".
static enum nib_status get_stem(const char *path, struct split split, size_t *out_size,
                                struct nib_error *err)
{
    struct nib_buffer suffix = {0};
    enum nib_status status = append_suffix(&suffix, split, err);
    const size_t size = strlen(path);
    *out_size = 0;
    if (status == NIB_OK && size >= suffix.size &&
        memcmp(path + size - suffix.size, suffix.data, suffix.size) == 0)
        *out_size = size - suffix.size;
    else if (status == NIB_OK)
        status =
            nib_fail(err, NIB_ERROR_FORMAT,
                     "%s: part %" PRIu32 " of %" PRIu32
                     " of a split model; its name must end in \"%s\" for the others to be found",
                     path, split.index + 1, split.count, suffix.data);
    nib_buffer_free(&suffix);
    return status;
}

static enum nib_status open_part(struct nib_text stem, struct split split,
                                 struct nib_gguf **out_gguf, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer path = {0};
    struct split found;
    *out_gguf = NULL;

    NIB_TRY(nib_buffer_append(&path, stem.ptr, stem.size, err));
    NIB_TRY(append_suffix(&path, split, err));
    if (nib_path_kind(path.data) == NIB_PATH_ABSENT)
        NIB_TRY(nib_fail(err, NIB_ERROR_NOT_FOUND,
                         "%s: part %" PRIu32 " of %" PRIu32 " of the model is missing", path.data,
                         split.index + 1, split.count));
    NIB_TRY(open_file(path.data, out_gguf, err));
    NIB_TRY(get_split(*out_gguf, path.data, &found, err));
    if (found.index != split.index || found.count != split.count)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "%s: holds part %" PRIu32 " of %" PRIu32 ", not what its name says",
                         path.data, found.index + 1, found.count));
fail:
    if (status != NIB_OK)
        nib_gguf_destroy(out_gguf);
    nib_buffer_free(&path);
    return status;
}

/// Joins the parts into parts[0].
static enum nib_status join_parts(struct nib_gguf *const *parts, uint32_t n_parts, const char *path,
                                  struct nib_error *err)
{
    struct nib_tensor_directory **directories =
        malloc(n_parts * sizeof(struct nib_tensor_directory *));
    if (!directories)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_parts; i++)
        directories[i] = &parts[i]->directory;
    enum nib_status status =
        nib_tensor_directory_merge(directories, n_parts, &parts[0]->arena, err);
    free(directories);
    if (status != NIB_OK)
        return nib_fail_context(err, status, "%s", path);

    const struct nib_gguf_value *count = nib_gguf_find(parts[0], "split.tensors.count");
    uint64_t expected;
    if (count && (!nib_gguf_get_u64(count, &expected) || expected != parts[0]->directory.n_tensors))
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: the parts hold %" PRIu32
                        " tensors together, not what key 'split.tensors.count' says",
                        path, parts[0]->directory.n_tensors);
    return NIB_OK;
}

static enum nib_status open_parts(const char *path, struct split split, struct nib_gguf **out_gguf,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    size_t stem_size;
    struct nib_gguf **parts = calloc(split.count, sizeof(struct nib_gguf *));
    if (!parts)
        return nib_fail_memory(err);
    NIB_TRY(get_stem(path, split, &stem_size, err));
    for (uint32_t i = 0; i < split.count; i++)
        NIB_TRY(open_part((struct nib_text){path, stem_size}, (struct split){i, split.count},
                          &parts[i], err));
    NIB_TRY(join_parts(parts, split.count, path, err));
    *out_gguf = parts[0];
    parts[0] = NULL;
fail:
    for (uint32_t i = 0; i < split.count; i++)
        nib_gguf_destroy(&parts[i]);
    free(parts);
    return status;
}

enum nib_status nib_gguf_open(const char *path, struct nib_gguf **out_gguf, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_gguf *gguf = NULL;
    struct split split;
    *out_gguf = NULL;

    NIB_TRY(open_file(path, &gguf, err));
    NIB_TRY(get_split(gguf, path, &split, err));
    if (split.count > 1) {
        nib_gguf_destroy(&gguf);
        NIB_TRY(open_parts(path, split, &gguf, err));
    }
    *out_gguf = gguf;
    return NIB_OK;
fail:
    nib_gguf_destroy(&gguf);
    return status;
}
