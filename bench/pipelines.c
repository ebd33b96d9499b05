// nibble-bench-pipelines: every kernel that a Vulkan device's plan may choose gets its pipeline.
//
// Plans of one layer are made for each format with each activation mode, and for caches of each
// format with heads of each size; the backend makes their passes as it does for a model. A line "@
// KERNEL CONSTANTS" goes to the standard error before each pipeline, so that what a driver prints
// of a shader (RADV_DEBUG=shaderstats,nocache) can be told apart, and "@ end" at the end. Nothing
// is run, so drivers that execute nothing will do.
#include <nibble/device.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/vulkan/device.h"
#include "runtime/vulkan/shaders.h"
#include "runtime/vulkan/vulkan_backend.h"

enum { HIDDEN, A, B, C, LOGITS, N_VALUES };
enum { WIDTH = 512, ROWS = 64, MAX_HEADS = 16, MAX_DIM = 512, MAX_INPUTS = 64 };
enum { MAX_LAYERS = 96, MAX_OPS = 4 * MAX_LAYERS + 16, MAX_WEIGHTS = 16 };

/// A plan, and what it is made for.
struct model {
    struct nib_format format;
    enum nib_activation activation;
    bool has_permutation;
    enum nib_gate_function function;
    uint32_t permutation[WIDTH];
    struct nib_op ops[MAX_OPS];
    struct nib_segment segments[MAX_LAYERS + 2];
    struct nib_weight weights[MAX_WEIGHTS];
    struct nib_row_reader readers[MAX_WEIGHTS];
    struct nib_kv_layer kv_layers[MAX_LAYERS];
    struct nib_plan plan;
};

/// The functions that are watched, and the shader whose module was made last.
static struct {
    PFN_vkCreateShaderModule create_module;
    PFN_vkCreateComputePipelines create_pipelines;
    const char *shader;
    uint32_t n_made;
} watch;

static VkResult VKAPI_CALL watch_module(VkDevice device, const VkShaderModuleCreateInfo *info,
                                        const VkAllocationCallbacks *allocator,
                                        VkShaderModule *out_module)
{
    for (uint32_t i = 0; i < nib_vk_shader_count; i++) {
        if (nib_vk_shaders[i].words == info->pCode)
            watch.shader = nib_vk_shaders[i].name;
    }
    return watch.create_module(device, info, allocator, out_module);
}

static VkResult VKAPI_CALL watch_pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                           const VkComputePipelineCreateInfo *infos,
                                           const VkAllocationCallbacks *allocator,
                                           VkPipeline *out_pipelines)
{
    const VkSpecializationInfo *specs = infos->stage.pSpecializationInfo;
    fprintf(stderr, "@ %s ", watch.shader);
    for (uint32_t i = 0; i < specs->mapEntryCount; i++) {
        uint32_t value;
        memcpy(&value, (const uint8_t *)specs->pData + specs->pMapEntries[i].offset, sizeof value);
        fprintf(stderr, "%s%u", i ? "," : "", value);
    }
    fputc('\n', stderr);
    fflush(stderr);
    VkResult result = watch.create_pipelines(device, cache, count, infos, allocator, out_pipelines);
    watch.n_made += result == VK_SUCCESS;
    return result;
}

static enum nib_status read_nothing(const struct nib_row_reader *reader, uint64_t first,
                                    struct nib_row_block *block, struct nib_error *err)
{
    (void)first;
    (void)err;
    const struct nib_format *format = &reader->format;
    uint64_t groups = nib_format_groups(format, block->cols);
    uint64_t supers = format->super ? nib_format_supers(format, block->cols) : groups;
#define CLEAR(member, length)                                                        \
    do {                                                                             \
        if (block->member)                                                           \
            memset(block->member, 0, block->rows *(length) * sizeof *block->member); \
    } while (0)
    CLEAR(values, block->cols);
    CLEAR(codes, block->cols);
    CLEAR(min, supers);
    CLEAR(sub_scale, groups);
    CLEAR(sub_min, groups);
    CLEAR(zero, groups);
#undef CLEAR
    // A power of two is a scale of every type.
    for (uint64_t i = 0; block->scale && i < block->rows * supers; i++)
        block->scale[i] = 1.0f;
    return NIB_OK;
}

static uint32_t add_weight(struct model *m, uint32_t segment, uint64_t rows,
                           const struct nib_format *format)
{
    uint32_t index = m->plan.n_weights++;
    bool is_matrix = rows > 1;
    m->weights[index] = (struct nib_weight){.role = is_matrix ? NIB_ROLE_Q : NIB_ROLE_Q_BIAS,
                                            .segment = segment,
                                            .shared_with = NIB_NO_WEIGHT,
                                            .rows = rows,
                                            .cols = WIDTH,
                                            .format = *format};
    m->readers[index] = (struct nib_row_reader){
        .name = "weight",
        .format = *format,
        .rows = rows,
        .cols = WIDTH,
        .permutation = is_matrix && m->has_permutation && format->code != NIB_CODE_FLOAT
                           ? m->permutation
                           : NULL,
        .activation_scale = 0.02f,
        .outlier_threshold = 6.0f,
        .read = read_nothing};
    return index;
}

static uint32_t add_vector(struct model *m, uint32_t segment)
{
    return add_weight(m, segment, 1, nib_format_get(NIB_FORMAT_F32));
}

static struct nib_op *add_op(struct model *m, enum nib_op_kind kind, uint32_t segment)
{
    struct nib_op *op = &m->ops[m->plan.n_ops++];
    *op = (struct nib_op){.kind = kind, .segment = segment};
    m->segments[segment].n_ops++;
    return op;
}

static struct nib_view view(uint32_t value, uint32_t width)
{
    return (struct nib_view){.value = value, .width = width};
}

static struct nib_view row_of(uint32_t value)
{
    return view(value, WIDTH);
}

static void add_matmul(struct model *m, uint32_t segment, uint32_t in, struct nib_view out,
                       bool has_bias)
{
    uint32_t bias = has_bias ? add_vector(m, segment) : NIB_NO_WEIGHT;
    add_op(m, NIB_OP_MATMUL, segment)->matmul =
        (struct nib_op_matmul){.in = row_of(in),
                               .out = out,
                               .weight = add_weight(m, segment, out.width, &m->format),
                               .bias = bias,
                               .activation = m->activation,
                               .experts = NIB_NO_WEIGHT,
                               .tap = NIB_NO_WEIGHT};
}

static void add_norm(struct model *m, uint32_t segment, uint32_t in, uint32_t out)
{
    add_op(m, NIB_OP_NORM, segment)->norm = (struct nib_op_norm){.in = row_of(in),
                                                                 .out = row_of(out),
                                                                 .weight = add_vector(m, segment),
                                                                 .n_groups = 1,
                                                                 .epsilon = 1e-5f};
}

static void add_sum(struct model *m, uint32_t in)
{
    add_op(m, NIB_OP_ADD, 1)->add =
        (struct nib_op_add){.in = row_of(in), .out = row_of(HIDDEN), .scale = 1.0f};
}

/// A model's matmuls: after a norm, two of one input, after an activation, with biases, of lines.
static void add_matmuls(struct model *m, bool has_spans)
{
    const struct nib_format *half = nib_format_get(NIB_FORMAT_F16);
    add_op(m, NIB_OP_EMBED, 0)->embed =
        (struct nib_op_embed){.weight = add_weight(m, 0, ROWS, has_spans ? half : &m->format),
                              .out = row_of(HIDDEN),
                              .scale = 1.0f};
    m->segments[1].first_op = m->plan.n_ops;
    add_norm(m, 1, HIDDEN, A);
    add_matmul(m, 1, A, row_of(B), false);
    add_matmul(m, 1, A, row_of(C), false);
    add_op(m, NIB_OP_ACTIVATE, 1)->activate =
        (struct nib_op_activate){row_of(B), row_of(C), row_of(A), m->function};
    add_matmul(m, 1, A, row_of(B), false);
    add_sum(m, B);
    add_matmul(m, 1, HIDDEN, row_of(A), true);
    add_op(m, NIB_OP_SCALE, 1)->scale = (struct nib_op_scale){.x = row_of(A)};
    add_sum(m, A);
    add_norm(m, 1, HIDDEN, A);
    add_sum(m, A);
    m->segments[2].first_op = m->plan.n_ops;
    add_op(m, NIB_OP_GATHER, 2)->gather = (struct nib_op_gather){row_of(HIDDEN), row_of(A)};
    add_norm(m, 2, A, A);
    add_matmul(m, 2, A, view(LOGITS, ROWS), false);
    add_op(m, NIB_OP_SOFTCAP, 2)->softcap =
        (struct nib_op_softcap){.x = view(LOGITS, ROWS), .cap = 30.0f};
}

static void init(struct model *m, uint32_t n_layers, uint32_t width)
{
    m->plan = (struct nib_plan){
        .values = {{"hidden", WIDTH}, {"a", width}, {"b", width}, {"c", width}, {"logits", ROWS}},
        .n_values = N_VALUES,
        .ops = m->ops,
        .segments = m->segments,
        .n_segments = n_layers + 2,
        .weights = m->weights,
        .kv_layers = m->kv_layers,
        .logits_value = LOGITS,
        .hidden_size = WIDTH,
        .vocabulary = ROWS,
        .context = 32,
        .max_rows = MAX_INPUTS};
    for (uint32_t s = 0; s < n_layers + 2; s++)
        m->segments[s] = (struct nib_segment){.kind = s == 0              ? NIB_SEGMENT_EMBEDDING
                                                      : s == n_layers + 1 ? NIB_SEGMENT_HEAD
                                                                          : NIB_SEGMENT_LAYER};
    for (uint32_t i = 0; i < WIDTH; i++)
        m->permutation[i] = WIDTH - 1 - i;
}

/// Has the backend make all passes of the plan. Returns whether it could.
static bool make(struct model *m, void *device, const char *what)
{
    const struct nib_backend *backend = &nib_vulkan_backend;
    struct nib_error error = {.message = ""};
    struct nib_instance_params params = {.plan = &m->plan,
                                         .device = device,
                                         .n_segments = m->plan.n_segments,
                                         .n_pages = {1, 1},
                                         .max_sequences = MAX_INPUTS,
                                         .max_logits = MAX_INPUTS};
    void *self = NULL;
    bool is_ready = false;
    enum nib_status status = backend->create(&params, &self, &error);
    for (uint32_t w = 0; status == NIB_OK && w < m->plan.n_weights; w++)
        status = backend->pack(self, w, &m->readers[w], &error);
    if (status == NIB_OK)
        status = backend->ready(self, 0, &is_ready, &error);
    backend->destroy(self);
    if (status != NIB_OK)
        fprintf(stderr, "@ failed %s: %s\n", what, error.message);
    return status == NIB_OK;
}

static bool make_matmuls(struct model *m, void *device, const struct nib_format *format,
                         bool has_permutation)
{
    bool is_good = true, has_spans = format->group % NIB_GRANULE && format->group != 16;
    for (int a = 0; a < NIB_ACTIVATION_COUNT; a++) {
        char what[80];
        m->format = *format;
        m->activation = (enum nib_activation)a;
        m->has_permutation = has_permutation;
        // Each function gets its turn.
        m->function = (enum nib_gate_function)((format->id + (unsigned)a) % 3);
        init(m, 1, WIDTH);
        add_matmuls(m, has_spans);
        snprintf(what, sizeof what, "%s, %s", format->name, nib_activation_name(m->activation));
        is_good = make(m, device, what) && is_good;
    }
    return is_good;
}

/// What is asked for.
struct request {
    struct nib_device_params params;
    bool is_quick;                   ///< the most common formats
    const struct nib_format *format; ///< this one's matmuls alone, or NULL
};

static bool make_all_matmuls(struct model *m, void *device, const struct request *request)
{
    static const enum nib_format_id common[] = {NIB_FORMAT_Q4_0, NIB_FORMAT_Q4_1, NIB_FORMAT_Q8_0,
                                                NIB_FORMAT_Q4_K, NIB_FORMAT_Q6_K};
    bool is_good = true;
    if (request->format)
        return make_matmuls(m, device, request->format, false);
    if (request->is_quick) {
        for (uint32_t i = 0; i < sizeof common / sizeof common[0]; i++)
            is_good = make_matmuls(m, device, nib_format_get(common[i]), false) && is_good;
        return is_good;
    }
    for (int id = 0; id < NIB_FORMAT_COUNT; id++)
        is_good = make_matmuls(m, device, nib_format_get((enum nib_format_id)id), false) && is_good;
    // Other scales, groups that do not fit granules, columns out of order.
    static const enum nib_scale_type scales[] = {NIB_SCALE_F32, NIB_SCALE_BF16};
    for (uint32_t i = 0; i < 8; i++) {
        struct nib_format format =
            *nib_format_get((enum nib_format_id)(NIB_FORMAT_INT4 + (int)(i / 2)));
        format.scale = scales[i % 2];
        format.group = i % 2 ? 48 : 0;
        is_good = make_matmuls(m, device, &format, i % 2 == 1) && is_good;
    }
    return is_good;
}

/// Newest and first tokens lie in f16 beside their codes where `has_floats`.
static bool make_attention(struct model *m, void *device, enum nib_kv_format keys,
                           enum nib_kv_format values, bool has_floats)
{
    static const uint32_t dims[] = {32, 64, 80, 96, 128, 192, 256, MAX_DIM};
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 6, 7, 8, MAX_HEADS};
    const uint32_t n_dims = sizeof dims / sizeof dims[0], n_groups = sizeof groups / sizeof *groups;
    init(m, n_dims * n_groups, MAX_HEADS * MAX_DIM);
    for (uint32_t i = 0; i < n_dims * n_groups; i++) {
        uint32_t dim = dims[i / n_groups], n_heads = groups[i % n_groups];
        m->kv_layers[i] = (struct nib_kv_layer){.n_heads = 1, .key_dim = dim, .value_dim = dim};
        (void)nib_kv_layer_size(&m->kv_layers[i], keys, values);
        m->segments[i + 1].first_op = m->plan.n_ops;
        // With angles attention can take a single row as it comes.
        for (uint32_t k = 0; k < 2; k++)
            add_op(m, NIB_OP_ROPE, i + 1)->rope =
                (struct nib_op_rope){.x = k ? view(B, dim) : view(A, n_heads * dim),
                                     .n_heads = k ? 1 : n_heads,
                                     .head_dim = dim};
        add_op(m, NIB_OP_KV_STORE, i + 1)->kv_store =
            (struct nib_op_kv_store){.key = view(B, dim), .value = view(C, dim), .kv_layer = i};
        add_op(m, NIB_OP_ATTENTION, i + 1)->attention =
            (struct nib_op_attention){.query = view(A, n_heads * dim),
                                      .out = view(B, n_heads * dim),
                                      .kv_layer = i,
                                      .n_heads = n_heads,
                                      .scale = 1.0f};
    }
    static const float frequency[16] = {0};
    static const struct nib_rope_table angles = {
        .dims = 32, .frequency = frequency, .magnitude = 1.0f};
    m->plan.ropes = &angles;
    m->plan.n_ropes = 1;
    m->plan.n_kv_layers = n_dims * n_groups;
    m->plan.n_kv_classes = has_floats ? 2 : 1;
    m->plan.recent_pages = has_floats ? 2 : 0;
    m->plan.first_pages = has_floats ? 1 : 0;
    m->plan.key_format = keys;
    m->plan.value_format = values;
    m->segments[m->plan.n_segments - 1].first_op = m->plan.n_ops;
    return make(m, device, "attention");
}

static bool make_all_attention(struct model *m, void *device, bool is_quick)
{
    static const enum nib_kv_format formats[] = {NIB_KV_F32, NIB_KV_F16, NIB_KV_I8, NIB_KV_I4};
    static const enum nib_kv_format codes[] = {NIB_KV_I4_CHANNEL, NIB_KV_I8, NIB_KV_I4};
    bool is_good = true;
    for (uint32_t i = 0; i < 16; i++) {
        if (!is_quick || i / 4 == i % 4)
            is_good = make_attention(m, device, formats[i / 4], formats[i % 4], false) && is_good;
    }
    for (uint32_t i = 0; i < 6; i++)
        is_good = make_attention(m, device, codes[i / 2], codes[1 + i % 2], true) && is_good;
    return is_good;
}

/// Ends the program where it is called wrongly.
static struct request read_options(int argc, char **argv)
{
    struct request request = {.params = *nib_device_params(.backend = NIB_BACKEND_VULKAN,
                                                           .self_test = NIB_SELF_TEST_OFF)};
    bool is_good = true;
    for (int i = 1; i < argc && is_good; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool has_value = true;
        if (strcmp(argv[i], "--index") == 0)
            request.params.index = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--variant") == 0)
            request.params.vulkan_variant = value;
        else if (strcmp(argv[i], "--mask") == 0)
            request.params.vulkan_mask = value;
        else if (strcmp(argv[i], "--format") == 0)
            is_good = (request.format = nib_format_find(value)) != NULL;
        else
            has_value = false;
        request.is_quick = request.is_quick || strcmp(argv[i], "--quick") == 0;
        is_good = is_good && (has_value ? *value != 0 : strcmp(argv[i], "--quick") == 0);
        i += has_value;
    }
    if (!is_good) {
        fprintf(stderr, "usage: nibble-bench-pipelines [--quick | --format NAME] [--index N] "
                        "[--variant NAME] [--mask baseline]\n");
        exit(2);
    }
    return request;
}

static struct nib_vk_device *open_watched(const struct request *request)
{
    struct nib_error error = {.message = ""};
    void *opened = NULL;
    if (nib_vulkan_backend.device_open(&request->params, &opened, &error) != NIB_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    struct nib_vk_device *device = opened;
    watch.create_module = device->table.CreateShaderModule;
    watch.create_pipelines = device->table.CreateComputePipelines;
    device->table.CreateShaderModule = watch_module;
    device->table.CreateComputePipelines = watch_pipelines;
    return device;
}

int main(int argc, char **argv)
{
    struct request request = read_options(argc, argv);
    struct nib_vk_device *device = open_watched(&request);
    struct model *m = calloc(1, sizeof *m);
    bool is_good = m && make_all_matmuls(m, device, &request);
    if (m && !request.format)
        is_good = make_all_attention(m, device, request.is_quick) && is_good;
    free(m);
    fprintf(stderr, "@ end\n");
    printf("%s: %u pipelines%s\n", device->snapshot.name, watch.n_made,
           is_good ? "" : ", some failed");
    nib_vulkan_backend.device_close(device);
    return is_good ? 0 : 1;
}
