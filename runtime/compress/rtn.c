#include "runtime/compress/grid.h"
#include "runtime/compress/quantizers.h"

#include "runtime/base/checked.h"

struct rtn_loop {
    const struct nib_quantize_job *job;
    const float *importance; ///< [cols] or NULL
    struct nib_grid whole;   ///< per tensor
    struct nib_row_block *block;
};

static void quantize_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct rtn_loop *loop = user;
    const struct nib_matrix_scheme *scheme = &loop->job->entry->scheme;
    const struct nib_format *format = &scheme->format;
    const struct nib_grid_rule rule = {format, scheme->range, loop->job->plan->params.percentile};
    const uint64_t cols = loop->job->entry->cols, groups = nib_format_groups(format, cols);
    const uint64_t group = format->group ? format->group : cols;
    for (uint64_t r = first; r < last; r++) {
        const float *w = loop->job->weights + r * cols;
        uint8_t *codes = loop->block->codes + r * cols;
        for (uint64_t g = 0; g < groups; g++) {
            const uint64_t begin = g * group, n = cols - begin < group ? cols - begin : group;
            struct nib_grid grid = loop->whole;
            if (!scheme->per_tensor)
                nib_grid_find(&rule, w + begin, loop->importance ? loop->importance + begin : NULL,
                              n, &grid);
            nib_grid_store(format, &grid, r, g, loop->block);
            for (uint64_t i = begin; i < begin + n; i++)
                codes[i] = nib_grid_code(format, &grid, w[i]);
        }
    }
}

static enum nib_status quantize(const struct nib_quantize_job *job,
                                struct nib_quantized_matrix **out_matrix, struct nib_error *err)
{
    enum nib_status status = nib_quantized_matrix_create(job->entry, false, out_matrix, err);
    if (status != NIB_OK)
        return status;
    const struct nib_matrix_scheme *scheme = &job->entry->scheme;
    struct rtn_loop loop = {
        .job = job,
        .importance = job->stats ? job->stats->mean_square : NULL,
        .block = &(*out_matrix)->block,
    };
    if (scheme->per_tensor) {
        const struct nib_grid_rule rule = {&scheme->format, scheme->range,
                                           job->plan->params.percentile};
        nib_grid_find(&rule, job->weights, NULL, job->entry->rows * job->entry->cols, &loop.whole);
    }
    nib_thread_pool_run(job->pool, job->entry->rows, 4, quantize_rows, &loop);
    return NIB_OK;
}

const struct nib_quantizer nib_quantizer_rtn = {.stats = 0, .quantize = quantize};
