#include "runtime/base/thread_pool.h"

#include "runtime/base/os.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { MAX_ITEMS = 3000 };

struct loop {
    struct nib_thread_pool *pool;
    uint64_t count;
    uint64_t grain;
    bool is_guided; ///< pieces may be multiples of the grain
    atomic_uint visits[MAX_ITEMS];
    atomic_uint inside[64]; ///< pieces running under each thread number
    atomic_uint n_bad;
};

static void visit(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    struct loop *loop = user;
    uint64_t rest = (last - first) % loop->grain;
    if (first >= last || last > loop->count || first % loop->grain != 0 ||
        (rest != 0 && last != loop->count) || (!loop->is_guided && last - first > loop->grain) ||
        thread >= nib_thread_pool_size(loop->pool)) {
        atomic_fetch_add(&loop->n_bad, 1);
        return;
    }
    if (atomic_fetch_add(&loop->inside[thread], 1) != 0)
        atomic_fetch_add(&loop->n_bad, 1);
    for (uint64_t i = first; i < last; i++)
        atomic_fetch_add(&loop->visits[i], 1);
    atomic_fetch_sub(&loop->inside[thread], 1);
}

static void check_one_loop(struct nib_thread_pool *pool, uint64_t count, uint64_t grain,
                           bool is_guided)
{
    static struct loop loop;
    memset(&loop, 0, sizeof loop);
    loop.pool = pool;
    loop.count = count;
    loop.grain = grain;
    loop.is_guided = is_guided;
    if (is_guided)
        nib_thread_pool_run_guided(pool, count, grain, visit, &loop);
    else
        nib_thread_pool_run(pool, count, grain, visit, &loop);
    cr_assert_eq(loop.n_bad, 0);
    for (uint64_t i = 0; i < count; i++)
        cr_assert_eq(loop.visits[i], 1);
}

static void check_loop(struct nib_thread_pool *pool, uint64_t count, uint64_t grain)
{
    check_one_loop(pool, count, grain, false);
    check_one_loop(pool, count, grain, true);
}

static struct nib_thread_pool *create(uint32_t n_threads, bool pin)
{
    struct nib_thread_pool *pool;
    struct nib_error err = {0};
    cr_assert_eq(nib_thread_pool_create(n_threads, pin, &pool, &err), NIB_OK, "%s", err.message);
    cr_assert_eq(nib_thread_pool_size(pool), n_threads);
    return pool;
}

Test(thread_pool, each_item_is_visited_once)
{
    static const uint64_t counts[] = {0, 1, 2, 3, 7, 64, 65, 1000, MAX_ITEMS};
    static const uint64_t grains[] = {1, 2, 3, 64, 999, 5000, UINT64_MAX};
    static const uint32_t sizes[] = {1, 2, 3, 8, 33};
    for (size_t s = 0; s < 5; s++) {
        struct nib_thread_pool *pool = create(sizes[s], s % 2 == 1);
        for (size_t c = 0; c < 9; c++) {
            for (size_t g = 0; g < 7; g++)
                check_loop(pool, counts[c], grains[g]);
        }
        nib_thread_pool_destroy(&pool);
        cr_assert_null(pool);
    }
}

Test(thread_pool, what_loops_expect_may_be_anywhere)
{
    static uint8_t memory[4096];
    struct nib_thread_pool *pool = create(3, false);
    const struct nib_loop_memory none = {NULL, 0, 0, 1}, gone = {(void *)(uintptr_t)64, 1, 99, 10},
                                 there = {memory, 4, 1000, 7};
    nib_thread_pool_expect(NULL, &there);
    for (int i = 0; i < 30; i++) {
        nib_thread_pool_expect(pool, i % 3 == 0 ? &none : i % 3 == 1 ? &gone : &there);
        check_loop(pool, 100, 3);
    }
    nib_thread_pool_destroy(&pool);
}

Test(thread_pool, null_pool_is_the_caller)
{
    cr_assert_eq(nib_thread_pool_size(NULL), 1);
    check_loop(NULL, 1000, 7);
    struct nib_thread_pool *pool = NULL;
    nib_thread_pool_destroy(&pool);
}

Test(thread_pool, number_of_threads_is_checked)
{
    struct nib_thread_pool *pool = (void *)&pool;
    struct nib_error err;
    cr_assert_eq(nib_thread_pool_create(0, false, &pool, &err), NIB_ERROR_ARGUMENT);
    cr_assert_null(pool);
    cr_assert_eq(nib_thread_pool_create(1025, false, &pool, &err), NIB_ERROR_ARGUMENT);
    cr_assert(strstr(err.message, "1025"));
}

Test(thread_pool, never_run_pool_ends)
{
    for (int i = 0; i < 50; i++) {
        struct nib_thread_pool *pool = create(4, false);
        nib_thread_pool_destroy(&pool);
    }
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

Test(thread_pool, wakes_from_sleep_and_from_spinning)
{
    struct nib_thread_pool *pool = create(4, false);
    for (int i = 0; i < 200; i++) {
        check_loop(pool, 8, 1);
        if (i % 10 == 0)
            sleep_ms(1 + i % 3);
    }
    nib_thread_pool_destroy(&pool);
}

Test(thread_pool, idle_pool_uses_no_cpu)
{
    struct nib_thread_pool *pool = create(8, false);
    double seconds = 1;
    check_loop(pool, 100, 1);
    // A thread that has had no processor so far may still have to spin before it sleeps.
    for (int i = 0; i < 50 && seconds >= 0.01; i++) {
        clock_t before = clock();
        sleep_ms(300);
        seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    }
    cr_assert_lt(seconds, 0.01, "%g s of CPU time in 0.3 s of rest", seconds);
    nib_thread_pool_destroy(&pool);
}

static void wait_for_company(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    atomic_uint *n_arrived = user;
    (void)first, (void)last, (void)thread;
    atomic_fetch_add(n_arrived, 1);
    while (atomic_load(n_arrived) < 4)
        sleep_ms(1);
}

/// Four pieces that wait for each other end only if four threads take one each.
Test(thread_pool, pieces_run_at_the_same_time)
{
    struct nib_thread_pool *pool = create(4, false);
    atomic_uint n_arrived = 0;
    nib_thread_pool_run(pool, 4, 1, wait_for_company, &n_arrived);
    cr_assert_eq(atomic_load(&n_arrived), 4);
    nib_thread_pool_destroy(&pool);
}

struct nested {
    struct nib_thread_pool *pool;
    atomic_uint n_inner;
    atomic_uint n_bad;
};

struct inner {
    struct nested *outer;
    uint32_t thread;
};

static void run_inner(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    struct inner *inner = user;
    if (thread != inner->thread)
        atomic_fetch_add(&inner->outer->n_bad, 1);
    atomic_fetch_add(&inner->outer->n_inner, (unsigned)(last - first));
}

static void run_outer(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    struct nested *outer = user;
    struct inner inner = {outer, thread};
    for (uint64_t i = first; i < last; i++) {
        nib_thread_pool_run(outer->pool, 10, 3, run_inner, &inner);
    }
}

/// A loop within a loop runs on the thread that started it, under the same number.
Test(thread_pool, nested_loops_run_in_place)
{
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        struct nested nested = {.pool = create(n_threads, false)};
        nib_thread_pool_run(nested.pool, 500, 1, run_outer, &nested);
        cr_assert_eq(nested.n_inner, 5000);
        cr_assert_eq(nested.n_bad, 0);
        nib_thread_pool_destroy(&nested.pool);
    }
}

struct caller {
    struct nib_thread_pool *pool;
    atomic_uint *inside; ///< [threads of the pool], pieces running under each number
    atomic_uint n_items;
    atomic_uint n_bad;
};

static void count_items(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    struct caller *caller = user;
    if (atomic_fetch_add(&caller->inside[thread], 1) != 0)
        atomic_fetch_add(&caller->n_bad, 1);
    atomic_fetch_add(&caller->n_items, (unsigned)(last - first));
    atomic_fetch_sub(&caller->inside[thread], 1);
}

static void call_often(void *user)
{
    struct caller *caller = user;
    for (uint64_t i = 0; i < 500; i++) {
        nib_thread_pool_run(caller->pool, 1 + i % 20, 1 + i % 3, count_items, caller);
    }
}

Test(thread_pool, callers_take_turns)
{
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        enum { N_CALLERS = 4 };
        atomic_uint inside[3] = {0};
        struct caller callers[N_CALLERS];
        struct nib_thread *threads[N_CALLERS];
        struct nib_thread_pool *pool = create(n_threads, false);
        for (int i = 0; i < N_CALLERS; i++) {
            callers[i] = (struct caller){.pool = pool, .inside = inside};
            cr_assert_eq(nib_thread_create(call_often, &callers[i], -1, &threads[i], NULL), NIB_OK);
        }
        for (int i = 0; i < N_CALLERS; i++) {
            nib_thread_join(&threads[i]);
            cr_assert_eq(callers[i].n_items, 25 * (20 * 21 / 2));
            cr_assert_eq(callers[i].n_bad, 0);
        }
        nib_thread_pool_destroy(&pool);
    }
}
