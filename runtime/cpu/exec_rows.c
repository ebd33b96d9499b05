// Ops that work on each row by itself, and attention: those that follow each other run as one loop,
// so that what one leaves is near when the next one wants it, and threads wait once.
#include "runtime/base/checked.h"
#include "runtime/cpu/exec.h"

/// How many numbers near by could be copied while one is that comes from memory.
#define COLD_COST 4u
/// Ops that are run as one loop.
#define MAX_CHAIN 8

NIB_CPU_DEFINE_LOOP(attention, nib_cpu_attention)

/// An op on rows.
struct row_op {
    enum nib_op_kind kind;
    union {
        struct nib_cpu_norm norm;
        struct nib_cpu_rope rope;
        struct nib_cpu_kv_store kv_store;
        struct nib_cpu_attention attention;
        struct nib_cpu_activate activate;
        struct nib_cpu_add add;
        struct nib_cpu_scale scale;
        struct nib_cpu_softcap softcap;
    };
};

struct chain {
    const struct nib_cpu_kernels *kernels;
    struct row_op ops[MAX_CHAIN];
    uint32_t n;
};

static struct nib_cpu_norm begin_norm(const struct nib_cpu_exec *e, const struct nib_op_norm *op)
{
    const struct nib_cpu_matrix *weight = nib_cpu_instance_weight(e->self, op->weight);
    return (struct nib_cpu_norm){
        .in = nib_cpu_view_rows(e, &op->in),
        .out = nib_cpu_view_rows(e, &op->out),
        .weight = weight ? weight->vector : NULL,
        .n_groups = op->n_groups,
        .group = op->in.width / op->n_groups,
        .epsilon = op->epsilon,
    };
}

static struct nib_cpu_rope begin_rope(const struct nib_cpu_exec *e, const struct nib_op_rope *op)
{
    return (struct nib_cpu_rope){
        .x = nib_cpu_view_rows(e, &op->x),
        .n_heads = op->n_heads,
        .head_dim = op->head_dim,
        .dims = e->plan->ropes[op->table].dims,
        .interleaved = op->interleaved,
        .angles = e->self->angles[op->table],
    };
}

struct nib_cpu_attention nib_cpu_begin_attention(const struct nib_cpu_exec *e,
                                                 const struct nib_op_attention *op)
{
    return (struct nib_cpu_attention){
        .cache = &e->self->caches[op->kv_layer],
        .step = e->step,
        .n_rows = e->n_rows,
        .query = nib_cpu_view_rows(e, &op->query),
        .out = nib_cpu_view_rows(e, &op->out),
        .n_heads = op->n_heads,
        .scale = op->scale,
        .softcap = op->softcap,
        .scratch = e->self->scratch,
    };
}

struct nib_cpu_activate nib_cpu_begin_activate(const struct nib_cpu_exec *e,
                                               const struct nib_op_activate *op)
{
    return (struct nib_cpu_activate){
        .gate = nib_cpu_view_rows(e, &op->gate),
        .up = nib_cpu_view_rows(e, &op->up),
        .out = nib_cpu_view_rows(e, &op->out),
        .width = op->out.width,
        .function = op->function,
    };
}

struct nib_cpu_add nib_cpu_begin_add(const struct nib_cpu_exec *e, const struct nib_op_add *op)
{
    return (struct nib_cpu_add){
        .in = nib_cpu_view_rows(e, &op->in),
        .out = nib_cpu_view_rows(e, &op->out),
        .width = op->out.width,
        .scale = op->scale,
    };
}

/// Returns how many rows that store keys and values make a piece.
static uint64_t kv_store_grain(const struct nib_cpu_exec *e, const struct nib_op_kv_store *op)
{
    // Pages have left the caches since the last step, which counts for more than the numbers.
    uint64_t width = (uint64_t)op->key.width + op->value.width;
    uint64_t grain = nib_cpu_row_grain(e, COLD_COST * width);
    // Rows of a page share its base, which is made anew for each piece.
    uint64_t most = e->n_rows / (2 * (uint64_t)nib_thread_pool_size(e->self->device->pool));
    most = most < NIB_KV_PAGE_TOKENS ? most : NIB_KV_PAGE_TOKENS;
    bool has_codes = nib_kv_has_codes(e->self->caches[op->kv_layer].key_format);
    return has_codes && grain < most && !e->has_lone_rows ? most : grain;
}

/// Sets up an op for all rows; returns how many of them make a piece.
static uint64_t begin_row_op(const struct nib_cpu_exec *e, const struct nib_op *op,
                             struct row_op *out)
{
    out->kind = op->kind;
    switch (op->kind) {
    case NIB_OP_NORM:
        out->norm = begin_norm(e, &op->norm);
        return nib_cpu_row_grain(e, op->norm.in.width);
    case NIB_OP_ROPE:
        out->rope = begin_rope(e, &op->rope);
        return nib_cpu_row_grain(e, op->rope.x.width);
    case NIB_OP_KV_STORE:
        out->kv_store = (struct nib_cpu_kv_store){
            .cache = &e->self->caches[op->kv_store.kv_layer],
            .step = e->step,
            .key = nib_cpu_view_rows(e, &op->kv_store.key),
            .value = nib_cpu_view_rows(e, &op->kv_store.value),
        };
        return kv_store_grain(e, &op->kv_store);
    case NIB_OP_ATTENTION:
        out->attention = nib_cpu_begin_attention(e, &op->attention);
        return nib_cpu_even_grain(e, e->n_rows, 2);
    case NIB_OP_ACTIVATE:
        out->activate = nib_cpu_begin_activate(e, &op->activate);
        return nib_cpu_row_grain(e, op->activate.out.width);
    case NIB_OP_ADD:
        out->add = nib_cpu_begin_add(e, &op->add);
        return nib_cpu_row_grain(e, op->add.out.width);
    case NIB_OP_SCALE:
        out->scale = (struct nib_cpu_scale){.x = nib_cpu_view_rows(e, &op->scale.x),
                                            .width = op->scale.x.width,
                                            .factor = op->scale.factor};
        return nib_cpu_row_grain(e, op->scale.x.width);
    default: // NIB_OP_SOFTCAP
        out->softcap = (struct nib_cpu_softcap){.x = nib_cpu_view_rows(e, &op->softcap.x),
                                                .width = op->softcap.x.width,
                                                .cap = op->softcap.cap};
        return nib_cpu_row_grain(e, op->softcap.x.width);
    }
}

static void run_row_op(const struct nib_cpu_kernels *k, const struct row_op *op, uint64_t first,
                       uint64_t last, uint32_t thread)
{
    switch (op->kind) {
    case NIB_OP_NORM:
        k->norm(&op->norm, first, last, thread);
        break;
    case NIB_OP_ROPE:
        k->rope(&op->rope, first, last, thread);
        break;
    case NIB_OP_KV_STORE:
        k->kv_store(&op->kv_store, first, last, thread);
        break;
    case NIB_OP_ATTENTION:
        k->attention(&op->attention, first * op->attention.n_heads, last * op->attention.n_heads,
                     thread);
        break;
    case NIB_OP_ACTIVATE:
        k->activate(&op->activate, first, last, thread);
        break;
    case NIB_OP_ADD:
        k->add(&op->add, first, last, thread);
        break;
    case NIB_OP_SCALE:
        k->scale(&op->scale, first, last, thread);
        break;
    default: // NIB_OP_SOFTCAP
        k->softcap(&op->softcap, first, last, thread);
    }
}

static void chain_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct chain *chain = user;
    for (uint32_t i = 0; i < chain->n; i++)
        run_row_op(chain->kernels, &chain->ops[i], first, last, thread);
}

/// Shares out the blocks of the rows' sequences. Returns false where none has more than one.
static bool split_attention(const struct nib_cpu_exec *e, struct nib_cpu_attention *args)
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

static void exec_attention(const struct nib_cpu_exec *e, const struct nib_op_attention *op)
{
    struct nib_cpu_attention args = nib_cpu_begin_attention(e, op);
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

bool nib_cpu_attends_by_rows(const struct nib_cpu_exec *e, uint32_t i)
{
    // Enough rows, else heads are shared out.
    return e->plan->ops[i].kind == NIB_OP_ATTENTION && e->has_lone_rows &&
           e->n_rows >= 4 * nib_thread_pool_size(e->self->device->pool);
}

/// Returns whether op `i` can follow the one before it in a chain.
static bool continues_chain(const struct nib_cpu_exec *e, uint32_t i)
{
    switch (e->plan->ops[i].kind) {
    case NIB_OP_NORM:
    case NIB_OP_ROPE:
    case NIB_OP_ACTIVATE:
    case NIB_OP_ADD:
    case NIB_OP_SCALE:
    case NIB_OP_SOFTCAP:
        return true;
    case NIB_OP_KV_STORE:
        return e->has_lone_rows;
    case NIB_OP_ATTENTION:
        return nib_cpu_attends_by_rows(e, i);
    default:
        return false;
    }
}

uint32_t nib_cpu_exec_rows(struct nib_cpu_exec *e, uint32_t i, uint32_t end)
{
    const struct nib_op *ops = e->plan->ops;
    if (ops[i].kind == NIB_OP_ATTENTION) {
        exec_attention(e, &ops[i].attention);
        return i + 1;
    }
    struct chain chain = {.kernels = &e->self->device->kernels};
    uint64_t grain = UINT64_MAX;
    do {
        uint64_t least = begin_row_op(e, &ops[i], &chain.ops[chain.n++]);
        grain = least < grain ? least : grain;
    } while (++i < end && chain.n < MAX_CHAIN && continues_chain(e, i));
    nib_thread_pool_run(e->self->device->pool, e->n_rows, grain, chain_body, &chain);
    return i;
}
