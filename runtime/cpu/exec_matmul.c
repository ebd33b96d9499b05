// Matmuls of a step: neighbours of one input together, and with what follows on their outputs.
#include "runtime/base/checked.h"
#include "runtime/cpu/exec.h"

/// Multiply-adds that are worth a piece of their own: some microseconds of work.
#define PIECE_MACS 524288u
/// Weights of the shortest pieces of guided loops: some microseconds of memory.
#define PIECE_WEIGHTS 65536u
/// Weight rows of a pair of panels.
#define PAIR_GRAIN (2u * NIB_PANEL_ROWS)
/// Weight rows, a few pairs of panels, that make a piece where the input has so many rows that
/// their codes fill the first cache.
#define TALL_GRAIN 128u
#define TALL_ROWS 64u
/// What a thread fetches at most of pages that attention reads next: a part of its second cache
/// beside the weights.
#define FETCH_BYTES (UINT64_C(512) << 10)
#define CACHE_LINE 64u
/// Matmuls that are run as one loop.
#define MAX_GROUP 4

NIB_CPU_DEFINE_LOOP(prepare, nib_cpu_matmul)

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

uint32_t nib_cpu_block_rows(uint32_t n_threads)
{
    return 2 * NIB_PANEL_ROWS * n_threads;
}

/// Returns whether the input of a matmul is quantized by column blocks.
static bool wants_blocks(const struct nib_cpu_exec *e, const struct nib_cpu_matmul *args)
{
    return e->self->device->kernels.prepare_blocks && e->n_rows > 1 &&
           e->n_rows < nib_cpu_block_rows(nib_thread_pool_size(e->self->device->pool)) &&
           nib_cpu_prepares_blocks(args->activation, args->weight);
}

/// Quantizes the input by column blocks where the threads would else meet in the same rows of
/// blocks; returns false where that is not so.
static bool prepare_blocks(const struct nib_cpu_exec *e, const struct nib_cpu_matmul *args)
{
    const struct nib_cpu_matrix *weight = args->weight;
    struct prepare_loop loop = {e->self->device->kernels.prepare_blocks, args};
    if (!wants_blocks(e, args))
        return false;
    uint64_t n_blocks = weight->panels.n_blocks;
    uint64_t grain = NIB_CPU_PIECE_NUMBERS / (NIB_PANEL_BLOCK * (uint64_t)e->n_rows);
    nib_thread_pool_run(e->self->device->pool, n_blocks,
                        nib_cpu_even_grain(e, n_blocks, grain ? grain : 1), prepare_body, &loop);
    return true;
}

void nib_cpu_prepare_input(const struct nib_cpu_exec *e, const struct nib_cpu_matmul *args)
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
        run_prepare(e, args, e->n_rows, nib_cpu_row_grain(e, weight->cols));
    }
}

struct nib_cpu_matmul nib_cpu_begin_matmul(const struct nib_cpu_exec *e,
                                           const struct nib_op_matmul *op)
{
    const struct nib_cpu_matrix *bias = nib_cpu_instance_weight(e->self, op->bias);
    return (struct nib_cpu_matmul){
        .weight = nib_cpu_instance_weight(e->self, op->weight),
        .bias = bias ? bias->vector : NULL,
        .activation = op->activation,
        .n_rows = e->n_rows,
        .in = nib_cpu_view_rows(e, &op->in),
        .out = nib_cpu_view_rows(e, &op->out),
        .input = &e->self->inputs[0],
        .scratch = e->self->scratch,
    };
}

/// Neighbouring matmuls of one input, such as those of queries, keys and values: it is prepared
/// once, and they are shared out to the threads as one loop.
struct matmul_group {
    nib_cpu_matmul_fn *kernel;
    struct nib_cpu_matmul args[MAX_GROUP];
    uint64_t end[MAX_GROUP]; ///< items of the loop up to this matmul's last
    uint32_t n;
    const struct nib_cpu_attention *attention; ///< whose pages are fetched meanwhile, or NULL
    uint64_t fetch_bytes;                      ///< of each KV head of a row, at most
};

/// What goes on with a group's outputs column by column: it is done with each piece's, while they
/// are near, and by the thread that made them. The group's matmuls are alike then, and a piece has
/// the same rows of all.
struct tail {
    const struct nib_cpu_kernels *kernels;
    struct matmul_group group;
    enum nib_op_kind kind; ///< NIB_OP_ADD or NIB_OP_ACTIVATE; NIB_OP_COUNT: there is none
    struct nib_cpu_add add;
    struct nib_cpu_activate activate;
    bool has_next;              ///< outputs of `activate` are prepared for the next matmul
    struct nib_cpu_matmul next; ///< whose input is another one than the group's
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

/// Adds op `op` to the group if it is a matmul that fits.
static bool add_matmul(const struct nib_cpu_exec *e, const struct nib_op *op,
                       const struct nib_view *in, struct matmul_group *group)
{
    if (op->kind != NIB_OP_MATMUL || group->n == MAX_GROUP ||
        !nib_cpu_is_same_view(&op->matmul.in, in) ||
        (group->n > 0 && op->matmul.tap != NIB_NO_WEIGHT))
        return false;
    const struct nib_cpu_matmul args = nib_cpu_begin_matmul(e, &op->matmul);
    const struct nib_cpu_matmul *first = group->args;
    if (group->n > 0 &&
        (args.activation != first->activation || !has_same_input(first->weight, args.weight)))
        return false;
    group->args[group->n] = args;
    group->end[group->n] = (group->n ? group->end[group->n - 1] : 0) + args.weight->rows;
    group->n++;
    return true;
}

static void fetch_far(const uint8_t *address)
{
#ifdef __GNUC__
    __builtin_prefetch(address, 0, 2);
#else
    (void)address;
#endif
}

/// Fetches the first pages of one KV head of a row to the second cache.
static void fetch_head(const struct nib_cpu_attention *a, uint32_t r, uint32_t kv_head,
                       uint64_t most)
{
    const struct nib_step_row *row = &a->step->rows[r];
    const uint32_t window = a->cache->layer->window;
    if (row->sequence == NIB_NONE)
        return;
    uint64_t end = (uint64_t)row->position + 1;
    uint64_t token = window && window < end ? end - window : 0;
    for (token = token / NIB_KV_PAGE_TOKENS * NIB_KV_PAGE_TOKENS; token < end && most > 0;
         token += NIB_KV_PAGE_TOKENS) {
        uint64_t page = nib_cpu_kv_find_page(a->cache, a->step, row, token), bytes = 0;
        for (int is_key = 0; is_key < 2; is_key++) {
            struct nib_cpu_kv_head head = nib_cpu_kv_find_head(a->cache, is_key, page, kv_head);
            uint64_t n = end - token < NIB_KV_PAGE_TOKENS ? end - token : NIB_KV_PAGE_TOKENS;
            for (uint64_t i = 0; i < n * head.token_bytes; i += CACHE_LINE)
                fetch_far(head.numbers + i);
            bytes += n * head.token_bytes;
        }
        most -= bytes < most ? bytes : most;
    }
}

/// Fetches what attention reads first of rows, all of whose KV heads are cut as the loop's `count`
/// items are: the threads have the same share of both. The matmuls wait for arithmetic, attention
/// for memory.
static void fetch_pages(const struct matmul_group *group, uint64_t first, uint64_t last)
{
    const struct nib_cpu_attention *a = group->attention;
    const uint64_t count = group->end[group->n - 1];
    const uint64_t n_heads = a->cache->layer->n_heads, n = n_heads * a->n_rows;
    for (uint64_t i = first * n / count; i < last * n / count; i++)
        fetch_head(a, (uint32_t)(i / n_heads), (uint32_t)(i % n_heads), group->fetch_bytes);
}

static void group_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct matmul_group *group = user;
    uint64_t begin = 0;
    if (group->attention)
        fetch_pages(group, first, last);
    for (uint32_t i = 0; i < group->n && begin < last; begin = group->end[i++]) {
        uint64_t from = first > begin ? first : begin;
        uint64_t to = last < group->end[i] ? last : group->end[i];
        if (from < to)
            group->kernel(&group->args[i], from - begin, to - begin, thread);
    }
}

/// Returns whether matmuls are limited by memory, so that their loops are guided.
static bool is_guided(const struct nib_cpu_exec *e)
{
    return e->n_rows < NIB_PANEL_ROWS;
}

/// Returns the least weight rows of a piece of a guided loop: pairs of panels, as many pieces for
/// one thread as for another.
static uint64_t guided_grain(const struct nib_cpu_exec *e, uint64_t rows, uint64_t cols)
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
static uint64_t matmul_grain(const struct nib_cpu_exec *e, uint64_t rows, uint64_t cols)
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
static uint32_t find_group(const struct nib_cpu_exec *e, uint32_t i, uint32_t end,
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
static bool find_matmul(const struct nib_cpu_exec *e, uint32_t *i, uint32_t *out_end)
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

static bool overlaps(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset < b->offset + b->width &&
           b->offset < a->offset + a->width;
}

/// Returns whether pieces can write columns of `out` while others read or write those of `view`.
static bool is_apart(const struct nib_view *out, const struct nib_view *view)
{
    return nib_cpu_is_same_view(out, view) || !overlaps(out, view);
}

/// Adds the preparation of what op `next` - 1 leaves for matmul `next`.
static void find_next_input(const struct nib_cpu_exec *e, uint32_t next, uint32_t end, uint32_t in,
                            struct tail *tail)
{
    const struct nib_op *ops = e->plan->ops;
    struct matmul_group group = {.n = 0};
    if (next == end || !add_matmul(e, &ops[next], &ops[next - 1].activate.out, &group) ||
        !wants_blocks(e, group.args))
        return;
    tail->has_next = true;
    tail->next = group.args[0];
    tail->next.input = &e->self->inputs[in];
}

/// Finds what goes on with outputs of the group, matmuls from op `i` up to `next`; returns the
/// number of the op after that. An input that is prepared goes to inputs[in].
static uint32_t find_tail(const struct nib_cpu_exec *e, uint32_t i, uint32_t next, uint32_t end,
                          uint32_t in, struct tail *tail)
{
    const struct nib_op *op = &e->plan->ops[next];
    const struct nib_op_matmul *a = &e->plan->ops[i].matmul, *b = &e->plan->ops[next - 1].matmul;
    tail->kind = NIB_OP_COUNT;
    if (e->n_rows == 1 || next == end)
        return next;
    if (op->kind == NIB_OP_ADD && next - i == 1 && nib_cpu_is_same_view(&op->add.in, &a->out) &&
        !overlaps(&op->add.out, &a->in) && !overlaps(&op->add.out, &a->out)) {
        tail->kind = op->kind;
        tail->add = nib_cpu_begin_add(e, &op->add);
        return next + 1;
    }
    if (op->kind != NIB_OP_ACTIVATE || next - i != 2)
        return next;
    const struct nib_op_activate *activate = &op->activate;
    bool is_in_order = nib_cpu_is_same_view(&activate->gate, &a->out) &&
                       nib_cpu_is_same_view(&activate->up, &b->out);
    bool is_reverse = nib_cpu_is_same_view(&activate->gate, &b->out) &&
                      nib_cpu_is_same_view(&activate->up, &a->out);
    if ((!is_in_order && !is_reverse) || overlaps(&activate->out, &a->in) ||
        !is_apart(&activate->out, &a->out) || !is_apart(&activate->out, &b->out))
        return next;
    tail->kind = op->kind;
    tail->activate = nib_cpu_begin_activate(e, activate);
    find_next_input(e, next + 1, end, in, tail);
    return next + 1;
}

/// Rows [first, last) of all matrices, then columns [first, last) of what comes of them.
static void tail_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct tail *tail = user;
    const struct matmul_group *group = &tail->group;
    const uint64_t n_rows = group->args[0].n_rows;
    for (uint32_t i = 0; i < group->n; i++)
        group->kernel(&group->args[i], first, last, thread);
    if (tail->kind == NIB_OP_ADD) {
        struct nib_cpu_add part = tail->add;
        part.in.data += first;
        part.out.data += first;
        part.width = (uint32_t)(last - first);
        tail->kernels->add(&part, 0, n_rows, thread);
        return;
    }
    struct nib_cpu_activate part = tail->activate;
    part.gate.data += first;
    part.up.data += first;
    part.out.data += first;
    part.width = (uint32_t)(last - first);
    tail->kernels->activate(&part, 0, n_rows, thread);
    if (tail->has_next) // pieces begin with a block: pairs of panels have as many rows
        tail->kernels->prepare_blocks(&tail->next, first / NIB_PANEL_BLOCK,
                                      nib_ceil_div_u64(last, NIB_PANEL_BLOCK), thread);
}

_Static_assert(PAIR_GRAIN % NIB_PANEL_BLOCK == 0, "pieces of rows are column blocks of outputs");

/// Returns the number of items of a group's loop.
static uint64_t count_items(const struct tail *tail)
{
    const struct matmul_group *group = &tail->group;
    return tail->kind == NIB_OP_COUNT ? group->end[group->n - 1] : group->args[0].weight->rows;
}

/// Returns how many of them make a piece.
static uint64_t tail_grain(const struct nib_cpu_exec *e, const struct tail *tail)
{
    uint64_t cols = tail->group.args[0].weight->cols;
    return matmul_grain(e, count_items(tail),
                        tail->kind == NIB_OP_COUNT ? cols : cols * tail->group.n);
}

/// Lets threads that wait fetch the weights of the next matmuls from op `i` on, so that memory has
/// work between two loops too.
static void expect_matmuls(const struct nib_cpu_exec *e, uint32_t i)
{
    struct tail tail = {.kernels = &e->self->device->kernels};
    uint32_t end;
    if (!find_matmul(e, &i, &end))
        return;
    end = e->self->profile_ns ? i + 1 : end;
    uint32_t next = find_group(e, i, end, &tail.group);
    if (!is_one_stream(&tail.group))
        return;
    find_tail(e, i, next, end, 0, &tail);
    const struct nib_cpu_matrix *weight = tail.group.args[0].weight;
    struct nib_loop_memory memory = {
        .first = weight->packed,
        .item_bytes = weight->panels.bytes / NIB_PANEL_ROWS,
        .count = count_items(&tail),
        .grain = tail_grain(e, &tail),
    };
    nib_thread_pool_expect(e->self->device->pool, &memory);
}

/// Finds the attention that comes in the chain behind op `i` - 1, if there is one.
static bool finds_attention(const struct nib_cpu_exec *e, uint32_t i, uint32_t end,
                            struct nib_cpu_attention *out)
{
    const struct nib_op *ops = e->plan->ops;
    while (i < end && (ops[i].kind == NIB_OP_NORM || ops[i].kind == NIB_OP_ROPE ||
                       ops[i].kind == NIB_OP_KV_STORE))
        i++;
    if (i >= end || !nib_cpu_attends_by_rows(e, i))
        return false;
    *out = nib_cpu_begin_attention(e, &ops[i].attention);
    return true;
}

uint32_t nib_cpu_exec_matmuls(struct nib_cpu_exec *e, uint32_t i, uint32_t end)
{
    struct nib_thread_pool *pool = e->self->device->pool;
    struct tail tail = {.kernels = &e->self->device->kernels};
    struct matmul_group *group = &tail.group;
    if (nib_cpu_draws_at(e, i))
        return nib_cpu_exec_draw(e, i);
    uint32_t next = find_group(e, i, end, group);
    bool is_prepared = e->prepared_op == i;
    uint32_t in = is_prepared ? e->prepared_in : 0;
    for (uint32_t k = 0; k < group->n; k++)
        group->args[k].input = &e->self->inputs[in];
    if (!is_prepared)
        nib_cpu_prepare_input(e, group->args);
    next = find_tail(e, i, next, end, 1 - in, &tail);
    struct nib_cpu_attention attention;
    if (tail.kind == NIB_OP_COUNT && finds_attention(e, next, end, &attention)) {
        uint64_t n_heads = (uint64_t)attention.cache->layer->n_heads * e->n_rows;
        group->attention = &attention;
        group->fetch_bytes = FETCH_BYTES * nib_thread_pool_size(pool) / n_heads;
    }
    e->prepared_op = tail.has_next ? next : UINT32_MAX;
    e->prepared_in = 1 - in;
    nib_loop_fn *body = tail.kind == NIB_OP_COUNT ? group_body : tail_body;
    void *user = tail.kind == NIB_OP_COUNT ? (void *)group : &tail;
    if (is_guided(e)) {
        expect_matmuls(e, next);
        nib_thread_pool_run_guided(pool, count_items(&tail), tail_grain(e, &tail), body, user);
    } else {
        nib_thread_pool_run(pool, count_items(&tail), tail_grain(e, &tail), body, user);
    }
    return next;
}
