/// Checks of the KV pool's bookkeeping. Without Criterion, which the thread sanitizer's build
/// lacks.
#ifndef TESTS_UNIT_ENGINE_POOL_CHECK_H
#define TESTS_UNIT_ENGINE_POOL_CHECK_H

#include "runtime/engine/kv_pool_state.h"

/// Counts every reference to every page and returns what does not agree, or NULL: pages that are
/// lost, free and in use, or counted wrongly; idle pages out of their list; blocks that cannot be
/// found.
const char *pool_check(const struct nib_kv_pool *pool);

#endif
