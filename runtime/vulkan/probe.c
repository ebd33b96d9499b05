#include "runtime/vulkan/probe.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/base/status.h"

/// Limits. Sums are taken in another order, and drivers compute roots and exponentials to a few
/// units in the last place; then a code may fall to the other side of a rounding, which is worth a
/// part of 254 of the largest input. A kernel that is wrong is off by far more.
#define LIMIT_FLOATS 5e-4
#define LIMIT_CODES 2e-2
/// Rows of a weight: no multiple of a tile.
#define N_OUTPUTS 37u
/// Pages of a cache.
#define N_PAGES 4u
#define N_HIDDEN_ROWS 64u // as many as kernels for many rows of input take at once
/// Values of a probe's plan besides the hidden state.
#define VALUE_IN 1
#define VALUE_OUT 2
#define VALUE_LOGITS 3
#define VALUE_LEAD 4

static void append_name(struct nib_vk_probe *probe, const char *format, ...) NIB_PRINTF(2, 3);
static void append_name(struct nib_vk_probe *probe, const char *format, ...)
{
    size_t used = strlen(probe->name);
    va_list list;
    va_start(list, format);
    vsnprintf(probe->name + used, sizeof probe->name - used, format, list);
    va_end(list);
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/// Returns a number in [-1, 1).
static float random_float(uint64_t *state)
{
    return (float)next_random(state) / 1073741824.0f - 1.0f;
}

/// A number that a scale of the type can be; denormal halves and negative ones among them.
static float random_scale(struct nib_vk_probe *probe, enum nib_scale_type type)
{
    uint32_t dice = next_random(&probe->random);
    float x = random_float(&probe->random) * (dice % 8 ? 0.1f : 1e-5f);
    if (type == NIB_SCALE_E8M0)
        return ldexpf(1.0f, -(int)(dice % 10));
    if (type == NIB_SCALE_BF16)
        return nib_f32_from_bf16(nib_bf16_from_f32(x));
    return type == NIB_SCALE_F16 ? nib_f32_from_f16(nib_f16_from_f32(x)) : x;
}

static float random_value(struct nib_vk_probe *probe, enum nib_format_id id)
{
    float x = random_float(&probe->random);
    if (id == NIB_FORMAT_BF16)
        return nib_f32_from_bf16(nib_bf16_from_f32(x));
    return id == NIB_FORMAT_F16 ? nib_f32_from_f16(nib_f16_from_f32(x)) : x;
}

static void fill(struct nib_vk_probe *probe, const struct nib_format *format,
                 const struct nib_row_block *b)
{
    uint64_t groups = b->rows * nib_format_groups(format, b->cols);
    uint64_t supers = format->super ? b->rows * nib_format_supers(format, b->cols) : groups;
    uint32_t codes = format->bits <= 8 ? 1u << format->bits : 1;
    uint64_t *random = &probe->random;
    for (uint64_t i = 0; b->values && i < b->rows * b->cols; i++)
        b->values[i] = random_value(probe, format->id);
    for (uint64_t i = 0; b->codes && i < b->rows * b->cols; i++)
        b->codes[i] = (uint8_t)(next_random(random) % codes);
    for (uint64_t i = 0; b->scale && i < supers; i++)
        b->scale[i] = random_scale(probe, format->scale);
    for (uint64_t i = 0; b->min && i < supers; i++)
        b->min[i] = random_scale(probe, format->scale);
    for (uint64_t i = 0; b->sub_scale && i < groups; i++)
        b->sub_scale[i] = (int8_t)(next_random(random) % 256);
    for (uint64_t i = 0; b->sub_min && i < groups; i++)
        b->sub_min[i] = (uint8_t)(next_random(random) % 64);
    for (uint64_t i = 0; b->zero && i < groups; i++)
        b->zero[i] = (int16_t)(next_random(random) % (codes + 1));
}

static enum nib_status read_rows(const struct nib_row_reader *reader, uint64_t first,
                                 struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    nib_row_block_copy(&reader->format, reader->source, first, block);
    return NIB_OK;
}

/// Adds a random weight of `rows` rows, 1 for a vector; `*out_weight` is its number.
static enum nib_status add_weight(struct nib_vk_probe *probe, const struct nib_format *format,
                                  uint64_t rows, uint64_t cols, uint32_t *out_weight,
                                  struct nib_error *err)
{
    enum nib_role role = rows > 1 ? NIB_ROLE_FFN_DOWN : NIB_ROLE_FFN_NORM;
    uint32_t w = probe->plan.n_weights;
    size_t size = nib_row_block_size(format, rows, cols);
    probe->memory[w] = size ? calloc(1, size) : NULL;
    if (!probe->memory[w])
        return nib_fail_memory(err);
    nib_row_block_init(&probe->blocks[w], format, rows, cols, probe->memory[w]);
    fill(probe, format, &probe->blocks[w]);
    probe->weights[w] = (struct nib_weight){.role = role,
                                            .segment = 1,
                                            .shared_with = NIB_NO_WEIGHT,
                                            .rows = rows,
                                            .cols = cols,
                                            .format = *format};
    probe->readers[w] = (struct nib_row_reader){.name = "probe",
                                                .format = *format,
                                                .rows = rows,
                                                .cols = cols,
                                                .read = read_rows,
                                                .source = &probe->blocks[w]};
    probe->plan.n_weights++;
    *out_weight = w;
    return NIB_OK;
}

static struct nib_op *add_op(struct nib_vk_probe *probe, enum nib_op_kind kind)
{
    struct nib_op *op = &probe->ops[probe->plan.n_ops++];
    *op = (struct nib_op){.kind = kind, .segment = 1};
    return op;
}

/// Begins a probe whose hidden state has `n_hidden` columns, the first of which are also its
/// output, and values of n_in and n_out columns.
static void begin(struct nib_vk_probe *probe, uint32_t n_hidden, uint32_t n_in, uint32_t n_out)
{
    *probe = (struct nib_vk_probe){.limit = LIMIT_FLOATS, .n_rows = {1, 2, 3, 5, 61}, .random = 99};
    probe->plan = (struct nib_plan){
        .values = {{"hidden", n_hidden}, {"in", n_in}, {"out", n_out}, {"logits", 1}},
        .n_values = 4,
        .logits_value = VALUE_LOGITS,
        .hidden_size = n_hidden,
        .vocabulary = 1,
        .context = NIB_KV_PAGE_TOKENS * N_PAGES,
        .max_rows = N_HIDDEN_ROWS,
        .key_format = NIB_KV_F32,
        .value_format = NIB_KV_F32,
    };
}

/// How a probe's last op leaves its output.
enum ending {
    IN_PLACE, ///< in the hidden state
    ADDED,    ///< in VALUE_OUT, and an op that may be taken in adds it to the hidden state
    APART     ///< the same, by an op that is not
};

/// Ends a probe, and sets the pointers, which a copy would not keep.
static void finish(struct nib_vk_probe *probe, enum ending ending)
{
    struct nib_plan *plan = &probe->plan;
    struct nib_view out = {.value = VALUE_OUT, .width = plan->values[VALUE_OUT].width};
    if (ending == APART)
        add_op(probe, NIB_OP_SCALE)->scale = (struct nib_op_scale){.x = out, .factor = 1.0f};
    if (ending != IN_PLACE)
        add_op(probe, NIB_OP_ADD)->add =
            (struct nib_op_add){.in = out, .out = {.width = out.width}, .scale = 1.0f};
    probe->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    uint32_t n_layer_ops = probe->is_head ? 0 : plan->n_ops;
    probe->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER, .n_ops = n_layer_ops};
    probe->segments[2] = (struct nib_segment){
        .kind = NIB_SEGMENT_HEAD, .first_op = n_layer_ops, .n_ops = plan->n_ops - n_layer_ops};
    plan->ops = probe->ops;
    plan->segments = probe->segments;
    plan->n_segments = 3;
    plan->weights = probe->weights;
    plan->ropes = &probe->rope;
    plan->kv_layers = &probe->kv_layer;
}

/// Returns a small number of columns that groups and granules divide as they do `cols`.
static uint32_t shrink(const struct nib_format *format, uint32_t cols)
{
    uint32_t unit = format->super ? format->super : format->group ? format->group : NIB_GRANULE;
    while (unit % NIB_GRANULE && unit < 4 * NIB_GRANULE)
        unit *= 2;
    uint32_t least = 3 * unit > 96 ? (unit >= 96 ? 2 * unit : 3 * unit) : 96 / unit * unit;
    return cols <= least ? cols : least + cols % unit;
}

static enum nib_status add_source(struct nib_vk_probe *probe,
                                  const struct nib_vk_probe_matmul *params, uint32_t cols,
                                  struct nib_error *err)
{
    static const char *const gates[] = {"silu", "gelu-tanh", "gelu"};
    uint32_t value = params->has_add ? VALUE_LEAD : NIB_VALUE_HIDDEN;
    struct nib_view in = {.value = value, .width = cols};
    struct nib_view out = {.value = VALUE_IN, .width = cols};
    if (!params->source)
        return NIB_OK;
    if (params->source->kind == NIB_OP_ACTIVATE) {
        struct nib_op_activate *op = &add_op(probe, NIB_OP_ACTIVATE)->activate;
        *op = (struct nib_op_activate){.gate = in,
                                       .up = {.value = value, .offset = cols, .width = cols},
                                       .out = out,
                                       .function = params->source->activate.function};
        append_name(probe, ", of %s", gates[op->function]);
        return NIB_OK;
    }
    uint32_t weight = NIB_NO_WEIGHT;
    enum nib_status status = NIB_OK;
    if (params->source_has_weight)
        status = add_weight(probe, nib_format_get(NIB_FORMAT_F32), 1, cols, &weight, err);
    add_op(probe, NIB_OP_NORM)->norm = (struct nib_op_norm){
        .in = in, .out = out, .weight = weight, .n_groups = 1, .epsilon = 1e-5f};
    append_name(probe, params->source_has_weight ? ", of norm" : ", of plain norm");
    return status;
}

static enum nib_status add_permutation(struct nib_vk_probe *probe, uint32_t cols,
                                       struct nib_error *err)
{
    probe->permutation = calloc(cols, sizeof *probe->permutation);
    if (!probe->permutation)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < cols; i++) { // Fisher and Yates
        uint32_t k = next_random(&probe->random) % (i + 1);
        probe->permutation[i] = probe->permutation[k];
        probe->permutation[k] = i;
    }
    return NIB_OK;
}

enum nib_status nib_vk_probe_make_matmul(const struct nib_vk_probe_matmul *params,
                                         struct nib_vk_probe *out_probe, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_probe *probe = out_probe;
    uint32_t cols = shrink(&params->format, params->cols), weight, bias = NIB_NO_WEIGHT;
    // Where only the matmul reads it the hidden state is its input; a gate needs two.
    begin(probe, 2 * (cols > N_OUTPUTS ? cols : N_OUTPUTS), cols, N_OUTPUTS);
    append_name(probe, "matmul %s", params->format.name);
    if (params->format.group)
        append_name(probe, " of %u", params->format.group);
    append_name(probe, " scale %d, %s, %u columns", (int)params->format.scale,
                nib_activation_name(params->activation), cols);
    probe->plan.values[VALUE_LEAD] = (struct nib_value){"lead", 2 * cols};
    probe->plan.n_values++;
    // What is added to must not be what is read, so a norm that no matmul takes in copies that.
    if (params->has_add)
        add_op(probe, NIB_OP_NORM)->norm =
            (struct nib_op_norm){.in = {.width = 2 * cols},
                                 .out = {.value = VALUE_LEAD, .width = 2 * cols},
                                 .weight = NIB_NO_WEIGHT,
                                 .n_groups = 2,
                                 .epsilon = 1e-5f};
    NIB_TRY(add_source(probe, params, cols, err));
    NIB_TRY(add_weight(probe, &params->format, N_OUTPUTS, cols, &weight, err));
    if (params->has_bias) {
        NIB_TRY(add_weight(probe, nib_format_get(NIB_FORMAT_F32), 1, N_OUTPUTS, &bias, err));
        append_name(probe, ", bias");
    }
    if (params->has_permutation) {
        NIB_TRY(add_permutation(probe, cols, err));
        append_name(probe, ", permuted");
    }
    probe->readers[weight].permutation = probe->permutation;
    probe->readers[weight].activation = params->activation;
    probe->readers[weight].activation_scale =
        params->activation_scale > 0 ? params->activation_scale : 0.02f;
    probe->readers[weight].outlier_threshold =
        params->outlier_threshold > 0 ? 1.5f : params->outlier_threshold;
    struct nib_op_matmul *op = &add_op(probe, NIB_OP_MATMUL)->matmul;
    uint32_t value = params->source ? VALUE_IN : params->has_add ? VALUE_LEAD : NIB_VALUE_HIDDEN;
    *op = (struct nib_op_matmul){.in = {.value = value, .width = cols},
                                 .out = {.value = VALUE_OUT, .width = N_OUTPUTS},
                                 .weight = weight,
                                 .bias = bias,
                                 .activation = params->activation,
                                 .experts = NIB_NO_WEIGHT,
                                 .tap = NIB_NO_WEIGHT};
    if (params->activation != NIB_ACTIVATION_F32)
        probe->limit = LIMIT_CODES;
    append_name(probe, params->has_add ? ", added" : "");
    finish(probe, params->has_add ? ADDED : APART);
fail:
    return status;
}

/// Gives the probe the angles of a table, or, where that is NULL, of all numbers of a head.
static void set_table(struct nib_vk_probe *probe, const struct nib_rope_table *table,
                      uint32_t head_dim)
{
    uint32_t dims = table ? table->dims : head_dim, most = 2 * sizeof probe->frequency / 4;
    dims = dims < most ? dims : most;
    for (uint32_t i = 0; i < dims / 2; i++)
        probe->frequency[i] = table ? table->frequency[i] : powf(10000.0f, -2.0f * (float)i / dims);
    probe->rope = (struct nib_rope_table){
        .dims = dims, .frequency = probe->frequency, .magnitude = table ? table->magnitude : 1.0f};
    probe->plan.n_ropes = 1;
}

/// Adds an op that makes queries, keys and values in VALUE_LEAD, which nothing reads at the end:
/// queries may be transformed where they are, and turned keys may be in the cache alone.
static void add_lead(struct nib_vk_probe *probe)
{
    uint32_t width = probe->plan.hidden_size;
    probe->plan.values[VALUE_LEAD] = (struct nib_value){"lead", width};
    probe->plan.n_values++;
    add_op(probe, NIB_OP_NORM)->norm =
        (struct nib_op_norm){.in = {.width = width},
                             .out = {.value = VALUE_LEAD, .width = width},
                             .weight = NIB_NO_WEIGHT,
                             .n_groups = 1,
                             .epsilon = 1e-5f};
}

/// Adds ops that turn queries and keys, of `q` and `k` numbers, in VALUE_LEAD.
static void add_ropes(struct nib_vk_probe *probe, const struct nib_vk_probe_attention *params,
                      uint32_t q, uint32_t k)
{
    uint32_t head_dim = params->layer.key_dim;
    set_table(probe, params->table, head_dim);
    const struct nib_op_rope queries = {.x = {.value = VALUE_LEAD, .width = q},
                                        .n_heads = q / head_dim,
                                        .head_dim = head_dim,
                                        .interleaved = params->rope->interleaved};
    add_op(probe, NIB_OP_ROPE)->rope = queries;
    struct nib_op_rope *keys = &add_op(probe, NIB_OP_ROPE)->rope;
    *keys = queries;
    keys->x = (struct nib_view){.value = VALUE_LEAD, .offset = q, .width = k};
    keys->n_heads = k / head_dim;
    append_name(probe, ", turned by %u%s", probe->rope.dims,
                params->rope->interleaved ? " in pairs" : "");
}

enum nib_status nib_vk_probe_make_attention(const struct nib_vk_probe_attention *params,
                                            struct nib_vk_probe *out_probe, struct nib_error *err)
{
    static const char *const formats[] = {"f16", "f32", "f16", "i8", "i4", "i4c"};
    struct nib_vk_probe *probe = out_probe;
    struct nib_kv_layer layer = params->layer;
    uint32_t group = params->n_heads / layer.n_heads;
    layer.n_heads = layer.n_heads < 2 ? layer.n_heads : 2;
    layer.kv_class = 0;
    layer.window = layer.window ? 16 : 0;
    uint32_t q = layer.n_heads * group * layer.key_dim, k = layer.n_heads * layer.key_dim;
    uint32_t v = layer.n_heads * layer.value_dim, out = layer.n_heads * group * layer.value_dim;
    begin(probe, q + k + v > out ? q + k + v : out, 1, out);
    if (!nib_kv_layer_size(&layer, params->key_format, params->value_format))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "a cache of heads of %u", layer.key_dim);
    probe->kv_layer = layer;
    probe->plan.n_kv_layers = 1;
    probe->plan.recent_pages = params->recent_pages;
    probe->plan.first_pages = params->first_pages > 0; // more would leave no page as it is
    probe->plan.n_kv_classes = nib_plan_keeps_f16(&probe->plan) ? 2 : 1;
    probe->plan.max_rows = NIB_KV_PAGE_TOKENS * 2;
    probe->plan.key_format = params->key_format;
    probe->plan.value_format = params->value_format;
    // With newest tokens, rows behind two pages read the first one as it is, others in f16. With
    // first tokens too, rows behind three pages read the second one as it is.
    static const uint32_t n_rows[3][NIB_VK_PROBE_STEPS] = {
        {NIB_KV_PAGE_TOKENS + 1, 1, 3},
        {2 * NIB_KV_PAGE_TOKENS, 1, 3},
        {2 * NIB_KV_PAGE_TOKENS, NIB_KV_PAGE_TOKENS + 1, 1, 3}};
    memcpy(probe->n_rows,
           n_rows[params->first_pages    ? 2
                  : params->recent_pages ? 1
                                         : 0],
           sizeof probe->n_rows);
    probe->limit = params->key_format >= NIB_KV_I8 || params->value_format >= NIB_KV_I8
                       ? LIMIT_CODES
                       : LIMIT_FLOATS * 4; // f16 rounds what differs
    append_name(probe, "attention %u x %u, heads of %u and %u, keys %s, values %s%s%s",
                layer.n_heads, group, layer.key_dim, layer.value_dim, formats[params->key_format],
                formats[params->value_format], layer.window ? ", window" : "",
                params->softcap > 0 ? ", capped" : "");
    if (params->recent_pages)
        append_name(probe, ", %u newest pages in f16", params->recent_pages);
    if (params->first_pages)
        append_name(probe, ", first pages in f16");
    bool is_plain[2] = {nib_kv_has_codes(params->key_format) && layer.plain_keys,
                        nib_kv_has_codes(params->value_format) && layer.plain_values};
    if (is_plain[0] || is_plain[1])
        append_name(probe, ", plain %s",
                    !is_plain[1]  ? "keys"
                    : is_plain[0] ? "keys and values"
                                  : "values");
    add_lead(probe);
    if (params->rope)
        add_ropes(probe, params, q, k);
    add_op(probe, NIB_OP_KV_STORE)->kv_store =
        (struct nib_op_kv_store){.key = {.value = VALUE_LEAD, .offset = q, .width = k},
                                 .value = {.value = VALUE_LEAD, .offset = q + k, .width = v}};
    add_op(probe, NIB_OP_ATTENTION)->attention =
        (struct nib_op_attention){.query = {.value = VALUE_LEAD, .width = q},
                                  .out = {.value = VALUE_OUT, .width = out},
                                  .n_heads = layer.n_heads * group,
                                  .scale = params->scale,
                                  .softcap = params->softcap};
    finish(probe, ADDED);
    return NIB_OK;
}

static enum nib_status make_norm(const struct nib_op_norm *norm, struct nib_vk_probe *probe,
                                 struct nib_error *err)
{
    // An odd width: no reduction comes out even.
    uint32_t n_groups = norm->n_groups < 3 ? norm->n_groups : 3, width = 77;
    uint32_t weight = NIB_NO_WEIGHT;
    enum nib_status status = NIB_OK;
    begin(probe, n_groups * width, 1, n_groups * width);
    if (norm->weight != NIB_NO_WEIGHT)
        status = add_weight(probe, nib_format_get(NIB_FORMAT_F32), 1, width, &weight, err);
    add_op(probe, NIB_OP_NORM)->norm =
        (struct nib_op_norm){.in = {.width = n_groups * width},
                             .out = {.value = VALUE_OUT, .width = n_groups * width},
                             .weight = weight,
                             .n_groups = n_groups,
                             .epsilon = 1e-5f};
    append_name(probe, "norm in %u%s", n_groups, weight == NIB_NO_WEIGHT ? ", plain" : "");
    finish(probe, APART);
    return status;
}

static void make_rope(const struct nib_op_rope *rope, const struct nib_plan *plan,
                      struct nib_vk_probe *probe)
{
    const struct nib_rope_table *table = plan ? &plan->ropes[rope->table] : NULL;
    uint32_t head_dim = table && table->dims > rope->head_dim ? table->dims : rope->head_dim;
    begin(probe, 3 * head_dim, 1, 1);
    set_table(probe, table, head_dim);
    add_op(probe, NIB_OP_ROPE)->rope = (struct nib_op_rope){.x = {.width = 3 * head_dim},
                                                            .n_heads = 3,
                                                            .head_dim = head_dim,
                                                            .interleaved = rope->interleaved};
    append_name(probe, "rope of %u in %u%s", probe->rope.dims, head_dim,
                rope->interleaved ? ", pairs" : "");
    finish(probe, IN_PLACE);
}

static enum nib_status make_embed(const struct nib_op_embed *embed, const struct nib_plan *plan,
                                  struct nib_vk_probe *probe, struct nib_error *err)
{
    const struct nib_weight *of = &plan->weights[embed->weight];
    uint32_t cols = shrink(&of->format, (uint32_t)of->cols), weight;
    begin(probe, cols, 1, cols);
    enum nib_status status = add_weight(probe, &of->format, N_OUTPUTS, cols, &weight, err);
    add_op(probe, NIB_OP_EMBED)->embed = (struct nib_op_embed){
        .weight = weight, .out = {.value = VALUE_OUT, .width = cols}, .scale = embed->scale};
    append_name(probe, "embed %s of %u scale %d", of->format.name, of->format.group,
                (int)of->format.scale);
    finish(probe, APART);
    return status;
}

/// The head's first op: rows that want logits, put side by side.
static void make_gather(struct nib_vk_probe *probe)
{
    const uint32_t width = 131;
    begin(probe, width, 1, 1);
    probe->is_head = true;
    probe->n_rows[NIB_VK_PROBE_STEPS - 1] = 47; // of which NIB_STEP_MAX_LOGITS at most want some
    probe->plan.vocabulary = width;
    probe->plan.values[VALUE_LOGITS].width = width;
    struct nib_op *op = add_op(probe, NIB_OP_GATHER);
    op->segment = 2;
    op->gather = (struct nib_op_gather){{.width = width}, {.value = VALUE_LOGITS, .width = width}};
    append_name(probe, "gather");
    finish(probe, IN_PLACE);
}

enum nib_status nib_vk_probe_make_op(const struct nib_op *op, const struct nib_plan *plan,
                                     struct nib_vk_probe *out_probe, struct nib_error *err)
{
    const uint32_t width = 131;
    struct nib_view in = {.width = width}, up = {.offset = width, .width = width};
    struct nib_view out = {.value = VALUE_OUT, .width = width};
    if (op->kind == NIB_OP_NORM)
        return make_norm(&op->norm, out_probe, err);
    if (op->kind == NIB_OP_EMBED)
        return make_embed(&op->embed, plan, out_probe, err);
    if (op->kind == NIB_OP_ROPE)
        make_rope(&op->rope, plan, out_probe);
    if (op->kind == NIB_OP_GATHER)
        make_gather(out_probe);
    if (op->kind == NIB_OP_ROPE || op->kind == NIB_OP_GATHER)
        return NIB_OK;
    begin(out_probe, 2 * width, 1, width);
    struct nib_op *copy = add_op(out_probe, op->kind);
    append_name(out_probe, "%s", nib_op_name(op->kind));
    if (op->kind == NIB_OP_ACTIVATE) {
        copy->activate = (struct nib_op_activate){in, up, out, op->activate.function};
        append_name(out_probe, " %d", (int)op->activate.function);
    } else if (op->kind == NIB_OP_SOFTCAP) {
        copy->softcap = (struct nib_op_softcap){.x = in, .cap = op->softcap.cap};
    } else {
        copy->add = (struct nib_op_add){.in = up, .out = in, .scale = 0.5f};
        copy->kind = NIB_OP_ADD;
    }
    finish(out_probe, copy->kind == NIB_OP_ACTIVATE ? APART : IN_PLACE);
    return NIB_OK;
}

void nib_vk_probe_free(struct nib_vk_probe *probe)
{
    for (int w = 0; w < NIB_VK_PROBE_WEIGHTS; w++)
        free(probe->memory[w]);
    free(probe->permutation);
    *probe = (struct nib_vk_probe){0};
}

/// Hidden states that hurt: zeros of both signs, a row of zeros, denormals, outliers.
static void make_input(const struct nib_plan *plan, uint32_t n_rows, float *out)
{
    static const float special[] = {0.0f, -0.0f, 1e-42f, -3e-39f, 3.0f, -3.0f};
    uint64_t random = 7;
    for (uint64_t i = 0; i < (uint64_t)n_rows * plan->hidden_size; i++) {
        uint32_t dice = next_random(&random);
        out[i] = dice % 16 == 0 ? special[dice / 16 % 6] : random_float(&random);
        if (n_rows > 1 && i / plan->hidden_size == 1)
            out[i] = 0;
    }
}

/// An instance of a backend that runs probes.
struct runner {
    const struct nib_backend *backend;
    void *self;
};

/// Rows of a step, all of one sequence.
struct chunk {
    uint32_t position;
    uint32_t n_rows;
};

/// Of the rows of a head two of three want logits, and of these the first is another run's.
static void want_logits(struct nib_step *step, struct nib_step_row *rows, float *out)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < step->header.n_used_rows; r++)
        rows[r].logit_row = r % 3 == 1 ? NIB_NONE : n++;
    step->header.first_logit = n > 2 ? 1 : 0;
    step->header.n_logits = n - step->header.first_logit;
    step->logits = out;
}

static enum nib_status run_step(const struct nib_vk_probe *probe, struct runner runner,
                                struct chunk chunk, const float *in, float *out,
                                struct nib_error *err)
{
    uint32_t position = chunk.position, n_rows = chunk.n_rows;
    static const uint32_t pages[2][N_PAGES] = {{1, 0, 2, 3}, {2, 0, 1, 3}};
    struct nib_step_row rows[2 * NIB_KV_PAGE_TOKENS] = {0};
    struct nib_step_sequence sequence = {.kv_length = position + n_rows, .n_rows = n_rows};
    uint32_t bucket = 1u << nib_vk_bucket(n_rows);
    for (uint32_t r = 0; r < bucket; r++)
        rows[r] = r < n_rows ? (struct nib_step_row){.token = 5 * r % N_OUTPUTS,
                                                     .position = position + r,
                                                     .logit_row = NIB_NONE}
                             : (struct nib_step_row){.sequence = NIB_NONE, .logit_row = NIB_NONE};
    struct nib_step step = {.header = {.n_rows = bucket,
                                       .n_used_rows = n_rows,
                                       .n_sequences = 1,
                                       .page_table_stride = N_PAGES},
                            .rows = rows,
                            .sequences = &sequence,
                            .page_tables = *pages};
    if (probe->is_head)
        want_logits(&step, rows, out);
    uint32_t segment = probe->is_head ? 2 : 1;
    enum nib_status status = runner.backend->run(runner.self, segment, segment, &step, in,
                                                 probe->is_head ? NULL : out, err);
    return status == NIB_OK && runner.backend->wait ? runner.backend->wait(runner.self, err)
                                                    : status;
}

/// Runs all steps, one's rows behind the other's in `out`.
static enum nib_status run(const struct nib_vk_probe *probe, struct runner runner, const float *in,
                           float *out, struct nib_error *err)
{
    uint32_t position = 0;
    for (uint32_t w = 0; w < probe->plan.n_weights; w++) {
        enum nib_status status = runner.backend->pack(runner.self, w, &probe->readers[w], err);
        if (status != NIB_OK)
            return status;
    }
    for (uint32_t i = 0; i < NIB_VK_PROBE_STEPS && probe->n_rows[i] > 0; i++) {
        uint32_t n = probe->n_rows[i], first = probe->plan.n_kv_layers ? position : 0;
        enum nib_status status = run_step(probe, runner, (struct chunk){first, n}, in, out, err);
        if (status != NIB_OK)
            return status;
        out += (size_t)n * probe->plan.hidden_size;
        position += n;
    }
    return NIB_OK;
}

/// Returns the largest difference of a row, as a part of its largest number.
static double compare(const struct nib_plan *plan, uint32_t n_rows, const float *a, const float *b)
{
    double worst = 0;
    for (uint32_t r = 0; r < n_rows; r++) {
        double difference = 0, size = 1e-3;
        for (uint32_t i = 0; i < plan->hidden_size; i++) {
            double x = (double)a[(size_t)r * plan->hidden_size + i];
            double each = fabs(x - (double)b[(size_t)r * plan->hidden_size + i]);
            difference = each <= difference ? difference : isnan(each) ? INFINITY : each;
            size = fmax(size, fabs(x));
        }
        worst = fmax(worst, difference / size);
    }
    return worst;
}

enum nib_status nib_vk_reference_open(const struct nib_backend *backend,
                                      struct nib_vk_reference *out_reference, struct nib_error *err)
{
    *out_reference = (struct nib_vk_reference){.backend = backend};
    return backend->device_open(nib_device_params(.cpu_mask = "scalar", .threads = 1),
                                &out_reference->device, err);
}

void nib_vk_reference_close(struct nib_vk_reference *reference)
{
    if (reference->device)
        reference->backend->device_close(reference->device);
    *reference = (struct nib_vk_reference){0};
}

enum nib_status nib_vk_probe_run(const struct nib_vk_probe *probe, struct nib_vk_device *device,
                                 const struct nib_vk_choices *choices,
                                 const struct nib_vk_reference *reference,
                                 struct nib_vk_probe_result *out_result, struct nib_error *err)
{
    if (probe->is_draw)
        return nib_vk_probe_run_draw(probe, device, choices, out_result, err);
    enum nib_status status = NIB_OK;
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < NIB_VK_PROBE_STEPS; i++)
        n_rows += probe->n_rows[i];
    size_t size = (size_t)n_rows * probe->plan.hidden_size;
    float *in = calloc(3 * size, sizeof *in);
    void *self = NULL, *other = NULL;
    struct nib_instance_params params = {
        .plan = &probe->plan,
        .device = device,
        .first_segment = probe->is_head ? 2 : 1,
        .n_segments = 1,
        .n_pages = {N_PAGES, N_PAGES + nib_plan_step_pages(&probe->plan)},
        .max_sequences = 1,
        .max_logits = NIB_STEP_MAX_LOGITS};
    if (!in)
        return nib_fail_memory(err);
    float *a = in + size, *b = a + size;
    make_input(&probe->plan, n_rows, in);
    NIB_TRY(nib_vk_instance_create(&params, &self, err));
    struct nib_vk_instance *instance = self;
    instance->choices = *choices;
    instance->is_trusted = true;
    NIB_TRY(run(probe, (struct runner){&nib_vulkan_backend, self}, in, b, err));
    params.device = reference->device;
    NIB_TRY(reference->backend->create(&params, &other, err));
    NIB_TRY(run(probe, (struct runner){reference->backend, other}, in, a, err));
    *out_result = (struct nib_vk_probe_result){.error = compare(&probe->plan, n_rows, a, b),
                                               .kernels = instance->kernels};
fail:
    nib_vk_instance_destroy(self);
    if (other)
        reference->backend->destroy(other);
    free(in);
    return status;
}
