// The head's inputs: what the layers have made of the text, through the last norm.
#include "runtime/compress/run.h"

#include "runtime/base/status.h"
#include <math.h>
#include <stdlib.h>

/// Rows that are normalised before the sums get them.
#define CHUNK_ROWS 64u

bool nib_work_is_head(const struct nib_layer_work *work)
{
    const struct nib_compress_plan *plan = &work->run->plan;
    const enum nib_role role = plan->entries[work->layer.first].role;
    const bool has_head = nib_source_has(plan->source, NIB_ROLE_OUTPUT, 0);
    return work->run->layer == nib_source_config(plan->source)->n_layers &&
           role == (has_head ? NIB_ROLE_OUTPUT : NIB_ROLE_TOKEN_EMBEDDING);
}

/// Writes x · weight / sqrt(mean(x²) + ε), the root mean square norm of every architecture.
static void normalise(const float *x, const float *weight, uint32_t n, float epsilon, float *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    const float scale = (float)(1 / sqrt(sum / n + (double)epsilon));
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

/// Reads the weights of the norm before the head.
static enum nib_status read_norm(const struct nib_compress_plan *plan, float *out,
                                 struct nib_error *err)
{
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        if (plan->entries[i].role == NIB_ROLE_OUTPUT_NORM)
            return nib_rows_read(plan, &plan->entries[i], 0, 1, out, err);
    }
    return nib_fail(err, NIB_ERROR_FORMAT, "the model has no norm before its head");
}

/// Adds up all the text's inputs of the head.
static enum nib_status look(struct nib_layer_work *work, struct nib_stats_sum *sum,
                            struct nib_error *err)
{
    enum nib_status status;
    const struct nib_model_config *config = nib_source_config(work->run->plan.source);
    const uint32_t cols = config->hidden_size;
    const uint64_t n_rows = nib_calibration_tokens(work->run->calibration);
    const float *hidden = nib_calibration_hidden(work->run->calibration);
    float *weight = malloc((CHUNK_ROWS + 1) * (size_t)cols * sizeof *weight);
    if (!weight)
        return nib_fail_memory(err);
    float *rows = weight + cols;
    NIB_TRY(read_norm(&work->run->plan, weight, err));
    for (uint64_t first = 0; first < n_rows; first += CHUNK_ROWS) {
        const uint64_t rest = n_rows - first;
        const uint32_t n = rest < CHUNK_ROWS ? (uint32_t)rest : CHUNK_ROWS;
        for (uint32_t r = 0; r < n; r++)
            normalise(hidden + (first + r) * cols, weight, cols, config->norm_epsilon,
                      rows + r * cols);
        nib_stats_add(sum, work->run->dense, rows, cols, n);
    }
    NIB_TRY(nib_stats_finish(sum, work->run->plan.entries[work->layer.first].name, err));
fail:
    free(weight);
    return status;
}

enum nib_status nib_work_quantize_head(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status;
    struct nib_stats_sum sum = {0};
    const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first];
    NIB_TRY(nib_stats_init(&sum, entry->cols, NIB_STATS_CHANNELS, work->has_magnitudes, err));
    NIB_TRY(look(work, &sum, err));
    NIB_TRY(nib_work_quantize(work, 0, &sum, err));
fail:
    nib_stats_free(&sum);
    return status;
}
