// The work on one layer.
#include "runtime/compress/run.h"

#include "runtime/base/status.h"
#include "runtime/compress/quantizers.h"
#include <stdlib.h>
#include <string.h>

/// Copies a matrix's rows into the output's order.
static void order_rows(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry,
                       const float *values, float *out)
{
    for (uint64_t r = 0; r < entry->rows; r++)
        memcpy(out + r * entry->cols, values + nib_source_row(plan, entry, r) * entry->cols,
               (size_t)entry->cols * sizeof *out);
}

enum nib_status nib_work_quantize(struct nib_layer_work *work, uint32_t i,
                                  const struct nib_stats_sum *stats, struct nib_error *err)
{
    const struct nib_compress_plan *plan = &work->run->plan;
    const struct nib_compress_entry *entry = &plan->entries[work->layer.first + i];
    const float *values = work->layer.values[i];
    float *ordered = NULL;
    if (entry->order != NIB_ROWS_AS_STORED) {
        ordered = malloc((size_t)(entry->rows * entry->cols) * sizeof *ordered);
        if (!ordered)
            return nib_fail_memory(err);
        order_rows(plan, entry, values, ordered);
        values = ordered;
    }
    const struct nib_quantize_job job = {
        .plan = plan,
        .entry = entry,
        .weights = values,
        .stats = stats ? &stats->stats : NULL,
        .pool = work->run->pool,
        .dense = work->run->dense,
    };
    enum nib_status status =
        nib_quantizer_get(plan, entry)->quantize(&job, &work->matrices[i], err);
    free(ordered);
    return status;
}

struct dequantize_loop {
    const struct nib_layer_work *work;
    uint32_t index;
    float *lines; ///< [threads][cols]
};

static void dequantize_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct dequantize_loop *loop = user;
    const struct nib_layer *layer = &loop->work->layer;
    const struct nib_compress_entry *entry = &layer->plan->entries[layer->first + loop->index];
    for (uint64_t r = first; r < last; r++) {
        float *out =
            layer->values[loop->index] + nib_source_row(layer->plan, entry, r) * entry->cols;
        nib_quantized_matrix_row(loop->work->matrices[loop->index], r, out,
                                 loop->lines + thread * entry->cols);
    }
}

/// Puts the quantized matrix's values in place of the original's.
static enum nib_status use_quantized(struct nib_layer_work *work, uint32_t i, struct nib_error *err)
{
    const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first + i];
    struct dequantize_loop loop = {.work = work, .index = i};
    loop.lines =
        malloc((size_t)(entry->cols * nib_thread_pool_size(work->run->pool)) * sizeof(float));
    if (!loop.lines)
        return nib_fail_memory(err);
    nib_thread_pool_run(work->run->pool, entry->rows, 16, dequantize_body, &loop);
    free(loop.lines);
    return nib_calibration_set(work->run->calibration, entry->role, work->layer.values[i], err);
}

static void observe(void *user, enum nib_role role, const float *rows, uint64_t stride,
                    uint32_t n_rows, uint32_t window)
{
    (void)window;
    struct nib_layer_work *work = user;
    if (work->wanted >> role & 1)
        nib_stats_add(&work->stats[role], work->run->dense, rows, stride, n_rows);
}

/// Returns the input of entry `i` where it is a matrix that is quantized, else NIB_ROLE_COUNT.
static enum nib_role input_of(const struct nib_layer_work *work, uint32_t i)
{
    const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first + i];
    return entry->is_quantized ? nib_calibration_input(work->run->calibration, entry->role)
                               : NIB_ROLE_COUNT;
}

/// Makes the sums for one input. Errors: memory.
static enum nib_status want_input(struct nib_layer_work *work, enum nib_role input,
                                  struct nib_error *err)
{
    work->wanted = 1u << input;
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first + i];
        if (input_of(work, i) == input)
            return nib_stats_init(&work->stats[input], entry->cols, work->stats_needs,
                                  work->has_magnitudes, err);
    }
    return NIB_OK;
}

/// Looks at one input, and quantizes the matrices that have it.
static enum nib_status do_input(struct nib_layer_work *work, enum nib_role input,
                                struct nib_error *err)
{
    enum nib_status status;
    struct nib_calibration *calibration = work->run->calibration;
    const struct nib_calibration_pass pass = {
        .block = nib_calibration_block(calibration, input),
        .observe = observe,
        .user = work,
        .last = input,
    };
    NIB_TRY(want_input(work, input, err));
    NIB_TRY(nib_calibration_run(calibration, &pass, err));
    nib_stats_finish(&work->stats[input]);
    for (uint32_t i = 0; i < work->layer.n; i++) {
        if (input_of(work, i) != input)
            continue;
        NIB_TRY(nib_work_quantize(work, i, &work->stats[input], err));
        NIB_TRY(use_quantized(work, i, err));
    }
fail:
    nib_stats_free(&work->stats[input]);
    return status;
}

enum nib_status nib_work_calibrate(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status;
    struct nib_calibration *calibration = work->run->calibration;
    const struct nib_compress_entry *entries = &work->run->plan.entries[work->layer.first];
    NIB_TRY(nib_calibration_begin_layer(calibration, entries[0].layer, err));
    for (uint32_t i = 0; i < work->layer.n; i++)
        NIB_TRY(nib_calibration_set(calibration, entries[i].role, work->layer.values[i], err));
    for (enum nib_block block = 0; block < NIB_BLOCK_COUNT; block++) {
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            bool is_input = false;
            for (uint32_t i = 0; i < work->layer.n; i++)
                is_input |= input_of(work, i) == role;
            if (is_input && nib_calibration_block(calibration, role) == block)
                NIB_TRY(do_input(work, role, err));
        }
        const struct nib_calibration_pass pass = {
            .block = block, .last = NIB_ROLE_COUNT, .advances = true};
        NIB_TRY(nib_calibration_run(calibration, &pass, err));
    }
fail:
    return status;
}
