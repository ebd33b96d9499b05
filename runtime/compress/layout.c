#include "runtime/compress/layout.h"

#include "runtime/base/status.h"
#include "runtime/compress/layout_write.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name; ///< in messages
    const struct nib_layout_functions *functions;
} layouts[] = {
    [NIB_LAYOUT_GPTQ] = {"GPTQ", &nib_layout_gptq},
    [NIB_LAYOUT_AWQ] = {"AWQ", &nib_layout_awq},
    [NIB_LAYOUT_BNB_4BIT] = {"bitsandbytes in 4 bits", &nib_layout_bnb_4bit},
    [NIB_LAYOUT_BNB_INT8] = {"bitsandbytes in 8 bits", &nib_layout_bnb_int8},
    [NIB_LAYOUT_COMPRESSED_PACKED] = {"compressed-tensors, packed", &nib_layout_compressed_packed},
    [NIB_LAYOUT_COMPRESSED_INT] = {"compressed-tensors, int8", &nib_layout_compressed_int},
};

enum nib_status nib_layout_add(const struct nib_layout_job *job, const char *part,
                               enum nib_dtype dtype, uint64_t rows, uint64_t cols,
                               struct nib_error *err)
{
    struct nib_layout_set *set = job->set;
    const uint32_t n_dims = cols ? 2 : 1;
    const struct nib_tensor tensor = {
        .name = part, .dtype = dtype, .n_dims = n_dims, .dims = {rows, cols ? cols : 1, 1, 1}};
    uint64_t size;
    const enum nib_status status = nib_tensor_compute_size(&tensor, &size, err);
    if (status != NIB_OK)
        return status;
    set->tensors[set->n_tensors++] = (struct nib_layout_tensor){
        .part = part, .dtype = dtype, .n_dims = n_dims, .dims = {rows, cols}, .size = size};
    return NIB_OK;
}

uint8_t *nib_layout_data(const struct nib_layout_job *job, const char *part)
{
    for (uint32_t i = 0; i < job->set->n_tensors; i++) {
        if (strcmp(job->set->tensors[i].part, part) == 0)
            return job->set->tensors[i].data;
    }
    return NULL;
}

enum nib_status nib_layout_refuse(const struct nib_layout_job *job, const char *why,
                                  struct nib_error *err)
{
    return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                    "matrix '%s' in %s cannot be stored as %s has it: %s", job->matrix->name,
                    job->matrix->format.name, layouts[job->layout->kind].name, why);
}

enum nib_status nib_layout_describe(const struct nib_layout *layout,
                                    const struct nib_row_reader *matrix,
                                    struct nib_layout_set *out_set, struct nib_error *err)
{
    const struct nib_layout_job job = {layout, matrix, out_set};
    *out_set = (struct nib_layout_set){0};
    return layouts[layout->kind].functions->describe(&job, err);
}

/// Allocates zeroed data for all tensors, each aligned to 8.
static enum nib_status allocate(struct nib_layout_set *set, struct nib_error *err)
{
    uint64_t total = 8;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        if (set->tensors[i].size > SIZE_MAX / 16)
            return nib_fail_memory(err);
        total += (set->tensors[i].size + 7) / 8 * 8;
    }
    set->memory = calloc(1, (size_t)total);
    if (!set->memory)
        return nib_fail_memory(err);
    uint8_t *next = set->memory;
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        set->tensors[i].data = next;
        next += (set->tensors[i].size + 7) / 8 * 8;
    }
    return NIB_OK;
}

void nib_layout_free(struct nib_layout_set *set)
{
    free(set->memory);
    set->memory = NULL;
    for (uint32_t i = 0; i < set->n_tensors; i++)
        set->tensors[i].data = NULL;
}

/// Puts codes in the order of the input features.
static void undo_permutation(const uint32_t *permutation, struct nib_row_block *block,
                             uint8_t *scratch)
{
    for (uint64_t row = 0; row < block->rows; row++) {
        uint8_t *codes = block->codes + row * block->cols;
        memcpy(scratch, codes, block->cols);
        for (uint64_t j = 0; j < block->cols; j++)
            codes[permutation[j]] = scratch[j];
    }
}

static enum nib_status pack_rows(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_layout_functions *functions = layouts[job->layout->kind].functions;
    const struct nib_row_reader *matrix = job->matrix;
    const size_t size = nib_row_block_size(&matrix->format, NIB_LAYOUT_ROWS, matrix->cols);
    void *memory = size ? malloc(size) : NULL;
    uint8_t *scratch = malloc((size_t)matrix->cols + 1);
    if (!memory || !scratch)
        NIB_TRY(nib_fail_memory(err));
    for (uint64_t first = 0; first < matrix->rows; first += NIB_LAYOUT_ROWS) {
        const uint64_t rest = matrix->rows - first;
        struct nib_row_block block;
        nib_row_block_init(&block, &matrix->format, rest < NIB_LAYOUT_ROWS ? rest : NIB_LAYOUT_ROWS,
                           matrix->cols, memory);
        NIB_TRY(matrix->read(matrix, first, &block, err));
        if (matrix->permutation)
            undo_permutation(matrix->permutation, &block, scratch);
        NIB_TRY(functions->rows(job, first, &block, err));
    }
fail:
    free(memory);
    free(scratch);
    return status;
}

enum nib_status nib_layout_pack(const struct nib_layout *layout,
                                const struct nib_row_reader *matrix, struct nib_layout_set *set,
                                struct nib_error *err)
{
    enum nib_status status;
    const struct nib_layout_job job = {layout, matrix, set};
    const struct nib_layout_functions *functions = layouts[layout->kind].functions;
    if (matrix->permutation && layout->kind != NIB_LAYOUT_GPTQ && !layout->group_index)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "matrix '%s': no place for an order of columns",
                        matrix->name);
    NIB_TRY(allocate(set, err));
    NIB_TRY(pack_rows(&job, err));
    if (functions->end)
        NIB_TRY(functions->end(&job, err));
    return NIB_OK;
fail:
    nib_layout_free(set);
    return status;
}
