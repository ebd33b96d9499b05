#include "runtime/base/os.h"

#include "runtime/base/utf8.h"

#include <criterion/criterion.h>
#include <string.h>

Test(os, clock_never_goes_back)
{
    uint64_t last = nib_clock_ns();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = nib_clock_ns();
        cr_assert_geq(now, last);
        last = now;
    }
}

Test(os, machine_is_described)
{
    cr_assert_geq(nib_cpu_cores(), 1);
    cr_assert_leq(nib_cpu_cores(), 100000);
    cr_assert_geq(nib_memory_size(), 1u << 24);
    char name[64];
    nib_cpu_name(name, sizeof name);
    cr_assert(name[0] && nib_utf8_valid(name, strlen(name)));
    char cut[3];
    nib_cpu_name(cut, sizeof cut);
    cr_assert_arr_eq(cut, name, 2);
    cr_assert_eq(cut[2], '\0');
    cr_assert_neq(nib_entropy(), nib_entropy());
    cr_assert_leq(nib_arm_features(), NIB_ARM_DOTPROD + NIB_ARM_I8MM);
}

Test(os, pages_are_zeroed_and_aligned)
{
    size_t size = 3 * 4096 + 5;
    unsigned char *pages = nib_pages_alloc(size);
    cr_assert_not_null(pages);
    cr_assert_eq((uintptr_t)pages % 4096, 0);
    for (size_t i = 0; i < size; i++)
        cr_assert_eq(pages[i], 0);
    memset(pages, 1, size);
    nib_pages_free(pages, size);
    nib_pages_free(NULL, 0);
    cr_assert_null(nib_pages_alloc(0));
    cr_assert_null(nib_pages_alloc(SIZE_MAX / 2));
}

Test(os, large_pages_are_zeroed_and_aligned)
{
    static const size_t sizes[] = {5, (2 << 20) - 1, 2 << 20, (5 << 20) + 4097};
    for (int i = 0; i < 4; i++) {
        unsigned char *pages = nib_pages_alloc_large(sizes[i]);
        cr_assert_not_null(pages);
        cr_assert_eq((uintptr_t)pages % 4096, 0);
#ifdef __linux__
        cr_assert(sizes[i] < 2 << 20 || (uintptr_t)pages % (2 << 20) == 0);
#endif
        for (size_t k = 0; k < sizes[i]; k++)
            cr_assert_eq(pages[k], 0);
        memset(pages, 1, sizes[i]);
        nib_pages_free(pages, sizes[i]);
    }
    cr_assert_null(nib_pages_alloc_large(0));
    cr_assert_null(nib_pages_alloc_large(SIZE_MAX / 2));
    cr_assert_null(nib_pages_alloc_large(SIZE_MAX));
}

struct relay {
    struct nib_mutex *mutex;
    struct nib_condition *condition;
    int turn;
    uint64_t id;
};

static void answer(void *user)
{
    struct relay *relay = user;
    nib_mutex_lock(relay->mutex);
    relay->id = nib_thread_id();
    for (int i = 0; i < 100; i++) {
        while (relay->turn != 1)
            nib_condition_wait(relay->condition, relay->mutex);
        relay->turn = 0;
        nib_condition_broadcast(relay->condition);
    }
    nib_mutex_unlock(relay->mutex);
}

static void play(int core)
{
    struct relay relay = {0};
    struct nib_thread *thread;
    cr_assert_eq(nib_mutex_create(&relay.mutex, NULL), NIB_OK);
    cr_assert_eq(nib_condition_create(&relay.condition, NULL), NIB_OK);
    cr_assert_eq(nib_thread_create(answer, &relay, core, &thread, NULL), NIB_OK);
    nib_mutex_lock(relay.mutex);
    cr_assert(!nib_mutex_try_lock(relay.mutex));
    for (int i = 0; i < 100; i++) {
        relay.turn = 1;
        nib_condition_broadcast(relay.condition);
        while (relay.turn != 0)
            nib_condition_wait(relay.condition, relay.mutex);
    }
    nib_mutex_unlock(relay.mutex);
    nib_thread_join(&thread);
    cr_assert_null(thread);
    cr_assert(relay.id != 0 && relay.id != nib_thread_id());
    cr_assert(nib_mutex_try_lock(relay.mutex));
    nib_mutex_unlock(relay.mutex);
    nib_thread_join(&thread);
    nib_condition_destroy(&relay.condition);
    nib_condition_destroy(&relay.condition);
    nib_mutex_destroy(&relay.mutex);
    nib_mutex_destroy(&relay.mutex);
}

Test(os, waits_end_in_time)
{
    struct nib_mutex *mutex;
    struct nib_condition *condition;
    cr_assert_eq(nib_mutex_create(&mutex, NULL), NIB_OK);
    cr_assert_eq(nib_condition_create(&condition, NULL), NIB_OK);
    nib_mutex_lock(mutex);
    cr_assert_not(nib_condition_wait_until(condition, mutex, 0));
    uint64_t start_ns = nib_clock_ns(), end_ns = start_ns + 30000000;
    while (nib_condition_wait_until(condition, mutex, end_ns)) {}
    uint64_t ns = nib_clock_ns() - start_ns;
    cr_assert_geq(ns, 10000000);
    nib_mutex_unlock(mutex);
    nib_condition_destroy(&condition);
    nib_mutex_destroy(&mutex);
}

Test(os, threads_hand_turns_over)
{
    play(-1);
    play(0);
    play(1000); // counted around
}
