// Walks the plan's ops for one step, sharing out each op's loop to the device's threads.
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/cpu/instance.h"

/// Numbers, and multiply-adds, that are worth a piece of their own: some microseconds of work.
#define PIECE_NUMBERS 8192u
#define PIECE_MACS 524288u
/// Weights of the shortest pieces of guided loops: some microseconds of memory.
#define PIECE_WEIGHTS 65536u
/// How many numbers near by could be copied while one is that comes from memory.
#define COLD_COST 4u
/// Weight rows of a pair of panels.
#define PAIR_GRAIN (2u * NIB_PANEL_ROWS)
/// Weight rows, a few pairs of panels, that make a piece where the input has so many rows that
/// their codes fill the first cache.
#define TALL_GRAIN 128u
#define TALL_ROWS 64u
/// Matmuls that are run as one loop.
#define MAX_GROUP 4

/// A run in progress.
struct exec {
    struct nib_cpu_instance *self;
    const struct nib_plan *plan;
    const struct nib_step *step;
    uint32_t n_rows;  ///< rows that ops work on now: the step's, those kept, or those gathered
    uint32_t n_spans; ///< stretches of one sequence among them
};

/// run_NAME(e, args, count, grain) runs a kernel's loop on the device's threads.
#define X(name, args_struct)                                                                     \
    struct name##_loop {                                                                         \
        nib_cpu_##name##_fn *kernel;                                                             \
        const struct args_struct *args;                                                          \
    };                                                                                           \
    static void name##_body(void *user, uint64_t first, uint64_t last, uint32_t thread)          \
    {                                                                                            \
        const struct name##_loop *loop = user;                                                   \
        loop->kernel(loop->args, first, last, thread);                                           \
    }                                                                                            \
    static void run_##name(const struct exec *e, const struct args_struct *args, uint64_t count, \
                           uint64_t grain)                                                       \
    {                                                                                            \
        struct name##_loop loop = {e->self->device->kernels.name, args};                         \
        nib_thread_pool_run(e->self->device->pool, count, grain, name##_body, &loop);            \
    }
NIB_CPU_KERNELS(X)
#undef X

/// Returns how many of `count` items make a piece: at most about `grain`, and so many that all
/// threads get as much.
static uint64_t even_grain(const struct exec *e, uint64_t count, uint64_t grain)
{
    uint64_t n_threads = nib_thread_pool_size(e->self->device->pool);
    if (count <= grain)
        return grain;
    uint64_t n_pieces = nib_ceil_div_u64(nib_ceil_div_u64(count, grain), n_threads) * n_threads;
    return nib_ceil_div_u64(count, n_pieces);
}

/// Returns how many rows of `width` numbers make a piece.
static uint64_t row_grain(const struct exec *e, uint64_t width)
{
    return even_grain(e, e->n_rows, width < PIECE_NUMBERS ? PIECE_NUMBERS / width : 1);
}

static struct nib_cpu_rows rows_of(const struct exec *e, const struct nib_view *view)
{
    uint64_t stride = e->plan->values[view->value].width;
    float *base =
        view->value == e->plan->logits_value ? e->step->logits : e->self->values[view->value];
    // A step without lines has no logits, but may look ahead to their matmul.
    return (struct nib_cpu_rows){.data = base ? base + view->offset : NULL, .stride = stride};
}

/// Finds the stretches of rows of one sequence.
static void find_spans(struct exec *e)
{
    const uint32_t *sequences = e->self->sequences;
    e->n_spans = 0;
    for (uint32_t r = 0; r < e->n_rows; r++) {
        if (r == 0 || sequences[r] != sequences[r - 1])
            e->self->spans[e->n_spans++] = r;
    }
    e->self->spans[e->n_spans] = e->n_rows;
}

static void exec_embed(struct exec *e, const struct nib_op_embed *op)
{
    struct nib_cpu_embed args = {
        .weight = nib_cpu_instance_weight(e->self, op->weight),
        .rows = e->step->rows,
        .out = rows_of(e, &op->out),
        .scale = op->scale,
        .scratch = e->self->scratch,
    };
    run_embed(e, &args, e->n_rows, row_grain(e, op->out.width));
}

static void exec_norm(struct exec *e, const struct nib_op_norm *op)
{
    const struct nib_cpu_matrix *weight = nib_cpu_instance_weight(e->self, op->weight);
    struct nib_cpu_norm args = {
        .in = rows_of(e, &op->in),
        .out = rows_of(e, &op->out),
        .weight = weight ? weight->vector : NULL,
        .n_groups = op->n_groups,
        .group = op->in.width / op->n_groups,
        .epsilon = op->epsilon,
    };
    run_norm(e, &args, e->n_rows, row_grain(e, op->in.width));
}

struct spans_loop {
    nib_cpu_prepare_fn *kernel;
    const struct nib_cpu_matmul *args;
    const uint32_t *spans;
};

static void spans_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct spans_loop *loop = user;
    for (uint64_t i = first; i < last; i++)
        loop->kernel(loop->args, loop->spans[i], loop->spans[i + 1], thread);
}

/// Quantizes the input by column blocks where the threads would else meet in the same rows of
/// blocks; returns false where that is not so.
static bool prepare_blocks(const struct exec *e, const struct nib_cpu_matmul *args)
{
    const struct nib_cpu_matrix *weight = args->weight;
    struct prepare_loop loop = {e->self->device->kernels.prepare_blocks, args};
    uint64_t n_threads = nib_thread_pool_size(e->self->device->pool);
    if (!loop.kernel || e->n_rows == 1 || e->n_rows >= 2 * NIB_PANEL_ROWS * n_threads ||
        !nib_cpu_prepares_blocks(args->activation, weight))
        return false;
    uint64_t n_blocks = weight->panels.n_blocks;
    uint64_t grain = PIECE_NUMBERS / (NIB_PANEL_BLOCK * (uint64_t)e->n_rows);
    nib_thread_pool_run(e->self->device->pool, n_blocks, even_grain(e, n_blocks, grain ? grain : 1),
                        prepare_body, &loop);
    return true;
}

static void prepare_input(const struct exec *e, const struct nib_cpu_matmul *args)
{
    const struct nib_cpu_matrix *weight = args->weight;
    if (prepare_blocks(e, args))
        return;
    if (nib_cpu_input_has_codes(args->activation, &weight->format)) {
        args->input->n_runs =
            nib_cpu_runs(args->activation, &weight->format, weight->cols, args->input->runs);
    }
    if (args->activation == NIB_ACTIVATION_LLM_INT8) {
        struct spans_loop loop = {e->self->device->kernels.prepare, args, e->self->spans};
        nib_thread_pool_run(e->self->device->pool, e->n_spans, 1, spans_body, &loop);
    } else if (args->activation != NIB_ACTIVATION_F32 || weight->permutation) {
        run_prepare(e, args, e->n_rows, row_grain(e, weight->cols));
    }
}

/// Neighbouring matmuls of one input, such as those of queries, keys and values: it is prepared
/// once, and they are shared out to the threads as one loop.
struct matmul_group {
    nib_cpu_matmul_fn *kernel;
    struct nib_cpu_matmul args[MAX_GROUP];
    uint64_t end[MAX_GROUP]; ///< items of the loop up to this matmul's last
    uint32_t n;
};

/// Returns whether both matrices take the same prepared input.
static bool has_same_input(const struct nib_cpu_matrix *a, const struct nib_cpu_matrix *b)
{
    const struct nib_format *f = &a->format, *g = &b->format;
    return f->id == g->id && f->group == g->group && f->super == g->super && f->zero == g->zero &&
           a->cols == b->cols && a->has_panels == b->has_panels &&
           a->permutation == b->permutation && a->activation_scale == b->activation_scale &&
           a->outlier_threshold == b->outlier_threshold;
}

static bool is_same_view(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset == b->offset && a->width == b->width;
}

/// Adds op `op` to the group if it is a matmul that fits.
static bool add_matmul(const struct exec *e, const struct nib_op *op, const struct nib_view *in,
                       struct matmul_group *group)
{
    if (op->kind != NIB_OP_MATMUL || group->n == MAX_GROUP || !is_same_view(&op->matmul.in, in) ||
        (group->n > 0 && op->matmul.tap != NIB_NO_WEIGHT))
        return false;
    const struct nib_cpu_matrix *bias = nib_cpu_instance_weight(e->self, op->matmul.bias);
    struct nib_cpu_matmul args = {
        .weight = nib_cpu_instance_weight(e->self, op->matmul.weight),
        .bias = bias ? bias->vector : NULL,
        .activation = op->matmul.activation,
        .n_rows = e->n_rows,
        .in = rows_of(e, &op->matmul.in),
        .out = rows_of(e, &op->matmul.out),
        .input = &e->self->input,
        .scratch = e->self->scratch,
    };
    const struct nib_cpu_matmul *first = group->args;
    if (group->n > 0 &&
        (args.activation != first->activation || !has_same_input(first->weight, args.weight)))
        return false;
    group->args[group->n] = args;
    group->end[group->n] = (group->n ? group->end[group->n - 1] : 0) + args.weight->rows;
    group->n++;
    return true;
}

static void group_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct matmul_group *group = user;
    uint64_t begin = 0;
    for (uint32_t i = 0; i < group->n && begin < last; begin = group->end[i++]) {
        uint64_t from = first > begin ? first : begin;
        uint64_t to = last < group->end[i] ? last : group->end[i];
        if (from < to)
            group->kernel(&group->args[i], from - begin, to - begin, thread);
    }
}

/// Returns whether matmuls are limited by memory, so that their loops are guided.
static bool is_guided(const struct exec *e)
{
    return e->n_rows < NIB_PANEL_ROWS;
}

/// Returns the least weight rows of a piece of a guided loop: pairs of panels, as many pieces for
/// one thread as for another.
static uint64_t guided_grain(const struct exec *e, uint64_t rows, uint64_t cols)
{
    uint64_t grain = PIECE_WEIGHTS / cols;
    grain = grain < PAIR_GRAIN ? PAIR_GRAIN : grain;
    uint64_t n_threads = nib_thread_pool_size(e->self->device->pool);
    uint64_t per_thread = nib_ceil_div_u64(rows, n_threads * grain);
    grain = nib_ceil_div_u64(rows, n_threads * per_thread);
    return nib_ceil_div_u64(grain, PAIR_GRAIN) * PAIR_GRAIN;
}

/// Returns how many weight rows make a piece: enough work, pairs of panels, which are read side by
/// side, and as many rows for one thread as for another.
static uint64_t matmul_grain(const struct exec *e, uint64_t rows, uint64_t cols)
{
    if (is_guided(e))
        return guided_grain(e, rows, cols);
    uint64_t macs_a_row = cols * e->n_rows;
    uint64_t most = PIECE_MACS / (macs_a_row ? macs_a_row : 1) / PAIR_GRAIN;
    // Panels of one piece read the same input from near caches.
    if (e->n_rows >= TALL_ROWS && most < TALL_GRAIN / PAIR_GRAIN)
        most = TALL_GRAIN / PAIR_GRAIN;
    uint64_t n_threads = nib_thread_pool_size(e->self->device->pool);
    uint64_t n_pairs = nib_ceil_div_u64(rows, PAIR_GRAIN);
    uint64_t share = nib_ceil_div_u64(n_pairs, n_threads), best = 1, least = UINT64_MAX;
    for (uint64_t g = most < share ? most : share; g > 0 && least > share; g--) {
        uint64_t load = nib_ceil_div_u64(nib_ceil_div_u64(n_pairs, g), n_threads) * g;
        if (load < least) {
            least = load;
            best = g;
        }
    }
    return best * PAIR_GRAIN;
}

/// Finds what can be done together with matmul `i`, up to op `end`; returns the next op's number.
static uint32_t find_group(const struct exec *e, uint32_t i, uint32_t end,
                           struct matmul_group *group)
{
    const struct nib_op *ops = e->plan->ops;
    uint32_t next = i;
    group->kernel = e->self->device->kernels.matmul;
    group->n = 0;
    while (next < end && add_matmul(e, &ops[next], &ops[i].matmul.in, group))
        next++;
    return next;
}

/// Returns whether the group's matrices lie in panels one after the other.
static bool is_one_stream(const struct matmul_group *group)
{
    for (uint32_t i = 0; i < group->n; i++) {
        const struct nib_cpu_matrix *weight = group->args[i].weight, *next = weight;
        if (!weight->has_panels || weight->rows % NIB_PANEL_ROWS != 0)
            return false;
        if (i + 1 < group->n)
            next = group->args[i + 1].weight;
        if (next != weight && next->packed != weight->packed + weight->bytes)
            return false;
    }
    return true;
}

/// Finds the next matmul from op `i` on, after the last op from the first on; returns whether there
/// is one, and the end of its segment.
static bool find_matmul(const struct exec *e, uint32_t *i, uint32_t *out_end)
{
    const struct nib_cpu_instance *self = e->self;
    const struct nib_segment *segments = e->plan->segments;
    uint32_t begin = segments[self->first_segment].first_op, end = begin;
    for (uint32_t s = self->first_segment; s < self->first_segment + self->n_segments; s++)
        end += segments[s].n_ops;
    for (uint32_t n = begin; n < end; n++, ++*i) {
        if (*i >= end)
            *i = begin;
        if (e->plan->ops[*i].kind != NIB_OP_MATMUL)
            continue;
        const struct nib_segment *segment = &segments[e->plan->ops[*i].segment];
        *out_end = segment->first_op + segment->n_ops;
        return true;
    }
    return false;
}

/// Lets threads that wait fetch the weights of the next matmuls from op `i` on, so that memory has
/// work between two loops too.
static void expect_matmuls(const struct exec *e, uint32_t i)
{
    struct matmul_group group;
    uint32_t end;
    if (!find_matmul(e, &i, &end))
        return;
    find_group(e, i, e->self->profile_ns ? i + 1 : end, &group);
    if (!is_one_stream(&group))
        return;
    const struct nib_cpu_matrix *weight = group.args[0].weight;
    uint64_t rows = group.end[group.n - 1];
    struct nib_loop_memory memory = {
        .first = weight->packed,
        .item_bytes = weight->panels.bytes / NIB_PANEL_ROWS,
        .count = rows,
        .grain = matmul_grain(e, rows, weight->cols),
    };
    nib_thread_pool_expect(e->self->device->pool, &memory);
}

/// Runs op `i` and those up to `end` that can be done with it; returns the number of the next.
static uint32_t exec_matmuls(struct exec *e, uint32_t i, uint32_t end)
{
    struct nib_thread_pool *pool = e->self->device->pool;
    struct matmul_group group;
    uint32_t next = find_group(e, i, end, &group);
    uint64_t rows = group.end[group.n - 1];
    uint64_t grain = matmul_grain(e, rows, group.args[0].weight->cols);
    prepare_input(e, group.args);
    if (is_guided(e)) {
        expect_matmuls(e, next);
        nib_thread_pool_run_guided(pool, rows, grain, group_body, &group);
    } else if (group.n == 1) {
        run_matmul(e, group.args, rows, grain);
    } else {
        nib_thread_pool_run(pool, rows, grain, group_body, &group);
    }
    return next;
}

static void exec_rope(struct exec *e, const struct nib_op_rope *op)
{
    struct nib_cpu_rope args = {
        .x = rows_of(e, &op->x),
        .n_heads = op->n_heads,
        .head_dim = op->head_dim,
        .dims = e->plan->ropes[op->table].dims,
        .interleaved = op->interleaved,
        .angles = e->self->angles[op->table],
    };
    run_rope(e, &args, e->n_rows, row_grain(e, op->x.width));
}

static void exec_kv_store(struct exec *e, const struct nib_op_kv_store *op)
{
    struct nib_cpu_kv_store args = {
        .cache = &e->self->caches[op->kv_layer],
        .step = e->step,
        .key = rows_of(e, &op->key),
        .value = rows_of(e, &op->value),
    };
    // Pages have left the caches since the last step, which counts for more than the numbers.
    uint64_t width = (uint64_t)op->key.width + op->value.width;
    uint64_t grain = row_grain(e, COLD_COST * width);
    // Rows of a page share its base, which is made anew for each piece.
    uint64_t most = e->n_rows / (2 * (uint64_t)nib_thread_pool_size(e->self->device->pool));
    most = most < NIB_KV_PAGE_TOKENS ? most : NIB_KV_PAGE_TOKENS;
    if (nib_kv_has_codes(args.cache->key_format) && grain < most)
        grain = most;
    run_kv_store(e, &args, e->n_rows, grain);
}

/// Shares out the blocks of the rows' sequences. Returns false where none has more than one.
static bool split_attention(struct exec *e, struct nib_cpu_attention *args)
{
    const struct nib_cpu_kernels *kernels = &e->self->device->kernels;
    struct nib_thread_pool *pool = e->self->device->pool;
    uint32_t last = 0;
    for (uint32_t r = 0; r < e->n_rows; r++) {
        const struct nib_step_row *row = &args->step->rows[r];
        if (row->sequence != NIB_NONE && row->position > last)
            last = row->position;
    }
    args->parts = e->self->parts;
    args->n_blocks = last / NIB_CPU_BLOCK_TOKENS + 1;
    if (!kernels->attention_blocks || args->n_blocks == 1)
        return false;
    uint64_t n_rows = e->n_rows;
    struct attention_loop loop = {kernels->attention_blocks, args};
    nib_thread_pool_run(pool, n_rows * args->cache->layer->n_heads * args->n_blocks, 1,
                        attention_body, &loop);
    loop.kernel = kernels->attention_merge;
    nib_thread_pool_run(pool, n_rows * args->n_heads, args->n_heads, attention_body, &loop);
    e->self->n_dispatches += 2;
    return true;
}

static void exec_attention(struct exec *e, const struct nib_op_attention *op)
{
    struct nib_cpu_attention args = {
        .cache = &e->self->caches[op->kv_layer],
        .step = e->step,
        .n_rows = e->n_rows,
        .query = rows_of(e, &op->query),
        .out = rows_of(e, &op->out),
        .n_heads = op->n_heads,
        .scale = op->scale,
        .softcap = op->softcap,
        .scratch = e->self->scratch,
    };
    // Heads of one KV head in one piece share the conversion of its pages, where there are enough.
    uint32_t n_kv_heads = e->plan->kv_layers[op->kv_layer].n_heads;
    uint64_t n_pieces = (uint64_t)e->n_rows * n_kv_heads;
    uint32_t n_threads = nib_thread_pool_size(e->self->device->pool);
    if (e->n_rows <= nib_cpu_split_rows(n_threads, n_kv_heads) && split_attention(e, &args))
        return;
    uint64_t grain = n_pieces >= n_threads ? op->n_heads / n_kv_heads : 1;
    // Whole rows share it as well.
    uint64_t n_rows = e->n_rows / (4 * (uint64_t)n_threads);
    uint64_t most = NIB_CPU_MAX_QUERIES * n_kv_heads / op->n_heads;
    if (n_rows > 0)
        grain = op->n_heads * (n_rows < most ? n_rows : most ? most : 1);
    run_attention(e, &args, (uint64_t)e->n_rows * op->n_heads, grain);
}

static void exec_activate(struct exec *e, const struct nib_op_activate *op)
{
    struct nib_cpu_activate args = {
        .gate = rows_of(e, &op->gate),
        .up = rows_of(e, &op->up),
        .out = rows_of(e, &op->out),
        .width = op->out.width,
        .function = op->function,
    };
    run_activate(e, &args, e->n_rows, row_grain(e, op->out.width));
}

static void exec_add(struct exec *e, const struct nib_op_add *op)
{
    struct nib_cpu_add args = {
        .in = rows_of(e, &op->in),
        .out = rows_of(e, &op->out),
        .width = op->out.width,
        .scale = op->scale,
    };
    run_add(e, &args, e->n_rows, row_grain(e, op->out.width));
}

static void exec_scale(struct exec *e, const struct nib_op_scale *op)
{
    struct nib_cpu_scale args = {
        .x = rows_of(e, &op->x), .width = op->x.width, .factor = op->factor};
    run_scale(e, &args, e->n_rows, row_grain(e, op->x.width));
}

static void exec_softcap(struct exec *e, const struct nib_op_softcap *op)
{
    struct nib_cpu_softcap args = {.x = rows_of(e, &op->x), .width = op->x.width, .cap = op->cap};
    run_softcap(e, &args, e->n_rows, row_grain(e, op->x.width));
}

static void exec_gather(struct exec *e, const struct nib_op_gather *op)
{
    const struct nib_step_header *header = &e->step->header;
    struct nib_cpu_rows in = rows_of(e, &op->in), out = rows_of(e, &op->out);
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

/// Returns whether op `i` is the last to store keys and values, so that the rest of its segment is
/// of use only to rows that want logits. LLM_INT8 finds its outliers in all rows of a sequence.
static bool ends_cache(const struct exec *e, uint32_t i)
{
    const struct nib_op *ops = e->plan->ops;
    const struct nib_segment *segments = e->plan->segments;
    uint32_t segment = ops[i].segment;
    if (ops[i].kind != NIB_OP_KV_STORE || segment + 1 >= e->plan->n_segments ||
        segments[segment + 1].kind != NIB_SEGMENT_HEAD)
        return false;
    for (i++; i < segments[segment].first_op + segments[segment].n_ops; i++) {
        if (ops[i].kind == NIB_OP_KV_STORE ||
            (ops[i].kind == NIB_OP_MATMUL && ops[i].matmul.activation == NIB_ACTIVATION_LLM_INT8))
            return false;
    }
    return true;
}

/// Moves lines of all values from where their rows were to the front, or back (`is_upward`).
static void move_lines(struct exec *e, bool is_upward)
{
    const uint32_t *kept = e->self->kept;
    for (uint32_t v = 0; v < e->plan->n_values; v++) {
        float *lines = e->self->values[v];
        size_t width = e->plan->values[v].width;
        for (uint32_t i = 0; lines && i < e->n_rows; i++) {
            uint32_t k = is_upward ? e->n_rows - 1 - i : i;
            float *near = lines + k * width, *far = lines + kept[k] * width;
            if (near != far)
                memcpy(is_upward ? far : near, is_upward ? near : far, width * sizeof *lines);
        }
    }
}

/// Goes on with the rows that want logits alone, if that saves much; `narrow` is the step of those.
static void keep_wanted_rows(struct exec *e, struct nib_step *narrow)
{
    struct nib_cpu_instance *self = e->self;
    uint32_t n = 0;
    for (uint32_t r = 0; r < e->n_rows; r++)
        n += e->step->rows[r].logit_row != NIB_NONE;
    if (n == 0 || n > e->n_rows / 2)
        return;
    n = 0;
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

static void exec_op(struct exec *e, const struct nib_op *op)
{
    switch (op->kind) {
    case NIB_OP_EMBED:
        exec_embed(e, &op->embed);
        break;
    case NIB_OP_NORM:
        exec_norm(e, &op->norm);
        break;
    case NIB_OP_ROPE:
        exec_rope(e, &op->rope);
        break;
    case NIB_OP_KV_STORE:
        exec_kv_store(e, &op->kv_store);
        break;
    case NIB_OP_ATTENTION:
        exec_attention(e, &op->attention);
        break;
    case NIB_OP_ACTIVATE:
        exec_activate(e, &op->activate);
        break;
    case NIB_OP_ADD:
        exec_add(e, &op->add);
        break;
    case NIB_OP_SCALE:
        exec_scale(e, &op->scale);
        break;
    case NIB_OP_SOFTCAP:
        exec_softcap(e, &op->softcap);
        break;
    case NIB_OP_GATHER:
        exec_gather(e, &op->gather);
        break;
    case NIB_OP_MATMUL: // exec_matmuls
    case NIB_OP_ROUTE:  // never in a plan that nib_plan_validate let through
    case NIB_OP_REDUCE:
    case NIB_OP_COUNT:
        break;
    }
}

/// Shows the input of a matmul to whoever listens; returns whether the run goes on.
static bool show_tap(const struct exec *e, const struct nib_op *op)
{
    const struct nib_cpu_instance *self = e->self;
    if (op->kind != NIB_OP_MATMUL || op->matmul.tap == NIB_NO_WEIGHT || !self->on_tap)
        return true;
    struct nib_cpu_rows in = rows_of(e, &op->matmul.in);
    return self->on_tap(self->tap_user, op->matmul.tap, in.data, in.stride, e->n_rows);
}

/// Returns whether the run goes on.
static bool exec_segment(struct exec *e, const struct nib_segment *segment)
{
    struct nib_cpu_instance *self = e->self;
    const struct nib_step *step = e->step;
    struct nib_step narrow;
    e->n_rows = e->step->header.n_used_rows;
    for (uint32_t r = 0; r < e->n_rows; r++)
        self->sequences[r] = e->step->rows[r].sequence;
    find_spans(e);
    uint32_t end = segment->first_op + segment->n_ops;
    for (uint32_t i = segment->first_op, next; i < end; i = next) {
        uint64_t start = self->profile_ns ? nib_clock_ns() : 0;
        next = i + 1;
        if (!show_tap(e, &e->plan->ops[i]))
            return false;
        if (e->plan->ops[i].kind == NIB_OP_MATMUL)
            next = exec_matmuls(e, i, self->profile_ns ? i + 1 : end);
        else
            exec_op(e, &e->plan->ops[i]);
        if (self->profile_ns) {
            self->profile_ns[i] += nib_clock_ns() - start;
            self->profile_calls[i]++;
        }
        if (ends_cache(e, i))
            keep_wanted_rows(e, &narrow);
    }
    if (e->step != step)
        move_lines(e, true);
    e->step = step;
    self->n_dispatches += segment->n_ops;
    return true;
}

/// Computes the angles of every table that segments [first, last] use.
static void find_angles(const struct exec *e, uint32_t first, uint32_t last)
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
        uint64_t grain = PIECE_NUMBERS / (10 * (uint64_t)plan->ropes[t].dims);
        run_angles(e, &args, e->step->header.n_used_rows, grain);
    }
}

enum nib_status nib_cpu_run(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                            const float *hidden_in, float *hidden_out, struct nib_error *err)
{
    struct nib_cpu_instance *instance = self;
    if (instance->n_missing) {
        return nib_fail(err, NIB_ERROR_STATE, "%u weights of the CPU's segments were not packed",
                        instance->n_missing);
    }
    struct exec e = {.self = instance, .plan = instance->plan, .step = step};
    float *hidden = instance->values[NIB_VALUE_HIDDEN];
    size_t hidden_size = (size_t)step->header.n_used_rows * e.plan->hidden_size * sizeof(float);
    if (hidden_in)
        memcpy(hidden, hidden_in, hidden_size);
    find_angles(&e, first, last);
    for (uint32_t s = first; s <= last; s++) {
        if (!exec_segment(&e, &e.plan->segments[s]))
            break;
    }
    if (hidden_out)
        memcpy(hidden_out, hidden, hidden_size);
    return NIB_OK;
}
