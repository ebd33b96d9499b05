/// A pool of threads that share one loop at a time.
#ifndef RUNTIME_BASE_THREAD_POOL_H
#define RUNTIME_BASE_THREAD_POOL_H

#include <nibble/base.h>

/// Thread-safety: several threads may call nib_thread_pool_run; the calls take turns.
struct nib_thread_pool;

/// Makes a pool of `n_threads` >= 1, the caller's own thread counted; `pin` binds each thread of
/// the pool (not the caller's) to a core. Threads spin shortly for work, then sleep; an idle pool
/// uses no CPU. Errors: memory, io, argument (0 or more than 1024 threads).
enum nib_status nib_thread_pool_create(uint32_t n_threads, bool pin,
                                       struct nib_thread_pool **out_pool, struct nib_error *err);
void nib_thread_pool_destroy(struct nib_thread_pool **pool);
/// Returns the number of threads, at least 1; a NULL pool counts as 1.
uint32_t nib_thread_pool_size(const struct nib_thread_pool *pool);

/// One piece of a loop: items [first, last) on thread `thread` < nib_thread_pool_size.
typedef void nib_loop_fn(void *user, uint64_t first, uint64_t last, uint32_t thread);

/// Runs `body` over [0, count) in pieces of at most `grain` >= 1 items, and returns when all are
/// done. Each thread takes neighbouring pieces, the n-th those of the n-th part of the loop, then
/// what slower threads have left. Which thread gets which piece varies, so a body's
/// result must not depend on it. A NULL pool runs the loop on the caller's thread. Makes no system
/// call while the threads are hot.
void nib_thread_pool_run(struct nib_thread_pool *pool, uint64_t count, uint64_t grain,
                         nib_loop_fn *body, void *user);

/// As nib_thread_pool_run, in pieces of `grain` items and of multiples of it: a thread takes a part
/// of what is left of its own at once, so that pieces are long first and short where threads wait
/// for the slowest (guided self-scheduling: Polychronopoulos and Kuck 1987).
void nib_thread_pool_run_guided(struct nib_thread_pool *pool, uint64_t count, uint64_t grain,
                                nib_loop_fn *body, void *user);

/// Memory that a loop reads in order, `item_bytes` for each of its `count` items.
struct nib_loop_memory {
    const void *first;
    uint64_t item_bytes;
    uint64_t count;
    uint64_t grain;
};

/// Says what the next loop will read that has much to read: threads that wait, for the loop that
/// runs or between loops, fetch the begin of their own part of it into their caches. The memory
/// need not stay valid. Called by the thread that calls nib_thread_pool_run, or from a piece of its
/// loop. A NULL pool does nothing.
void nib_thread_pool_expect(struct nib_thread_pool *pool, const struct nib_loop_memory *memory);

/// The most threads that a pool can have.
#define NIB_THREAD_POOL_MAX 1024

#endif
