#include "runtime/compress/folder.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/roles.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Values that are turned into the file's type at once.
enum { CHUNK = 1 << 14 };
enum { NAME_SIZE = NIB_ARCH_NAME_SIZE + 48, FILE_NAME_SIZE = 64 };

struct nib_folder_tensors {
    struct nib_folder *folder;
    uint32_t *shard_of; ///< [n_entries]
    uint32_t n_shards;
    struct nib_safetensors_writer *file; ///< of the current shard, or NULL
    uint32_t shard;                      ///< the current one, or n_shards: none yet
    json_t *weight_map;                  ///< file names by tensor names
    uint64_t bytes;                      ///< of all tensors
    uint8_t chunk[CHUNK * sizeof(float)];
};

/// What reads a quantized matrix that is in memory.
static enum nib_status read_matrix(const struct nib_row_reader *reader, uint64_t first,
                                   struct nib_row_block *block, struct nib_error *err)
{
    const struct nib_row_block *all = reader->source;
    const uint64_t groups = nib_format_groups(&reader->format, reader->cols);
    (void)err;
    memcpy(block->codes, all->codes + first * all->cols, (size_t)(block->rows * all->cols));
    memcpy(block->scale, all->scale + first * groups, (size_t)(block->rows * groups) * 4);
    if (block->zero)
        memcpy(block->zero, all->zero + first * groups, (size_t)(block->rows * groups) * 2);
    return NIB_OK;
}

static struct nib_row_reader reader_of(const struct nib_compress_entry *entry,
                                       const struct nib_quantized_matrix *matrix)
{
    struct nib_row_reader reader = {
        .name = entry->name,
        .format = entry->scheme.format,
        .rows = entry->rows,
        .cols = entry->cols,
        .activation = entry->scheme.activation,
        .outlier_threshold = entry->scheme.outlier_threshold,
        .read = read_matrix,
    };
    if (matrix) {
        reader.permutation = matrix->permutation;
        reader.activation_scale = matrix->activation_scale;
        reader.source = &matrix->block;
    }
    return reader;
}

static enum nib_dtype float_dtype(const struct nib_format *format)
{
    return format->id == NIB_FORMAT_F16    ? NIB_DTYPE_F16
           : format->id == NIB_FORMAT_BF16 ? NIB_DTYPE_BF16
                                           : NIB_DTYPE_F32;
}

/// Describes the tensors of an entry; one that is not quantized is a set of one, without a part.
static enum nib_status describe(const struct nib_compress_plan *plan,
                                const struct nib_compress_entry *entry,
                                struct nib_layout_set *out_set, struct nib_error *err)
{
    if (entry->is_quantized) {
        const struct nib_layout layout = nib_folder_layout(plan, entry);
        const struct nib_row_reader reader = reader_of(entry, NULL);
        return nib_layout_describe(&layout, &reader, out_set, err);
    }
    const enum nib_dtype dtype = float_dtype(&entry->scheme.format);
    const bool is_matrix = nib_role_is_matrix(entry->role);
    *out_set = (struct nib_layout_set){
        .tensors = {{.part = "",
                     .dtype = dtype,
                     .n_dims = is_matrix ? 2 : 1,
                     .dims = {is_matrix ? entry->rows : entry->cols, is_matrix ? entry->cols : 0},
                     .size = entry->rows * entry->cols * (dtype == NIB_DTYPE_F32 ? 4 : 2)}},
        .n_tensors = 1};
    return NIB_OK;
}

static void tensor_name(const struct nib_compress_plan *plan,
                        const struct nib_compress_entry *entry, const char *part,
                        char out[NAME_SIZE])
{
    char module[NIB_ARCH_NAME_SIZE];
    if (part[0] == '\0') {
        nib_folder_name(plan, entry, out);
        return;
    }
    nib_folder_module(plan, entry, module);
    snprintf(out, NAME_SIZE, "%s.%s", module, part);
}

/// Gives entries to shards in order, and counts all bytes.
static enum nib_status share_out(struct nib_folder_tensors *tensors, uint64_t shard_bytes,
                                 struct nib_error *err)
{
    const struct nib_compress_plan *plan = tensors->folder->plan;
    uint64_t in_shard = 0;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        struct nib_layout_set set;
        uint64_t size = 0;
        const enum nib_status status = describe(plan, &plan->entries[i], &set, err);
        if (status != NIB_OK)
            return status;
        for (uint32_t t = 0; t < set.n_tensors; t++)
            size += set.tensors[t].size;
        if (i == 0 || in_shard + size > shard_bytes) {
            tensors->n_shards++;
            in_shard = 0;
        }
        tensors->shard_of[i] = tensors->n_shards - 1;
        in_shard += size;
        tensors->bytes += size;
    }
    tensors->shard = tensors->n_shards;
    return NIB_OK;
}

enum nib_status nib_folder_tensors_create(struct nib_folder *folder, uint64_t shard_bytes,
                                          struct nib_folder_tensors **out_tensors,
                                          struct nib_error *err)
{
    enum nib_status status;
    struct nib_folder_tensors *tensors = calloc(1, sizeof *tensors);
    *out_tensors = tensors;
    if (!tensors)
        return nib_fail_memory(err);
    tensors->folder = folder;
    tensors->shard_of = calloc(folder->plan->n_entries, sizeof *tensors->shard_of);
    tensors->weight_map = json_object();
    if (!tensors->shard_of || !tensors->weight_map)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(share_out(tensors, shard_bytes, err));
    return NIB_OK;
fail:
    nib_folder_tensors_destroy(out_tensors);
    return status;
}

void nib_folder_tensors_destroy(struct nib_folder_tensors **tensors)
{
    struct nib_folder_tensors *self = *tensors;
    *tensors = NULL;
    if (!self)
        return;
    nib_safetensors_writer_destroy(&self->file);
    json_decref(self->weight_map);
    free(self->shard_of);
    free(self);
}

/// Announces the tensors of an entry.
static enum nib_status add_entry(struct nib_folder_tensors *tensors,
                                 const struct nib_compress_entry *entry, const char *file_name,
                                 struct nib_error *err)
{
    enum nib_status status;
    struct nib_layout_set set;
    char name[NAME_SIZE];
    NIB_TRY(describe(tensors->folder->plan, entry, &set, err));
    for (uint32_t t = 0; t < set.n_tensors; t++) {
        const struct nib_layout_tensor *part = &set.tensors[t];
        tensor_name(tensors->folder->plan, entry, part->part, name);
        const struct nib_tensor tensor = {.name = name,
                                          .dtype = part->dtype,
                                          .n_dims = part->n_dims,
                                          .dims = {part->dims[0], part->dims[1], 1, 1}};
        NIB_TRY(nib_safetensors_writer_add_tensor(tensors->file, &tensor, err));
        if (json_object_set_new(tensors->weight_map, name, json_string(file_name)) != 0)
            NIB_TRY(nib_fail_memory(err));
    }
fail:
    return status;
}

static enum nib_status open_shard(struct nib_folder_tensors *tensors, uint32_t shard,
                                  struct nib_error *err)
{
    enum nib_status status;
    const struct nib_compress_plan *plan = tensors->folder->plan;
    struct nib_buffer path = {0};
    char name[FILE_NAME_SIZE] = "model.safetensors";
    if (tensors->n_shards > 1)
        snprintf(name, sizeof name, "model-%05" PRIu32 "-of-%05" PRIu32 ".safetensors", shard + 1,
                 tensors->n_shards);
    NIB_TRY(nib_folder_file(tensors->folder, name, &path, err));
    NIB_TRY(nib_safetensors_writer_open(path.data, &tensors->file, err));
    tensors->shard = shard;
    NIB_TRY(nib_safetensors_writer_add_metadata(tensors->file, "format", "pt", err));
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        if (tensors->shard_of[i] == shard)
            NIB_TRY(add_entry(tensors, &plan->entries[i], name, err));
    }
fail:
    nib_buffer_free(&path);
    return status;
}

/// Makes the file of `entry` the current one.
static enum nib_status turn_to(struct nib_folder_tensors *tensors, uint32_t entry,
                               struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const uint32_t shard = tensors->shard_of[entry];
    if (tensors->shard == shard)
        return NIB_OK;
    if (tensors->file)
        NIB_TRY(nib_safetensors_writer_commit(&tensors->file, err));
    NIB_TRY(open_shard(tensors, shard, err));
fail:
    return status;
}

enum nib_status nib_folder_tensors_put_matrix(struct nib_folder_tensors *tensors, uint32_t entry,
                                              const struct nib_quantized_matrix *matrix,
                                              struct nib_error *err)
{
    enum nib_status status;
    const struct nib_compress_plan *plan = tensors->folder->plan;
    const struct nib_row_reader reader = reader_of(&plan->entries[entry], matrix);
    struct nib_layout layout = nib_folder_layout(plan, &plan->entries[entry]);
    struct nib_layout_set set = {0};
    layout.scale_codes = &matrix->scale_codes;
    layout.row_absmax = matrix->row_absmax;
    NIB_TRY(turn_to(tensors, entry, err));
    NIB_TRY(nib_layout_describe(&layout, &reader, &set, err));
    NIB_TRY(nib_layout_pack(&layout, &reader, &set, err));
    for (uint32_t t = 0; t < set.n_tensors; t++)
        NIB_TRY(nib_safetensors_writer_append(tensors->file, set.tensors[t].data,
                                              (size_t)set.tensors[t].size, err));
fail:
    nib_layout_free(&set);
    return status;
}

/// Stores `count` values, less `offset`, in the file's type and returns their bytes.
static size_t store(const float *values, uint64_t count, enum nib_dtype dtype, float offset,
                    uint8_t *out)
{
    switch (dtype) {
    case NIB_DTYPE_F16:
        for (uint64_t i = 0; i < count; i++)
            nib_store_u16(out + 2 * i, nib_f16_from_f32(values[i] - offset));
        return (size_t)count * 2;
    case NIB_DTYPE_BF16:
        for (uint64_t i = 0; i < count; i++)
            nib_store_u16(out + 2 * i, nib_bf16_from_f32(values[i] - offset));
        return (size_t)count * 2;
    default:
        for (uint64_t i = 0; i < count; i++)
            nib_store_u32(out + 4 * i, nib_f32_bits(values[i] - offset));
        return (size_t)count * 4;
    }
}

enum nib_status nib_folder_tensors_put_rows(struct nib_folder_tensors *tensors, uint32_t entry,
                                            uint64_t count, const float *values,
                                            struct nib_error *err)
{
    enum nib_status status;
    const struct nib_compress_plan *plan = tensors->folder->plan;
    const struct nib_compress_entry *own = &plan->entries[entry];
    const enum nib_dtype dtype = float_dtype(&own->scheme.format);
    const bool is_shifted =
        nib_role_is_norm(own->role) && nib_source_arch(plan->source)->shifted_norms;
    const uint64_t n_values = count * own->cols;
    NIB_TRY(turn_to(tensors, entry, err));
    for (uint64_t i = 0, n; i < n_values; i += n) {
        n = n_values - i < CHUNK ? n_values - i : CHUNK;
        const size_t size = store(values + i, n, dtype, is_shifted ? 1 : 0, tensors->chunk);
        NIB_TRY(nib_safetensors_writer_append(tensors->file, tensors->chunk, size, err));
    }
fail:
    return status;
}

static enum nib_status write_index(struct nib_folder_tensors *tensors, struct nib_error *err)
{
    json_t *index = json_object(), *metadata = json_object();
    enum nib_status status = NIB_OK;
    // Values are taken over, also by a call that fails.
    if (json_object_set_new(metadata, "total_size", json_integer((json_int_t)tensors->bytes)) |
        json_object_set(index, "metadata", metadata) |
        json_object_set(index, "weight_map", tensors->weight_map))
        status = nib_fail_memory(err);
    else
        status = nib_folder_json(tensors->folder, "model.safetensors.index.json", index, err);
    json_decref(metadata);
    json_decref(index);
    return status;
}

enum nib_status nib_folder_tensors_finish(struct nib_folder_tensors *tensors, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (tensors->shard + 1 != tensors->n_shards || !tensors->file)
        return nib_fail(err, NIB_ERROR_STATE, "tensors are missing");
    NIB_TRY(nib_safetensors_writer_commit(&tensors->file, err));
    if (tensors->n_shards > 1)
        NIB_TRY(write_index(tensors, err));
fail:
    return status;
}
