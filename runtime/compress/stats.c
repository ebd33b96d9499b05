#include "runtime/compress/stats.h"

#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include <math.h>
#include <stdlib.h>

enum nib_status nib_stats_init(struct nib_stats_sum *sum, uint64_t cols, uint32_t needs,
                               bool has_magnitudes, struct nib_error *err)
{
    size_t square = 0, n = 0;
    const size_t n_channels = needs & NIB_STATS_CHANNELS ? 3 * (size_t)cols : 0;
    bool fits = !(needs & NIB_STATS_HESSIAN) || nib_mul_size((size_t)cols, (size_t)cols, &square);
    *sum = (struct nib_stats_sum){.stats = {.cols = cols}};
    fits = fits && nib_add_size(square, n_channels + 1, &n);
    float *memory = fits ? calloc(n, sizeof *memory) : NULL;
    if (has_magnitudes)
        sum->magnitudes = calloc(NIB_MAGNITUDE_CLASSES, sizeof *sum->magnitudes);
    sum->memory = memory;
    if (!memory || (has_magnitudes && !sum->magnitudes)) {
        nib_stats_free(sum);
        return nib_fail_memory(err);
    }
    if (n_channels) {
        sum->stats.mean_abs = memory;
        sum->stats.mean_square = memory + cols;
        sum->stats.max_abs = memory + 2 * cols;
    }
    if (square)
        sum->stats.hessian = memory + n_channels;
    return NIB_OK;
}

void nib_stats_free(struct nib_stats_sum *sum)
{
    free(sum->magnitudes);
    free(sum->memory);
    *sum = (struct nib_stats_sum){0};
}

struct channels_loop {
    struct nib_input_stats *stats;
    const float *rows;
    uint64_t stride;
    uint32_t n_rows;
};

/// Columns [first, last).
static void channels_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct channels_loop *loop = user;
    float *restrict mean_abs = loop->stats->mean_abs;
    float *restrict mean_square = loop->stats->mean_square;
    float *restrict max_abs = loop->stats->max_abs;
    for (uint32_t r = 0; r < loop->n_rows; r++) {
        const float *restrict x = loop->rows + r * loop->stride;
        for (uint64_t i = first; i < last; i++) {
            float magnitude = fabsf(x[i]);
            mean_abs[i] += magnitude;
            mean_square[i] += magnitude * magnitude;
            max_abs[i] = magnitude > max_abs[i] ? magnitude : max_abs[i];
        }
    }
}

void nib_stats_add(struct nib_stats_sum *sum, struct nib_dense *dense, const float *rows,
                   uint64_t stride, uint32_t n_rows)
{
    struct nib_input_stats *stats = &sum->stats;
    const uint64_t cols = stats->cols;
    if (stats->hessian)
        nib_multiply_f32(dense, &(struct nib_product_f32){
                                    .m = cols,
                                    .n = cols,
                                    .k = n_rows,
                                    .a = rows,
                                    .a_row = 1,
                                    .a_col = stride,
                                    .b = rows,
                                    .b_row = stride,
                                    .b_col = 1,
                                    .c = stats->hessian,
                                    .c_row = cols,
                                    .alpha = 1,
                                    .is_lower = true,
                                });
    if (stats->mean_abs) {
        struct channels_loop loop = {stats, rows, stride, n_rows};
        nib_thread_pool_run(nib_dense_pool(dense), cols, 64, channels_body, &loop);
    }
    for (uint32_t r = 0; sum->magnitudes && r < n_rows; r++) {
        for (uint64_t i = 0; i < cols; i++) {
            uint32_t bits = nib_f32_bits(rows[r * stride + i]) & 0x7fffffffu;
            uint32_t class = bits >> NIB_MAGNITUDE_SHIFT;
            sum->magnitudes[class < NIB_MAGNITUDE_CLASSES ? class : NIB_MAGNITUDE_CLASSES - 1]++;
        }
    }
    stats->n_rows += n_rows;
}

/// Off the diagonal no number of H is larger than on it.
static bool is_finite(const struct nib_input_stats *stats)
{
    for (uint64_t i = 0; i < stats->cols; i++) {
        if (stats->mean_abs && !(isfinite(stats->mean_abs[i]) && isfinite(stats->mean_square[i])))
            return false;
        if (stats->hessian && !isfinite(stats->hessian[i * stats->cols + i]))
            return false;
    }
    return true;
}

enum nib_status nib_stats_finish(struct nib_stats_sum *sum, const char *name, struct nib_error *err)
{
    struct nib_input_stats *stats = &sum->stats;
    const uint64_t cols = stats->cols;
    const float share = stats->n_rows ? 1 / (float)stats->n_rows : 0;
    for (uint64_t i = 0; stats->mean_abs && i < cols; i++) {
        stats->mean_abs[i] *= share;
        stats->mean_square[i] *= share;
    }
    for (uint64_t i = 0; stats->hessian && i < cols; i++) {
        for (uint64_t j = 0; j <= i; j++) {
            float mean = stats->hessian[i * cols + j] * share;
            stats->hessian[i * cols + j] = mean;
            stats->hessian[j * cols + i] = mean;
        }
    }
    if (!is_finite(stats))
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: the calibration's inputs are not finite, or far too large", name);
    return NIB_OK;
}
