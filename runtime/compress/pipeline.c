#include "runtime/compress/run.h"

#include "runtime/base/buffer.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/compress/parts.h"
#include "runtime/compress/plan.h"
#include "runtime/compress/quantizers.h"
#include "runtime/engine/registry.h"
#include <stdlib.h>
#include <string.h>

/// Bytes of a tensor that is not quantized that are in memory at once.
#define CHUNK_BYTES (16u << 20)
/// Units of progress that a layer counts.
#define LAYER_UNITS 1000u
/// Passes of all windows through a layer that are guessed before the first was counted.
#define GUESSED_PASSES 6u

/// Returns the number of neighbouring entries from `first` on that are worked on together: a layer.
static uint32_t layer_entries(const struct nib_compress_plan *plan, uint32_t first)
{
    const struct nib_compress_entry *entries = plan->entries;
    uint32_t n = 1;
    if (!nib_arch_in_layer(entries[first].role))
        return 1;
    while (first + n < plan->n_entries && nib_arch_in_layer(entries[first + n].role) &&
           entries[first + n].layer == entries[first].layer)
        n++;
    return n;
}

bool nib_run_is_calibrated(const struct nib_compress_plan *plan)
{
    const enum nib_quantize_method method = plan->params.method;
    if (method == NIB_QUANTIZE_AWQ || method == NIB_QUANTIZE_SMOOTHQUANT ||
        plan->params.activations == NIB_QUANTIZE_ACTIVATIONS_STATIC)
        return true;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &plan->entries[i];
        if (entry->is_quantized && nib_quantizer_get(plan, entry)->stats != 0)
            return true;
    }
    return plan->params.n_calibration > 0 &&
           (method == NIB_QUANTIZE_RTN || method == NIB_QUANTIZE_IMPORTANCE);
}

static bool report(struct nib_run *run, uint64_t within)
{
    return nib_meter_report(&run->meter, (uint64_t)run->layer * LAYER_UNITS + within);
}

bool nib_run_tick(void *user)
{
    struct nib_run *run = user;
    uint64_t expected = run->ticks_per_layer;
    if (expected == 0 && run->calibration)
        expected = GUESSED_PASSES * (uint64_t)nib_calibration_windows(run->calibration);
    run->ticks++;
    uint64_t within = expected ? run->ticks * LAYER_UNITS / expected : 0;
    return report(run, within < LAYER_UNITS ? within : LAYER_UNITS - 1);
}

/// Biases are vectors of one row, whose numbers are ordered as the rows of their matrix.
static enum nib_status put_vector(struct nib_run *run, uint32_t index, const float *values,
                                  struct nib_error *err)
{
    const struct nib_compress_entry *entry = &run->plan.entries[index];
    if (entry->order == NIB_ROWS_AS_STORED)
        return run->writer->put_rows(run->output, index, 0, entry->rows, values, err);
    float *ordered = malloc((size_t)(entry->rows * entry->cols) * sizeof *ordered);
    if (!ordered)
        return nib_fail_memory(err);
    const bool is_matrix = nib_role_is_matrix(entry->role);
    const uint64_t n = is_matrix ? entry->rows : entry->cols, size = is_matrix ? entry->cols : 1;
    for (uint64_t i = 0; i < n; i++)
        memcpy(ordered + i * size, values + nib_source_row(&run->plan, entry, i) * size,
               (size_t)size * sizeof *ordered);
    enum nib_status status =
        run->writer->put_rows(run->output, index, 0, entry->rows, ordered, err);
    free(ordered);
    return status;
}

/// Passes a matrix that is not quantized on in pieces.
static enum nib_status put_chunks(struct nib_run *run, uint32_t index, struct nib_error *err)
{
    const struct nib_compress_entry *entry = &run->plan.entries[index];
    enum nib_status status = NIB_OK;
    uint64_t chunk = CHUNK_BYTES / sizeof(float) / entry->cols;
    chunk = chunk == 0 ? 1 : chunk < entry->rows ? chunk : entry->rows;
    float *values = malloc((size_t)(chunk * entry->cols) * sizeof *values);
    if (!values)
        return nib_fail_memory(err);
    for (uint64_t first = 0, n; status == NIB_OK && first < entry->rows; first += n) {
        n = entry->rows - first < chunk ? entry->rows - first : chunk;
        status = nib_rows_read(&run->plan, entry, first, n, values, err);
        if (status == NIB_OK)
            status = run->writer->put_rows(run->output, index, first, n, values, err);
    }
    free(values);
    return status;
}

/// Hands the tensors of a layer to the writer, quantizing those that calibration did not.
static enum nib_status put_layer(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_run *run = work->run;
    for (uint32_t i = 0; i < work->layer.n; i++) {
        const uint32_t index = work->layer.first + i;
        const struct nib_compress_entry *entry = &run->plan.entries[index];
        if (entry->is_copied) {
            NIB_TRY(run->writer->put_copy(run->output, index, err));
            continue;
        }
        if (!entry->is_quantized) {
            NIB_TRY(put_vector(run, index, work->layer.values[i], err));
            continue;
        }
        if (!work->matrices[i])
            NIB_TRY(nib_work_quantize(work, i, NULL, err));
        NIB_TRY(run->writer->put_matrix(run->output, index, work->matrices[i], err));
        run->report.quantized_weights += entry->rows * entry->cols;
        run->bits += nib_quantized_matrix_bits(work->matrices[i]);
        nib_quantized_matrix_destroy(&work->matrices[i]);
    }
fail:
    return status;
}

/// Returns what the layer's quantizers want to know.
static uint32_t stats_needs(const struct nib_run *run, uint32_t first, uint32_t n)
{
    uint32_t needs = 0;
    for (uint32_t i = first; i < first + n; i++) {
        const struct nib_compress_entry *entry = &run->plan.entries[i];
        if (entry->is_quantized)
            needs |= nib_quantizer_get(&run->plan, entry)->stats;
    }
    return needs ? needs : NIB_STATS_CHANNELS;
}

/// Lets the text through the layer, which is quantized, or taken over from an interrupted run.
static enum nib_status calibrate(struct nib_layer_work *work, struct nib_error *err)
{
    enum nib_status status;
    struct nib_parts *parts = work->run->parts;
    const struct nib_compress_entry *entries = &work->run->plan.entries[work->layer.first];
    for (uint32_t i = 0; i < work->layer.n; i++)
        nib_parts_see(parts, work->layer.values[i], entries[i].rows * entries[i].cols);
    if (nib_parts_has(parts, work->run->layer)) {
        NIB_TRY(nib_parts_load(parts, work, err));
        NIB_TRY(nib_work_repeat(work, err));
        work->run->report.resumed_layers++;
        return NIB_OK;
    }
    NIB_TRY(nib_work_calibrate(work, err));
    NIB_TRY(nib_parts_save(parts, work, err));
fail:
    return status;
}

/// Does the entries [first, first + n): those of a layer, or one.
static enum nib_status do_entries(struct nib_run *run, uint32_t first, uint32_t n,
                                  struct nib_error *err)
{
    enum nib_status status;
    const struct nib_compress_entry *entry = &run->plan.entries[first];
    const bool is_layer = nib_arch_in_layer(entry->role);
    struct nib_layer_work work = {.run = run, .stats_needs = stats_needs(run, first, n)};
    work.has_magnitudes = run->plan.params.activations == NIB_QUANTIZE_ACTIVATIONS_STATIC;
    work.stats_needs |= work.has_magnitudes ? NIB_STATS_CHANNELS : 0;
    if (!is_layer && entry->is_copied)
        return run->writer->put_copy(run->output, first, err);
    if (!is_layer && !entry->is_quantized)
        return put_chunks(run, first, err);
    NIB_TRY(nib_layer_read(&run->plan, first, n, run->pool, &work.layer, err));
    work.matrices = calloc(n, sizeof(struct nib_quantized_matrix *));
    work.stats = calloc(NIB_ROLE_COUNT, sizeof *work.stats);
    if (!work.matrices || !work.stats)
        NIB_TRY(nib_fail_memory(err));
    if (run->calibration && is_layer)
        NIB_TRY(calibrate(&work, err));
    if (run->calibration && nib_work_is_head(&work))
        NIB_TRY(nib_work_quantize_head(&work, err));
    NIB_TRY(put_layer(&work, err));
fail:
    for (uint32_t i = 0; work.matrices && i < n; i++)
        nib_quantized_matrix_destroy(&work.matrices[i]);
    for (uint32_t i = 0; work.stats && i < NIB_ROLE_COUNT; i++)
        nib_stats_free(&work.stats[i]);
    free(work.matrices);
    free(work.stats);
    nib_layer_free(&work.layer);
    return status;
}

/// Opens the CPU and sends the text through the embedding.
static enum nib_status begin_calibration(struct nib_run *run, struct nib_error *err)
{
    const struct nib_quantize_params *p = &run->plan.params;
    const struct nib_device_params device = {
        .log = p->log, .backend = NIB_BACKEND_CPU, .threads = p->threads};
    if (p->n_calibration == 0)
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "method %s looks at the matrices' inputs; give a calibration text (--calib)",
            nib_quantize_method_name(p->method));
    enum nib_status status = nib_registry_open(&device, &run->device, err);
    if (status != NIB_OK)
        return status;
    const struct nib_calibration_params params = {
        .source = run->plan.source,
        .device = run->device,
        .ids = p->calibration,
        .n_ids = p->n_calibration,
        .windows = p->windows,
        .context = p->context,
        .tick = nib_run_tick,
        .user = run,
    };
    return nib_calibration_create(&params, &run->calibration, err);
}

static enum nib_status check_quantizers(const struct nib_run *run, struct nib_error *err)
{
    for (uint32_t i = 0; i < run->plan.n_entries; i++) {
        const struct nib_compress_entry *entry = &run->plan.entries[i];
        if (entry->is_quantized && !nib_quantizer_get(&run->plan, entry))
            return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s: method %s cannot make format %s",
                            entry->name, nib_quantize_method_name(run->plan.params.method),
                            entry->scheme.format.name);
    }
    return NIB_OK;
}

/// Nothing is written over: least of all the source. A folder's name may end in slashes.
static enum nib_status check_path(const char *path, struct nib_error *err)
{
    enum nib_status status;
    struct nib_buffer name = {0};
    size_t size = strlen(path);
    if (size == 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "the name of the output is empty");
    while (size > 1 && path[size - 1] == '/')
        size--;
    NIB_TRY(nib_buffer_printf(&name, err, "%.*s", (int)size, path));
    if (nib_path_kind(name.data) != NIB_PATH_ABSENT)
        NIB_TRY(nib_fail(err, NIB_ERROR_IO,
                         "cannot write %s: it exists already; remove it or give another name",
                         name.data));
fail:
    nib_buffer_free(&name);
    return status;
}

static enum nib_status begin(struct nib_run *run, const char *path, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_quantize_params *p = &run->plan.params;
    NIB_TRY(check_path(path, err));
    run->writer = nib_checkpoint_writer_get(p->container);
    if (!run->writer)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "this container cannot be written");
    NIB_TRY(check_quantizers(run, err));
    NIB_TRY(run->writer->check(&run->plan, err));
    NIB_TRY(
        nib_thread_pool_create(p->threads ? p->threads : nib_cpu_cores(), false, &run->pool, err));
    NIB_TRY(nib_dense_create(run->pool, &run->dense, err));
    NIB_TRY(run->writer->begin(&run->plan, path, &run->output, err));
    if (nib_run_is_calibrated(&run->plan)) {
        NIB_TRY(begin_calibration(run, err));
        NIB_TRY(nib_parts_open(&run->plan, path, &run->parts, err));
        nib_parts_see(run->parts, nib_calibration_hidden(run->calibration),
                      nib_calibration_tokens(run->calibration) *
                          nib_source_config(run->plan.source)->hidden_size);
    }
fail:
    return status;
}

static enum nib_status do_all(struct nib_run *run, struct nib_error *err)
{
    const uint32_t n_layers = nib_source_config(run->plan.source)->n_layers;
    run->meter = (struct nib_meter){
        .progress = run->plan.params.progress,
        .what = "quantize",
        .total = (uint64_t)(n_layers + 1) * LAYER_UNITS,
    };
    for (uint32_t i = 0, n; i < run->plan.n_entries; i += n) {
        n = layer_entries(&run->plan, i);
        run->ticks = 0;
        enum nib_status status = do_entries(run, i, n, err);
        if (status != NIB_OK)
            return status;
        if (run->ticks)
            run->ticks_per_layer = run->ticks;
        run->layer += nib_arch_in_layer(run->plan.entries[i].role);
        if (!report(run, 0))
            return nib_fail(err, NIB_ERROR_CANCELLED, "quantizing was cancelled");
    }
    return NIB_OK;
}

enum nib_status nib_compress_run(const struct nib_source *source, const char *path,
                                 const struct nib_quantize_params *params,
                                 struct nib_quantization_report *out_report, struct nib_error *err)
{
    enum nib_status status;
    struct nib_run run = {0};
    const uint64_t start_ns = nib_clock_ns();
    NIB_TRY(nib_compress_plan_init(&run.plan, source, path, params, err));
    NIB_TRY(begin(&run, path, err));
    NIB_TRY(do_all(&run, err));
    NIB_TRY(run.writer->finish(&run.output, &run.report.file_bytes, err));
    if (run.parts)
        nib_parts_remove(run.parts);
    run.layer++;
    report(&run, 0);
    if (run.report.quantized_weights)
        run.report.bits_per_weight = (double)run.bits / (double)run.report.quantized_weights;
    run.report.input_bytes = nib_source_file_bytes(source);
    run.report.ns = nib_clock_ns() - start_ns;
    *out_report = run.report;
fail:
    if (run.output)
        run.writer->discard(&run.output);
    nib_parts_close(&run.parts);
    nib_calibration_destroy(&run.calibration);
    if (run.device)
        nib_device_release(run.device);
    nib_dense_destroy(&run.dense);
    nib_thread_pool_destroy(&run.pool);
    nib_compress_plan_free(&run.plan);
    return status;
}
