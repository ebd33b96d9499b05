#include "runtime/base/thread_pool.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"

#include <stdatomic.h>
#include <stdlib.h>

/// How long a thread spins before it sleeps: longer than the serial work between two loops of a
/// step, shorter than anyone notices as load.
#define SPIN_NS 100000u
/// Pauses between two looks at the clock.
#define SPIN_PAUSES 64u
/// More time than that many pauses take on any processor.
#define MAX_PAUSES_NS 20000u

/// What a waiting thread fetches ahead at most: a part of any second cache that leaves room for
/// what loops between now and then use.
#define FETCH_BYTES (256u << 10)
/// What it fetches between two looks at what it waits for.
#define FETCH_STEP 512u
#define FETCH_LINE 64u
/// A thread takes this part of the pieces that are left to it.
#define GUIDED_PART 2u

/// The word `entry`: the number of the pool's threads inside, and two flags.
#define ENTRY_OPEN 0x80000000u    ///< a loop is running, and its fields may be read
#define ENTRY_WAITING 0x40000000u ///< the caller sleeps until the count is 0
#define ENTRY_COUNT 0x3fffffffu

/// Keeps what follows out of the cache line of what stands before.
#define CACHE_LINE 128

/// The pieces that a thread takes first, neighbours, so that what it fetches ahead is its own.
struct range {
    atomic_uint_fast64_t next; ///< piece
    uint64_t end;
    char pad[CACHE_LINE - 2 * sizeof(uint64_t)];
};

/// What a thread fetches while it waits.
struct fetch {
    atomic_uintptr_t expected; ///< where its part begins, 0: nowhere
    uintptr_t begin;           ///< the thread's own: what it saw in `expected`
    uintptr_t done;            ///< bytes fetched from there on
    char pad[CACHE_LINE - 3 * sizeof(uintptr_t)];
};

struct worker {
    struct nib_thread_pool *pool;
    struct nib_thread *handle;
    uint32_t index;
    atomic_uint_fast64_t id; ///< nib_thread_id, 0 before it runs
};

struct nib_thread_pool {
    uint32_t n_threads;
    struct worker *workers;         ///< [n_threads - 1]
    struct range *ranges;           ///< [n_threads]
    struct fetch *fetches;          ///< [n_threads]
    struct nib_mutex *turn;         ///< held by the caller whose loop runs
    atomic_uint_fast64_t caller_id; ///< its nib_thread_id, 0 if none
    struct nib_mutex *sleep;        ///< guards both conditions
    struct nib_condition *wake;     ///< a new generation began
    struct nib_condition *left;     ///< the count in `entry` came to 0

    // The loop. Written while `entry` is closed and empty, read by threads that entered it open.
    nib_loop_fn *body;
    void *user;
    uint64_t count;
    uint64_t grain;
    bool is_guided;

    char pad_0[CACHE_LINE];
    atomic_uint entry;
    char pad_1[CACHE_LINE];
    atomic_uint generation; ///< counts the loops, so that a thread sees that there is a new one
    atomic_uint n_sleeping;
    atomic_bool stop;
};

/// Tells the processor that this is a spinning loop.
static void pause_spinning(void)
{
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
    __builtin_ia32_pause();
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void prefetch_line(uintptr_t address)
{
#ifdef __GNUC__
    __builtin_prefetch((const void *)address);
#else
    (void)address;
#endif
}

/// Fetches a little of what the thread's next loop reads; returns false where nothing is left.
static bool fetch_some(struct fetch *fetch)
{
    uintptr_t begin = atomic_load_explicit(&fetch->expected, memory_order_relaxed);
    if (begin != fetch->begin) {
        fetch->begin = begin;
        fetch->done = 0;
    }
    if (begin == 0 || fetch->done >= FETCH_BYTES)
        return false;
    for (uintptr_t i = 0; i < FETCH_STEP; i += FETCH_LINE)
        prefetch_line(begin + fetch->done + i);
    fetch->done += FETCH_STEP;
    return true;
}

/// Spins until (*word & mask) differs from `value`; returns false if that took too long.
///
/// Time in which the thread did not run does not count: two threads of the pool that share a
/// processor would else sleep and wake each other there for ever, while one that keeps running is
/// moved to a free processor by the system.
static bool spin_while(atomic_uint *word, unsigned mask, unsigned value, struct fetch *fetch)
{
    uint64_t last = nib_clock_ns();
    uint64_t spent = 0;
    for (unsigned i = 1; spent < SPIN_NS; i++) {
        if ((atomic_load_explicit(word, memory_order_acquire) & mask) != value)
            return true;
        if (!fetch_some(fetch))
            pause_spinning();
        if (i % SPIN_PAUSES != 0)
            continue;
        uint64_t now = nib_clock_ns();
        spent += now - last < MAX_PAUSES_NS ? now - last : MAX_PAUSES_NS;
        last = now;
    }
    return false;
}

/// Runs `n` pieces from `piece` on as one.
static void run_stretch(struct nib_thread_pool *pool, uint64_t piece, uint64_t n, uint32_t thread)
{
    uint64_t first = piece * pool->grain, size = n * pool->grain;
    uint64_t rest = pool->count - first;
    pool->body(pool->user, first, first + (rest < size ? rest : size), thread);
}

static void run_range(struct nib_thread_pool *pool, struct range *range, uint32_t thread)
{
    for (;;) {
        // A look costs the other threads less than taking a number.
        uint64_t piece = atomic_load_explicit(&range->next, memory_order_relaxed);
        if (piece >= range->end)
            return;
        uint64_t n = pool->is_guided ? (range->end - piece) / GUIDED_PART : 1;
        if (n < 1)
            n = 1;
        piece = atomic_fetch_add_explicit(&range->next, n, memory_order_relaxed);
        if (piece >= range->end)
            return;
        uint64_t left = range->end - piece;
        run_stretch(pool, piece, n < left ? n : left, thread);
    }
}

/// Runs the thread's own pieces, then what is left of the others'.
static void run_pieces(struct nib_thread_pool *pool, uint32_t thread)
{
    for (uint32_t i = 0; i < pool->n_threads; i++)
        run_range(pool, &pool->ranges[(thread + i) % pool->n_threads], thread);
}

/// Takes part in the loop, if one is running.
static void enter(struct nib_thread_pool *pool, uint32_t thread)
{
    unsigned entry = atomic_fetch_add_explicit(&pool->entry, 1, memory_order_acquire);
    if (entry & ENTRY_OPEN)
        run_pieces(pool, thread);
    entry = atomic_fetch_sub_explicit(&pool->entry, 1, memory_order_acq_rel);
    if ((entry & ENTRY_WAITING) && (entry & ENTRY_COUNT) == 1) {
        nib_mutex_lock(pool->sleep);
        nib_condition_broadcast(pool->left);
        nib_mutex_unlock(pool->sleep);
    }
}

static void await_generation(struct nib_thread_pool *pool, unsigned seen, uint32_t thread)
{
    if (spin_while(&pool->generation, UINT32_MAX, seen, &pool->fetches[thread]))
        return;
    nib_mutex_lock(pool->sleep);
    // Either this thread sees the new generation, or begin_generation sees this thread.
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->generation) == seen)
        nib_condition_wait(pool->wake, pool->sleep);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    nib_mutex_unlock(pool->sleep);
}

static void begin_generation(struct nib_thread_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->n_sleeping) == 0)
        return;
    nib_mutex_lock(pool->sleep);
    nib_condition_broadcast(pool->wake);
    nib_mutex_unlock(pool->sleep);
}

static void worker_main(void *user)
{
    struct worker *worker = user;
    struct nib_thread_pool *pool = worker->pool;
    atomic_store_explicit(&worker->id, nib_thread_id(), memory_order_relaxed);
    for (unsigned seen = 0;;) {
        await_generation(pool, seen, worker->index);
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return;
        enter(pool, worker->index);
    }
}

static enum nib_status start_workers(struct nib_thread_pool *pool, bool pin, struct nib_error *err)
{
    for (uint32_t i = 0; i + 1 < pool->n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i + 1;
        enum nib_status status = nib_thread_create(
            worker_main, worker, pin ? (int)worker->index : -1, &worker->handle, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

enum nib_status nib_thread_pool_create(uint32_t n_threads, bool pin,
                                       struct nib_thread_pool **out_pool, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_pool = NULL;
    if (n_threads == 0 || n_threads > NIB_THREAD_POOL_MAX) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "cannot use %u threads: name 1 to %d", n_threads,
                        NIB_THREAD_POOL_MAX);
    }
    struct nib_thread_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return nib_fail_memory(err);
    pool->n_threads = n_threads;
    NIB_TRY(nib_mutex_create(&pool->turn, err));
    NIB_TRY(nib_mutex_create(&pool->sleep, err));
    NIB_TRY(nib_condition_create(&pool->wake, err));
    NIB_TRY(nib_condition_create(&pool->left, err));
    if (n_threads > 1) {
        pool->workers = calloc(n_threads - 1, sizeof *pool->workers);
        pool->ranges = calloc(n_threads, sizeof *pool->ranges);
        pool->fetches = calloc(n_threads, sizeof *pool->fetches);
        if (!pool->workers || !pool->ranges || !pool->fetches) {
            status = nib_fail_memory(err);
            goto fail;
        }
        NIB_TRY(start_workers(pool, pin, err));
    }
    *out_pool = pool;
    return NIB_OK;

fail:
    nib_thread_pool_destroy(&pool);
    return status;
}

void nib_thread_pool_destroy(struct nib_thread_pool **pool)
{
    struct nib_thread_pool *p = *pool;
    if (!p)
        return;
    if (p->workers) {
        atomic_store(&p->stop, true);
        begin_generation(p);
        for (uint32_t i = 0; i + 1 < p->n_threads; i++)
            nib_thread_join(&p->workers[i].handle);
    }
    free(p->workers);
    free(p->ranges);
    free(p->fetches);
    nib_condition_destroy(&p->left);
    nib_condition_destroy(&p->wake);
    nib_mutex_destroy(&p->sleep);
    nib_mutex_destroy(&p->turn);
    free(p);
    *pool = NULL;
}

uint32_t nib_thread_pool_size(const struct nib_thread_pool *pool)
{
    return pool ? pool->n_threads : 1;
}

/// Runs the whole loop on this thread.
static void run_alone(uint64_t count, uint64_t grain, nib_loop_fn *body, void *user,
                      uint32_t thread)
{
    for (uint64_t first = 0; first < count;) {
        uint64_t size = count - first < grain ? count - first : grain;
        body(user, first, first + size, thread);
        first += size;
    }
}

/// Finds out whether this thread runs a piece of the pool's loop already. Other threads' numbers
/// may change meanwhile, its own cannot.
static bool is_inside(struct nib_thread_pool *pool, uint32_t *out_thread)
{
    uint64_t self = nib_thread_id();
    *out_thread = 0;
    if (atomic_load_explicit(&pool->caller_id, memory_order_relaxed) == self)
        return true;
    for (uint32_t i = 0; i + 1 < pool->n_threads; i++) {
        *out_thread = i + 1;
        if (atomic_load_explicit(&pool->workers[i].id, memory_order_relaxed) == self)
            return true;
    }
    return false;
}

/// Shuts the loop to threads that come late, and returns when those inside have left it.
static void close_entry(struct nib_thread_pool *pool)
{
    atomic_fetch_and_explicit(&pool->entry, ~ENTRY_OPEN, memory_order_acq_rel);
    for (;;) {
        unsigned entry = atomic_load_explicit(&pool->entry, memory_order_acquire);
        if ((entry & ENTRY_COUNT) == 0)
            return;
        if (spin_while(&pool->entry, ENTRY_COUNT, entry & ENTRY_COUNT, pool->fetches))
            continue;

        // The thread inside may need this one's processor to get on.
        nib_mutex_lock(pool->sleep);
        atomic_fetch_or(&pool->entry, ENTRY_WAITING);
        while (atomic_load(&pool->entry) & ENTRY_COUNT)
            nib_condition_wait(pool->left, pool->sleep);
        atomic_fetch_and(&pool->entry, ~ENTRY_WAITING);
        nib_mutex_unlock(pool->sleep);
        return;
    }
}

/// Returns the first of the pieces that are thread `thread`'s.
static uint64_t first_piece(const struct nib_thread_pool *pool, uint64_t n_pieces, uint32_t thread)
{
    uint64_t more = n_pieces % pool->n_threads;
    return n_pieces / pool->n_threads * thread + (thread < more ? thread : more);
}

static void run_shared(struct nib_thread_pool *pool, uint64_t n_pieces)
{
    for (uint32_t t = 0; t < pool->n_threads; t++) {
        atomic_store_explicit(&pool->ranges[t].next, first_piece(pool, n_pieces, t),
                              memory_order_relaxed);
        pool->ranges[t].end = first_piece(pool, n_pieces, t + 1);
    }
    atomic_fetch_or_explicit(&pool->entry, ENTRY_OPEN, memory_order_release);
    begin_generation(pool);
    run_pieces(pool, 0);
    close_entry(pool);
}

static uint64_t count_pieces(uint64_t count, uint64_t grain)
{
    return count / grain + (count % grain != 0);
}

static void run_loop(struct nib_thread_pool *pool, uint64_t count, uint64_t grain, bool is_guided,
                     nib_loop_fn *body, void *user)
{
    if (count == 0)
        return;
    if (grain == 0)
        grain = 1;
    if (!pool) {
        run_alone(count, grain, body, user, 0);
        return;
    }
    if (!nib_mutex_try_lock(pool->turn)) {
        uint32_t thread;
        if (is_inside(pool, &thread)) { // waiting for its own loop's end would be for ever
            run_alone(count, grain, body, user, thread);
            return;
        }
        nib_mutex_lock(pool->turn);
    }
    atomic_store_explicit(&pool->caller_id, nib_thread_id(), memory_order_relaxed);
    if (pool->n_threads == 1 || count <= grain) {
        run_alone(count, grain, body, user, 0);
    } else {
        pool->body = body;
        pool->user = user;
        pool->count = count;
        pool->grain = grain;
        pool->is_guided = is_guided;
        run_shared(pool, count_pieces(count, grain));
    }
    atomic_store_explicit(&pool->caller_id, 0, memory_order_relaxed);
    nib_mutex_unlock(pool->turn);
}

void nib_thread_pool_run(struct nib_thread_pool *pool, uint64_t count, uint64_t grain,
                         nib_loop_fn *body, void *user)
{
    run_loop(pool, count, grain, false, body, user);
}

void nib_thread_pool_run_guided(struct nib_thread_pool *pool, uint64_t count, uint64_t grain,
                                nib_loop_fn *body, void *user)
{
    run_loop(pool, count, grain, true, body, user);
}

void nib_thread_pool_expect(struct nib_thread_pool *pool, const struct nib_loop_memory *memory)
{
    if (!pool || !pool->fetches)
        return;
    uint64_t n_pieces = count_pieces(memory->count, memory->grain);
    for (uint32_t t = 0; t < pool->n_threads; t++) {
        uint64_t item = first_piece(pool, n_pieces, t) * memory->grain;
        atomic_store_explicit(&pool->fetches[t].expected,
                              (uintptr_t)memory->first + item * memory->item_bytes,
                              memory_order_relaxed);
    }
}
