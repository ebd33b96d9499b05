/// Makes chosen allocations of the code under test fail. A test that links nib_test_allocations has
/// the linker send malloc, calloc and realloc here (ELF only).
#ifndef TESTS_UNIT_BASE_ALLOCATIONS_H
#define TESTS_UNIT_BASE_ALLOCATIONS_H

#include <stdbool.h>

/// Lets `n` allocations pass from now on, and the one after them fail.
void fail_allocation(unsigned n);
/// Returns whether the allocation has failed, and lets all that follow pass.
bool allocation_failed(void);

#endif
