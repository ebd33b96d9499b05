/// What the files that run ops have in common.
#ifndef RUNTIME_CPU_EXEC_H
#define RUNTIME_CPU_EXEC_H

#include "runtime/cpu/instance.h"

/// Numbers that are worth a piece of their own: some microseconds of work.
#define NIB_CPU_PIECE_NUMBERS 8192u

/// A run in progress.
struct nib_cpu_exec {
    struct nib_cpu_instance *self;
    const struct nib_plan *plan;
    const struct nib_step *step;
    uint32_t n_rows;    ///< rows that ops work on now: the step's, those kept, or those gathered
    uint32_t n_spans;   ///< stretches of one sequence among them
    bool leaves_hidden; ///< all rows' hidden states are wanted when the run ends
    /// Each row is of another sequence: no row attends to what another one of the step stores.
    bool has_lone_rows;
    /// The op whose input is prepared already, in inputs[prepared_in]; UINT32_MAX: none.
    uint32_t prepared_op;
    uint32_t prepared_in;
    bool has_drawn; ///< step->drawn is filled
};

/// run_NAME(e, args, count, grain) runs a kernel's loop on the device's threads.
#define NIB_CPU_DEFINE_LOOP(name, args_struct)                                                  \
    struct name##_loop {                                                                        \
        nib_cpu_##name##_fn *kernel;                                                            \
        const struct args_struct *args;                                                         \
    };                                                                                          \
    static void name##_body(void *user, uint64_t first, uint64_t last, uint32_t thread)         \
    {                                                                                           \
        const struct name##_loop *loop = user;                                                  \
        loop->kernel(loop->args, first, last, thread);                                          \
    }                                                                                           \
    static inline void run_##name(const struct nib_cpu_exec *e, const struct args_struct *args, \
                                  uint64_t count, uint64_t grain)                               \
    {                                                                                           \
        struct name##_loop loop = {e->self->device->kernels.name, args};                        \
        nib_thread_pool_run(e->self->device->pool, count, grain, name##_body, &loop);           \
    }

/// Returns how many of `count` items make a piece: at most about `grain`, and so many that all
/// threads get as much.
uint64_t nib_cpu_even_grain(const struct nib_cpu_exec *e, uint64_t count, uint64_t grain);
/// Returns how many rows of `width` numbers make a piece.
uint64_t nib_cpu_row_grain(const struct nib_cpu_exec *e, uint64_t width);
/// Returns a view's columns.
struct nib_cpu_rows nib_cpu_view_rows(const struct nib_cpu_exec *e, const struct nib_view *view);
/// Returns whether both views are of the same columns.
bool nib_cpu_is_same_view(const struct nib_view *a, const struct nib_view *b);

/// Runs matmul `i` and ops up to `end` that can be done with it; returns the number of the next.
uint32_t nib_cpu_exec_matmuls(struct nib_cpu_exec *e, uint32_t i, uint32_t end);
/// Sets up a matmul of all rows whose input is to be in inputs[0].
struct nib_cpu_matmul nib_cpu_begin_matmul(const struct nib_cpu_exec *e,
                                           const struct nib_op_matmul *op);
/// Quantizes the input of a matmul, or puts its columns in order, where it wants that.
void nib_cpu_prepare_input(const struct nib_cpu_exec *e, const struct nib_cpu_matmul *args);

/// Returns whether op `i` is the matmul that makes the logits of a step that draws, and the tokens
/// can be found without all of them.
bool nib_cpu_draws_at(const struct nib_cpu_exec *e, uint32_t i);
/// Draws the tokens at such an op; returns the number of the next.
uint32_t nib_cpu_exec_draw(struct nib_cpu_exec *e, uint32_t i);
/// Draws the tokens from the step's logits, which are there, unless it has been done.
void nib_cpu_draw_logits(struct nib_cpu_exec *e);

/// Runs op `i`, which works on each row by itself, or attention, and those up to `end` that can be
/// done with it; returns the number of the next.
uint32_t nib_cpu_exec_rows(struct nib_cpu_exec *e, uint32_t i, uint32_t end);
/// Sets up an addition, or the gating of activations, of all rows.
struct nib_cpu_add nib_cpu_begin_add(const struct nib_cpu_exec *e, const struct nib_op_add *op);
struct nib_cpu_activate nib_cpu_begin_activate(const struct nib_cpu_exec *e,
                                               const struct nib_op_activate *op);
/// Sets up attention of all rows.
struct nib_cpu_attention nib_cpu_begin_attention(const struct nib_cpu_exec *e,
                                                 const struct nib_op_attention *op);
/// Returns whether op `i` is attention that runs in a chain, each row by itself.
bool nib_cpu_attends_by_rows(const struct nib_cpu_exec *e, uint32_t i);

#endif
