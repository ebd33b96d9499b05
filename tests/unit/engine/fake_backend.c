#include "tests/unit/engine/fake_backend.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

struct fake_instance {
    struct fake_device *fake;
    const struct nib_plan *plan;
    struct nib_instance_params params;
    float **cache;   ///< [kv layer][page][token of the page]
    float *hidden;   ///< [max_rows]: what the last run left
    uint8_t *packed; ///< [n_weights]
};

/// Hashes fit into 24 bits, so they pass through floats unharmed.
static uint32_t mix(uint32_t a, uint32_t b)
{
    uint32_t x = a * 2654435761u ^ (b + 0x9e3779b9u) * 2246822519u;
    x ^= x >> 15;
    x *= 3266489917u;
    return (x ^ x >> 13) & 0xffffff;
}

static float logit_of(uint32_t hash, uint32_t id)
{
    return (float)mix(hash, id) / 1048576.0f;
}

static uint32_t first_seen(const struct nib_kv_layer *layer, uint32_t position)
{
    return layer->window && position >= layer->window ? position - layer->window + 1 : 0;
}

/// Tells whether a row at `position` reads token `p` among those in f16.
static bool is_recent(const struct nib_plan *plan, uint32_t position, uint32_t p)
{
    const uint32_t n = plan->recent_pages, page = p / NIB_KV_PAGE_TOKENS;
    return page < plan->first_pages ||
           (n > 0 && page >= NIB_KV_FIRST_RECENT(position / NIB_KV_PAGE_TOKENS, n));
}

/// What is kept of a hash among the tokens in f16.
static uint32_t recent_of(uint32_t hash)
{
    return mix(hash, 7);
}

void fake_simulate(const struct nib_plan *plan, const int32_t *tokens, uint32_t n, float *logits)
{
    uint32_t *hashes = malloc(n * sizeof *hashes);
    uint32_t *next = malloc(n * sizeof *next);
    for (uint32_t i = 0; i < n; i++)
        hashes[i] = (uint32_t)tokens[i];
    for (uint32_t l = 0; l < plan->n_kv_layers; l++) {
        for (uint32_t i = 0; i < n; i++) {
            next[i] = i;
            for (uint32_t j = first_seen(&plan->kv_layers[l], i); j <= i; j++)
                next[i] = mix(next[i], is_recent(plan, i, j) ? recent_of(hashes[j]) : hashes[j]);
        }
        memcpy(hashes, next, n * sizeof *hashes);
    }
    for (uint32_t id = 0; id < plan->vocabulary; id++)
        logits[id] = logit_of(hashes[n - 1], id);
    free(hashes);
    free(next);
}

static enum nib_status list(struct nib_device_info *out_infos, uint32_t capacity,
                            uint32_t *out_count, struct nib_error *err)
{
    (void)out_infos;
    (void)capacity;
    (void)err;
    *out_count = 0;
    return NIB_OK;
}

static void info(const void *device, struct nib_device_info *out_info)
{
    const struct fake_device *fake = device;
    *out_info = (struct nib_device_info){.name = "fake", .backend = fake->kind};
}

static uint64_t memory_left(void *device)
{
    const struct fake_device *fake = device;
    return fake->memory_left;
}

static void close_device(void *device)
{
    (void)device;
}

static enum nib_status supports(const void *device, const struct nib_plan *plan, uint32_t op,
                                struct nib_error *err)
{
    const struct fake_device *fake = device;
    if (fake->supports_status == NIB_OK || plan->ops[op].kind != NIB_OP_ROPE)
        return NIB_OK;
    return nib_fail(err, fake->supports_status, "the fake device cannot do rope");
}

static void destroy(void *self)
{
    struct fake_instance *instance = self;
    for (uint32_t l = 0; instance->cache && l < 2 * instance->plan->n_kv_layers; l++)
        free(instance->cache[l]);
    free(instance->cache);
    free(instance->hidden);
    free(instance->packed);
    free(instance);
}

static enum nib_status create(const struct nib_instance_params *params, void **out_self,
                              struct nib_error *err)
{
    const struct nib_plan *plan = params->plan;
    const struct fake_device *fake = params->device;
    if (fake->most_segments > 0 && params->n_segments > fake->most_segments)
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY, "the fake device is full");
    struct fake_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return nib_fail_memory(err);
    instance->fake = params->device;
    instance->plan = plan;
    instance->params = *params;
    instance->cache = calloc(2 * plan->n_kv_layers, sizeof *instance->cache);
    instance->hidden = calloc(plan->max_rows, sizeof *instance->hidden);
    instance->packed = calloc(plan->n_weights, 1);
    bool complete = instance->cache && instance->hidden && instance->packed;
    for (uint32_t l = 0; complete && l < 2 * plan->n_kv_layers; l++) {
        uint32_t kv_class = l % 2 ? plan->n_kv_classes - 1 : plan->kv_layers[l / 2].kv_class;
        size_t tokens = (size_t)params->n_pages[kv_class] * NIB_KV_PAGE_TOKENS;
        instance->cache[l] = calloc(tokens, sizeof(float));
        complete = instance->cache[l] != NULL;
    }
    if (!complete) {
        destroy(instance);
        return nib_fail_memory(err);
    }
    *out_self = instance;
    return NIB_OK;
}

/// Marks the device as used by the calling thread, which breaks the contract where another uses it.
static void enter(struct fake_device *fake)
{
    fake->violations += atomic_exchange(&fake->is_in_use, true);
}

static void leave(struct fake_device *fake)
{
    atomic_store(&fake->is_in_use, false);
}

static enum nib_status pack(void *self, uint32_t weight, const struct nib_row_reader *reader,
                            struct nib_error *err)
{
    struct fake_instance *instance = self;
    if (instance->fake->pack_status != NIB_OK)
        return nib_fail(err, instance->fake->pack_status, "fake failure");
    enter(instance->fake);
    while (atomic_load(&instance->fake->n_packed) >= atomic_load(&instance->fake->most_packed)) {}
    const struct nib_weight *wanted = &instance->plan->weights[weight];
    if (wanted->shared_with != NIB_NO_WEIGHT || instance->packed[weight]++ ||
        reader->rows != wanted->rows || reader->cols != wanted->cols)
        instance->fake->violations++;
    instance->fake->n_packed++;
    leave(instance->fake);
    return NIB_OK;
}

static enum nib_status ready(void *self, uint64_t budget_ns, bool *out_ready, struct nib_error *err)
{
    struct fake_device *fake = ((struct fake_instance *)self)->fake;
    (void)err;
    enter(fake);
    if (budget_ns > 0 && fake->ready_calls > 0)
        fake->ready_calls--;
    *out_ready = budget_ns == 0 || fake->ready_calls == 0;
    leave(fake);
    return NIB_OK;
}

/// Returns where cache `cache` keeps `position` of the sequence, or NULL: that of layer cache / 2,
/// of tokens in f16 where the number is odd.
static float *slot(struct fake_instance *instance, const struct nib_step *step, uint32_t cache,
                   uint32_t sequence, uint32_t position)
{
    const struct nib_plan *plan = instance->plan;
    uint32_t kv_class = cache % 2 ? plan->n_kv_classes - 1 : plan->kv_layers[cache / 2].kv_class;
    const struct nib_step_sequence *s = &step->sequences[sequence];
    uint32_t page = step->page_tables[s->page_table + kv_class * step->header.page_table_stride +
                                      position / NIB_KV_PAGE_TOKENS];
    if (page >= instance->params.n_pages[kv_class]) {
        instance->fake->violations++;
        return NULL;
    }
    return &instance->cache[cache][page * NIB_KV_PAGE_TOKENS + position % NIB_KV_PAGE_TOKENS];
}

static void run_layer(struct fake_instance *instance, const struct nib_step *step, uint32_t layer)
{
    const struct nib_kv_layer *kv_layer = &instance->plan->kv_layers[layer];
    for (uint32_t r = 0; r < step->header.n_used_rows; r++) {
        const struct nib_step_row *row = &step->rows[r];
        float *place = slot(instance, step, 2 * layer, row->sequence, row->position);
        if (place)
            *place = instance->hidden[r];
        if (!is_recent(instance->plan, row->position, row->position))
            continue;
        place = slot(instance, step, 2 * layer + 1, row->sequence, row->position);
        if (place)
            *place = (float)recent_of((uint32_t)instance->hidden[r]);
    }
    for (uint32_t r = 0; r < step->header.n_used_rows; r++) {
        uint32_t position = step->rows[r].position;
        uint32_t hash = position;
        for (uint32_t p = first_seen(kv_layer, position); p <= position; p++) {
            uint32_t cache = 2 * layer + is_recent(instance->plan, position, p);
            const float *place = slot(instance, step, cache, step->rows[r].sequence, p);
            hash = mix(hash, place ? (uint32_t)*place : 0);
        }
        instance->hidden[r] = (float)hash;
    }
}

static void run_head(struct fake_instance *instance, const struct nib_step *step)
{
    const struct nib_step_header *header = &step->header;
    uint32_t lines = 0;
    for (uint32_t r = 0; r < header->n_used_rows; r++) {
        uint32_t line = step->rows[r].logit_row - header->first_logit;
        if (step->rows[r].logit_row == NIB_NONE || line >= header->n_logits)
            continue;
        lines++;
        for (uint32_t id = 0; id < instance->plan->vocabulary; id++)
            step->logits[(size_t)line * instance->plan->vocabulary + id] =
                logit_of((uint32_t)instance->hidden[r], id);
    }
    if (lines != header->n_logits || lines == 0 || lines > instance->params.max_logits)
        instance->fake->violations++;
}

/// Counts what is wrong with a step.
static void check_step(struct fake_instance *instance, const struct nib_step *step)
{
    const struct nib_step_header *header = &step->header;
    uint32_t row = 0;
    uint32_t wrong = 0;
    for (uint32_t s = 0; s < header->n_sequences; s++) {
        const struct nib_step_sequence *sequence = &step->sequences[s];
        wrong += sequence->first_row != row || sequence->n_rows == 0;
        for (uint32_t i = 0; i < sequence->n_rows; i++, row++) {
            wrong += step->rows[row].sequence != s;
            wrong += step->rows[row].position != sequence->kv_length - sequence->n_rows + i;
        }
    }
    wrong += row != header->n_used_rows || header->n_rows > instance->plan->max_rows;
    wrong += (header->n_rows & (header->n_rows - 1)) != 0 || header->n_rows / 2 >= row;
    for (; row < header->n_rows; row++)
        wrong += step->rows[row].sequence != NIB_NONE || step->rows[row].logit_row != NIB_NONE;
    instance->fake->violations += wrong;
    instance->fake->n_steps_with_many += header->n_sequences > 1;
}

static enum nib_status run(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                           const float *hidden_in, float *hidden_out, struct nib_error *err)
{
    struct fake_instance *instance = self;
    struct fake_device *fake = instance->fake;
    const struct nib_plan *plan = instance->plan;
    fake->n_runs++;
    if (fake->run_status != NIB_OK && fake->runs_left-- == 0) {
        enum nib_status status = fake->run_status;
        fake->run_status = NIB_OK;
        return nib_fail(err, status, "the fake device fails");
    }
    check_step(instance, step);
    fake->n_rows += first == 0 ? step->header.n_used_rows : 0;
    if (first < instance->params.first_segment ||
        last >= instance->params.first_segment + instance->params.n_segments || first > last)
        fake->violations++;
    for (uint32_t r = 0; r < step->header.n_used_rows && hidden_in; r++)
        instance->hidden[r] = hidden_in[(size_t)r * plan->hidden_size];
    for (uint32_t s = first; s <= last; s++) {
        if (plan->segments[s].kind == NIB_SEGMENT_LAYER)
            run_layer(instance, step, plan->segments[s].layer);
        else if (plan->segments[s].kind == NIB_SEGMENT_HEAD)
            run_head(instance, step);
        for (uint32_t r = 0; s == 0 && r < step->header.n_used_rows; r++)
            instance->hidden[r] = (float)step->rows[r].token;
    }
    for (uint32_t r = 0; r < step->header.n_used_rows && hidden_out; r++)
        hidden_out[(size_t)r * plan->hidden_size] = instance->hidden[r];
    return NIB_OK;
}

static enum nib_status end_step(void *self, struct nib_error *err)
{
    struct fake_device *fake = ((struct fake_instance *)self)->fake;
    if (fake->end_status == NIB_OK || fake->ends_left-- > 0)
        return NIB_OK;
    enum nib_status status = fake->end_status;
    fake->end_status = NIB_OK;
    return nib_fail(err, status, "the fake device fails");
}

static enum nib_status kv_copy(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                               struct nib_error *err)
{
    struct fake_instance *instance = self;
    struct fake_device *fake = instance->fake;
    if (fake->copy_status != NIB_OK)
        return nib_fail(err, fake->copy_status, "the fake device cannot copy");
    fake->n_copied++;
    for (uint32_t l = 0; l < 2 * instance->plan->n_kv_layers; l++) {
        bool is_of_class = l % 2 ? nib_plan_keeps_f16(instance->plan) &&
                                       kv_class == instance->plan->n_kv_classes - 1
                                 : instance->plan->kv_layers[l / 2].kv_class == kv_class;
        if (is_of_class)
            memcpy(&instance->cache[l][target * NIB_KV_PAGE_TOKENS],
                   &instance->cache[l][source * NIB_KV_PAGE_TOKENS],
                   NIB_KV_PAGE_TOKENS * sizeof(float));
    }
    return NIB_OK;
}

/// A page's numbers come first, and the bytes that a real one has more are zero.
static enum nib_status kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                 struct nib_error *err)
{
    struct fake_instance *instance = self;
    (void)err;
    const struct nib_kv_layer *layer = &instance->plan->kv_layers[page.kv_layer];
    enter(instance->fake);
    memset(out_bytes, 0, page.is_recent ? nib_kv_recent_bytes(layer) : nib_kv_page_bytes(layer));
    memcpy(out_bytes,
           &instance->cache[2 * page.kv_layer + page.is_recent][page.page * NIB_KV_PAGE_TOKENS],
           NIB_KV_PAGE_TOKENS * sizeof(float));
    leave(instance->fake);
    return NIB_OK;
}

static enum nib_status kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                 struct nib_error *err)
{
    struct fake_instance *instance = self;
    (void)err;
    enter(instance->fake);
    memcpy(&instance->cache[2 * page.kv_layer + page.is_recent][page.page * NIB_KV_PAGE_TOKENS],
           bytes, NIB_KV_PAGE_TOKENS * sizeof(float));
    leave(instance->fake);
    return NIB_OK;
}

static void memory(const void *self, struct nib_instance_memory *out_memory)
{
    (void)self;
    *out_memory = (struct nib_instance_memory){.weights = 1000, .kv = 100, .scratch = 10};
}

static void counters(const void *self, struct nib_instance_counters *out_counters)
{
    static const char *const notes[] = {"fake note"};
    const struct fake_instance *instance = self;
    *out_counters = (struct nib_instance_counters){
        .dispatches = instance->fake->n_runs, .n_fallbacks = 1, .fallbacks = notes};
}

static enum nib_status measure(void *device, struct nib_device_limits *out_limits,
                               struct nib_error *err)
{
    (void)device;
    (void)err;
    *out_limits = (struct nib_device_limits){.read_bytes = 1e9, .int8_macs = 4e9, .f32_macs = 2e9};
    return NIB_OK;
}

static void profile(const void *self, struct nib_op_times *times)
{
    const struct fake_instance *instance = self;
    for (uint32_t i = 0; i < instance->plan->n_ops; i++) {
        uint32_t segment = instance->plan->ops[i].segment;
        if (segment < instance->params.first_segment ||
            segment >= instance->params.first_segment + instance->params.n_segments)
            continue;
        times->calls[i] = instance->fake->n_runs;
        times->ns[i] = segment;
        if (i > 0 && instance->plan->ops[i].kind == NIB_OP_ADD)
            times->counted_as[i] = i - 1;
    }
}

static const struct nib_backend backend = {
    .name = "fake",
    .device_list = list,
    .device_close = close_device,
    .device_info = info,
    .memory_left = memory_left,
    .measure = measure,
    .supports = supports,
    .create = create,
    .destroy = destroy,
    .pack = pack,
    .ready = ready,
    .run = run,
    .end_step = end_step,
    .kv_copy = kv_copy,
    .kv_export = kv_export,
    .kv_import = kv_import,
    .memory = memory,
    .counters = counters,
    .profile = profile,
};

void fake_device_init(struct fake_device *fake)
{
    memset(fake, 0, sizeof *fake);
    fake->device.backend = &backend;
    fake->device.impl = fake;
    atomic_init(&fake->device.references, 1000);
    atomic_init(&fake->most_packed, UINT32_MAX);
}
