/// Loops whose plain reads and writes the thread sanitizer watches: everything that a caller wrote
/// before a loop is seen in it, and everything that a loop wrote is seen after it.
#include "runtime/base/os.h"
#include "runtime/base/thread_pool.h"

#include <stdio.h>
#include <string.h>

enum { N_ITEMS = 257, N_CALLERS = 3, N_ROUNDS = 400 };

struct work {
    struct nib_thread_pool *pool;
    const uint64_t *in;
    uint64_t *out;
    uint64_t *per_thread; ///< [threads of the pool], shared by all callers, who take turns
};

static void nothing(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    uint64_t *sum = user;
    (void)thread;
    *sum += last - first;
}

static void add_up(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    const struct work *work = user;
    for (uint64_t i = first; i < last; i++)
        work->out[i] += work->in[i];
    work->per_thread[thread] += last - first;
    if (first % 64 == 0) { // a loop within the loop, on this thread's own data
        uint64_t sum = 0;
        nib_thread_pool_run(work->pool, 5, 2, nothing, &sum);
        if (sum != 5)
            work->out[first] += 1000000;
    }
}

struct caller {
    struct nib_thread_pool *pool;
    uint64_t *per_thread;
    bool failed;
};

static void call(void *user)
{
    struct caller *caller = user;
    uint64_t in[N_ITEMS], out[N_ITEMS] = {0}, expected[N_ITEMS] = {0};
    struct work work = {caller->pool, in, out, caller->per_thread};
    for (uint64_t round = 0; round < N_ROUNDS; round++) {
        uint64_t count = 1 + round * 31 % N_ITEMS;
        for (uint64_t i = 0; i < N_ITEMS; i++)
            in[i] = round + i;
        for (uint64_t i = 0; i < count; i++)
            expected[i] += in[i];
        const struct nib_loop_memory memory = {in, sizeof *in, count, 1 + round % 5};
        nib_thread_pool_expect(caller->pool, &memory);
        if (round % 2)
            nib_thread_pool_run(caller->pool, count, 1 + round % 9, add_up, &work);
        else
            nib_thread_pool_run_guided(caller->pool, count, 1 + round % 5, add_up, &work);
        if (memcmp(out, expected, sizeof out) != 0)
            caller->failed = true;
    }
}

static bool check(uint32_t n_threads)
{
    struct nib_thread_pool *pool;
    struct nib_error err;
    if (nib_thread_pool_create(n_threads, false, &pool, &err) != NIB_OK) {
        fprintf(stderr, "%s\n", err.message);
        return false;
    }
    uint64_t per_thread[16] = {0}, expected = 0, sum = 0;
    struct caller callers[N_CALLERS];
    struct nib_thread *threads[N_CALLERS] = {0};
    bool passed = true;
    for (int i = 0; i < N_CALLERS; i++) {
        callers[i] = (struct caller){pool, per_thread, false};
        if (nib_thread_create(call, &callers[i], -1, &threads[i], &err) != NIB_OK)
            passed = false;
    }
    for (int i = 0; i < N_CALLERS; i++) {
        nib_thread_join(&threads[i]);
        passed = passed && !callers[i].failed;
        for (uint64_t round = 0; round < N_ROUNDS; round++)
            expected += 1 + round * 31 % N_ITEMS;
    }
    for (uint32_t i = 0; i < n_threads; i++)
        sum += per_thread[i];
    nib_thread_pool_destroy(&pool);
    return passed && sum == expected;
}

int main(void)
{
    int n_failed = 0;
    for (uint32_t n_threads = 1; n_threads <= 8; n_threads *= 2) {
        if (check(n_threads))
            continue;
        fprintf(stderr, "a pool of %u threads failed\n", n_threads);
        n_failed++;
    }
    return n_failed > 0;
}
