#include "runtime/compress/scaling.h"

#include "runtime/base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// Steps of α from 0 to 1 that are tried.
#define N_ALPHAS 40
/// Largest code of inputs and weights.
#define LAST_CODE 127.5
/// Least largest magnitude of a channel, of the input's: dead channels keep a scale.
#define LEAST_SHARE 1e-5f

/// Returns the largest magnitude of column `column` in the quantized matrices.
static float largest_weight(const struct nib_scaled_input *scaled, uint64_t column)
{
    const struct nib_layer *layer = &scaled->work->layer;
    float most = 0;
    for (uint32_t m = 0; m < scaled->n_matrices; m++) {
        const uint32_t index = scaled->matrices[m];
        const uint64_t rows = layer->plan->entries[layer->first + index].rows;
        for (uint64_t r = 0; r < rows; r++)
            most = fmaxf(most, fabsf(layer->values[index][r * scaled->cols + column]));
    }
    return most;
}

/// Predicts E|W x − Q(W s) Q(x / s)|²: an input's error is a uniform one of one step, or all of it
/// where it is smaller; a weight's likewise is that of its row's step.
static double predicted_error(const struct nib_scaled_input *scaled, const float *s)
{
    const struct nib_layer *layer = &scaled->work->layer;
    const struct nib_input_stats *stats = &scaled->work->stats[scaled->input].stats;
    const uint64_t cols = scaled->cols;
    double most = 0, power = 0, error = 0;
    for (uint64_t i = 0; i < cols; i++) {
        most = fmax(most, (double)(stats->max_abs[i] / s[i]));
        power += (double)stats->mean_square[i] / ((double)s[i] * (double)s[i]);
    }
    const double step = most / LAST_CODE, noise = step * step / 12;
    for (uint32_t m = 0; m < scaled->n_matrices; m++) {
        const uint32_t index = scaled->matrices[m];
        const uint64_t rows = layer->plan->entries[layer->first + index].rows;
        for (uint64_t r = 0; r < rows; r++) {
            const float *w = layer->values[index] + r * cols;
            float largest = 0;
            for (uint64_t i = 0; i < cols; i++) {
                const float weight = w[i] * s[i];
                const double square = (double)stats->mean_square[i] / ((double)s[i] * (double)s[i]);
                largest = fmaxf(largest, fabsf(weight));
                error += (double)weight * (double)weight * (square < noise ? square : noise);
            }
            const double row_step = (double)largest / LAST_CODE;
            error += row_step * row_step / 12 * power;
        }
    }
    return error;
}

/// Writes s = max|x|^α / max|w|^(1−α).
static void make_scales(const struct nib_scaled_input *scaled, const float *x, const float *w,
                        float alpha, float *s)
{
    for (uint64_t i = 0; i < scaled->cols; i++)
        s[i] = fmaxf(powf(x[i], alpha) / powf(w[i], 1 - alpha), LEAST_SHARE);
    nib_scaled_share(scaled, s);
}

enum nib_status nib_smooth_search(const struct nib_scaled_input *scaled, float *out_s,
                                  struct nib_error *err)
{
    const struct nib_input_stats *stats = &scaled->work->stats[scaled->input].stats;
    const float given = scaled->work->run->plan.params.smoothing;
    const uint64_t cols = scaled->cols;
    float *x = malloc((size_t)cols * 3 * sizeof *x);
    if (!x)
        return nib_fail_memory(err);
    float *w = x + cols, *s = w + cols;
    float most_x = 0, most_w = 0;
    double least = INFINITY;
    for (uint64_t i = 0; i < cols; i++) {
        x[i] = stats->max_abs[i];
        w[i] = largest_weight(scaled, i);
        most_x = fmaxf(most_x, x[i]);
        most_w = fmaxf(most_w, w[i]);
    }
    for (uint64_t i = 0; i < cols; i++) {
        x[i] = fmaxf(x[i], LEAST_SHARE * most_x);
        w[i] = fmaxf(w[i], LEAST_SHARE * most_w);
    }
    if (given > 0) {
        make_scales(scaled, x, w, given, out_s);
        least = 0;
    } else {
        for (int step = 0; step <= N_ALPHAS; step++) {
            make_scales(scaled, x, w, (float)step / N_ALPHAS, s);
            const double error = predicted_error(scaled, s);
            if (error < least) {
                least = error;
                memcpy(out_s, s, (size_t)cols * sizeof *s);
            }
        }
    }
    free(x);
    return least < INFINITY ? NIB_OK : nib_scaled_fail(scaled, err);
}
