// The work on one layer.
#include "runtime/compress/run.h"

#include "runtime/base/status.h"
#include "runtime/compress/quantizers.h"
#include "runtime/compress/scaling.h"
#include "runtime/compress/static_range.h"
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

/// Tells the caller of the run how well the matrix came out.
static enum nib_status report_matrix(const struct nib_quantize_job *job,
                                     const struct nib_quantized_matrix *matrix,
                                     struct nib_error *err)
{
    const struct nib_quantize_params *params = &job->plan->params;
    struct nib_matrix_report report = {.name = job->entry->name, .format = matrix->format.name};
    if (!params->on_matrix)
        return NIB_OK;
    enum nib_status status = nib_matrix_error(job, matrix, &report.error, err);
    if (status == NIB_OK)
        params->on_matrix(params->user, &report);
    return status;
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
    if (status == NIB_OK)
        status = report_matrix(&job, work->matrices[i], err);
    free(ordered);
    if (status == NIB_OK && entry->scheme.activation == NIB_ACTIVATION_INT8_STATIC)
        work->matrices[i]->activation_scale = nib_scale_stored(
            entry->scheme.format.scale,
            nib_static_scale(stats, plan->params.activation_range, plan->params.percentile));
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

/// Makes the sums for one input, which the next pass is to look at. Errors: memory.
static enum nib_status want_input(struct nib_layer_work *work, enum nib_role input, uint32_t needs,
                                  bool has_magnitudes, struct nib_error *err)
{
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const struct nib_compress_entry *entry = &work->run->plan.entries[work->layer.first + i];
        if (input_of(work, i) != input)
            continue;
        work->wanted |= 1u << input;
        return nib_stats_init(&work->stats[input], entry->cols, needs, has_magnitudes, err);
    }
    return NIB_OK;
}

/// Lets the windows through to input `last`, summing up all inputs that are wanted.
static enum nib_status look(struct nib_layer_work *work, enum nib_role last, struct nib_error *err)
{
    struct nib_calibration *calibration = work->run->calibration;
    const struct nib_calibration_pass pass = {
        .block = nib_calibration_block(calibration, last),
        .observe = observe,
        .user = work,
        .last = last,
    };
    enum nib_status status;
    NIB_TRY(nib_calibration_run(calibration, &pass, err));
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const enum nib_role input = input_of(work, i);
        if (input == NIB_ROLE_COUNT || !(work->wanted >> input & 1))
            continue;
        work->wanted &= ~(1u << input); // matrices with one input share its sums
        NIB_TRY(nib_stats_finish(&work->stats[input],
                                 work->run->plan.entries[work->layer.first + i].name, err));
    }
fail:
    work->wanted = 0;
    return status;
}

/// Quantizes the matrices that have the input, and goes on with them.
static enum nib_status quantize_input(struct nib_layer_work *work, enum nib_role input,
                                      struct nib_error *err)
{
    enum nib_status status = NIB_OK;
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

/// Scales an input by the plan's method.
static enum nib_status scale_input(struct nib_layer_work *work, enum nib_role input,
                                   struct nib_error *err)
{
    enum nib_status status;
    struct nib_scaled_input scaled;
    if (!nib_scaled_input_find(work, input, &scaled))
        return NIB_OK;
    float *s = malloc((size_t)scaled.cols * sizeof *s);
    if (!s)
        return nib_fail_memory(err);
    if (work->run->plan.params.method == NIB_QUANTIZE_AWQ)
        NIB_TRY(nib_awq_search(&scaled, s, err));
    else
        NIB_TRY(nib_smooth_search(&scaled, s, err));
    NIB_TRY(nib_scaled_apply(&scaled, s, err));
fail:
    free(s);
    return status;
}

/// The inputs of a part of the layer that are looked at, in the order of the computation.
struct inputs {
    enum nib_role roles[NIB_ROLE_COUNT];
    uint32_t n;
};

static struct inputs inputs_of(const struct nib_layer_work *work, enum nib_block block)
{
    struct inputs inputs = {.n = 0};
    for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
        bool is_input = false;
        for (uint32_t i = 0; i < work->layer.n; i++)
            is_input |= input_of(work, i) == role;
        if (is_input && nib_calibration_block(work->run->calibration, role) == block)
            inputs.roles[inputs.n++] = role;
    }
    return inputs;
}

/// Scales all inputs of a part, seen once. AWQ quantizes by what was seen; SmoothQuant looks again,
/// since scaled inputs have ranges of their own.
static enum nib_status scale_inputs(struct nib_layer_work *work, const struct inputs *inputs,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const bool is_awq = work->run->plan.params.method == NIB_QUANTIZE_AWQ;
    const uint32_t needs = NIB_STATS_CHANNELS | (is_awq ? NIB_STATS_HESSIAN : 0);
    for (uint32_t i = 0; i < inputs->n; i++)
        NIB_TRY(want_input(work, inputs->roles[i], needs, false, err));
    NIB_TRY(look(work, inputs->roles[inputs->n - 1], err));
    for (uint32_t i = 0; i < inputs->n; i++)
        NIB_TRY(scale_input(work, inputs->roles[i], err));
    for (uint32_t i = 0; i < inputs->n; i++) {
        if (is_awq)
            NIB_TRY(quantize_input(work, inputs->roles[i], err));
        nib_stats_free(&work->stats[inputs->roles[i]]);
    }
fail:
    return status;
}

/// Quantizes a part of the layer, input after input, each seen behind the quantized matrices before
/// it.
static enum nib_status do_block(struct nib_layer_work *work, enum nib_block block,
                                struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const enum nib_quantize_method method = work->run->plan.params.method;
    const struct inputs inputs = inputs_of(work, block);
    if (inputs.n > 0 && (method == NIB_QUANTIZE_AWQ || method == NIB_QUANTIZE_SMOOTHQUANT))
        NIB_TRY(scale_inputs(work, &inputs, err));
    for (uint32_t i = 0; method != NIB_QUANTIZE_AWQ && i < inputs.n; i++) {
        NIB_TRY(want_input(work, inputs.roles[i], work->stats_needs, work->has_magnitudes, err));
        NIB_TRY(look(work, inputs.roles[i], err));
        NIB_TRY(quantize_input(work, inputs.roles[i], err));
    }
fail:
    return status;
}

/// Begins the layer with the tensors as they are.
static enum nib_status begin_layer(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status;
    struct nib_calibration *calibration = work->run->calibration;
    const struct nib_compress_entry *entries = &work->run->plan.entries[work->layer.first];
    NIB_TRY(nib_calibration_begin_layer(calibration, entries[0].layer, err));
    for (uint32_t i = 0; i < work->layer.n; i++)
        NIB_TRY(nib_calibration_set(calibration, entries[i].role, work->layer.values[i], err));
fail:
    return status;
}

/// Lets the windows through a part of the layer.
static enum nib_status advance(struct nib_layer_work *work, enum nib_block block,
                               struct nib_error *err)
{
    const struct nib_calibration_pass pass = {
        .block = block, .last = NIB_ROLE_COUNT, .advances = true};
    return nib_calibration_run(work->run->calibration, &pass, err);
}

enum nib_status nib_work_repeat(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status;
    NIB_TRY(begin_layer(work, err));
    for (uint32_t i = 0; i < work->layer.n; i++) {
        if (work->matrices[i])
            NIB_TRY(use_quantized(work, i, err));
    }
    for (enum nib_block block = 0; block < NIB_BLOCK_COUNT; block++)
        NIB_TRY(advance(work, block, err));
fail:
    return status;
}

enum nib_status nib_work_calibrate(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status;
    NIB_TRY(begin_layer(work, err));
    for (enum nib_block block = 0; block < NIB_BLOCK_COUNT; block++) {
        NIB_TRY(do_block(work, block, err));
        NIB_TRY(advance(work, block, err));
    }
fail:
    return status;
}
