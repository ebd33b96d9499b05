// Walks the plan's ops for one step, sharing out each op's loop to the device's threads.
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/cpu/exec.h"

NIB_CPU_DEFINE_LOOP(embed, nib_cpu_embed)
NIB_CPU_DEFINE_LOOP(angles, nib_cpu_angles)

uint64_t nib_cpu_even_grain(const struct nib_cpu_exec *e, uint64_t count, uint64_t grain)
{
    uint64_t n_threads = nib_thread_pool_size(e->self->device->pool);
    if (count <= grain)
        return grain;
    uint64_t n_pieces = nib_ceil_div_u64(nib_ceil_div_u64(count, grain), n_threads) * n_threads;
    return nib_ceil_div_u64(count, n_pieces);
}

uint64_t nib_cpu_row_grain(const struct nib_cpu_exec *e, uint64_t width)
{
    uint64_t grain = width < NIB_CPU_PIECE_NUMBERS ? NIB_CPU_PIECE_NUMBERS / width : 1;
    return nib_cpu_even_grain(e, e->n_rows, grain);
}

struct nib_cpu_rows nib_cpu_view_rows(const struct nib_cpu_exec *e, const struct nib_view *view)
{
    uint64_t stride = nib_cpu_stride(e->plan, view->value);
    float *base =
        view->value == e->plan->logits_value ? e->step->logits : e->self->values[view->value];
    // A step without lines has no logits, but may look ahead to their matmul.
    return (struct nib_cpu_rows){.data = base ? base + view->offset : NULL, .stride = stride};
}

bool nib_cpu_is_same_view(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset == b->offset && a->width == b->width;
}

/// Finds the stretches of rows of one sequence, and whether rows are each of another one.
static void find_spans(struct nib_cpu_exec *e)
{
    const uint32_t *sequences = e->self->sequences;
    e->n_spans = 0;
    e->has_lone_rows = true;
    for (uint32_t r = 0; r < e->n_rows; r++) {
        if (r == 0 || sequences[r] != sequences[r - 1])
            e->self->spans[e->n_spans++] = r;
        if (r > 0 && sequences[r] <= sequences[r - 1])
            e->has_lone_rows = false;
    }
    e->self->spans[e->n_spans] = e->n_rows;
}

static void exec_embed(struct nib_cpu_exec *e, const struct nib_op_embed *op)
{
    struct nib_cpu_embed args = {
        .weight = nib_cpu_instance_weight(e->self, op->weight),
        .rows = e->step->rows,
        .out = nib_cpu_view_rows(e, &op->out),
        .scale = op->scale,
        .scratch = e->self->scratch,
    };
    run_embed(e, &args, e->n_rows, nib_cpu_row_grain(e, op->out.width));
}

static void exec_gather(struct nib_cpu_exec *e, const struct nib_op_gather *op)
{
    const struct nib_step_header *header = &e->step->header;
    struct nib_cpu_rows in = nib_cpu_view_rows(e, &op->in), out = nib_cpu_view_rows(e, &op->out);
    for (uint32_t r = 0; r < header->n_used_rows; r++) {
        const struct nib_step_row *row = &e->step->rows[r];
        uint32_t line = row->logit_row - header->first_logit;
        if (row->logit_row == NIB_NONE || line >= header->n_logits)
            continue;
        memcpy(out.data + line * out.stride, in.data + r * in.stride,
               op->out.width * sizeof(float));
        e->self->sequences[line] = row->sequence;
    }
    e->n_rows = header->n_logits;
    find_spans(e);
}

/// Moves lines of all values from where their rows were to the front, or back (`is_upward`).
static void move_lines(struct nib_cpu_exec *e, bool is_upward)
{
    const uint32_t *kept = e->self->kept;
    for (uint32_t v = 0; v < e->plan->n_values; v++) {
        float *lines = e->self->values[v];
        size_t width = e->plan->values[v].width, stride = nib_cpu_stride(e->plan, v);
        for (uint32_t i = 0; lines && i < e->n_rows; i++) {
            uint32_t k = is_upward ? e->n_rows - 1 - i : i;
            float *near = lines + k * stride, *far = lines + kept[k] * stride;
            if (near != far)
                memcpy(is_upward ? far : near, is_upward ? near : far, width * sizeof *lines);
        }
    }
}

/// Goes on with the rows that want logits alone; `narrow` is the step of those.
static void keep_wanted_rows(struct nib_cpu_exec *e, struct nib_step *narrow)
{
    struct nib_cpu_instance *self = e->self;
    uint32_t n = 0;
    for (uint32_t r = 0; r < e->n_rows; r++) {
        if (e->step->rows[r].logit_row == NIB_NONE)
            continue;
        self->kept[n] = r;
        self->kept_rows[n] = e->step->rows[r];
        self->sequences[n++] = e->step->rows[r].sequence;
    }
    *narrow = *e->step;
    narrow->rows = self->kept_rows;
    e->step = narrow;
    e->n_rows = n;
    find_spans(e);
    move_lines(e, false);
}

/// Runs op `i` and those up to `end` that can be done with it; returns the number of the next.
static uint32_t exec_ops(struct nib_cpu_exec *e, uint32_t i, uint32_t end)
{
    const struct nib_op *op = &e->plan->ops[i];
    switch (op->kind) {
    case NIB_OP_EMBED:
        exec_embed(e, &op->embed);
        break;
    case NIB_OP_MATMUL:
        return nib_cpu_exec_matmuls(e, i, end);
    case NIB_OP_GATHER:
        exec_gather(e, &op->gather);
        break;
    case NIB_OP_NORM:
    case NIB_OP_ROPE:
    case NIB_OP_KV_STORE:
    case NIB_OP_ATTENTION:
    case NIB_OP_ACTIVATE:
    case NIB_OP_ADD:
    case NIB_OP_SCALE:
    case NIB_OP_SOFTCAP:
        return nib_cpu_exec_rows(e, i, end);
    case NIB_OP_ROUTE: // never in a plan that nib_plan_validate let through
    case NIB_OP_REDUCE:
    case NIB_OP_COUNT:
        break;
    }
    return i + 1;
}

/// Shows the input of a matmul to whoever listens; returns whether the run goes on.
static bool show_tap(const struct nib_cpu_exec *e, const struct nib_op *op)
{
    const struct nib_cpu_instance *self = e->self;
    if (op->kind != NIB_OP_MATMUL || op->matmul.tap == NIB_NO_WEIGHT || !self->on_tap)
        return true;
    struct nib_cpu_rows in = nib_cpu_view_rows(e, &op->matmul.in);
    return self->on_tap(self->tap_user, op->matmul.tap, in.data, in.stride, e->n_rows);
}

/// Computes the rows' angles of every table that segments [first, last] use.
static void find_angles(const struct nib_cpu_exec *e, uint32_t first, uint32_t last)
{
    const struct nib_plan *plan = e->plan;
    uint32_t end = plan->segments[last].first_op + plan->segments[last].n_ops;
    for (uint32_t t = 0; t < plan->n_ropes; t++) {
        uint32_t i = plan->segments[first].first_op;
        while (i < end && !(plan->ops[i].kind == NIB_OP_ROPE && plan->ops[i].rope.table == t))
            i++;
        if (i == end)
            continue;
        struct nib_cpu_angles args = {
            .table = &plan->ropes[t],
            .rows = e->step->rows,
            .out = e->self->angles[t],
        };
        // A cosine costs as much as some ten other operations.
        uint64_t grain = NIB_CPU_PIECE_NUMBERS / (10 * (uint64_t)plan->ropes[t].dims);
        run_angles(e, &args, e->n_rows, grain);
    }
}

/// Returns whether op `i` makes nothing but queries of the attention op `attention`, of what no op
/// in between writes, so that it can be done right before.
static bool is_of_query(const struct nib_plan *plan, uint32_t i, uint32_t attention)
{
    const struct nib_op *op = &plan->ops[i];
    const struct nib_view *query = &plan->ops[attention].attention.query;
    if (op->kind == NIB_OP_NORM)
        return nib_cpu_is_same_view(&op->norm.in, query) &&
               nib_cpu_is_same_view(&op->norm.out, query);
    if (op->kind == NIB_OP_ROPE)
        return nib_cpu_is_same_view(&op->rope.x, query);
    if (op->kind != NIB_OP_MATMUL || !nib_cpu_is_same_view(&op->matmul.out, query))
        return false;
    while (++i < attention) {
        const struct nib_op *other = &plan->ops[i];
        const struct nib_view *out = other->kind == NIB_OP_MATMUL ? &other->matmul.out
                                     : other->kind == NIB_OP_NORM ? &other->norm.out
                                     : other->kind == NIB_OP_ROPE ? &other->rope.x
                                                                  : NULL;
        if (out ? out->value == op->matmul.in.value : other->kind != NIB_OP_KV_STORE)
            return false;
    }
    return true;
}

/// Some ops of a segment.
struct op_range {
    uint32_t first, end;
    uint32_t attention; ///< those of this op's queries alone, or (`but_queries`) all others
    bool but_queries;
};
#define ALL_OPS UINT32_MAX ///< as `attention`: all of the range

static bool is_meant(const struct nib_plan *plan, const struct op_range *range, uint32_t i)
{
    return range->attention == ALL_OPS ||
           is_of_query(plan, i, range->attention) != range->but_queries;
}

/// Returns whether the run goes on.
static bool exec_range(struct nib_cpu_exec *e, const struct op_range *range)
{
    struct nib_cpu_instance *self = e->self;
    for (uint32_t i = range->first, next; i < range->end; i = next) {
        next = i + 1;
        if (!is_meant(e->plan, range, i))
            continue;
        uint32_t end = next;
        while (!self->profile_ns && end < range->end && is_meant(e->plan, range, end))
            end++;
        uint64_t start = self->profile_ns ? nib_clock_ns() : 0;
        if (!show_tap(e, &e->plan->ops[i]))
            return false;
        next = exec_ops(e, i, end);
        if (self->profile_ns) {
            self->profile_ns[i] += nib_clock_ns() - start;
            self->profile_calls[i]++;
        }
    }
    return true;
}

/// Returns the number of the attention op, right behind the last op that stores keys and values,
/// from which on all but rows that want logits can be left out, or ALL_OPS if there is none:
/// LLM_INT8 finds its outliers in all rows of a sequence.
static uint32_t find_last_attention(const struct nib_cpu_exec *e, const struct nib_segment *segment)
{
    const struct nib_plan *plan = e->plan;
    const uint32_t end = segment->first_op + segment->n_ops;
    uint32_t found = ALL_OPS;
    if (segment + 1 >= plan->segments + plan->n_segments || segment[1].kind != NIB_SEGMENT_HEAD)
        return ALL_OPS;
    for (uint32_t i = segment->first_op; i < end; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->kind == NIB_OP_MATMUL && op->matmul.activation == NIB_ACTIVATION_LLM_INT8)
            return ALL_OPS;
        if (op->kind == NIB_OP_KV_STORE)
            found = i + 1 < end && op[1].kind == NIB_OP_ATTENTION ? i + 1 : ALL_OPS;
    }
    return found;
}

static uint32_t count_wanted_rows(const struct nib_cpu_exec *e)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < e->n_rows; r++)
        n += e->step->rows[r].logit_row != NIB_NONE;
    return n;
}

/// Returns whether the run goes on.
static bool exec_segment(struct nib_cpu_exec *e, uint32_t number)
{
    const struct nib_segment *segment = &e->plan->segments[number];
    const struct nib_step *step = e->step;
    struct nib_step narrow;
    e->n_rows = step->header.n_used_rows;
    for (uint32_t r = 0; r < e->n_rows; r++)
        e->self->sequences[r] = step->rows[r].sequence;
    find_spans(e);
    e->self->n_dispatches += segment->n_ops;

    struct op_range range = {segment->first_op, segment->first_op + segment->n_ops, ALL_OPS, false};
    const uint32_t attention = find_last_attention(e, segment);
    const uint32_t n = attention == ALL_OPS ? e->n_rows : count_wanted_rows(e);
    const bool is_heard = e->leaves_hidden || e->self->on_tap;
    if (attention == ALL_OPS || n > e->n_rows / 2 || (n == 0 && is_heard))
        return exec_range(e, &range);

    range = (struct op_range){segment->first_op, attention, attention, true};
    bool goes_on = exec_range(e, &range);
    if (!goes_on || n == 0)
        return goes_on;
    keep_wanted_rows(e, &narrow);
    find_angles(e, number, number);
    range.but_queries = false;
    goes_on = exec_range(e, &range);
    range = (struct op_range){attention, segment->first_op + segment->n_ops, ALL_OPS, false};
    goes_on = goes_on && exec_range(e, &range);
    move_lines(e, true);
    e->step = step;
    return goes_on;
}

enum nib_status nib_cpu_run(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                            const float *hidden_in, float *hidden_out, struct nib_error *err)
{
    struct nib_cpu_instance *instance = self;
    if (instance->n_missing) {
        return nib_fail(err, NIB_ERROR_STATE, "%u weights of the CPU's segments were not packed",
                        instance->n_missing);
    }
    struct nib_cpu_exec e = {
        .self = instance,
        .plan = instance->plan,
        .step = step,
        .n_rows = step->header.n_used_rows,
        .leaves_hidden = hidden_out != NULL,
        .prepared_op = UINT32_MAX,
    };
    float *hidden = instance->values[NIB_VALUE_HIDDEN];
    size_t hidden_size = (size_t)step->header.n_used_rows * e.plan->hidden_size * sizeof(float);
    if (hidden_in)
        memcpy(hidden, hidden_in, hidden_size);
    find_angles(&e, first, last);
    bool goes_on = true;
    for (uint32_t s = first; s <= last && goes_on; s++)
        goes_on = exec_segment(&e, s);
    if (step->draws && goes_on)
        nib_cpu_draw_logits(&e);
    if (hidden_out)
        memcpy(hidden_out, hidden, hidden_size);
    return NIB_OK;
}
