// Steps that draw: the likeliest token of each line of logits, the first of equal ones.
//
// The head's inputs are codes of 16 bits. What their lower halves add to a logit is at most the
// product of two norms (Cauchy and Schwarz), so the upper halves tell which tokens can still win,
// and the lower ones are multiplied for those alone: half the work. Tokens are those of all logits.
#include <math.h>
#include <stdatomic.h>

#include "runtime/base/checked.h"
#include "runtime/cpu/exec.h"
#include "runtime/ops/logits.h"

/// Lines from which on arithmetic, not memory, is the head's limit.
#define LEAST_LINES 4u
/// Stretches that make a piece.
#define PIECE_STRETCHES 4u
/// The same where most are left out.
#define PIECE_LEFT_OUT 64u

/// What the threads work on.
struct search {
    const struct nib_cpu_kernels *kernels;
    struct nib_cpu_largest args;
    float rest[NIB_STEP_MAX_LOGITS];     ///< as in args, and a little more for all roundings
    float least[NIB_STEP_MAX_LOGITS];    ///< a logit of the line; INFINITY: there is no such line
    uint32_t first[NIB_STEP_MAX_LOGITS]; ///< stretches that are tried first, all different
    uint32_t n_first;
    atomic_uint_fast64_t best[NIB_STEP_MAX_LOGITS]; ///< the largest of rank_of so far; 0: none
};

/// Returns a number that is larger for a token that wins over another one.
static uint64_t rank_of(float logit, uint32_t id)
{
    uint32_t order = (uint32_t)nib_logit_order(nib_logit_clean(logit)) ^ 0x80000000u;
    return (uint64_t)order << 32 | (UINT32_MAX - id);
}

static uint32_t id_of(uint64_t rank)
{
    return UINT32_MAX - (uint32_t)rank;
}

bool nib_cpu_draws_at(const struct nib_cpu_exec *e, uint32_t i)
{
    if (!e->step->draws || e->n_rows < LEAST_LINES || e->n_rows > NIB_STEP_MAX_LOGITS ||
        !nib_cpu_wants_largest(e->self, i))
        return false;
    const struct nib_op_matmul *op = &e->plan->ops[i].matmul;
    const struct nib_cpu_matrix *weight = nib_cpu_instance_weight(e->self, op->weight);
    return weight->norms && nib_cpu_prepares_blocks(op->activation, weight);
}

static void find_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct search *search = user;
    search->kernels->find_largest(&search->args, first, last, thread);
}

/// Finds the stretches where the upper halves are largest.
static void find_first(struct search *search, uint64_t n_stretches)
{
    const struct nib_cpu_largest *a = &search->args;
    float most[NIB_STEP_MAX_LOGITS];
    uint32_t where[NIB_STEP_MAX_LOGITS] = {0};
    for (uint32_t r = 0; r < a->n_lanes; r++)
        most[r] = -INFINITY;
    for (uint32_t i = 0; i < n_stretches; i++) {
        const float *largest = a->largest + (uint64_t)i * a->n_lanes;
        for (uint32_t r = 0; r < a->n_lanes; r++) {
            bool is_larger = largest[r] > most[r];
            most[r] = is_larger ? largest[r] : most[r];
            where[r] = is_larger ? i : where[r];
        }
    }
    for (uint32_t r = 0; r < a->whole.n_rows; r++) {
        uint32_t k = 0;
        while (k < search->n_first && search->first[k] != where[r])
            k++;
        search->first[k] = where[r];
        search->n_first += k == search->n_first;
    }
}

/// Computes the logits of a stretch, and the best so far of each line.
static void try_stretch(struct search *search, uint64_t i, uint32_t thread)
{
    const struct nib_cpu_matmul *whole = &search->args.whole;
    const uint64_t row = i * NIB_CPU_LARGEST_ROWS, rest = whole->weight->rows - row;
    const uint32_t n = rest < NIB_CPU_LARGEST_ROWS ? (uint32_t)rest : NIB_CPU_LARGEST_ROWS;
    search->kernels->matmul(whole, row, row + n, thread);
    for (uint32_t r = 0; r < whole->n_rows; r++) {
        const float *logits = whole->out.data + r * whole->out.stride + row;
        uint32_t k = nib_logits_argmax(logits, n);
        uint64_t rank = k < n ? rank_of(logits[k], (uint32_t)row + k) : 0;
        uint_fast64_t best = atomic_load_explicit(&search->best[r], memory_order_relaxed);
        while (rank > best &&
               !atomic_compare_exchange_weak_explicit(&search->best[r], &best, rank,
                                                      memory_order_relaxed, memory_order_relaxed))
            continue;
    }
}

static void first_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    struct search *search = user;
    for (uint64_t k = first; k < last; k++)
        try_stretch(search, search->first[k], thread);
}

/// Notes a logit of each line, which those that win reach.
static void find_least(struct search *search)
{
    const struct nib_cpu_matmul *whole = &search->args.whole;
    for (uint32_t r = 0; r < NIB_STEP_MAX_LOGITS; r++) {
        bool is_there = r < whole->n_rows;
        uint64_t best = atomic_load_explicit(&search->best[r], memory_order_relaxed);
        search->least[r] = is_there ? -INFINITY : INFINITY;
        if (best)
            search->least[r] =
                nib_logit_clean(whole->out.data[r * whole->out.stride + id_of(best)]);
        search->rest[r] = is_there ? search->args.rest[r] * (1 + 0x1p-6f) : 0;
    }
}

/// Returns whether some line's largest logit may lie in a stretch: rounding is monotonic, so that
/// the sum below is at least that of the halves, and NaN lets all pass.
static bool may_win(const struct search *search, uint64_t i)
{
    const struct nib_cpu_largest *a = &search->args;
    const float *largest = a->largest + i * a->n_lanes, *norms = a->whole.weight->norms;
    const uint64_t panel = i * (NIB_CPU_LARGEST_ROWS / NIB_PANEL_ROWS);
    const bool has_next = (panel + 1) * NIB_PANEL_ROWS < a->whole.weight->rows;
    const float norm = fmaxf(norms[panel], has_next ? norms[panel + 1] : 0);
    int32_t n = 0;
    for (uint32_t r = 0; r < a->n_lanes; r++)
        n += !(largest[r] + search->rest[r] * norm < search->least[r]);
    return n > 0;
}

static void rest_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    struct search *search = user;
    for (uint64_t i = first; i < last; i++) {
        uint32_t k = 0;
        if (!may_win(search, i))
            continue;
        while (k < search->n_first && search->first[k] != i)
            k++;
        if (k == search->n_first)
            try_stretch(search, i, thread);
    }
}

uint32_t nib_cpu_exec_draw(struct nib_cpu_exec *e, uint32_t i)
{
    struct nib_thread_pool *pool = e->self->device->pool;
    const struct nib_cpu_matmul whole = nib_cpu_begin_matmul(e, &e->plan->ops[i].matmul);
    const uint64_t n = nib_ceil_div_u64(whole.weight->rows, NIB_CPU_LARGEST_ROWS);
    float rest[NIB_STEP_MAX_LOGITS];
    struct search search = {
        .kernels = &e->self->device->kernels,
        .args = {.whole = whole,
                 .upper = &e->self->inputs[1],
                 .rest = rest,
                 .largest = e->self->largest,
                 .n_lanes = (e->n_rows + 15) / 16 * 16},
    };
    nib_cpu_prepare_input(e, &whole);
    search.kernels->begin_largest(&search.args, 0, e->n_rows, 0);
    nib_thread_pool_run(pool, n, nib_cpu_even_grain(e, n, PIECE_STRETCHES), find_body, &search);
    find_first(&search, n);
    nib_thread_pool_run(pool, search.n_first, 1, first_body, &search);
    find_least(&search);
    nib_thread_pool_run(pool, n, PIECE_LEFT_OUT, rest_body, &search);
    for (uint32_t r = 0; r < e->n_rows; r++) {
        uint64_t best = atomic_load_explicit(&search.best[r], memory_order_relaxed);
        e->step->drawn[r] = best ? id_of(best) : NIB_NONE;
    }
    e->has_drawn = true;
    return i + 1;
}

static void lines_body(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct nib_cpu_exec *e = user;
    const uint32_t n = e->plan->vocabulary;
    (void)thread;
    for (uint64_t r = first; r < last; r++) {
        uint32_t id = nib_logits_argmax(e->step->logits + r * n, n);
        e->step->drawn[r] = id < n ? id : NIB_NONE;
    }
}

void nib_cpu_draw_logits(struct nib_cpu_exec *e)
{
    if (!e->has_drawn)
        nib_thread_pool_run(e->self->device->pool, e->n_rows, 1, lines_body, e);
}
