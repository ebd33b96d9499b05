#include "runtime/vulkan/passes.h"

#include <stdlib.h>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/loss.h"
#include "runtime/vulkan/profile.h"
#include "runtime/vulkan/self_test.h"

uint32_t nib_vk_bucket(uint32_t n)
{
    uint32_t bucket = 0;
    while (bucket < 31 && 1u << bucket < n)
        bucket++;
    return bucket;
}

const struct nib_vk_matrix *nib_vk_instance_weight(const struct nib_vk_instance *instance,
                                                   uint32_t weight)
{
    if (weight == NIB_NO_WEIGHT)
        return NULL;
    uint32_t shared = instance->plan->weights[weight].shared_with;
    return &instance->weights[shared == NIB_NO_WEIGHT ? weight : shared];
}

static bool is_ours(const struct nib_vk_instance *instance, const struct nib_op *op)
{
    return op->segment - instance->first_segment < instance->n_segments;
}

/// Marks a weight, or the one it shares, as used.
static void use_weight(struct nib_vk_instance *instance, uint32_t weight)
{
    if (weight == NIB_NO_WEIGHT)
        return;
    uint32_t shared = instance->plan->weights[weight].shared_with;
    bool *is_used = &instance->is_used[shared == NIB_NO_WEIGHT ? weight : shared];
    instance->n_missing += !*is_used;
    *is_used = true;
}

static void use_weights(struct nib_vk_instance *instance)
{
    const struct nib_plan *plan = instance->plan;
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (!is_ours(instance, op))
            continue;
        if (op->kind == NIB_OP_EMBED) {
            use_weight(instance, op->embed.weight);
        } else if (op->kind == NIB_OP_NORM) {
            use_weight(instance, op->norm.weight);
        } else if (op->kind == NIB_OP_MATMUL) {
            use_weight(instance, op->matmul.weight);
            use_weight(instance, op->matmul.bias);
        }
    }
}

static enum nib_status reserve_weights(struct nib_vk_instance *instance, struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    for (uint32_t w = 0; w < plan->n_weights; w++) {
        const struct nib_weight *weight = &plan->weights[w];
        if (!instance->is_used[w])
            continue;
        enum nib_status status =
            nib_vk_matrix_reserve(&instance->weights[w], &instance->memory, weight, err);
        if (status != NIB_OK) {
            return nib_fail_context(err, status, "weight %s of layer %u",
                                    nib_role_name(weight->role), weight->layer);
        }
        instance->weights_bytes += instance->weights[w].bytes;
    }
    return NIB_OK;
}

/// Reserves a range that is bound whole.
static enum nib_status reserve_bound(struct nib_vk_instance *instance, uint64_t size,
                                     const char *what, struct nib_vk_range *out_range,
                                     struct nib_error *err)
{
    uint32_t most = instance->device->snapshot.max_storage_range;
    if (size > most) {
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY,
                        "%s takes %llu MiB, but %s binds %u MiB at once; run fewer sequences, a "
                        "shorter context or fewer rows of a step (max_rows)",
                        what, (unsigned long long)(size >> 20), instance->device->snapshot.name,
                        most >> 20);
    }
    return nib_vk_pool_reserve(&instance->memory, size, out_range, err);
}

static enum nib_status reserve_cache(struct nib_vk_instance *instance, uint32_t kv_layer,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_cache *cache = &instance->caches[kv_layer];
    const struct nib_kv_layer *layer = &instance->plan->kv_layers[kv_layer];
    uint64_t n = instance->n_pages[layer->kv_class];
    if (cache->is_used)
        return NIB_OK;
    if (n == 0) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "the cache has no pages of class %u",
                        layer->kv_class);
    }
    uint64_t n_recent = nib_plan_keeps_f16(instance->plan)
                            ? instance->n_pages[instance->plan->n_kv_classes - 1]
                            : 0;
    NIB_TRY(reserve_bound(instance,
                          n * layer->key_page_size + n_recent * layer->recent_key_page_size,
                          "the cache of a layer's keys", &cache->keys, err));
    NIB_TRY(reserve_bound(instance,
                          n * layer->value_page_size + n_recent * layer->recent_value_page_size,
                          "the cache of a layer's values", &cache->values, err));
    if (layer->key_scale_page_size)
        NIB_TRY(reserve_bound(instance, n * layer->key_scale_page_size, "the scales of keys",
                              &cache->key_scales, err));
    if (layer->value_scale_page_size)
        NIB_TRY(reserve_bound(instance, n * layer->value_scale_page_size, "the scales of values",
                              &cache->value_scales, err));
    instance->kv_bytes += n * nib_kv_page_bytes(layer) + n_recent * nib_kv_recent_bytes(layer);
    cache->is_used = true;
fail:
    return status;
}

static enum nib_status reserve_caches(struct nib_vk_instance *instance, struct nib_error *err)
{
    for (uint32_t i = 0; i < instance->plan->n_ops; i++) {
        const struct nib_op *op = &instance->plan->ops[i];
        enum nib_status status = NIB_OK;
        if (!is_ours(instance, op))
            continue;
        if (op->kind == NIB_OP_KV_STORE)
            status = reserve_cache(instance, op->kv_store.kv_layer, err);
        else if (op->kind == NIB_OP_ATTENTION)
            status = reserve_cache(instance, op->attention.kv_layer, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

/// Returns the most granules that a row of a matmul's input makes, and the most columns of inputs
/// whose outliers are told apart.
static uint64_t most_granules(const struct nib_vk_instance *instance, uint32_t *out_llm_cols)
{
    uint64_t most = 1;
    *out_llm_cols = 0;
    for (uint32_t i = 0; i < instance->plan->n_ops; i++) {
        const struct nib_op *op = &instance->plan->ops[i];
        if (!is_ours(instance, op) || op->kind != NIB_OP_MATMUL)
            continue;
        const struct nib_vk_matrix *weight = nib_vk_instance_weight(instance, op->matmul.weight);
        most = weight->layout.n_granules > most ? weight->layout.n_granules : most;
        if (op->matmul.activation == NIB_ACTIVATION_LLM_INT8 && weight->layout.cols > *out_llm_cols)
            *out_llm_cols = (uint32_t)weight->layout.cols;
    }
    return most;
}

static enum nib_status reserve_values(struct nib_vk_instance *instance, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_plan *plan = instance->plan;
    uint64_t rows =
        instance->max_rows > instance->max_lines ? instance->max_rows : instance->max_lines;
    bool has_head = instance->first_segment + instance->n_segments == plan->n_segments;
    for (uint32_t v = 0; v < plan->n_values; v++) {
        uint64_t n = v == plan->logits_value ? (has_head ? instance->max_lines : 1) : rows;
        uint64_t size = n * plan->values[v].width * sizeof(float);
        NIB_TRY(reserve_bound(instance, size, plan->values[v].name, &instance->values[v], err));
    }
    uint64_t granules = rows * most_granules(instance, &instance->mask_stride);
    NIB_TRY(reserve_bound(instance, granules * NIB_GRANULE * sizeof(float), "a matmul's input",
                          &instance->prepared, err));
    NIB_TRY(reserve_bound(instance, granules * 4 * sizeof(float), "a matmul's sums",
                          &instance->sums, err));
    NIB_TRY(reserve_bound(instance, nib_vk_attention_partials(instance), "attention's parts",
                          &instance->partials, err));
    if (instance->mask_stride > 0) {
        NIB_TRY(reserve_bound(instance, granules * NIB_GRANULE * sizeof(float), "outliers",
                              &instance->outliers, err));
        NIB_TRY(reserve_bound(instance, rows * instance->mask_stride * sizeof(uint32_t),
                              "the mask of outliers", &instance->mask, err));
    }
fail:
    return status;
}

static enum nib_status reserve_step(struct nib_vk_instance *instance, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_plan *plan = instance->plan;
    struct nib_vk_step_layout *l = &instance->step_layout;
    uint64_t stride = nib_ceil_div_u64(plan->context, NIB_KV_PAGE_TOKENS);
    uint64_t tables = stride * plan->n_kv_classes * instance->max_sequences;
    uint64_t draws = (uint64_t)instance->max_lines * NIB_STEP_DRAW_WORDS;
    draws = nib_ceil_div_u64(tables + draws, 4) * 4 - tables; // angles begin at a whole texel
    uint64_t words = 4ull * instance->max_sequences + tables + draws;
    for (uint32_t t = 0; t < plan->n_ropes; t++)
        words += (uint64_t)instance->max_rows * plan->ropes[t].dims;
    if (words > UINT32_MAX / 8)
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY,
                        "the page tables of %u sequences of %u tokens are too large; lower --ctx",
                        instance->max_sequences, plan->context);
    l->tables_at = 4 * instance->max_sequences;
    l->n_tables = (uint32_t)tables;
    l->draws_at = l->tables_at + l->n_tables;
    l->angles_at = l->draws_at + (uint32_t)draws;
    l->n_words = (uint32_t)words;
    uint64_t size = sizeof(struct nib_step_header) +
                    NIB_STEP_MAX_ROWS * sizeof(struct nib_step_row) + (words + 1) * 4;
    NIB_TRY(reserve_bound(instance, size, "the step block", &instance->step, err));
    for (uint32_t i = 0; i < NIB_VK_SLOTS; i++)
        NIB_TRY(nib_vk_pool_reserve(&instance->upload, size, &instance->step_upload[i], err));

    uint64_t hidden = (uint64_t)instance->max_rows * plan->hidden_size * sizeof(float);
    uint64_t logits = (uint64_t)instance->max_lines * plan->vocabulary * sizeof(float);
    bool has_head = instance->first_segment + instance->n_segments == plan->n_segments;
    if (instance->first_segment > 0)
        NIB_TRY(nib_vk_pool_reserve(&instance->upload, hidden, &instance->hidden_upload, err));
    NIB_TRY(nib_vk_pool_reserve(&instance->readback, hidden, &instance->hidden_readback, err));
    uint64_t drawn = instance->max_lines * sizeof(uint32_t);
    NIB_TRY(reserve_bound(instance, drawn, "tokens drawn", &instance->drawn, err));
    if (has_head) {
        NIB_TRY(nib_vk_pool_reserve(&instance->readback, logits, &instance->logits_readback, err));
        NIB_TRY(nib_vk_pool_reserve(&instance->readback, NIB_VK_SLOTS * drawn,
                                    &instance->drawn_readback, err));
        NIB_TRY(reserve_bound(instance, nib_vk_draw_scratch(instance) * sizeof(uint32_t),
                              "the scratch of drawing", &instance->draw_scratch, err));
    }
    if (instance->device->is_attached)
        NIB_TRY(nib_vk_pool_reserve(&instance->readback, instance->n_segments * sizeof(uint32_t),
                                    &instance->receipts, err));
fail:
    return status;
}

static enum nib_status take_memory(struct nib_vk_instance *instance, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_device *d = instance->device;
    NIB_TRY(reserve_weights(instance, err));
    NIB_TRY(reserve_caches(instance, err));
    NIB_TRY(reserve_values(instance, err));
    NIB_TRY(reserve_step(instance, err));
    uint64_t left = nib_vk_memory_left(d);
    if (instance->memory.size > left) {
        return nib_fail(err, NIB_ERROR_DEVICE_MEMORY,
                        "the model takes %llu MiB on %s, which has %llu MiB free; try "
                        "--gpu-layers N or a shorter --ctx",
                        (unsigned long long)(instance->memory.size >> 20), d->snapshot.name,
                        (unsigned long long)(left >> 20));
    }
    NIB_TRY(nib_vk_pool_take(&instance->memory, err));
    NIB_TRY(nib_vk_pool_take(&instance->upload, err));
    NIB_TRY(nib_vk_pool_take(&instance->readback, err));
fail:
    return status;
}

/// calloc that has something to return for 0 elements.
static void *new_array(uint64_t count, size_t size)
{
    return calloc(count ? count : 1, size);
}

static enum nib_status create_arrays(struct nib_vk_instance *instance, struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    instance->weights = new_array(plan->n_weights, sizeof *instance->weights);
    instance->is_used = new_array(plan->n_weights, sizeof *instance->is_used);
    instance->caches = new_array(plan->n_kv_layers, sizeof *instance->caches);
    instance->segments = new_array(instance->n_segments, sizeof *instance->segments);
    instance->batch = new_array(instance->n_segments + 4ull, sizeof(VkCommandBuffer));
    bool is_complete = instance->weights && instance->is_used && instance->caches &&
                       instance->segments && instance->batch;
    return is_complete ? NIB_OK : nib_fail_memory(err);
}

static enum nib_status create_command_pool(struct nib_vk_instance *instance, struct nib_error *err)
{
    struct nib_vk_device *d = instance->device;
    VkCommandPoolCreateFlags reset = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    VkCommandPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .flags = d->folder ? reset : 0, // shaders may be edited
                                    .queueFamilyIndex = d->plan.queue_family};
    VkResult result = d->table.CreateCommandPool(d->device, &info, NULL, &instance->command_pool);
    if (result == VK_SUCCESS)
        nib_vk_name(d, VK_OBJECT_TYPE_COMMAND_POOL, (uint64_t)instance->command_pool, "segments");
    return nib_vk_check(result, "vkCreateCommandPool", err);
}

/// Takes the array of passes and their descriptor sets, of a size known once all is packed.
static enum nib_status create_passes(struct nib_vk_instance *instance, struct nib_error *err)
{
    uint32_t n = nib_vk_count_passes(instance) + nib_vk_draw_count();
    struct nib_vk_device *d = instance->device;
    instance->passes = new_array(n, sizeof *instance->passes);
    if (!instance->passes)
        return nib_fail_memory(err);
    VkDescriptorPoolSize sizes[2] = {
        {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .descriptorCount = (n + 1) * NIB_BINDINGS},
        {.type = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER,
         .descriptorCount = (n + 1) * NIB_TEXEL_BINDINGS}};
    VkDescriptorPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                       .maxSets = n + 1,
                                       .poolSizeCount = d->plan.has_texels ? 2 : 1,
                                       .pPoolSizes = sizes};
    VkResult result = d->table.CreateDescriptorPool(d->device, &info, NULL, &instance->sets);
    if (result == VK_SUCCESS)
        nib_vk_name(d, VK_OBJECT_TYPE_DESCRIPTOR_POOL, (uint64_t)instance->sets, "sets");
    return nib_vk_check(result, "vkCreateDescriptorPool", err);
}

enum nib_status nib_vk_instance_create(const struct nib_instance_params *params, void **out_self,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_self = NULL;
    struct nib_vk_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return nib_fail_memory(err);
    struct nib_vk_device *d = params->device;
    instance->plan = params->plan;
    instance->device = d;
    instance->log = params->log;
    instance->precise = params->precise;
    instance->profile = params->profile;
    instance->first_segment = params->first_segment;
    instance->n_segments = params->n_segments;
    instance->max_rows = 1u << nib_vk_bucket(params->plan->max_rows);
    instance->max_lines = 1u << nib_vk_bucket(params->max_logits ? params->max_logits : 1);
    instance->max_sequences = params->max_sequences ? params->max_sequences : 1;
    for (uint32_t i = 0; i < NIB_KV_MAX_CLASSES; i++)
        instance->n_pages[i] = params->n_pages[i];
    nib_vk_pool_init(&instance->memory, d, "memory", d->plan.device_memory_type, d->plan.is_direct);
    nib_vk_pool_init(&instance->upload, d, "upload", d->plan.upload_memory_type, true);
    nib_vk_pool_init(&instance->readback, d, "readback", d->plan.readback_memory_type, true);
    if (instance->max_rows > NIB_STEP_MAX_ROWS || instance->max_lines > NIB_STEP_MAX_ROWS) {
        status = nib_fail(err, NIB_ERROR_ARGUMENT, "steps of more than %d rows", NIB_STEP_MAX_ROWS);
        goto fail;
    }
    NIB_TRY(create_arrays(instance, err));
    use_weights(instance);
    NIB_TRY(take_memory(instance, err));
    NIB_TRY(nib_vk_transfer_create(d, &instance->transfer, err));
    NIB_TRY(nib_vk_clock_create(d, "clock", &instance->clock, err));
    *out_self = instance;
    return NIB_OK;

fail:
    nib_vk_instance_destroy(instance);
    return status;
}

/// Destroys what Vulkan holds of passes and of commands. None may be under way.
static void destroy_passes(struct nib_vk_instance *instance)
{
    struct nib_vk_device *d = instance->device;
    if (instance->command_pool)
        d->table.DestroyCommandPool(d->device, instance->command_pool, NULL);
    if (instance->sets)
        d->table.DestroyDescriptorPool(d->device, instance->sets, NULL);
    if (instance->queries)
        d->table.DestroyQueryPool(d->device, instance->queries, NULL);
    instance->command_pool = VK_NULL_HANDLE;
    instance->sets = VK_NULL_HANDLE;
    instance->queries = VK_NULL_HANDLE;
}

/// Frees what the host holds of them.
static void free_passes(struct nib_vk_instance *instance)
{
    free(instance->passes);
    free(instance->commands);
    free(instance->op_calls);
    free(instance->op_ns);
    free(instance->op_counted_as);
    free(instance->timestamps);
    instance->passes = NULL;
    instance->commands = NULL;
    instance->op_calls = instance->op_ns = instance->timestamps = NULL;
    instance->op_counted_as = NULL;
    instance->n_passes = instance->n_ready = 0;
}

/// Destroys what Vulkan holds.
static void destroy_objects(struct nib_vk_instance *instance)
{
    struct nib_vk_device *d = instance->device;
    nib_vk_transfer_destroy(&instance->transfer);
    destroy_passes(instance);
    nib_vk_clock_destroy(d, &instance->clock);
    for (size_t i = 0; i < instance->n_views; i++)
        d->table.DestroyBufferView(d->device, instance->views[i].view, NULL);
    nib_vk_pool_destroy(&instance->memory);
    nib_vk_pool_destroy(&instance->upload);
    nib_vk_pool_destroy(&instance->readback);
}

void nib_vk_instance_destroy(void *self)
{
    struct nib_vk_instance *instance = self;
    if (!instance)
        return;
    if (nib_vk_is_idle(instance->device, &instance->clock) &&
        nib_vk_is_idle(instance->device, &instance->transfer.clock))
        destroy_objects(instance);
    nib_vk_points_free(&instance->waits);
    nib_vk_points_free(&instance->signals);
    free(instance->views);
    free(instance->probes);
    free_passes(instance);
    free(instance->weights);
    free(instance->is_used);
    free(instance->caches);
    free(instance->segments);
    free(instance->batch);
    free(instance);
}

enum nib_status nib_vk_instance_pack(void *self, uint32_t weight,
                                     const struct nib_row_reader *reader, struct nib_error *err)
{
    struct nib_vk_instance *instance = self;
    struct nib_vk_matrix *matrix = &instance->weights[weight];
    enum nib_status status = nib_plan_check_reader(instance->plan, weight, reader, err);
    if (status != NIB_OK)
        return status;
    if (!instance->is_used[weight])
        return NIB_OK;
    if (instance->n_ready > 0 || matrix->is_packed) {
        return nib_fail(err, NIB_ERROR_STATE, "tensor '%s' has been packed already", reader->name);
    }
    status = nib_vk_matrix_pack(matrix, &instance->transfer, reader, err);
    instance->n_missing -= status == NIB_OK;
    return status;
}

/// Makes passes and commands until `end_ns` (0: to the end).
static enum nib_status make_commands(struct nib_vk_instance *instance, uint64_t end_ns,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (!instance->passes) {
        NIB_TRY(nib_vk_transfer_flush(&instance->transfer, err));
        NIB_TRY(create_passes(instance, err));
        NIB_TRY(nib_vk_profile_create(instance, err));
        NIB_TRY(create_command_pool(instance, err));
        NIB_TRY(nib_vk_draw_build(instance, err));
        NIB_TRY(nib_vk_record_copies(instance, err));
    }
    while (instance->n_ready < instance->n_segments) {
        NIB_TRY(nib_vk_segment_build(instance, instance->n_ready, err));
        NIB_TRY(nib_vk_record_segment(instance, instance->n_ready, err));
        instance->n_ready++;
        if (end_ns && nib_clock_ns() >= end_ns)
            break;
    }
fail:
    return status;
}

enum nib_status nib_vk_instance_ready(void *self, uint64_t budget_ns, bool *out_ready,
                                      struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    const uint64_t end_ns = budget_ns ? nib_clock_ns() + budget_ns : 0;
    *out_ready = false;
    if (instance->n_missing) {
        return nib_fail(err, NIB_ERROR_STATE, "%u weights of the device's segments were not packed",
                        instance->n_missing);
    }
    if (!instance->is_trusted) {
        status = nib_vk_self_test(instance, end_ns, err);
        if (status != NIB_OK || !instance->is_trusted)
            return status;
    }
    status = make_commands(instance, end_ns, err);
    if (status != NIB_OK) {
        // The next call begins anew: half of a pass or of a command is of no use.
        destroy_passes(instance);
        free_passes(instance);
        return status;
    }
    instance->is_ready = instance->n_ready == instance->n_segments;
    *out_ready = instance->is_ready;
    return NIB_OK;
}
