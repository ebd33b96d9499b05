#include "runtime/cpu/instance.h"

#include <stdlib.h>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"

/// Buffers begin on a cache line, so that threads do not share one.
#define BUFFER_ALIGNMENT 64

/// Floats of a cache line.
#define LINE_FLOATS 16u
/// Rows that are this many lines apart, or a multiple of that, share few places in the first cache.
#define CROWDED_LINES 8u

/// The largest sizes among our ops, which buffers are made for.
struct needs {
    uint64_t cols;
    uint64_t groups; ///< of weights or of activations in a row
    uint64_t blocks; ///< of NIB_PANEL_BLOCK columns
    uint64_t runs;
    uint64_t block_size; ///< bytes of a row block
    uint64_t key_dim;    ///< of one head
    uint64_t value_dim;  ///< filled up to whole vectors of 16
    uint64_t parts;      ///< floats of the parts of attention
    bool has_codes;
    bool has_values;
    bool has_outliers;
    bool has_wide_codes; ///< INT16_GROUP
    uint64_t stretches;  ///< of the head's weight, see nib_cpu_largest
    bool is_too_large;
};

uint64_t nib_cpu_stride(const struct nib_plan *plan, uint32_t value)
{
    uint64_t width = plan->values[value].width;
    bool is_crowded = width > 0 && width % (CROWDED_LINES * LINE_FLOATS) == 0;
    bool is_packed = value == NIB_VALUE_HIDDEN || value == plan->logits_value;
    return is_crowded && !is_packed ? width + LINE_FLOATS : width;
}

static void raise_to(uint64_t *most, uint64_t n)
{
    if (n > *most)
        *most = n;
}

static void need_matrix(struct needs *needs, const struct nib_weight *weight)
{
    uint64_t block_size = nib_row_block_size(&weight->format, NIB_CPU_BLOCK_ROWS, weight->cols);
    needs->is_too_large |= block_size == 0;
    raise_to(&needs->block_size, block_size);
    raise_to(&needs->cols, weight->cols);
    raise_to(&needs->groups, nib_format_groups(&weight->format, weight->cols));
    raise_to(&needs->groups, nib_ceil_div_u64(weight->cols, NIB_ACTIVATION_GROUP));
    raise_to(&needs->blocks, nib_ceil_div_u64(weight->cols, NIB_PANEL_BLOCK));
}

uint32_t nib_cpu_split_rows(uint32_t n_threads, uint32_t n_kv_heads)
{
    return n_threads > 1 ? 4 * n_threads / n_kv_heads : 0;
}

/// Floats that the parts of an attention's longest sequences take.
static uint64_t part_floats(const struct nib_cpu_instance *instance,
                            const struct nib_op_attention *op)
{
    const struct nib_kv_layer *layer = &instance->plan->kv_layers[op->kv_layer];
    uint64_t n_blocks = nib_ceil_div_u64(instance->plan->context, NIB_CPU_BLOCK_TOKENS);
    uint64_t rows = nib_cpu_split_rows(instance->n_threads, layer->n_heads);
    rows = rows < instance->max_rows ? rows : instance->max_rows;
    return rows * op->n_heads * n_blocks * NIB_CPU_PART_SIZE((uint64_t)layer->value_dim);
}

bool nib_cpu_wants_largest(const struct nib_cpu_instance *instance, uint32_t i)
{
    const struct nib_plan *plan = instance->plan;
    const struct nib_op *op = &plan->ops[i];
    return instance->device->kernels.find_largest && i + 1 == plan->n_ops &&
           op->kind == NIB_OP_MATMUL && op->matmul.out.value == plan->logits_value &&
           op->matmul.activation == NIB_ACTIVATION_INT16_GROUP && op->matmul.bias == NIB_NO_WEIGHT;
}

static struct needs find_needs(const struct nib_cpu_instance *instance)
{
    const struct nib_plan *plan = instance->plan;
    struct needs needs = {0};
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->segment - instance->first_segment >= instance->n_segments)
            continue;
        if (op->kind == NIB_OP_EMBED) {
            need_matrix(&needs, &plan->weights[op->embed.weight]);
        } else if (op->kind == NIB_OP_MATMUL) {
            const struct nib_weight *weight = &plan->weights[op->matmul.weight];
            enum nib_activation activation = op->matmul.activation;
            need_matrix(&needs, weight);
            if (nib_cpu_input_has_codes(activation, &weight->format)) {
                needs.has_codes = true;
                raise_to(&needs.runs,
                         nib_cpu_runs(activation, &weight->format, weight->cols, NULL));
            }
            needs.has_wide_codes |= activation == NIB_ACTIVATION_INT16_GROUP;
            if (nib_cpu_wants_largest(instance, i))
                needs.stretches = nib_ceil_div_u64(weight->rows, NIB_CPU_LARGEST_ROWS);
            needs.has_outliers |= activation == NIB_ACTIVATION_LLM_INT8;
            needs.has_values |= nib_cpu_input_has_values(activation, &weight->format, false);
        } else if (op->kind == NIB_OP_ATTENTION) {
            const struct nib_kv_layer *layer = &plan->kv_layers[op->attention.kv_layer];
            raise_to(&needs.key_dim, (uint64_t)nib_kv_groups(layer->key_dim) * NIB_KV_GROUP);
            raise_to(&needs.parts, part_floats(instance, &op->attention));
            raise_to(&needs.value_dim, (layer->value_dim + UINT64_C(15)) / 16 * 16);
        }
    }
    return needs;
}

/// A block of memory being dealt out, or, with `base` NULL, being measured.
struct layout {
    uint8_t *base;
    uint64_t used;
    bool has_overflow;
};

/// Deals out count · more · size bytes; returns NULL where there are none, and when measuring.
static void *take(struct layout *layout, uint64_t count, uint64_t more, size_t size)
{
    uint64_t bytes, end;
    uint8_t *begin = layout->base ? layout->base + layout->used : NULL;
    if (!nib_mul_u64(count, more, &bytes) || !nib_mul_u64(bytes, size, &bytes) ||
        !nib_round_up_u64(bytes, BUFFER_ALIGNMENT, &bytes) ||
        !nib_add_u64(layout->used, bytes, &end) || end > SIZE_MAX) {
        layout->has_overflow = true;
        return NULL;
    }
    layout->used = end;
    return bytes ? begin : NULL;
}

static void lay_out_thread(struct layout *layout, const struct needs *needs,
                           struct nib_cpu_scratch *scratch)
{
    scratch->panel_scale = take(layout, needs->blocks, 8 * NIB_PANEL_ROWS,
                                sizeof(float)); // two parts of two panels, scale and min
    uint64_t code_rows = needs->has_codes ? NIB_CPU_BLOCK_ROWS : 0;
    scratch->tall =
        take(layout, needs->has_codes ? NIB_CPU_TALL_PANELS : 0, 1, sizeof *scratch->tall);
    scratch->tall_sums = take(layout, needs->has_codes ? NIB_CPU_TALL_ROWS : 0,
                              NIB_CPU_TALL_PANELS * 16, sizeof(float));
    scratch->block = take(layout, needs->block_size, 1, 1);
    scratch->values = take(layout, NIB_CPU_BLOCK_ROWS, needs->cols, sizeof(float));
    scratch->codes = take(layout, code_rows, needs->cols, sizeof(int16_t));
    scratch->run_scale = take(layout, code_rows, needs->runs, sizeof(float));
    scratch->run_min = take(layout, code_rows, needs->runs, sizeof(float));
    scratch->group_scale = take(layout, needs->groups, 1, sizeof(float));
    scratch->group_min = take(layout, needs->groups, 1, sizeof(float));
    scratch->group_sum = take(layout, needs->groups, 1, sizeof(int32_t));
    scratch->input_codes = take(layout, needs->cols, 1, 1);
    scratch->wide_codes = take(layout, needs->cols, 1, sizeof(int16_t));
    scratch->outlier = take(layout, needs->cols, 1, 1);
    scratch->keys = take(layout, needs->key_dim, NIB_KV_PAGE_TOKENS, sizeof(float));
    scratch->base = take(layout, needs->key_dim, 1, sizeof(float));
    scratch->page_values = take(layout, needs->value_dim, NIB_KV_PAGE_TOKENS, sizeof(float));
    scratch->queries = take(layout, needs->key_dim, NIB_CPU_MAX_QUERIES, sizeof(float));
    scratch->totals = take(layout, needs->value_dim, NIB_CPU_MAX_QUERIES, sizeof(float));
}

static void lay_out_quads(struct layout *layout, const struct needs *needs, uint64_t rows,
                          struct nib_cpu_input *input)
{
    uint64_t quad_rows = needs->has_wide_codes ? 2 * rows : rows;
    input->quads = take(layout, quad_rows, needs->blocks, NIB_PANEL_BLOCK);
    input->quad_scale = take(layout, quad_rows, needs->blocks, sizeof(float));
    input->quad_start = take(layout, quad_rows, 2 * needs->blocks, sizeof(int32_t));
    input->quad_fold = take(layout, quad_rows, 2 * needs->blocks, sizeof(float));
    input->pair_start = take(layout, quad_rows, needs->blocks, sizeof(int32_t));
    input->codes = take(layout, quad_rows, needs->blocks, NIB_PANEL_BLOCK * sizeof(int16_t));
}

static void lay_out(struct nib_cpu_instance *instance, const struct needs *needs,
                    struct layout *layout)
{
    const struct nib_plan *plan = instance->plan;
    uint64_t rows = instance->max_rows, code_rows = needs->has_codes ? rows : 0;
    for (uint32_t v = 0; v < plan->n_values; v++) {
        uint64_t stride = v == plan->logits_value ? 0 : nib_cpu_stride(plan, v);
        instance->values[v] = take(layout, rows, stride, sizeof(float));
    }
    for (uint32_t t = 0; t < plan->n_ropes; t++)
        instance->angles[t] = take(layout, rows, plan->ropes[t].dims, sizeof(float));
    instance->sequences = take(layout, rows, 1, sizeof(uint32_t));
    instance->spans = take(layout, rows + 1, 1, sizeof(uint32_t));
    instance->kept = take(layout, rows, 1, sizeof *instance->kept);
    instance->kept_rows = take(layout, rows, 1, sizeof *instance->kept_rows);
    uint64_t block_rows = nib_cpu_block_rows(instance->n_threads);
    lay_out_quads(layout, needs, code_rows, &instance->inputs[0]);
    lay_out_quads(layout, needs, code_rows < block_rows ? code_rows : block_rows,
                  &instance->inputs[1]);
    instance->inputs[0].outliers =
        take(layout, needs->has_outliers ? rows : 0, needs->cols + 3, sizeof(uint32_t));
    instance->inputs[0].scale = take(layout, code_rows, needs->runs, sizeof(float));
    instance->inputs[0].sum = take(layout, code_rows, needs->runs, sizeof(float));
    instance->parts = take(layout, needs->parts, 1, sizeof(float));
    instance->largest = take(layout, needs->stretches, NIB_STEP_MAX_LOGITS, sizeof(float));
    instance->inputs[0].dense = take(layout, rows, 1, 1);
    instance->inputs[0].runs = take(layout, needs->runs, 1, sizeof(struct nib_cpu_run));
    for (uint32_t t = 0; t < instance->n_threads; t++)
        lay_out_thread(layout, needs, &instance->scratch[t]);
}

/// Makes the buffer of prepared fp32 input, unless it is there.
static enum nib_status create_input_values(struct nib_cpu_instance *instance, struct nib_error *err)
{
    uint64_t size;
    if (instance->inputs[0].values)
        return NIB_OK;
    if (nib_mul_u64(instance->max_rows * sizeof(float), instance->widest, &size) &&
        size <= SIZE_MAX)
        instance->inputs[0].values = nib_pages_alloc((size_t)size);
    if (!instance->inputs[0].values)
        return nib_fail_memory(err);
    instance->input_values_size = (size_t)size;
    return NIB_OK;
}

/// Finds what the buffers need, and lays them out without memory.
static enum nib_status measure_buffers(struct nib_cpu_instance *instance, struct needs *out_needs,
                                       struct layout *out_layout, struct nib_error *err)
{
    *out_needs = find_needs(instance);
    *out_layout = (struct layout){0};
    instance->widest = out_needs->cols;
    lay_out(instance, out_needs, out_layout);
    return out_needs->is_too_large || out_layout->has_overflow ? nib_fail_memory(err) : NIB_OK;
}

static enum nib_status create_buffers(struct nib_cpu_instance *instance, struct nib_error *err)
{
    struct needs needs;
    struct layout layout;
    enum nib_status status = measure_buffers(instance, &needs, &layout, err);
    if (status != NIB_OK)
        return status;
    instance->buffers = nib_pages_alloc_large((size_t)layout.used);
    if (!instance->buffers)
        return nib_fail_memory(err);
    instance->buffers_size = (size_t)layout.used;
    layout = (struct layout){.base = instance->buffers};
    lay_out(instance, &needs, &layout);
    return needs.has_values ? create_input_values(instance, err) : NIB_OK;
}

static struct nib_cpu_packing packing_of(const struct nib_cpu_instance *instance)
{
    const struct nib_cpu_kernels *kernels = &instance->device->kernels;
    return (struct nib_cpu_packing){
        .pool = instance->device->pool,
        .store_panel = kernels->wants_panels ? kernels->store_panel : NULL,
    };
}

/// Marks a weight, or the one it shares, as used, and gives it a place in the arena.
static void use_weight(struct nib_cpu_instance *instance, uint32_t weight, struct layout *arena)
{
    if (weight == NIB_NO_WEIGHT)
        return;
    const struct nib_weight *planned = &instance->plan->weights[weight];
    if (planned->shared_with != NIB_NO_WEIGHT) {
        weight = planned->shared_with;
        planned = &instance->plan->weights[weight];
    }
    if (instance->is_used[weight])
        return;
    instance->is_used[weight] = true;
    instance->n_missing++;
    if (nib_role_is_matrix(planned->role)) {
        struct nib_cpu_packing packing = packing_of(instance);
        uint64_t size =
            nib_cpu_matrix_size(&packing, &planned->format, planned->rows, planned->cols);
        instance->places[weight] = size ? arena->used : UINT64_MAX;
        take(arena, size, 1, 1);
    }
}

static void use_weights(struct nib_cpu_instance *instance, struct layout *arena)
{
    const struct nib_plan *plan = instance->plan;
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->segment - instance->first_segment >= instance->n_segments)
            continue;
        if (op->kind == NIB_OP_EMBED) {
            use_weight(instance, op->embed.weight, arena);
        } else if (op->kind == NIB_OP_NORM) {
            use_weight(instance, op->norm.weight, arena);
        } else if (op->kind == NIB_OP_MATMUL) {
            use_weight(instance, op->matmul.weight, arena);
            use_weight(instance, op->matmul.bias, arena);
        }
    }
}

/// Finds out which weights the ops use, and takes the memory that their matrices are packed into.
static enum nib_status create_arena(struct nib_cpu_instance *instance, struct nib_error *err)
{
    struct layout arena = {0};
    for (uint32_t i = 0; i < instance->plan->n_weights; i++)
        instance->places[i] = UINT64_MAX;
    use_weights(instance, &arena);
    if (arena.used == 0 && !arena.has_overflow)
        return NIB_OK;
    if (!arena.has_overflow)
        instance->arena = nib_pages_alloc_large((size_t)arena.used);
    if (!instance->arena)
        return nib_fail_memory(err);
    instance->arena_size = (size_t)arena.used;
    return NIB_OK;
}

/// calloc that has something to return for 0 elements.
static void *new_array(uint64_t count, size_t size)
{
    return calloc(count ? count : 1, size);
}

static enum nib_status create_arrays(struct nib_cpu_instance *instance, bool profile,
                                     struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    instance->weights = new_array(plan->n_weights, sizeof *instance->weights);
    instance->is_used = new_array(plan->n_weights, sizeof *instance->is_used);
    instance->places = new_array(plan->n_weights, sizeof *instance->places);
    instance->caches = new_array(plan->n_kv_layers, sizeof *instance->caches);
    instance->angles = new_array(plan->n_ropes, sizeof *instance->angles);
    instance->scratch = new_array(instance->n_threads, sizeof *instance->scratch);
    bool is_complete = instance->weights && instance->is_used && instance->places &&
                       instance->caches && instance->angles && instance->scratch;
    if (profile) {
        instance->profile_calls = new_array(plan->n_ops, sizeof(uint64_t));
        instance->profile_ns = new_array(plan->n_ops, sizeof(uint64_t));
        is_complete = is_complete && instance->profile_calls && instance->profile_ns;
    }
    return is_complete ? NIB_OK : nib_fail_memory(err);
}

enum nib_status nib_cpu_instance_create(const struct nib_instance_params *params, void **out_self,
                                        struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_self = NULL;
    struct nib_cpu_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return nib_fail_memory(err);
    instance->plan = params->plan;
    instance->device = params->device;
    instance->n_threads = nib_thread_pool_size(instance->device->pool);
    instance->first_segment = params->first_segment;
    instance->n_segments = params->n_segments;
    instance->max_rows =
        params->plan->max_rows > params->max_logits ? params->plan->max_rows : params->max_logits;
    instance->on_tap = params->on_tap;
    instance->tap_user = params->tap_user;
    for (uint32_t i = 0; i < NIB_KV_MAX_CLASSES; i++)
        instance->n_pages[i] = params->n_pages[i];
    NIB_TRY(create_arrays(instance, params->profile, err));
    NIB_TRY(create_arena(instance, err));
    NIB_TRY(create_buffers(instance, err));
    NIB_TRY(nib_cpu_caches_create(instance, err));
    *out_self = instance;
    return NIB_OK;

fail:
    nib_cpu_instance_destroy(instance);
    return status;
}

void nib_cpu_instance_destroy(void *self)
{
    struct nib_cpu_instance *instance = self;
    if (!instance)
        return;
    for (uint32_t i = 0; instance->weights && i < instance->plan->n_weights; i++)
        nib_cpu_matrix_free(&instance->weights[i]);
    nib_cpu_caches_destroy(instance);
    if (instance->buffers)
        nib_pages_free(instance->buffers, instance->buffers_size);
    if (instance->inputs[0].values)
        nib_pages_free(instance->inputs[0].values, instance->input_values_size);
    if (instance->arena)
        nib_pages_free(instance->arena, instance->arena_size);
    free(instance->weights);
    free(instance->places);
    free(instance->is_used);
    free(instance->caches);
    free(instance->angles);
    free(instance->scratch);
    free(instance->profile_calls);
    free(instance->profile_ns);
    free(instance);
}

/// Returns whether the head of a step that draws is multiplied by the weight.
static bool is_head(const struct nib_cpu_instance *instance, uint32_t weight)
{
    const struct nib_plan *plan = instance->plan;
    const uint32_t last = plan->n_ops - 1;
    if (plan->n_ops == 0 || !nib_cpu_wants_largest(instance, last))
        return false;
    return nib_cpu_instance_weight(instance, plan->ops[last].matmul.weight) ==
           &instance->weights[weight];
}

enum nib_status nib_cpu_instance_pack(void *self, uint32_t weight,
                                      const struct nib_row_reader *reader, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_cpu_instance *instance = self;
    struct nib_cpu_matrix *matrix = &instance->weights[weight];
    NIB_TRY(nib_plan_check_reader(instance->plan, weight, reader, err));
    struct nib_panel_layout panels;
    bool has_odd_groups =
        nib_panel_layout_init(&panels, &reader->format, reader->cols) && !panels.has_even_groups;
    // Their activations are turned back to numbers.
    if (reader->permutation || has_odd_groups)
        NIB_TRY(create_input_values(instance, err));
    bool is_new = matrix->rows == 0;
    nib_cpu_matrix_free(matrix);
    instance->n_missing += !is_new && instance->is_used[weight];
    if (nib_role_is_matrix(instance->plan->weights[weight].role)) {
        struct nib_cpu_packing packing = packing_of(instance);
        if (instance->places[weight] != UINT64_MAX)
            packing.memory = instance->arena + instance->places[weight];
        packing.wants_norms = is_head(instance, weight);
        NIB_TRY(nib_cpu_matrix_pack(matrix, &packing, reader, err));
    } else {
        NIB_TRY(nib_cpu_vector_pack(matrix, reader, err));
    }
    instance->n_missing -= instance->is_used[weight];
fail:
    return status;
}

enum nib_status nib_cpu_predict_scratch(const struct nib_plan *plan, uint32_t threads,
                                        uint64_t *out_bytes, struct nib_error *err)
{
    struct nib_cpu_device device = {.pool = NULL};
    enum nib_cpu_level level;
    struct needs needs;
    struct layout layout;
    *out_bytes = 0;
    if (threads > NIB_THREAD_POOL_MAX)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%u threads are more than %d", threads,
                        NIB_THREAD_POOL_MAX);
    enum nib_status status = nib_cpu_level_find(NULL, &level, err);
    if (status != NIB_OK)
        return status;
    nib_cpu_kernels_init(&device.kernels, level);
    struct nib_cpu_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return nib_fail_memory(err);
    instance->plan = plan;
    instance->device = &device;
    instance->n_threads = threads ? threads : nib_cpu_cores();
    instance->n_segments = plan->n_segments;
    instance->max_rows =
        plan->max_rows > NIB_STEP_MAX_LOGITS ? plan->max_rows : NIB_STEP_MAX_LOGITS;
    NIB_TRY(create_arrays(instance, false, err));
    NIB_TRY(measure_buffers(instance, &needs, &layout, err));
    *out_bytes = layout.used;
    if (needs.has_values)
        *out_bytes += (uint64_t)instance->max_rows * sizeof(float) * instance->widest;

fail:
    nib_cpu_instance_destroy(instance);
    return status;
}

void nib_cpu_instance_memory(const void *self, struct nib_instance_memory *out_memory)
{
    const struct nib_cpu_instance *instance = self;
    *out_memory = (struct nib_instance_memory){
        .kv = nib_cpu_caches_size(instance),
        .scratch = (uint64_t)instance->buffers_size + instance->input_values_size,
    };
    for (uint32_t i = 0; i < instance->plan->n_weights; i++)
        out_memory->weights += instance->weights[i].bytes;
}

const struct nib_cpu_matrix *nib_cpu_instance_weight(const struct nib_cpu_instance *instance,
                                                     uint32_t weight)
{
    if (weight == NIB_NO_WEIGHT)
        return NULL;
    uint32_t shared = instance->plan->weights[weight].shared_with;
    return &instance->weights[shared == NIB_NO_WEIGHT ? weight : shared];
}
