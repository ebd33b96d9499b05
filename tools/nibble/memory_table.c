#include "tools/nibble/inspect.h"
#include "tools/nibble/message.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>

enum { MAX_CONTEXTS = 12, MAX_CACHES = 4, N_WEIGHTS = 4 };

/// How the weights are stored: as in the file, or every matrix in one format.
static const char *const weight_names[N_WEIGHTS] = {"file", "f16", "int8", "int4"};

/// The formats of keys and values.
struct cache_format {
    char name[56];
    enum nib_kv_format keys, values;
    uint32_t recent, first;
};

/// One prediction; the cache format may not be there yet.
struct cell {
    bool possible;
    struct nib_memory memory;
};

/// The axes of the table, and what it says: weights by caches by contexts.
struct memory_table {
    uint32_t contexts[MAX_CONTEXTS];
    size_t n_contexts;
    struct cache_format caches[MAX_CACHES];
    size_t n_caches;
    struct cell cells[N_WEIGHTS][MAX_CACHES][MAX_CONTEXTS];
};

/// Inserts a context into the sorted list, once.
static void add_context(struct memory_table *table, uint32_t context)
{
    size_t at = 0;
    while (at < table->n_contexts && table->contexts[at] < context)
        at++;
    if (context == 0 || table->n_contexts == MAX_CONTEXTS ||
        (at < table->n_contexts && table->contexts[at] == context))
        return;
    for (size_t i = table->n_contexts++; i > at; i--)
        table->contexts[i] = table->contexts[i - 1];
    table->contexts[at] = context;
}

static void choose_axes(struct memory_table *table, const struct nib_model *model,
                        const struct options *options)
{
    static const enum nib_kv_format formats[] = {NIB_KV_F16, NIB_KV_I8, NIB_KV_I4};
    struct nib_model_info info;
    nib_model_get_info(model, &info);
    add_context(table, info.context);
    for (uint32_t context = 512; context < info.context && context <= 1u << 21; context *= 4)
        add_context(table, context);
    if (options->context.given)
        add_context(table, (uint32_t)options->context.value);

    // The side that --kv leaves out is stored in f16.
    struct option_kv kv = options->kv;
    if (kv.keys == NIB_KV_DEFAULT)
        kv.keys = NIB_KV_F16;
    if (kv.values == NIB_KV_DEFAULT)
        kv.values = NIB_KV_F16;
    bool listed = !kv.given;
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        struct cache_format *cache = &table->caches[table->n_caches++];
        *cache = (struct cache_format){.keys = formats[i], .values = formats[i]};
        snprintf(cache->name, sizeof cache->name, "%s", options_kv_name(formats[i]));
        listed = listed || (kv.keys == formats[i] && kv.values == formats[i] &&
                            kv.recent == NIB_KV_RECENT_DEFAULT && kv.first == 0);
    }
    if (listed)
        return;
    struct cache_format *cache = &table->caches[table->n_caches++];
    *cache = (struct cache_format){
        .keys = kv.keys, .values = kv.values, .recent = kv.recent, .first = kv.first};
    char recent[20] = "", first[20] = "";
    if (kv.recent != NIB_KV_RECENT_DEFAULT)
        snprintf(recent, sizeof recent, ",recent=%" PRIu32,
                 kv.recent == NIB_KV_RECENT_NONE ? 0 : kv.recent);
    if (kv.first > 0)
        snprintf(first, sizeof first, ",first=%" PRIu32, kv.first);
    if (kv.keys == kv.values)
        snprintf(cache->name, sizeof cache->name, "%s%s%s", options_kv_name(kv.keys), recent,
                 first);
    else
        snprintf(cache->name, sizeof cache->name, "k=%s,v=%s%s%s", options_kv_name(kv.keys),
                 options_kv_name(kv.values), recent, first);
}

static enum nib_status predict(const struct nib_model *model,
                               const struct nib_memory_params *params, struct cell *out_cell,
                               struct nib_error *err)
{
    enum nib_status status = nib_model_predict_memory(model, params, &out_cell->memory, err);
    out_cell->possible = status == NIB_OK;
    return status == NIB_ERROR_UNSUPPORTED ? NIB_OK : status;
}

/// Makes the table in memory to be freed.
static enum nib_status make_table(const struct nib_model *model, const struct options *options,
                                  struct memory_table **out_table, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct memory_table *table = calloc(1, sizeof *table);
    if (!table)
        return fail_memory(err);
    choose_axes(table, model, options);
    for (size_t w = 0; w < N_WEIGHTS; w++) {
        for (size_t k = 0; k < table->n_caches; k++) {
            const struct cache_format *cache = &table->caches[k];
            for (size_t c = 0; c < table->n_contexts; c++)
                TRY(predict(model,
                            nib_memory_params(.weight_format = w == 0 ? NULL : weight_names[w],
                                              .context = table->contexts[c],
                                              .key_format = cache->keys,
                                              .value_format = cache->values,
                                              .kv_recent = cache->recent, .kv_first = cache->first,
                                              .on_vulkan = options->device.choice >= DEVICE_VULKAN,
                                              .threads = (uint32_t)options->threads.value),
                            &table->cells[w][k][c], err));
        }
    }
    *out_table = table;
    return NIB_OK;

fail:
    free(table);
    return status;
}

static void print_row(const struct memory_table *table, size_t weights, size_t cache)
{
    const struct cell *cells = table->cells[weights][cache];
    char number[TEXT_NUMBER_SIZE] = "";
    if (cache == 0)
        text_bytes(number, cells[0].memory.weights_bytes);
    printf("  %-7s %10s  %-11s", cache == 0 ? weight_names[weights] : "", number,
           table->caches[cache].name);
    for (size_t c = 0; c < table->n_contexts; c++)
        printf(" %10s", cells[c].possible ? text_bytes(number, cells[c].memory.total_bytes) : "-");
    putchar('\n');
}

enum nib_status inspect_print_memory(const struct nib_model *model, const struct options *options,
                                     struct nib_error *err)
{
    struct memory_table *table = NULL;
    enum nib_status status = make_table(model, options, &table, err);
    if (status != NIB_OK)
        return status;
    printf("\nmemory of weights, KV cache and activations, by tokens of context\n"
           "  %-7s %10s  %-11s",
           "weights", "", "cache");
    for (size_t c = 0; c < table->n_contexts; c++) {
        char number[TEXT_NUMBER_SIZE];
        printf(" %10s", text_tokens(number, table->contexts[c]));
    }
    putchar('\n');
    for (size_t w = 0; w < N_WEIGHTS; w++) {
        for (size_t k = 0; k < table->n_caches; k++)
            print_row(table, w, k);
    }
    free(table);
    return NIB_OK;
}

/// Writes a figure, or null where the prediction is not possible.
static void write_figure(struct json_out *json, const char *key, const struct cell *cell,
                         uint64_t bytes)
{
    if (cell->possible)
        json_put_size(json, key, bytes);
    else
        json_put_null(json, key);
}

enum nib_status inspect_write_memory(struct json_out *json, const struct nib_model *model,
                                     const struct options *options, struct nib_error *err)
{
    struct memory_table *table = NULL;
    enum nib_status status = make_table(model, options, &table, err);
    if (status != NIB_OK)
        return status;
    json_open_array(json, "memory");
    for (size_t i = 0; i < N_WEIGHTS * table->n_caches * table->n_contexts; i++) {
        size_t w = i / (table->n_caches * table->n_contexts);
        size_t k = i / table->n_contexts % table->n_caches;
        size_t c = i % table->n_contexts;
        const struct cell *cell = &table->cells[w][k][c];
        json_open_object(json, NULL);
        json_put_string(json, "weights", weight_names[w]);
        json_put_string(json, "kv", table->caches[k].name);
        json_put_size(json, "context", table->contexts[c]);
        write_figure(json, "weights_bytes", cell, cell->memory.weights_bytes);
        write_figure(json, "kv_bytes", cell, cell->memory.kv_bytes);
        write_figure(json, "scratch_bytes", cell, cell->memory.scratch_bytes);
        write_figure(json, "total_bytes", cell, cell->memory.total_bytes);
        json_close_object(json);
    }
    json_close_array(json);
    free(table);
    return NIB_OK;
}
