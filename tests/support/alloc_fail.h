/// Makes an allocation fail, to test that its caller minds. Works in programs that
/// nib_use_alloc_fail (tests/support/CMakeLists.txt) links so that their calls of malloc, calloc,
/// realloc and mmap, those in the layers' archives included, come here; what shared libraries
/// allocate is left alone. Thread-safety: the count is shared by all threads.
#ifndef TESTS_SUPPORT_ALLOC_FAIL_H
#define TESTS_SUPPORT_ALLOC_FAIL_H

#include <stdbool.h>
#include <stdint.h>

/// Lets `n` allocations pass and the next one fail; those after it pass again, so that a failure
/// which nobody minds does not hide behind a later one.
void alloc_fail_after(uint32_t n);
/// Lets all allocations pass again. Returns whether one has failed since alloc_fail_after.
bool alloc_fail_off(void);

#endif
