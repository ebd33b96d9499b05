#include "runtime/compress/layer.h"

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// Rows that are taken apart at once.
#define READ_ROWS 16u

uint64_t nib_source_row(const struct nib_compress_plan *plan,
                        const struct nib_compress_entry *entry, uint64_t row)
{
    if (entry->order == NIB_ROWS_AS_STORED)
        return row;
    const uint64_t dim = nib_source_config(plan->source)->key_dim;
    const uint64_t head = row / dim * dim, i = row % dim, half = dim / 2;
    if (entry->order == NIB_ROWS_TO_HALVES)
        return head + 2 * (i % half) + i / half;
    return head + i / 2 + half * (i % 2);
}

/// Where rows are taken apart.
struct workspace {
    void *memory; ///< of a block of READ_ROWS rows
    float *line;  ///< [cols]
};

/// Takes block after block apart, columns into the order of input features.
static enum nib_status read_blocks(const struct nib_row_reader *reader, uint64_t first,
                                   uint64_t count, const struct workspace *space, float *out,
                                   struct nib_error *err)
{
    for (uint64_t done = 0; done < count;) {
        struct nib_row_block block;
        uint64_t n = count - done < READ_ROWS ? count - done : READ_ROWS;
        nib_row_block_init(&block, &reader->format, n, reader->cols, space->memory);
        enum nib_status status = reader->read(reader, first + done, &block, err);
        if (status != NIB_OK)
            return status;
        for (uint64_t r = 0; r < n; r++, done++) {
            float *to = out + done * reader->cols;
            nib_row_dequantize(&reader->format, &block, r, reader->permutation ? space->line : to);
            for (uint64_t j = 0; reader->permutation && j < reader->cols; j++)
                to[reader->permutation[j]] = space->line[j];
        }
    }
    return NIB_OK;
}

/// Returns the index of the first number that is NaN or infinite, or `n`.
static uint64_t find_not_finite(const float *values, uint64_t n)
{
    float sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += values[i] * 0.0f;
    if (sum == 0)
        return n;
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            return i;
    }
    return n;
}

enum nib_status nib_rows_read(const struct nib_compress_plan *plan,
                              const struct nib_compress_entry *entry, uint64_t first,
                              uint64_t count, float *out, struct nib_error *err)
{
    enum nib_status status;
    struct nib_row_reader reader;
    struct workspace space = {0};
    NIB_TRY(nib_source_reader(plan->source, entry->role, entry->layer, &reader, err));
    space.memory = malloc(nib_row_block_size(&reader.format, READ_ROWS, reader.cols));
    space.line = malloc((size_t)reader.cols * sizeof *space.line);
    if (!space.memory || !space.line)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(read_blocks(&reader, first, count, &space, out, err));
    uint64_t place = find_not_finite(out, count * reader.cols);
    if (place < count * reader.cols)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "tensor '%s', row %" PRIu64 ", column %" PRIu64
                         ": the weight is %s; such a model cannot be quantized",
                         entry->name, first + place / reader.cols, place % reader.cols,
                         isnan(out[place]) ? "NaN" : "infinite"));
    if (reader.drop)
        reader.drop(&reader, first, count);
fail:
    free(space.memory);
    free(space.line);
    return status;
}

struct read_loop {
    const struct nib_layer *layer;
    uint32_t index;
    _Atomic bool failed;
    struct nib_mutex *mutex;
    enum nib_status status;
    struct nib_error err;
};

static void read_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    struct read_loop *loop = user;
    const struct nib_compress_plan *plan = loop->layer->plan;
    const struct nib_compress_entry *entry = &plan->entries[loop->layer->first + loop->index];
    struct nib_error err;
    if (loop->failed)
        return;
    enum nib_status status =
        nib_rows_read(plan, entry, first, last - first,
                      loop->layer->values[loop->index] + first * entry->cols, &err);
    if (status == NIB_OK)
        return;
    nib_mutex_lock(loop->mutex);
    if (!loop->failed) {
        loop->status = status;
        loop->err = err;
        loop->failed = true;
    }
    nib_mutex_unlock(loop->mutex);
}

enum nib_status nib_layer_read(const struct nib_compress_plan *plan, uint32_t first, uint32_t n,
                               struct nib_thread_pool *pool, struct nib_layer *out_layer,
                               struct nib_error *err)
{
    enum nib_status status;
    struct read_loop loop = {.layer = out_layer};
    *out_layer = (struct nib_layer){.plan = plan, .first = first, .n = n};
    NIB_TRY(nib_mutex_create(&loop.mutex, err));
    out_layer->values = calloc(n, sizeof *out_layer->values);
    if (!out_layer->values)
        NIB_TRY(nib_fail_memory(err));
    for (loop.index = 0; loop.index < n; loop.index++) {
        const struct nib_compress_entry *entry = &plan->entries[first + loop.index];
        size_t size;
        float **values = &out_layer->values[loop.index];
        if (nib_mul_size((size_t)entry->rows, (size_t)entry->cols, &size) &&
            nib_mul_size(size, sizeof **values, &size))
            *values = malloc(size);
        if (!*values)
            NIB_TRY(nib_fail_memory(err));
        nib_thread_pool_run(pool, entry->rows, 4 * READ_ROWS, read_body, &loop);
        if (loop.failed) {
            if (err)
                *err = loop.err;
            NIB_TRY(loop.status);
        }
    }
fail:
    nib_mutex_destroy(&loop.mutex);
    if (status != NIB_OK)
        nib_layer_free(out_layer);
    return status;
}

void nib_layer_free(struct nib_layer *layer)
{
    for (uint32_t i = 0; layer->values && i < layer->n; i++)
        free(layer->values[i]);
    free(layer->values);
    *layer = (struct nib_layer){0};
}

float *nib_layer_values(const struct nib_layer *layer, enum nib_role role,
                        const struct nib_compress_entry **out_entry)
{
    for (uint32_t i = 0; i < layer->n; i++) {
        const struct nib_compress_entry *entry = &layer->plan->entries[layer->first + i];
        if (entry->role == role) {
            *out_entry = entry;
            return layer->values[i];
        }
    }
    return NULL;
}
