#include "runtime/compress/folder.h"

#include "runtime/base/os.h"
#include "runtime/base/os_file.h"
#include "runtime/base/status.h"
#include "runtime/formats/json.h"
#include "runtime/import/source_parts.h"

#include <stdlib.h>
#include <string.h>

static const char WEIGHT[] = ".weight";

/// The writer's own.
struct writer {
    struct nib_folder folder;
    struct nib_folder_tensors *tensors;
};

void nib_folder_name(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry,
                     char out[NIB_ARCH_NAME_SIZE])
{
    // A model within an image-and-text model is written by itself, so the source's prefix goes.
    nib_arch_tensor(nib_source_arch(plan->source), NIB_CONTAINER_HF,
                    nib_arch_prefix(NIB_CONTAINER_HF, 0), entry->role, entry->layer, out);
}

void nib_folder_module(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry,
                       char out[NIB_ARCH_NAME_SIZE])
{
    nib_folder_name(plan, entry, out);
    const size_t size = strlen(out), suffix = sizeof WEIGHT - 1;
    if (size > suffix && strcmp(out + size - suffix, WEIGHT) == 0)
        out[size - suffix] = '\0';
}

bool nib_folder_is_inner(const struct nib_compress_entry *entry)
{
    return nib_role_is_matrix(entry->role) && nib_arch_in_layer(entry->role);
}

const char *nib_folder_dtype(const struct nib_compress_plan *plan)
{
    // The token embedding comes first, and is never quantized in a folder.
    switch (plan->entries[0].scheme.format.id) {
    case NIB_FORMAT_BF16:
        return "bfloat16";
    case NIB_FORMAT_F32:
        return "float32";
    default:
        return "float16";
    }
}

struct nib_layout nib_folder_layout(const struct nib_compress_plan *plan,
                                    const struct nib_compress_entry *entry)
{
    const struct nib_quantize_params *params = &plan->params;
    struct nib_layout layout = {.kind = NIB_LAYOUT_COMPRESSED_PACKED};
    switch (params->container) {
    case NIB_QUANTIZE_AS_GPTQ:
        layout.kind = NIB_LAYOUT_GPTQ;
        // Stored as they are, zero points of 0 borrow from no neighbour.
        layout.zero_minus_one = entry->scheme.format.zero != NIB_ZERO_INTEGER;
        break;
    case NIB_QUANTIZE_AS_AWQ:
        layout.kind = NIB_LAYOUT_AWQ;
        break;
    case NIB_QUANTIZE_AS_BITSANDBYTES:
        layout.kind = entry->scheme.activation == NIB_ACTIVATION_LLM_INT8 ? NIB_LAYOUT_BNB_INT8
                                                                          : NIB_LAYOUT_BNB_4BIT;
        layout.nested = entry->scheme.double_quantized;
        layout.dtype = nib_folder_dtype(plan);
        break;
    default:
        if (entry->scheme.activation != NIB_ACTIVATION_F32)
            layout.kind = NIB_LAYOUT_COMPRESSED_INT;
        layout.group_index = params->method == NIB_QUANTIZE_GPTQ && params->act_order &&
                             params->no_static_groups && entry->scheme.format.group != 0;
        break;
    }
    return layout;
}

enum nib_status nib_folder_file(struct nib_folder *folder, const char *name,
                                struct nib_buffer *out_path, struct nib_error *err)
{
    enum nib_status status;
    NIB_TRY(nib_buffer_append(&folder->names, name, strlen(name) + 1, err));
    out_path->size = 0;
    NIB_TRY(nib_buffer_printf(out_path, err, "%s/%s", folder->temp, name));
fail:
    return status;
}

enum nib_status nib_folder_json(struct nib_folder *folder, const char *name, const json_t *json,
                                struct nib_error *err)
{
    struct nib_buffer path = {0};
    enum nib_status status = nib_folder_file(folder, name, &path, err);
    if (status == NIB_OK)
        status = nib_json_write(path.data, json, err);
    nib_buffer_free(&path);
    return status;
}

static enum nib_status check_entry(const struct nib_compress_plan *plan,
                                   const struct nib_compress_entry *entry, struct nib_error *err)
{
    const struct nib_layout layout = nib_folder_layout(plan, entry);
    const struct nib_row_reader matrix = {
        .name = entry->name,
        .format = entry->scheme.format,
        .rows = entry->rows,
        .cols = entry->cols,
        .activation = entry->scheme.activation,
    };
    struct nib_layout_set set;
    if (plan->params.container == NIB_QUANTIZE_AS_SAFETENSORS)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "a plain folder holds floats alone; give --as compressed-tensors");
    const bool is_compressed = plan->params.container == NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
    if (!nib_folder_is_inner(entry) && !(is_compressed && entry->role == NIB_ROLE_OUTPUT))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "tensor '%s' cannot be quantized in such a folder; add %s=keep to --mix",
                        entry->name, nib_role_name(entry->role));
    return nib_layout_describe(&layout, &matrix, &set, err);
}

static enum nib_status check(const struct nib_compress_plan *plan, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    json_t *config = NULL;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        if (plan->entries[i].is_quantized)
            NIB_TRY(check_entry(plan, &plan->entries[i], err));
    }
    NIB_TRY(nib_folder_config(plan, &config, err));
fail:
    json_decref(config);
    return status;
}

enum { MAX_NAME_TRIES = 1000 };

/// Removes the files that were written and the folder.
static void remove_files(struct nib_folder *folder)
{
    struct nib_buffer path = {0};
    const char *end = folder->names.data ? folder->names.data + folder->names.size : NULL;
    for (const char *name = folder->names.data; name && name < end; name += strlen(name) + 1) {
        path.size = 0;
        if (nib_buffer_printf(&path, NULL, "%s/%s", folder->temp, name) == NIB_OK)
            nib_os_remove(path.data);
    }
    nib_os_folder_remove(folder->temp);
    nib_buffer_free(&path);
}

static void discard_folder(void **self)
{
    struct writer *writer = *self;
    *self = NULL;
    if (!writer)
        return;
    nib_folder_tensors_destroy(&writer->tensors);
    if (writer->folder.temp) {
        remove_files(&writer->folder);
        nib_os_folder_release(writer->folder.claim);
    }
    free(writer->folder.temp);
    free(writer->folder.path);
    nib_buffer_free(&writer->folder.names);
    free(writer);
}

/// Makes an empty folder beside the place where it goes, under the first name that no running
/// process uses: what an ended one has left is used again.
static enum nib_status create_temp(struct nib_folder *folder, struct nib_error *err)
{
    struct nib_buffer temp = {0};
    bool exists = true;
    enum nib_status status = NIB_OK;
    for (int i = 0; exists && i < MAX_NAME_TRIES; i++) {
        temp.size = 0;
        NIB_TRY(nib_buffer_printf(&temp, err, "%s.tmp-%d", folder->path, i));
        status = nib_os_folder_claim(temp.data, &folder->claim, &exists, err);
    }
    if (exists)
        NIB_TRY(nib_fail(err, NIB_ERROR_IO, "cannot write %s: remove the old %s", folder->path,
                         temp.data));
    NIB_TRY(status);
    folder->temp = temp.data;
    return NIB_OK;
fail:
    nib_buffer_free(&temp);
    return status;
}

static enum nib_status set_path(struct nib_folder *folder, const char *path, struct nib_error *err)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    folder->path = malloc(size + 1);
    if (!folder->path)
        return nib_fail_memory(err);
    memcpy(folder->path, path, size);
    folder->path[size] = '\0';
    return NIB_OK;
}

static enum nib_status begin(const struct nib_compress_plan *plan, const char *path,
                             void **out_self, struct nib_error *err)
{
    enum nib_status status;
    struct writer *writer = calloc(1, sizeof *writer);
    *out_self = writer;
    if (!writer)
        return nib_fail_memory(err);
    writer->folder.plan = plan;
    NIB_TRY(set_path(&writer->folder, path, err));
    NIB_TRY(create_temp(&writer->folder, err));
    // First what may fail for other reasons than the disk.
    NIB_TRY(nib_folder_write_texts(&writer->folder, err));
    NIB_TRY(nib_folder_tensors_create(&writer->folder, NIB_SHARD_BYTES, &writer->tensors, err));
    return NIB_OK;
fail:
    discard_folder(out_self);
    return status;
}

static enum nib_status put_matrix(void *self, uint32_t entry,
                                  const struct nib_quantized_matrix *matrix, struct nib_error *err)
{
    struct writer *writer = self;
    return nib_folder_tensors_put_matrix(writer->tensors, entry, matrix, err);
}

static enum nib_status put_rows(void *self, uint32_t entry, uint64_t first, uint64_t count,
                                const float *values, struct nib_error *err)
{
    struct writer *writer = self;
    (void)first;
    return nib_folder_tensors_put_rows(writer->tensors, entry, count, values, err);
}

/// Adds up the sizes of the files.
static enum nib_status count_bytes(const struct nib_folder *folder, uint64_t *out_bytes,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer path = {0};
    const char *end = folder->names.data + folder->names.size;
    *out_bytes = 0;
    for (const char *name = folder->names.data; name < end; name += strlen(name) + 1) {
        struct nib_file_map map;
        path.size = 0;
        NIB_TRY(nib_buffer_printf(&path, err, "%s/%s", folder->temp, name));
        NIB_TRY(nib_file_map_open(path.data, &map, err));
        *out_bytes += map.size;
        nib_file_map_close(&map);
    }
fail:
    nib_buffer_free(&path);
    return status;
}

static enum nib_status finish(void **self, uint64_t *out_bytes, struct nib_error *err)
{
    enum nib_status status;
    struct writer *writer = *self;
    struct nib_folder *folder = &writer->folder;
    NIB_TRY(nib_folder_tensors_finish(writer->tensors, err));
    NIB_TRY(count_bytes(folder, out_bytes, err));
    NIB_TRY(nib_os_rename(folder->temp, folder->path, err));
    nib_os_folder_release(folder->claim);
    free(folder->temp);
    folder->temp = NULL;
fail:
    discard_folder(self);
    return status;
}

const struct nib_checkpoint_writer nib_folder_writer = {
    .check = check,
    .begin = begin,
    .put_matrix = put_matrix,
    .put_rows = put_rows,
    .finish = finish,
    .discard = discard_folder,
};
