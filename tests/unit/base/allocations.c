#include "tests/unit/base/allocations.h"

#include <stdatomic.h>
#include <stddef.h>

enum { NEVER = -1 };
/// How many allocations pass before one fails; NEVER where none does, as after it has.
static atomic_long n_to_pass = NEVER;
static atomic_bool has_failed;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

void fail_allocation(unsigned n)
{
    atomic_store(&has_failed, false);
    atomic_store(&n_to_pass, (long)n);
}

bool allocation_failed(void)
{
    atomic_store(&n_to_pass, NEVER);
    return atomic_load(&has_failed);
}

static bool fails(void)
{
    long n = atomic_load(&n_to_pass);
    while (n != NEVER && !atomic_compare_exchange_weak(&n_to_pass, &n, n - 1))
        continue;
    if (n != 0)
        return false;
    atomic_store(&has_failed, true);
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails() ? NULL : __real_realloc(old, size);
}
