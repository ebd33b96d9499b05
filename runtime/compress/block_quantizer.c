// The quantizer of formats with blocks: methods importance and round to nearest.
#include "runtime/compress/block_quantize.h"

#include <stdlib.h>

#include "runtime/base/status.h"
#include "runtime/quant/pack.h"

/// Rows that a thread takes at a time.
enum { GRAIN = 4 };

struct loop {
    const struct nib_quantize_job *job;
    struct nib_quantized_matrix *matrix;
    const float *importance; ///< [cols], or NULL
    uint64_t row_bytes;
    uint8_t *raw; ///< [threads][row_bytes], where rows are rounded to nearest
};

static void quantize_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct loop *loop = user;
    struct nib_quantized_matrix *matrix = loop->matrix;
    for (uint64_t row = first; row < last; row++) {
        const float *w = loop->job->weights + row * matrix->cols;
        if (loop->raw) {
            uint8_t *raw = loop->raw + thread * loop->row_bytes;
            nib_row_pack(&matrix->format, w, matrix->cols, raw);
            nib_row_unpack(&matrix->format, raw, row, &matrix->block);
        } else {
            nib_block_quantize(&matrix->format, w, loop->importance, row, &matrix->block);
        }
    }
}

/// Returns whether scales come from the largest weights alone, without a search.
static bool is_plain(const struct nib_quantize_job *job)
{
    return job->plan->params.method == NIB_QUANTIZE_RTN &&
           job->entry->scheme.range != NIB_QUANTIZE_RANGE_MSE;
}

static enum nib_status quantize(const struct nib_quantize_job *job,
                                struct nib_quantized_matrix **out_matrix, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct loop loop = {.job = job, .importance = job->stats ? job->stats->mean_square : NULL};
    NIB_TRY(nib_quantized_matrix_create(job->entry, false, &loop.matrix, err));
    if (!nib_format_row_bytes(&loop.matrix->format, loop.matrix->cols, &loop.row_bytes))
        NIB_TRY(nib_fail(
            err, NIB_ERROR_ARGUMENT, "%s: rows of %llu weights are not whole blocks of format %s",
            job->entry->name, (unsigned long long)loop.matrix->cols, loop.matrix->format.name));
    if (is_plain(job)) {
        loop.raw = malloc((size_t)loop.row_bytes * nib_thread_pool_size(job->pool));
        if (!loop.raw)
            NIB_TRY(nib_fail_memory(err));
    }
    nib_thread_pool_run(job->pool, loop.matrix->rows, GRAIN, quantize_rows, &loop);
    *out_matrix = loop.matrix;
    loop.matrix = NULL;
fail:
    free(loop.raw);
    nib_quantized_matrix_destroy(&loop.matrix);
    return status;
}

// Without a calibration text all inputs weigh the same, so nothing is asked for.
const struct nib_quantizer nib_quantizer_blocks = {.stats = 0, .quantize = quantize};
