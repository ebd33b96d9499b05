#include "runtime/compress/compress.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/compress/layer.h"
#include "runtime/compress/plan.h"
#include <stdlib.h>
#include <string.h>

/// Bytes of a tensor that is not quantized that are in memory at once.
#define CHUNK_BYTES (16u << 20)

/// A run in progress.
struct run {
    struct nib_compress_plan plan;
    const struct nib_checkpoint_writer *writer;
    void *output;
    struct nib_thread_pool *pool;
    struct nib_quantization_report report;
};

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

/// Copies rows [first, first + count) into the output's order.
static void order_rows(const struct nib_compress_plan *plan, const struct nib_compress_entry *entry,
                       const float *values, float *out)
{
    for (uint64_t r = 0; r < entry->rows; r++)
        memcpy(out + r * entry->cols, values + nib_source_row(plan, entry, r) * entry->cols,
               (size_t)entry->cols * sizeof *out);
}

/// Biases are vectors of one row, whose numbers are ordered as the rows of their matrix.
static void order_vector(const struct nib_compress_plan *plan,
                         const struct nib_compress_entry *entry, const float *values, float *out)
{
    for (uint64_t i = 0; i < entry->cols; i++)
        out[i] = values[nib_source_row(plan, entry, i)];
}

/// Quantizes or passes on the tensor of `entry`, whose values are in the source's order.
static enum nib_status put_values(struct run *run, uint32_t index, const float *values,
                                  struct nib_error *err)
{
    enum nib_status status;
    const struct nib_compress_entry *entry = &run->plan.entries[index];
    struct nib_quantized_matrix *matrix = NULL;
    float *ordered = NULL;
    if (entry->order != NIB_ROWS_AS_STORED) {
        ordered = malloc((size_t)(entry->rows * entry->cols) * sizeof *ordered);
        if (!ordered)
            return nib_fail_memory(err);
        if (nib_role_is_matrix(entry->role))
            order_rows(&run->plan, entry, values, ordered);
        else
            order_vector(&run->plan, entry, values, ordered);
        values = ordered;
    }
    if (!entry->is_quantized) {
        status = run->writer->put_rows(run->output, index, 0, entry->rows, values, err);
    } else {
        const struct nib_quantizer *quantizer = nib_quantizer_get(&run->plan, entry);
        const struct nib_quantize_job job = {
            .plan = &run->plan, .entry = entry, .weights = values, .pool = run->pool};
        status = quantizer->quantize(&job, &matrix, err);
        if (status == NIB_OK)
            status = run->writer->put_matrix(run->output, index, matrix, err);
        run->report.quantized_weights += entry->rows * entry->cols;
    }
    nib_quantized_matrix_destroy(&matrix);
    free(ordered);
    return status;
}

/// Passes a matrix that is not quantized on in pieces.
static enum nib_status put_chunks(struct run *run, uint32_t index, struct nib_error *err)
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

/// Does the entries [first, first + n).
static enum nib_status put_layer(struct run *run, uint32_t first, uint32_t n, struct nib_error *err)
{
    const struct nib_compress_entry *entry = &run->plan.entries[first];
    struct nib_layer layer;
    if (n == 1 && entry->is_copied)
        return run->writer->put_copy(run->output, first, err);
    if (n == 1 && !entry->is_quantized && entry->order == NIB_ROWS_AS_STORED)
        return put_chunks(run, first, err);
    enum nib_status status = nib_layer_read(&run->plan, first, n, run->pool, &layer, err);
    for (uint32_t i = 0; status == NIB_OK && i < n; i++) {
        if (run->plan.entries[first + i].is_copied)
            status = run->writer->put_copy(run->output, first + i, err);
        else
            status = put_values(run, first + i, layer.values[i], err);
    }
    nib_layer_free(&layer);
    return status;
}

static enum nib_status begin(struct run *run, const char *path, struct nib_error *err)
{
    const struct nib_quantize_params *params = &run->plan.params;
    run->writer = nib_checkpoint_writer_get(params->container);
    if (!run->writer)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "this container cannot be written");
    for (uint32_t i = 0; i < run->plan.n_entries; i++) {
        const struct nib_compress_entry *entry = &run->plan.entries[i];
        if (entry->is_quantized && !nib_quantizer_get(&run->plan, entry))
            return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s: method %s cannot make format %s",
                            entry->name, nib_quantize_method_name(params->method),
                            entry->scheme.format.name);
    }
    enum nib_status status = run->writer->check(&run->plan, err);
    if (status == NIB_OK)
        status = nib_thread_pool_create(params->threads ? params->threads : nib_cpu_cores(), false,
                                        &run->pool, err);
    if (status == NIB_OK)
        status = run->writer->begin(&run->plan, path, &run->output, err);
    return status;
}

enum nib_status nib_compress_run(const struct nib_source *source, const char *path,
                                 const struct nib_quantize_params *params,
                                 struct nib_quantization_report *out_report, struct nib_error *err)
{
    enum nib_status status;
    struct run run = {0};
    const uint64_t start_ns = nib_clock_ns();
    NIB_TRY(nib_compress_plan_init(&run.plan, source, path, params, err));
    NIB_TRY(begin(&run, path, err));
    for (uint32_t i = 0, n; i < run.plan.n_entries; i += n) {
        n = layer_entries(&run.plan, i);
        NIB_TRY(put_layer(&run, i, n, err));
    }
    NIB_TRY(run.writer->finish(&run.output, &run.report.file_bytes, err));
    run.report.ns = nib_clock_ns() - start_ns;
    *out_report = run.report;
fail:
    if (run.writer)
        run.writer->abort(&run.output);
    nib_thread_pool_destroy(&run.pool);
    nib_compress_plan_free(&run.plan);
    return status;
}
