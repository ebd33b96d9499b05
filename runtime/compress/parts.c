#include "runtime/compress/parts.h"

#include "runtime/base/buffer.h"
#include "runtime/base/half.h"
#include "runtime/base/os_file.h"
#include "runtime/base/status.h"
#include "runtime/compress/quantizers.h"
#include "runtime/formats/safetensors.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN_KEY "nibble.run"
#define MODEL_KEY "nibble.model"
/// Counts the changes of what a layer's file holds.
#define PART_VERSION 2

struct nib_parts {
    const struct nib_compress_plan *plan;
    struct nib_buffer folder;
    char run[17];   ///< what the run is made of, hashed
    uint64_t model; ///< hash of what was seen of the model
};

#define HASH_START UINT64_C(0xcbf29ce484222325)
#define HASH_PRIME UINT64_C(0x100000001b3)

/// FNV-1a (Fowler, Noll, Vo), 64 bits.
static uint64_t hash(uint64_t state, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < size; i++)
        state = (state ^ p[i]) * HASH_PRIME;
    return state;
}

static uint64_t hash_number(uint64_t state, double number)
{
    return hash(state, &number, sizeof number);
}

/// Hashes all that decides about the result.
static uint64_t hash_run(const struct nib_compress_plan *plan)
{
    const struct nib_quantize_params *p = &plan->params;
    uint64_t h = HASH_START;
    h = hash(h, nib_version(), strlen(nib_version()));
    h = hash_number(h, (double)nib_source_file_bytes(plan->source));
    const double numbers[] = {
        PART_VERSION,         (double)p->method,           (double)p->container,
        (double)p->range,     (double)p->percentile,       (double)p->context,
        (double)p->windows,   (double)p->damping,          (double)p->smoothing,
        (double)p->act_order, (double)p->activation_range, (double)p->no_static_groups};
    h = hash(h, numbers, sizeof numbers);
    h = hash(h, p->calibration, p->n_calibration * sizeof *p->calibration);
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct nib_matrix_scheme *scheme = &plan->entries[i].scheme;
        const double own[] = {(double)scheme->format.id,
                              (double)scheme->format.bits,
                              (double)scheme->format.group,
                              (double)scheme->format.scale,
                              (double)scheme->activation,
                              (double)scheme->per_tensor,
                              (double)plan->entries[i].is_quantized};
        h = hash(h, plan->entries[i].name, strlen(plan->entries[i].name));
        h = hash(h, own, sizeof own);
    }
    return h;
}

void nib_parts_see(struct nib_parts *parts, const float *values, uint64_t n)
{
    // Whole numbers instead of bytes: a layer has hundreds of millions.
    for (uint64_t i = 0; i < n; i++)
        parts->model = (parts->model ^ nib_f32_bits(values[i])) * HASH_PRIME;
}

/// Writes the model's hash as text.
static void model_text(const struct nib_parts *parts, char out[17])
{
    snprintf(out, 17, "%016" PRIx64, parts->model);
}

enum nib_status nib_parts_open(const struct nib_compress_plan *plan, const char *path,
                               struct nib_parts **out_parts, struct nib_error *err)
{
    enum nib_status status;
    bool exists;
    size_t size = strlen(path);
    *out_parts = NULL;
    struct nib_parts *parts = calloc(1, sizeof *parts);
    if (!parts)
        return nib_fail_memory(err);
    parts->plan = plan;
    parts->model = HASH_START;
    snprintf(parts->run, sizeof parts->run, "%016" PRIx64, hash_run(plan));
    while (size > 1 && (path[size - 1] == '/' || path[size - 1] == '\\'))
        size--;
    NIB_TRY(nib_buffer_printf(&parts->folder, err, "%.*s.part", (int)size, path));
    status = nib_os_folder_create(parts->folder.data, &exists, err);
    if (status != NIB_OK && !exists)
        goto fail;
    *out_parts = parts;
    return NIB_OK;
fail:
    nib_buffer_free(&parts->folder);
    free(parts);
    return status;
}

void nib_parts_close(struct nib_parts **parts)
{
    struct nib_parts *self = *parts;
    *parts = NULL;
    if (!self)
        return;
    nib_os_folder_remove(self->folder.data);
    nib_buffer_free(&self->folder);
    free(self);
}

/// Makes the name of a layer's file; empty where memory has run out.
static enum nib_status layer_path(const struct nib_parts *parts, uint32_t layer,
                                  struct nib_buffer *out, struct nib_error *err)
{
    *out = (struct nib_buffer){0};
    return nib_buffer_printf(out, err, "%s/layer-%" PRIu32 ".safetensors", parts->folder.data,
                             layer);
}

void nib_parts_remove(struct nib_parts *parts)
{
    const uint32_t n_layers = nib_source_config(parts->plan->source)->n_layers;
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        struct nib_buffer path;
        if (layer_path(parts, layer, &path, NULL) == NIB_OK)
            nib_os_remove(path.data);
        nib_buffer_free(&path);
    }
}

bool nib_parts_has(const struct nib_parts *parts, uint32_t layer)
{
    struct nib_buffer path;
    bool exists = layer_path(parts, layer, &path, NULL) == NIB_OK &&
                  nib_path_kind(path.data) == NIB_PATH_FILE;
    nib_buffer_free(&path);
    return exists;
}

/// One array of a tensor of the layer.
struct array {
    const char *suffix;
    enum nib_dtype dtype;
    void *data;
    uint64_t size; ///< bytes
};
#define MAX_ARRAYS 8

/// Lists the arrays that an entry of the layer is stored as; returns their number.
static uint32_t arrays_of(const struct nib_layer_work *work, uint32_t i,
                          struct array out[MAX_ARRAYS])
{
    const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first + i];
    struct nib_quantized_matrix *m = work->matrices[i];
    const uint64_t n = entry->rows * entry->cols;
    uint32_t count = 0;
    if (!entry->is_quantized) {
        out[count++] = (struct array){"values", NIB_DTYPE_F32, work->layer.values[i], n * 4};
        return count;
    }
    const uint64_t groups = entry->rows * nib_format_groups(&m->format, entry->cols);
    const uint64_t scales =
        m->format.super ? entry->rows * nib_format_supers(&m->format, entry->cols) : groups;
    out[count++] = (struct array){"codes", NIB_DTYPE_U8, m->block.codes, n};
    out[count++] = (struct array){"scale", NIB_DTYPE_F32, m->block.scale, scales * 4};
    out[count++] = (struct array){"activation", NIB_DTYPE_F32, &m->activation_scale, 4};
    if (m->block.min)
        out[count++] = (struct array){"min", NIB_DTYPE_F32, m->block.min, scales * 4};
    if (m->block.sub_scale)
        out[count++] = (struct array){"sub_scale", NIB_DTYPE_U8, m->block.sub_scale, groups};
    if (m->block.sub_min)
        out[count++] = (struct array){"sub_min", NIB_DTYPE_U8, m->block.sub_min, groups};
    if (m->block.zero)
        out[count++] = (struct array){"zero", NIB_DTYPE_I16, m->block.zero, groups * 2};
    if (m->permutation)
        out[count++] =
            (struct array){"permutation", NIB_DTYPE_U32, (void *)m->permutation, entry->cols * 4};
    return count;
}

static void array_name(const struct nib_compress_entry *entry, const struct array *array,
                       char out[NIB_ARCH_NAME_SIZE])
{
    snprintf(out, NIB_ARCH_NAME_SIZE, "%s.%s", nib_role_name(entry->role), array->suffix);
}

static enum nib_status announce(struct nib_safetensors_writer *writer,
                                const struct nib_compress_entry *entry, const struct array *array,
                                struct nib_error *err)
{
    char name[NIB_ARCH_NAME_SIZE];
    array_name(entry, array, name);
    struct nib_tensor tensor = {
        .name = name, .dtype = array->dtype, .n_dims = 1, .dims = {array->size, 1, 1, 1}};
    tensor.dims[0] /= array->dtype == NIB_DTYPE_U8 ? 1 : array->dtype == NIB_DTYPE_I16 ? 2 : 4;
    return nib_safetensors_writer_add_tensor(writer, &tensor, err);
}

enum nib_status nib_parts_save(const struct nib_parts *parts, const struct nib_layer_work *work,
                               struct nib_error *err)
{
    enum nib_status status;
    struct array arrays[MAX_ARRAYS];
    struct nib_safetensors_writer *writer = NULL;
    struct nib_buffer path;
    char model[17];
    const struct nib_compress_entry *entries = &work->run->plan.entries[work->layer.first];
    model_text(parts, model);
    NIB_TRY(layer_path(parts, entries[0].layer, &path, err));
    NIB_TRY(nib_safetensors_writer_open(path.data, &writer, err));
    NIB_TRY(nib_safetensors_writer_add_metadata(writer, RUN_KEY, parts->run, err));
    NIB_TRY(nib_safetensors_writer_add_metadata(writer, MODEL_KEY, model, err));
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const uint32_t n = arrays_of(work, i, arrays);
        for (uint32_t k = 0; k < n; k++)
            NIB_TRY(announce(writer, &entries[i], &arrays[k], err));
    }
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const uint32_t n = arrays_of(work, i, arrays);
        for (uint32_t k = 0; k < n; k++)
            NIB_TRY(
                nib_safetensors_writer_append(writer, arrays[k].data, (size_t)arrays[k].size, err));
    }
    NIB_TRY(nib_safetensors_writer_commit(&writer, err));
fail:
    nib_safetensors_writer_destroy(&writer);
    nib_buffer_free(&path);
    return status;
}

/// Copies one array out of the file.
static enum nib_status load_array(const struct nib_safetensors *file,
                                  const struct nib_compress_entry *entry, const struct array *array,
                                  struct nib_error *err)
{
    char name[NIB_ARCH_NAME_SIZE];
    array_name(entry, array, name);
    const struct nib_tensor *tensor = nib_tensor_find(&file->directory, name);
    if (!tensor || tensor->dtype != array->dtype || tensor->size != array->size)
        return nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' is missing or of another shape", name);
    memcpy(array->data, tensor->data, (size_t)array->size);
    return NIB_OK;
}

static enum nib_status load_entries(const struct nib_parts *parts,
                                    const struct nib_safetensors *file, struct nib_layer_work *work,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const char *run = nib_safetensors_metadata(file, RUN_KEY);
    const char *seen = nib_safetensors_metadata(file, MODEL_KEY);
    char model[17];
    model_text(parts, model);
    struct array arrays[MAX_ARRAYS];
    if (!run || strcmp(run, parts->run) != 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "it is of a run with other parameters; remove the folder to begin anew");
    if (!seen || strcmp(seen, model) != 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "it is of another model; remove the folder to begin anew");
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first + i];
        const bool has_permutation = nib_quantizer_get(parts->plan, entry) == &nib_quantizer_gptq &&
                                     nib_gptq_permutes(parts->plan, entry);
        if (entry->is_quantized)
            NIB_TRY(nib_quantized_matrix_create(entry, has_permutation, &work->matrices[i], err));
        const uint32_t n = arrays_of(work, i, arrays);
        for (uint32_t k = 0; k < n; k++)
            NIB_TRY(load_array(file, entry, &arrays[k], err));
    }
fail:
    return status;
}

/// A permutation names columns that there are.
static enum nib_status check_permutations(const struct nib_layer_work *work, struct nib_error *err)
{
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const struct nib_quantized_matrix *m = work->matrices[i];
        for (uint64_t j = 0; m && m->permutation && j < m->cols; j++) {
            if (m->permutation[j] >= m->cols)
                return nib_fail(err, NIB_ERROR_FORMAT, "a permutation names no column");
        }
    }
    return NIB_OK;
}

enum nib_status nib_parts_load(const struct nib_parts *parts, struct nib_layer_work *work,
                               struct nib_error *err)
{
    enum nib_status status;
    struct nib_safetensors *file = NULL;
    struct nib_buffer path;
    NIB_TRY(layer_path(parts, work->run->plan.entries[work->layer.first].layer, &path, err));
    NIB_TRY(nib_safetensors_open(path.data, &file, err));
    status = load_entries(parts, file, work, err);
    if (status == NIB_OK)
        status = check_permutations(work, err);
    NIB_TRY(nib_fail_context(err, status, "%s", path.data));
fail:
    nib_safetensors_destroy(&file);
    nib_buffer_free(&path);
    return status;
}
