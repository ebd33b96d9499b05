// The writer of GGUF files: header first, since the plan says all shapes and formats, then each
// tensor's rows as they come.
#include "runtime/compress/writer_gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/status.h"
#include "runtime/compress/gguf_metadata.h"
#include "runtime/import/source_parts.h"
#include "runtime/quant/pack.h"

/// One file in the making.
struct gguf_output {
    const struct nib_compress_plan *plan;
    struct nib_gguf_writer *writer;
    uint8_t *row; ///< room for the longest row of any tensor
};

static bool find_dtype(const struct nib_format *format, enum nib_dtype *out_dtype)
{
    for (enum nib_dtype dtype = 0; dtype < NIB_DTYPE_COUNT; dtype++) {
        if (strcmp(nib_dtype_name(dtype), format->name) == 0) {
            *out_dtype = dtype;
            return true;
        }
    }
    return false;
}

static enum nib_status check_entry(const struct nib_compress_plan *plan,
                                   const struct nib_compress_entry *entry, struct nib_error *err)
{
    const struct nib_format *format = &entry->scheme.format;
    char name[NIB_ARCH_NAME_SIZE];
    uint64_t row_bytes;
    enum nib_dtype dtype;
    if (!find_dtype(format, &dtype) || format->block_bytes == 0)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: GGUF has no format %s; give one such as q4_0", entry->name,
                        format->name);
    if (!nib_format_row_bytes(format, entry->cols, &row_bytes))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: rows of %" PRIu64 " weights are not whole blocks of %" PRIu32
                        ", which format %s has; choose another by --mix",
                        entry->name, entry->cols, format->block_weights, format->name);
    if (entry->scheme.activation != NIB_ACTIVATION_F32)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: GGUF has no int8 activations; give --as compressed-tensors",
                        entry->name);
    if (!entry->is_copied &&
        !nib_source_tensor_name(plan->source, NIB_CONTAINER_GGUF, entry->role, entry->layer, name))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s: GGUF has no name for this tensor",
                        entry->name);
    return NIB_OK;
}

static enum nib_status check(const struct nib_compress_plan *plan, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < plan->n_entries; i++)
        NIB_TRY(check_entry(plan, &plan->entries[i], err));
fail:
    return status;
}

static enum nib_status announce(struct gguf_output *output, const struct nib_compress_entry *entry,
                                struct nib_error *err)
{
    char name[NIB_ARCH_NAME_SIZE];
    struct nib_tensor tensor = {.name = entry->name, .n_dims = 2, .dims = {1, 1, 1, 1}};
    if (!entry->is_copied) {
        nib_source_tensor_name(output->plan->source, NIB_CONTAINER_GGUF, entry->role, entry->layer,
                               name);
        tensor.name = name;
    }
    find_dtype(&entry->scheme.format, &tensor.dtype);
    if (nib_role_is_matrix(entry->role)) {
        tensor.dims[0] = entry->rows;
        tensor.dims[1] = entry->cols;
    } else {
        tensor.n_dims = 1;
        tensor.dims[0] = entry->cols;
    }
    return nib_gguf_writer_add_tensor(output->writer, &tensor, err);
}

/// Returns whether the plan has no entry for a tensor of a GGUF source that the output needs, such
/// as the factors of RoPE. A head that is tied is not needed.
static bool is_extra(const struct nib_compress_plan *plan, const struct nib_tensor *tensor)
{
    char name[NIB_ARCH_NAME_SIZE];
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        if (strcmp(plan->entries[i].name, tensor->name) == 0)
            return false;
    }
    return !nib_source_tensor_name(plan->source, NIB_CONTAINER_GGUF, NIB_ROLE_OUTPUT, 0, name) ||
           strcmp(name, tensor->name) != 0;
}

/// Announces the extra tensors, or appends their data.
static enum nib_status do_extras(struct gguf_output *output, bool append, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_compress_plan *plan = output->plan;
    const struct nib_tensor_directory *directory = nib_source_tensors(plan->source);
    for (uint32_t i = 0; nib_source_gguf(plan->source) && i < directory->n_tensors; i++) {
        const struct nib_tensor *tensor = &directory->tensors[i];
        if (!is_extra(plan, tensor))
            continue;
        if (append)
            NIB_TRY(
                nib_gguf_writer_append(output->writer, tensor->data, (size_t)tensor->size, err));
        else
            NIB_TRY(nib_gguf_writer_add_tensor(output->writer, tensor, err));
    }
fail:
    return status;
}

/// Announces the vectors that come of a folder's configuration, or appends their data.
static enum nib_status do_factors(struct gguf_output *output, bool append, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_format *format = nib_format_get(NIB_FORMAT_F32);
    for (uint32_t i = 0; status == NIB_OK; i++) {
        struct nib_tensor tensor = {.dtype = NIB_DTYPE_F32, .n_dims = 1, .dims = {1, 1, 1, 1}};
        float *factors;
        uint32_t count;
        status = nib_gguf_factors(output->plan, i, &tensor.name, &factors, &count, err);
        if (status != NIB_OK || count == 0)
            break;
        tensor.dims[0] = count;
        if (!append) {
            status = nib_gguf_writer_add_tensor(output->writer, &tensor, err);
        } else {
            uint8_t bytes[sizeof(float)];
            for (uint32_t j = 0; status == NIB_OK && j < count; j++) {
                nib_floats_store(format, &factors[j], 1, bytes);
                status = nib_gguf_writer_append(output->writer, bytes, sizeof bytes, err);
            }
        }
        free(factors);
    }
    return status;
}

static void discard(void **self)
{
    struct gguf_output *output = *self;
    *self = NULL;
    if (!output)
        return;
    nib_gguf_writer_destroy(&output->writer);
    free(output->row);
    free(output);
}

static enum nib_status begin(const struct nib_compress_plan *plan, const char *path,
                             void **out_self, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint64_t longest = 1, row_bytes;
    *out_self = NULL;
    struct gguf_output *output = calloc(1, sizeof *output);
    void *self = output;
    if (!output)
        return nib_fail_memory(err);
    output->plan = plan;
    NIB_TRY(nib_gguf_writer_open(path, &output->writer, err));
    NIB_TRY(nib_gguf_metadata_write(plan, output->writer, err));
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &plan->entries[i];
        NIB_TRY(announce(output, entry, err));
        if (nib_format_row_bytes(&entry->scheme.format, entry->cols, &row_bytes) &&
            row_bytes > longest)
            longest = row_bytes;
    }
    NIB_TRY(do_extras(output, false, err));
    NIB_TRY(do_factors(output, false, err));
    output->row = longest <= SIZE_MAX ? malloc((size_t)longest) : NULL;
    if (!output->row)
        NIB_TRY(nib_fail_memory(err));
    *out_self = output;
    self = NULL;
fail:
    discard(&self);
    return status;
}

static enum nib_status put_matrix(void *self, uint32_t entry,
                                  const struct nib_quantized_matrix *matrix, struct nib_error *err)
{
    (void)entry;
    enum nib_status status = NIB_OK;
    struct gguf_output *output = self;
    uint64_t row_bytes;
    nib_format_row_bytes(&matrix->format, matrix->cols, &row_bytes);
    for (uint64_t row = 0; row < matrix->rows; row++) {
        nib_row_store(&matrix->format, &matrix->block, row, output->row);
        NIB_TRY(nib_gguf_writer_append(output->writer, output->row, (size_t)row_bytes, err));
    }
fail:
    return status;
}

static enum nib_status put_rows(void *self, uint32_t index, uint64_t first, uint64_t count,
                                const float *values, struct nib_error *err)
{
    (void)first;
    enum nib_status status = NIB_OK;
    struct gguf_output *output = self;
    const struct nib_compress_entry *entry = &output->plan->entries[index];
    uint64_t row_bytes;
    nib_format_row_bytes(&entry->scheme.format, entry->cols, &row_bytes);
    for (uint64_t row = 0; row < count; row++) {
        nib_row_pack(&entry->scheme.format, values + row * entry->cols, entry->cols, output->row);
        NIB_TRY(nib_gguf_writer_append(output->writer, output->row, (size_t)row_bytes, err));
    }
fail:
    return status;
}

static enum nib_status put_copy(void *self, uint32_t index, struct nib_error *err)
{
    struct gguf_output *output = self;
    const struct nib_tensor *tensor = nib_tensor_find(nib_source_tensors(output->plan->source),
                                                      output->plan->entries[index].name);
    return nib_gguf_writer_append(output->writer, tensor->data, (size_t)tensor->size, err);
}

static enum nib_status finish(void **self, uint64_t *out_bytes, struct nib_error *err)
{
    struct gguf_output *output = *self;
    enum nib_status status = do_extras(output, true, err);
    if (status == NIB_OK)
        status = do_factors(output, true, err);
    if (status == NIB_OK)
        status = nib_gguf_writer_commit(&output->writer, out_bytes, err);
    discard(self);
    return status;
}

const struct nib_checkpoint_writer nib_writer_gguf = {
    .check = check,
    .begin = begin,
    .put_matrix = put_matrix,
    .put_rows = put_rows,
    .put_copy = put_copy,
    .finish = finish,
    .discard = discard,
};
