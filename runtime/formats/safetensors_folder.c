/// Folders of Hugging Face: one file, or shards with an index.
#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char SINGLE_NAME[] = "model.safetensors";
static const char INDEX_NAME[] = "model.safetensors.index.json";

/// The distinct files of an index, in the order in which it names them.
struct shards {
    const char *folder;
    json_t *weight_map;
    struct nib_string_map by_name; ///< to the index in `files`; keys belong to the JSON value
    struct nib_safetensors **files;
    uint32_t n_files;
};

/// Returns whether `name` can name nothing but a safetensors file in its own folder.
static bool is_plain_name(struct nib_text name)
{
    static const char suffix[] = ".safetensors";
    const size_t suffix_size = sizeof(suffix) - 1;
    if (name.size <= suffix_size ||
        memcmp(name.ptr + name.size - suffix_size, suffix, suffix_size) != 0)
        return false;
    for (size_t i = 0; i < name.size; i++) {
        if (strchr("/\\:", name.ptr[i])) // NUL, too
            return false;
    }
    return true;
}

static enum nib_status path_of(const char *folder, const char *name, struct nib_buffer *out_path,
                               struct nib_error *err)
{
    return nib_buffer_printf(out_path, err, "%s/%s", folder, name);
}

static enum nib_status open_shard(struct shards *shards, struct nib_text name,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer path = {0};
    NIB_TRY(path_of(shards->folder, name.ptr, &path, err));
    if (nib_path_kind(path.data) == NIB_PATH_ABSENT)
        NIB_TRY(nib_fail(err, NIB_ERROR_NOT_FOUND, "%s: this shard, named by %s, is missing",
                         path.data, INDEX_NAME));
    NIB_TRY(nib_safetensors_open(path.data, &shards->files[shards->n_files], err));
    shards->n_files++;
fail:
    nib_buffer_free(&path);
    return status;
}

/// Opens the files that the index names, each once.
static enum nib_status open_shards(struct shards *shards, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const char *tensor;
    json_t *file;
    json_object_foreach(shards->weight_map, tensor, file)
    {
        const struct nib_text name = {json_string_value(file), json_string_length(file)};
        bool was_there;
        if (!name.ptr || !is_plain_name(name))
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "%s/%s: the file of tensor '%s' is no plain name ending in "
                            "\".safetensors\"",
                            shards->folder, INDEX_NAME, tensor);
        NIB_TRY(nib_string_map_add(&shards->by_name, name, shards->n_files, &was_there, err));
        if (!was_there)
            NIB_TRY(open_shard(shards, name, err));
    }
fail:
    return status;
}

/// Checks that each tensor of the index is in the file it names; the shards have been joined.
static enum nib_status check_index(const struct shards *shards,
                                   const struct nib_tensor_directory *directory,
                                   struct nib_error *err)
{
    const char *name;
    json_t *file;
    json_object_foreach(shards->weight_map, name, file)
    {
        const struct nib_text file_name = {json_string_value(file), json_string_length(file)};
        uint32_t shard;
        nib_string_map_find(&shards->by_name, file_name, &shard);
        const struct nib_tensor *tensor = nib_tensor_find(directory, name);
        if (!tensor || tensor->file != shard)
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "%s/%s: tensor '%s' is not in %s, where the index puts it",
                            shards->folder, INDEX_NAME, name, file_name.ptr);
    }
    return NIB_OK;
}

/// Joins the shards into the first one.
static enum nib_status join_shards(const struct shards *shards, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_tensor_directory **directories =
        malloc(shards->n_files * sizeof(struct nib_tensor_directory *));
    if (!directories)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < shards->n_files; i++)
        directories[i] = &shards->files[i]->directory;
    status =
        nib_tensor_directory_merge(directories, shards->n_files, &shards->files[0]->arena, err);
    NIB_TRY(nib_fail_context(err, status, "%s/%s", shards->folder, INDEX_NAME));
    NIB_TRY(check_index(shards, directories[0], err));
fail:
    free(directories);
    return status;
}

static enum nib_status open_index(const char *folder, json_t *index,
                                  struct nib_safetensors **out_files, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct shards shards = {.folder = folder, .weight_map = json_object_get(index, "weight_map")};
    const size_t n_tensors = json_object_size(shards.weight_map);
    if (n_tensors == 0)
        return nib_fail(err, NIB_ERROR_FORMAT, "%s/%s: no \"weight_map\" with tensors", folder,
                        INDEX_NAME);
    shards.files = calloc(n_tensors, sizeof(struct nib_safetensors *));
    if (!shards.files)
        return nib_fail_memory(err);

    NIB_TRY(open_shards(&shards, err));
    NIB_TRY(join_shards(&shards, err));
    *out_files = shards.files[0];
    shards.files[0] = NULL;
fail:
    for (uint32_t i = 0; i < shards.n_files; i++)
        nib_safetensors_destroy(&shards.files[i]);
    free(shards.files);
    nib_string_map_free(&shards.by_name);
    return status;
}

enum nib_status nib_safetensors_open_folder(const char *folder, struct nib_safetensors **out_files,
                                            struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer path = {0};
    json_t *index = NULL;
    *out_files = NULL;

    NIB_TRY(path_of(folder, SINGLE_NAME, &path, err));
    if (nib_path_kind(path.data) != NIB_PATH_ABSENT) {
        NIB_TRY(nib_safetensors_open(path.data, out_files, err));
        goto fail;
    }
    NIB_TRY(nib_json_open(folder, INDEX_NAME, false, &index, err));
    if (!index)
        NIB_TRY(nib_fail(err, NIB_ERROR_NOT_FOUND, "%s: holds neither %s nor %s", folder,
                         SINGLE_NAME, INDEX_NAME));
    NIB_TRY(open_index(folder, index, out_files, err));
fail:
    json_decref(index);
    nib_buffer_free(&path);
    return status;
}
