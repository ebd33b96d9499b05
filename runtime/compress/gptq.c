// GPTQ (Frantar et al. 2022): a row's weights are rounded one after the other, and what each loses
// is made good by those that follow: with U the upper Cholesky factor of H⁻¹, H = E[x xᵀ] damped,
//   e_j = (w_j − q_j) / U_jj,   w_k −= e_j U_jk for all k > j.
// Columns go in blocks: within one, updates are made at once; what follows a block gets the whole
// block's updates in one product. U comes from a single Cholesky factorization: H = R Rᵀ with R
// upper triangular (which is that of H with rows and columns reversed), U = R⁻¹.
#include "runtime/compress/dense.h"
#include "runtime/compress/grid.h"
#include "runtime/compress/quantizers.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

#define MAX_BLOCK 128u
/// Factor of the damping, from one try to the next, where H is not positive definite.
#define MORE_DAMPING 10
#define MAX_TRIES 6

struct gptq {
    const struct nib_quantize_job *job;
    const struct nib_format *format;
    struct nib_grid_rule rule;
    uint64_t rows, cols, group, n_groups;
    uint64_t block;       ///< columns of one
    uint32_t *order;      ///< [cols] column of the weights that comes j-th
    bool has_fixed_grids; ///< of groups in the columns' own order, found before anything changes
    bool has_permutation; ///< codes stay in the order of work
    float *w;             ///< [rows][cols] in the order of work, updated
    float *importance;    ///< [cols] in the same order: diagonal of H
    float *u;             ///< [cols][cols]
    float *errors;        ///< [rows][block]
    uint64_t first, last; ///< columns of the current block
    struct nib_quantized_matrix *matrix;
};

/// A column with its mean square.
struct ranked {
    float square;
    uint32_t column;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->square != y->square)
        return x->square < y->square ? 1 : -1;
    return (x->column > y->column) - (x->column < y->column);
}

/// Sets the order of work: that of the columns, or of falling mean squares.
static enum nib_status set_order(struct gptq *g, struct nib_error *err)
{
    const float *hessian = g->job->stats->hessian;
    for (uint64_t j = 0; j < g->cols; j++)
        g->order[j] = (uint32_t)j;
    if (!g->job->plan->params.act_order)
        return NIB_OK;
    struct ranked *ranked = malloc((size_t)g->cols * sizeof *ranked);
    if (!ranked)
        return nib_fail_memory(err);
    for (uint64_t j = 0; j < g->cols; j++)
        ranked[j] = (struct ranked){hessian[j * g->cols + j], (uint32_t)j};
    qsort(ranked, (size_t)g->cols, sizeof *ranked, compare_ranked);
    for (uint64_t j = 0; j < g->cols; j++)
        g->order[j] = ranked[j].column;
    free(ranked);
    return NIB_OK;
}

/// Fills h with the damped H, rows and columns in reversed order of work. Inputs that are always 0
/// get 1: their weights are rounded without effect on others.
static void fill_reversed(const struct gptq *g, double damping, double *h)
{
    const uint64_t n = g->cols;
    const float *hessian = g->job->stats->hessian;
    double mean = 0;
    for (uint64_t j = 0; j < n; j++)
        mean += hessian[j * n + j];
    mean /= (double)n;
    for (uint64_t i = 0; i < n; i++) {
        const float *from = hessian + (uint64_t)g->order[n - 1 - i] * n;
        for (uint64_t j = 0; j <= i; j++)
            h[i * n + j] = from[g->order[n - 1 - j]];
        h[i * n + i] += damping * mean;
        if (!(h[i * n + i] > 0))
            h[i * n + i] = 1;
    }
}

/// Computes U. Errors: memory, format (inputs that are not finite).
static enum nib_status set_factor(struct gptq *g, struct nib_error *err)
{
    const uint64_t n = g->cols;
    struct nib_dense *dense = g->job->dense;
    double damping = g->job->plan->params.damping;
    double *h = malloc((size_t)(n * n) * sizeof *h);
    if (!h)
        return nib_fail_memory(err);
    int tries = 0;
    for (fill_reversed(g, damping, h); !nib_cholesky(dense, h, n); fill_reversed(g, damping, h)) {
        damping *= MORE_DAMPING;
        if (++tries == MAX_TRIES) {
            free(h);
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "%s: the calibration's inputs are not finite, or far too unequal",
                            g->job->entry->name);
        }
    }
    enum nib_status status = nib_invert_lower(dense, h, n, err);
    for (uint64_t i = 0; status == NIB_OK && i < n; i++) {
        for (uint64_t j = 0; j < n; j++)
            g->u[i * n + j] = (float)h[(n - 1 - i) * n + n - 1 - j];
    }
    free(h);
    return status;
}

/// Copies the weights into the order of work; finds fixed grids.
static void prepare_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct gptq *g = user;
    for (uint64_t r = first; r < last; r++) {
        const float *from = g->job->weights + r * g->cols;
        float *w = g->w + r * g->cols;
        for (uint64_t k = 0; g->has_fixed_grids && k < g->n_groups; k++) {
            const uint64_t begin = k * g->group;
            const uint64_t n = g->cols - begin < g->group ? g->cols - begin : g->group;
            struct nib_grid grid;
            nib_grid_find(&g->rule, from + begin, g->importance + begin, n, &grid);
            nib_grid_store(g->format, &grid, r, k, &g->matrix->block);
        }
        for (uint64_t j = 0; j < g->cols; j++)
            w[j] = from[g->order[j]];
    }
}

static struct nib_grid stored_grid(const struct gptq *g, uint64_t row, uint64_t group)
{
    const struct nib_row_block *block = &g->matrix->block;
    const uint64_t place = row * g->n_groups + group;
    return (struct nib_grid){
        .scale = block->scale[place],
        .min = block->min ? block->min[place] : 0,
        .zero = block->zero ? block->zero[place] : 0,
    };
}

/// Rounds the current block's columns of rows [first, last).
static void round_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct gptq *g = user;
    const uint64_t n = g->cols;
    for (uint64_t r = first; r < last; r++) {
        float *w = g->w + r * n;
        float *errors = g->errors + r * g->block;
        uint8_t *codes = g->matrix->block.codes + r * n;
        struct nib_grid grid = {.scale = 1};
        for (uint64_t j = g->first; j < g->last; j++) {
            const float *u = g->u + j * n;
            const uint64_t column = g->has_permutation ? j : g->order[j];
            const uint64_t group = column / g->group;
            if (g->has_fixed_grids || (j == g->first && j % g->group != 0))
                grid = stored_grid(g, r, group);
            else if (j % g->group == 0) {
                const uint64_t count = n - j < g->group ? n - j : g->group;
                nib_grid_find(&g->rule, w + j, g->importance + j, count, &grid);
                nib_grid_store(g->format, &grid, r, group, &g->matrix->block);
            }
            const uint8_t code = nib_grid_code(g->format, &grid, w[j]);
            const float error = (w[j] - nib_grid_value(g->format, &grid, code)) / u[j];
            codes[column] = code;
            errors[j - g->first] = error;
            for (uint64_t k = j + 1; k < g->last; k++)
                w[k] -= error * u[k];
        }
    }
}

/// Brings what the block's columns lost into all columns behind it.
static void update_rest(const struct gptq *g)
{
    if (g->last == g->cols)
        return;
    nib_multiply_f32(g->job->dense, &(struct nib_product_f32){
                                        .m = g->rows,
                                        .n = g->cols - g->last,
                                        .k = g->last - g->first,
                                        .a = g->errors,
                                        .a_row = g->block,
                                        .a_col = 1,
                                        .b = g->u + g->first * g->cols + g->last,
                                        .b_row = g->cols,
                                        .b_col = 1,
                                        .c = g->w + g->last,
                                        .c_row = g->cols,
                                        .alpha = -1,
                                    });
}

/// Returns a block's columns: whole groups, or a part that divides one.
static uint64_t block_columns(uint64_t group)
{
    if (group <= MAX_BLOCK)
        return MAX_BLOCK / group * group;
    uint64_t parts = nib_ceil_div_u64(group, MAX_BLOCK);
    while (group % parts != 0)
        parts++;
    return group / parts;
}

static enum nib_status take_memory(struct gptq *g, struct nib_error *err)
{
    g->order = malloc((size_t)g->cols * sizeof *g->order);
    g->w = malloc((size_t)(g->rows * g->cols) * sizeof *g->w);
    g->importance = malloc((size_t)g->cols * sizeof *g->importance);
    g->u = malloc((size_t)(g->cols * g->cols) * sizeof *g->u);
    g->errors = malloc((size_t)(g->rows * g->block) * sizeof *g->errors);
    return g->order && g->w && g->importance && g->u && g->errors ? NIB_OK : nib_fail_memory(err);
}

bool nib_gptq_permutes(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry)
{
    return plan->params.act_order && plan->params.no_static_groups &&
           nib_format_groups(&entry->scheme.format, entry->cols) > 1;
}

static enum nib_status quantize(const struct nib_quantize_job *job,
                                struct nib_quantized_matrix **out_matrix, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_quantize_params *params = &job->plan->params;
    const struct nib_format *format = &job->entry->scheme.format;
    struct gptq g = {
        .job = job,
        .format = format,
        .rule = {format, job->entry->scheme.range, params->percentile},
        .rows = job->entry->rows,
        .cols = job->entry->cols,
        .has_fixed_grids = params->act_order && !params->no_static_groups,
        .has_permutation = nib_gptq_permutes(job->plan, job->entry),
    };
    *out_matrix = NULL;
    g.group = format->group ? format->group : g.cols;
    g.n_groups = nib_format_groups(format, g.cols);
    g.block = block_columns(g.group);
    NIB_TRY(take_memory(&g, err));
    NIB_TRY(nib_quantized_matrix_create(job->entry, g.has_permutation, &g.matrix, err));
    NIB_TRY(set_order(&g, err));
    NIB_TRY(set_factor(&g, err));
    for (uint64_t j = 0; j < g.cols; j++) {
        const uint64_t column = g.has_fixed_grids ? j : g.order[j];
        g.importance[j] = job->stats->hessian[column * g.cols + column];
    }
    nib_thread_pool_run(job->pool, g.rows, 4, prepare_rows, &g);
    for (g.first = 0; g.first < g.cols; g.first = g.last) {
        g.last = g.first + g.block < g.cols ? g.first + g.block : g.cols;
        nib_thread_pool_run(job->pool, g.rows, 4, round_rows, &g);
        update_rest(&g);
    }
    if (g.has_permutation)
        memcpy((uint32_t *)g.matrix->permutation, g.order, (size_t)g.cols * sizeof *g.order);
    *out_matrix = g.matrix;
    g.matrix = NULL;
fail:
    nib_quantized_matrix_destroy(&g.matrix);
    free(g.order);
    free(g.w);
    free(g.importance);
    free(g.u);
    free(g.errors);
    return status;
}

const struct nib_quantizer nib_quantizer_gptq = {.stats = NIB_STATS_HESSIAN, .quantize = quantize};
