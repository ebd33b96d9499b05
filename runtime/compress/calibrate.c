#include "runtime/compress/calibrate.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/engine/registry.h"
#include "runtime/model/model.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct nib_calibration {
    struct nib_calibration_params params;
    struct nib_plan *base; ///< the model's plan
    struct nib_plan plan;  ///< the same with fp32 weights, taps, and two segments a layer
    struct nib_arena arena;
    uint32_t n_windows;
    uint32_t hidden_size;
    float *hidden; ///< [n_windows · context][hidden_size]

    void *instance; ///< of the current layer, or NULL
    uint32_t layer;
    const struct nib_calibration_pass *pass;
    uint32_t window; ///< that runs

    struct nib_step_row *rows; ///< [max_rows]
    struct nib_step_sequence sequence;
    uint32_t *page_tables; ///< [classes][pages]
    uint32_t n_pages;
};

/// Segment 0 is the embedding, then two for each layer, then the head.
static uint32_t segment_of(uint32_t layer, enum nib_block block)
{
    return 1 + layer * NIB_BLOCK_COUNT + (uint32_t)block;
}

/// Returns the number of the op that ends the attention: the first that adds to the hidden state.
static uint32_t attention_end(const struct nib_plan *plan, const struct nib_segment *segment)
{
    uint32_t i = segment->first_op;
    while (!(plan->ops[i].kind == NIB_OP_ADD && plan->ops[i].add.out.value == NIB_VALUE_HIDDEN))
        i++;
    return i;
}

/// Cuts each layer's segment in two behind its attention.
static enum nib_status split_segments(struct nib_calibration *c, struct nib_op *ops,
                                      struct nib_error *err)
{
    const struct nib_plan *base = c->base;
    const uint32_t n_layers = base->n_segments - 2;
    struct nib_segment *segments =
        nib_arena_array(&c->arena, NIB_BLOCK_COUNT * (size_t)n_layers + 2, sizeof *segments);
    if (!segments)
        return nib_fail_memory(err);
    c->plan.n_segments = 0;
    for (uint32_t s = 0; s < base->n_segments; s++) {
        struct nib_segment whole = base->segments[s];
        if (whole.kind == NIB_SEGMENT_LAYER) {
            struct nib_segment first = whole;
            first.n_ops = attention_end(base, &whole) + 1 - whole.first_op;
            whole.first_op += first.n_ops;
            whole.n_ops -= first.n_ops;
            segments[c->plan.n_segments++] = first;
        }
        segments[c->plan.n_segments++] = whole;
    }
    for (uint32_t s = 0; s < c->plan.n_segments; s++) {
        for (uint32_t i = 0; i < segments[s].n_ops; i++)
            ops[segments[s].first_op + i].segment = s;
    }
    c->plan.segments = segments;
    return NIB_OK;
}

static bool is_same_view(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset == b->offset && a->width == b->width;
}

/// Gives the first of neighbouring matmuls of one input a tap, whose number is the matrix's role.
static void add_taps(const struct nib_plan *plan, struct nib_op *ops)
{
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        struct nib_op *op = &ops[i];
        if (op->kind != NIB_OP_MATMUL)
            continue;
        op->matmul.activation = NIB_ACTIVATION_F32;
        bool follows = i > 0 && ops[i - 1].kind == NIB_OP_MATMUL &&
                       is_same_view(&ops[i - 1].matmul.in, &op->matmul.in);
        if (!follows)
            op->matmul.tap = plan->weights[op->matmul.weight].role;
    }
}

/// Makes the plan that runs: weights of layers in fp32, since they are replaced.
static enum nib_status make_plan(struct nib_calibration *c, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_plan_params params = {
        .context = c->params.context,
        .key_format = NIB_KV_F32,
        .value_format = NIB_KV_F32,
        .precise = true,
        .whole_layers = true,
    };
    NIB_TRY(nib_plan_create(c->params.source, &params, &c->base, err));
    NIB_TRY(nib_plan_validate(c->base, err));
    c->plan = *c->base;
    struct nib_op *ops = nib_arena_array(&c->arena, c->base->n_ops, sizeof *ops);
    struct nib_weight *weights = nib_arena_array(&c->arena, c->base->n_weights, sizeof *weights);
    if (!ops || !weights)
        NIB_TRY(nib_fail_memory(err));
    memcpy(ops, c->base->ops, c->base->n_ops * sizeof *ops);
    memcpy(weights, c->base->weights, c->base->n_weights * sizeof *weights);
    for (uint32_t i = 0; i < c->base->n_weights; i++) {
        if (nib_arch_in_layer(weights[i].role))
            weights[i].format = *nib_format_get(NIB_FORMAT_F32);
    }
    NIB_TRY(split_segments(c, ops, err));
    add_taps(c->base, ops);
    c->plan.ops = ops;
    c->plan.weights = weights;
    c->plan.n_taps = NIB_ROLE_COUNT;
fail:
    return status;
}

/// A sequence's pages are the first ones, in order, whatever its class.
static enum nib_status make_step(struct nib_calibration *c, struct nib_error *err)
{
    c->n_pages = (uint32_t)nib_ceil_div_u64(c->params.context, NIB_KV_PAGE_TOKENS);
    c->page_tables =
        nib_arena_array(&c->arena, (size_t)c->n_pages * NIB_KV_MAX_CLASSES, sizeof(uint32_t));
    c->rows = nib_arena_array(&c->arena, c->plan.max_rows, sizeof *c->rows);
    if (!c->page_tables || !c->rows)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < c->n_pages * NIB_KV_MAX_CLASSES; i++)
        c->page_tables[i] = i % c->n_pages;
    return NIB_OK;
}

/// The tap's end of a run.
static bool on_tap(void *user, uint32_t tap, const float *rows, uint64_t stride, uint32_t n_rows)
{
    struct nib_calibration *c = user;
    const struct nib_calibration_pass *pass = c->pass;
    if (pass->observe)
        pass->observe(pass->user, (enum nib_role)tap, rows, stride, n_rows, c->window);
    return (enum nib_role)tap != pass->last;
}

static enum nib_status create_instance(struct nib_calibration *c, uint32_t first_segment,
                                       uint32_t n_segments, struct nib_error *err)
{
    struct nib_instance_params params = {
        .plan = &c->plan,
        .device = c->params.device->impl,
        .first_segment = first_segment,
        .n_segments = n_segments,
        .max_sequences = 1,
        .max_logits = 1,
        .precise = true,
        .on_tap = on_tap,
        .tap_user = c,
    };
    for (uint32_t i = 0; i < NIB_KV_MAX_CLASSES; i++)
        params.n_pages[i] = c->n_pages;
    return c->params.device->backend->create(&params, &c->instance, err);
}

static void destroy_instance(struct nib_calibration *c)
{
    if (c->instance)
        c->params.device->backend->destroy(c->instance);
    c->instance = NULL;
}

/// Returns the weight of `role` in `layer`, or NIB_NO_WEIGHT.
static uint32_t find_weight(const struct nib_calibration *c, enum nib_role role, uint32_t layer)
{
    for (uint32_t i = 0; i < c->plan.n_weights; i++) {
        if (c->plan.weights[i].role == role && c->plan.weights[i].layer == layer)
            return i;
    }
    return NIB_NO_WEIGHT;
}

/// Runs segment `segment` over window `window`, in steps of the plan's rows. `out`, if not NULL,
/// gets the hidden states.
static enum nib_status run_window(struct nib_calibration *c, uint32_t segment, uint32_t window,
                                  float *out, struct nib_error *err)
{
    const uint32_t context = c->params.context;
    const int32_t *ids = c->params.ids + (size_t)window * context;
    const size_t base = (size_t)window * context * c->hidden_size;
    for (uint32_t first = 0, n; first < context; first += n) {
        n = context - first < c->plan.max_rows ? context - first : c->plan.max_rows;
        for (uint32_t i = 0; i < n; i++)
            c->rows[i] = (struct nib_step_row){
                .token = (uint32_t)ids[first + i], .position = first + i, .logit_row = NIB_NONE};
        c->sequence = (struct nib_step_sequence){.kv_length = first + n, .n_rows = n};
        const struct nib_step step = {
            .header = {.n_rows = n,
                       .n_used_rows = n,
                       .n_sequences = 1,
                       .page_table_stride = c->n_pages},
            .rows = c->rows,
            .sequences = &c->sequence,
            .page_tables = c->page_tables,
        };
        const size_t place = (size_t)first * c->hidden_size;
        const float *in = segment == 0 ? NULL : c->hidden + base + place;
        enum nib_status status = c->params.device->backend->run(
            c->instance, segment, segment, &step, in, out ? out + base + place : NULL, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

static enum nib_status tick(const struct nib_calibration *c, struct nib_error *err)
{
    if (c->params.tick && !c->params.tick(c->params.user))
        return nib_fail(err, NIB_ERROR_CANCELLED, "quantizing was cancelled");
    return NIB_OK;
}

static enum nib_status embed(struct nib_calibration *c, struct nib_error *err)
{
    enum nib_status status;
    struct nib_row_reader reader;
    const uint32_t weight = find_weight(c, NIB_ROLE_TOKEN_EMBEDDING, 0);
    NIB_TRY(create_instance(c, 0, 1, err));
    NIB_TRY(nib_source_reader(c->params.source, NIB_ROLE_TOKEN_EMBEDDING, 0, &reader, err));
    reader.drop = NULL;
    NIB_TRY(c->params.device->backend->pack(c->instance, weight, &reader, err));
    for (uint32_t w = 0; w < c->n_windows; w++)
        NIB_TRY(run_window(c, 0, w, c->hidden, err));
    destroy_instance(c);
fail:
    return status;
}

static enum nib_status check_ids(struct nib_calibration *c, struct nib_error *err)
{
    const struct nib_calibration_params *p = &c->params;
    const uint32_t vocabulary = nib_source_config(p->source)->vocabulary;
    size_t windows = p->n_ids / p->context;
    if (windows == 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the calibration text has %zu tokens, fewer than one window of %u; give a "
                        "longer text or smaller windows (--calib-ctx)",
                        p->n_ids, (unsigned)p->context);
    c->n_windows = windows < p->windows ? (uint32_t)windows : p->windows;
    for (size_t i = 0; i < (size_t)c->n_windows * p->context; i++) {
        if (p->ids[i] < 0 || (uint32_t)p->ids[i] >= vocabulary)
            return nib_fail(err, NIB_ERROR_ARGUMENT, "calibration token %zu is no id of the model",
                            i);
    }
    return NIB_OK;
}

enum nib_status nib_calibration_create(const struct nib_calibration_params *params,
                                       struct nib_calibration **out_calibration,
                                       struct nib_error *err)
{
    enum nib_status status;
    struct nib_calibration *c = calloc(1, sizeof *c);
    size_t n;
    *out_calibration = NULL;
    if (!c)
        return nib_fail_memory(err);
    c->params = *params;
    NIB_TRY(check_ids(c, err));
    NIB_TRY(make_plan(c, err));
    NIB_TRY(make_step(c, err));
    c->hidden_size = c->plan.hidden_size;
    if (nib_mul_size((size_t)nib_calibration_tokens(c), c->hidden_size, &n) &&
        nib_mul_size(n, sizeof *c->hidden, &n))
        c->hidden = malloc(n);
    if (!c->hidden)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(embed(c, err));
    *out_calibration = c;
    return NIB_OK;
fail:
    nib_calibration_destroy(&c);
    return status;
}

void nib_calibration_destroy(struct nib_calibration **calibration)
{
    struct nib_calibration *c = *calibration;
    *calibration = NULL;
    if (!c)
        return;
    destroy_instance(c);
    nib_plan_destroy(&c->base);
    nib_arena_free(&c->arena);
    free(c->hidden);
    free(c);
}

uint64_t nib_calibration_tokens(const struct nib_calibration *calibration)
{
    return (uint64_t)calibration->n_windows * calibration->params.context;
}

uint32_t nib_calibration_windows(const struct nib_calibration *calibration)
{
    return calibration->n_windows;
}

float *nib_calibration_hidden(struct nib_calibration *calibration)
{
    return calibration->hidden;
}

enum nib_status nib_calibration_begin_layer(struct nib_calibration *calibration, uint32_t layer,
                                            struct nib_error *err)
{
    destroy_instance(calibration);
    calibration->layer = layer;
    return create_instance(calibration, segment_of(layer, 0), NIB_BLOCK_COUNT, err);
}

enum nib_status nib_calibration_set(struct nib_calibration *calibration, enum nib_role role,
                                    const float *values, struct nib_error *err)
{
    const uint32_t index = find_weight(calibration, role, calibration->layer);
    if (index == NIB_NO_WEIGHT)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "layer %" PRIu32 " has no %s", calibration->layer,
                        nib_role_name(role));
    const struct nib_weight *weight = &calibration->plan.weights[index];
    const struct nib_row_reader reader = {
        .name = nib_role_name(role),
        .format = *nib_format_get(NIB_FORMAT_F32),
        .rows = weight->rows,
        .cols = weight->cols,
        .raw = (const uint8_t *)values,
        .read = nib_row_reader_read_raw,
    };
    return calibration->params.device->backend->pack(calibration->instance, index, &reader, err);
}

/// Returns the layer's matmul of `role`, or NULL.
static const struct nib_op *find_matmul(const struct nib_calibration *c, enum nib_role role)
{
    const struct nib_segment *first = &c->plan.segments[segment_of(c->layer, 0)];
    const struct nib_op *end = c->plan.ops + first[1].first_op + first[1].n_ops;
    for (const struct nib_op *op = c->plan.ops + first->first_op; op < end; op++) {
        if (op->kind == NIB_OP_MATMUL && c->plan.weights[op->matmul.weight].role == role)
            return op;
    }
    return NULL;
}

enum nib_role nib_calibration_input(const struct nib_calibration *calibration, enum nib_role role)
{
    const struct nib_op *op = find_matmul(calibration, role);
    while (op && op->matmul.tap == NIB_NO_WEIGHT)
        op--;
    return op ? (enum nib_role)op->matmul.tap : NIB_ROLE_COUNT;
}

enum nib_block nib_calibration_block(const struct nib_calibration *calibration, enum nib_role role)
{
    const struct nib_op *op = find_matmul(calibration, role);
    return op && op->segment == segment_of(calibration->layer, NIB_BLOCK_FFN) ? NIB_BLOCK_FFN
                                                                              : NIB_BLOCK_ATTENTION;
}

enum nib_status nib_calibration_run(struct nib_calibration *calibration,
                                    const struct nib_calibration_pass *pass, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const uint32_t segment = segment_of(calibration->layer, pass->block);
    const uint32_t windows = pass->windows && pass->windows < calibration->n_windows
                                 ? pass->windows
                                 : calibration->n_windows;
    calibration->pass = pass;
    for (uint32_t w = 0; w < windows; w++) {
        calibration->window = w;
        NIB_TRY(run_window(calibration, segment, w,
                           pass->advances ? calibration->hidden : pass->out, err));
        NIB_TRY(tick(calibration, err));
    }
fail:
    return status;
}
