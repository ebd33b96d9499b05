#include "runtime/compress/grid.h"
#include "runtime/compress/scaling.h"

#include "runtime/base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// Steps of α from 0 to 1.
#define N_ALPHAS 20
/// Rows of each matrix that the search looks at, spread evenly.
#define MAX_ROWS 256u
/// Smallest mean magnitude of an input or weight, of the largest: dead channels keep a scale.
#define LEAST_SHARE 1e-4f

/// What the search goes over.
struct search {
    const struct nib_scaled_input *scaled;
    const struct nib_format *format; ///< of one of the matrices
    float *weights;                  ///< [rows][cols] sampled of all matrices
    uint64_t rows, cols;
    float *errors;  ///< [rows][cols] W − Q(W s) / s
    float *product; ///< [rows][cols] errors · H
    float *x;       ///< [cols] mean magnitude of the inputs
    float *w;       ///< [cols] mean share of the weights
    float *s;       ///< [cols]
};

/// Copies some rows of each quantized matrix, spread evenly.
static void sample_rows(struct search *search)
{
    const struct nib_layer *layer = &search->scaled->work->layer;
    search->rows = 0;
    for (uint32_t m = 0; m < search->scaled->n_matrices; m++) {
        const uint32_t index = search->scaled->matrices[m];
        const struct nib_compress_entry *entry = &layer->plan->entries[layer->first + index];
        const uint64_t n = entry->rows < MAX_ROWS ? entry->rows : MAX_ROWS;
        if (!entry->is_quantized)
            continue;
        search->format = &entry->scheme.format;
        for (uint64_t i = 0; i < n; i++)
            memcpy(search->weights + search->rows++ * search->cols,
                   layer->values[index] + i * entry->rows / n * search->cols,
                   (size_t)search->cols * sizeof(float));
    }
}

/// Works out the means that scales are made of.
static void find_means(struct search *search)
{
    const uint64_t cols = search->cols,
                   group = search->format->group ? search->format->group : cols;
    const struct nib_input_stats *stats = &search->scaled->work->stats[search->scaled->input].stats;
    float most = 0;
    memset(search->w, 0, (size_t)cols * sizeof *search->w);
    for (uint64_t r = 0; r < search->rows; r++) {
        const float *row = search->weights + r * cols;
        for (uint64_t first = 0; first < cols; first += group) {
            const uint64_t last = cols - first < group ? cols : first + group;
            float largest = 0;
            for (uint64_t i = first; i < last; i++)
                largest = fmaxf(largest, fabsf(row[i]));
            for (uint64_t i = first; largest > 0 && i < last; i++)
                search->w[i] += fabsf(row[i]) / largest / (float)search->rows;
        }
    }
    for (uint64_t i = 0; i < cols; i++)
        most = fmaxf(most, stats->mean_abs[i]);
    for (uint64_t i = 0; i < cols; i++) {
        search->x[i] = fmaxf(stats->mean_abs[i], LEAST_SHARE * most);
        search->w[i] = fmaxf(search->w[i], LEAST_SHARE);
    }
}

/// s = x^α / w^β, the geometric mean of the extremes being 1.
static void make_scales(const struct search *search, float alpha, float beta)
{
    float low = INFINITY, high = 0;
    for (uint64_t i = 0; i < search->cols; i++)
        search->s[i] = powf(search->x[i], alpha) / powf(search->w[i], beta);
    nib_scaled_share(search->scaled, search->s);
    for (uint64_t i = 0; i < search->cols; i++) {
        low = fminf(low, search->s[i]);
        high = fmaxf(high, search->s[i]);
    }
    const float factor = 1 / sqrtf(low * high);
    for (uint64_t i = 0; i < search->cols; i++)
        search->s[i] *= factor;
}

/// Rounds sampled rows [first, last) under the scales.
static void round_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct search *search = user;
    const struct nib_grid_rule rule = {.format = search->format,
                                       .range = NIB_QUANTIZE_RANGE_MINMAX};
    const uint64_t cols = search->cols,
                   group = search->format->group ? search->format->group : cols;
    for (uint64_t r = first; r < last; r++) {
        const float *w = search->weights + r * cols;
        float *e = search->errors + r * cols;
        for (uint64_t i = 0; i < cols; i++)
            e[i] = w[i] * search->s[i];
        for (uint64_t begin = 0; begin < cols; begin += group) {
            const uint64_t n = cols - begin < group ? cols - begin : group;
            struct nib_grid grid;
            nib_grid_find(&rule, e + begin, NULL, n, &grid);
            for (uint64_t i = begin; i < begin + n; i++) {
                const uint8_t code = nib_grid_code(search->format, &grid, e[i]);
                e[i] = w[i] - nib_grid_value(search->format, &grid, code) / search->s[i];
            }
        }
    }
}

/// Returns Σ e H eᵀ over the sampled rows for the scales.
static double output_error(const struct search *search)
{
    const uint64_t cols = search->cols, n = search->rows * cols;
    const struct nib_run *run = search->scaled->work->run;
    double sum = 0;
    nib_thread_pool_run(run->pool, search->rows, 8, round_rows, (void *)search);
    memset(search->product, 0, (size_t)n * sizeof *search->product);
    nib_multiply_f32(run->dense,
                     &(struct nib_product_f32){
                         .m = search->rows,
                         .n = cols,
                         .k = cols,
                         .a = search->errors,
                         .a_row = cols,
                         .a_col = 1,
                         .b = search->scaled->work->stats[search->scaled->input].stats.hessian,
                         .b_row = cols,
                         .b_col = 1,
                         .c = search->product,
                         .c_row = cols,
                         .alpha = 1,
                     });
    for (uint64_t i = 0; i < n; i++)
        sum += (double)(search->product[i] * search->errors[i]);
    return sum;
}

static bool take_memory(struct search *search)
{
    const size_t cols = (size_t)search->cols;
    const size_t n = (size_t)search->scaled->n_matrices * MAX_ROWS * cols;
    float *memory = malloc((3 * n + 3 * cols) * sizeof *memory);
    search->weights = memory;
    if (!memory)
        return false;
    search->errors = memory + n;
    search->product = search->errors + n;
    search->x = search->product + n;
    search->w = search->x + cols;
    search->s = search->w + cols;
    return true;
}

enum nib_status nib_awq_search(const struct nib_scaled_input *scaled, float *out_s,
                               struct nib_error *err)
{
    struct search search = {.scaled = scaled, .cols = scaled->cols};
    double least = INFINITY;
    if (!take_memory(&search))
        return nib_fail_memory(err);
    sample_rows(&search);
    find_means(&search);
    for (int step = 0; step <= N_ALPHAS; step++) {
        const float alpha = (float)step / N_ALPHAS;
        for (int weighs = 0; weighs < 2; weighs++) {
            make_scales(&search, alpha, weighs ? 1 - alpha : 0);
            const double error = output_error(&search);
            if (error < least) {
                least = error;
                memcpy(out_s, search.s, (size_t)search.cols * sizeof *out_s);
            }
        }
    }
    free(search.weights);
    return least < INFINITY ? NIB_OK : nib_scaled_fail(scaled, err);
}
