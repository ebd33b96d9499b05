#include "tests/support/alloc_fail.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

/// Allocations until the one that fails; negative: none will, or it has failed already.
static atomic_int_least64_t countdown = -1;
static atomic_bool failed;

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_mmap(void *place, size_t size, int access, int flags, int file, off_t offset);
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_mmap(void *place, size_t size, int access, int flags, int file, off_t offset);

void alloc_fail_after(uint32_t n)
{
    atomic_store(&failed, false);
    atomic_store(&countdown, n);
}

bool alloc_fail_off(void)
{
    atomic_store(&countdown, -1);
    return atomic_load(&failed);
}

static bool fails_now(void)
{
    if (atomic_load(&countdown) < 0 || atomic_fetch_sub(&countdown, 1) != 0)
        return false;
    atomic_store(&failed, true);
    errno = ENOMEM;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails_now() ? NULL : __real_realloc(old, size);
}

void *__wrap_mmap(void *place, size_t size, int access, int flags, int file, off_t offset)
{
    return fails_now() ? MAP_FAILED : __real_mmap(place, size, access, flags, file, offset);
}
