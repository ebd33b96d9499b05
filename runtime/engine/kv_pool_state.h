/// What the KV pool is made of, for kv_pool.c and kv_prefix.c.
#ifndef RUNTIME_ENGINE_KV_POOL_STATE_H
#define RUNTIME_ENGINE_KV_POOL_STATE_H

#include "runtime/engine/kv_pages.h"
#include "runtime/engine/kv_pool.h"

/// A table has pages [first, end) of a class, and below `end` those that its reach names as first.
/// In a class of these alone `end` is not beyond them.
struct nib_kv_range {
    uint32_t first;
    uint32_t end;
};

struct nib_kv_table_state {
    uint32_t n_tokens;
    uint32_t n_known; ///< pages from the start on whose blocks are known
    uint64_t serial;  ///< of the last of these blocks; 0: there is none
    bool is_private;  ///< what the table computes is not made known
    struct nib_kv_range held[NIB_KV_MAX_CLASSES];
    uint32_t step_end; ///< one behind the last page of the step; 0: there is none
};

/// A page that some table computes in this step.
struct nib_kv_claim {
    uint64_t hash;
    uint64_t step; ///< in which it holds
};

struct nib_kv_pool {
    struct nib_kv_pages pages;
    struct nib_kv_pool_params params;
    uint32_t stride;
    uint32_t *tables;                  ///< [table][class][stride]
    struct nib_kv_table_state *states; ///< [table]
    uint32_t *found;                   ///< [stride] blocks of attach
    struct nib_kv_claim *claims;       ///< [claim_mask + 1]
    uint64_t claim_mask;
    uint64_t step;
    uint32_t n_step_pages; ///< dealt out in this step
};

/// Page table `table` of one class.
static inline uint32_t *nib_kv_table(const struct nib_kv_pool *pool, uint32_t table,
                                     uint32_t kv_class)
{
    return pool->tables + nib_kv_pool_offset(pool, table) + (size_t)kv_class * pool->stride;
}

/// The first page that a row at `position` sees behind those that all rows see.
static inline uint32_t nib_kv_first_seen(struct nib_kv_reach reach, uint32_t position)
{
    uint32_t page = position / NIB_KV_PAGE_TOKENS;
    if (reach.recent > 0)
        return NIB_KV_FIRST_RECENT(page, reach.recent);
    if (reach.window == 0 || position < reach.window)
        return 0;
    return (position - reach.window + 1) / NIB_KV_PAGE_TOKENS;
}

/// One behind the last page that a class has for `n_tokens` tokens.
static inline uint32_t nib_kv_end(struct nib_kv_reach reach, uint32_t n_tokens)
{
    uint32_t end = n_tokens / NIB_KV_PAGE_TOKENS + (n_tokens % NIB_KV_PAGE_TOKENS != 0);
    bool has_first_alone = reach.first > 0 && reach.recent == 0;
    return has_first_alone && end > reach.first ? reach.first : end;
}

/// Drops the pages of a step that the table has, which has ended.
void nib_kv_drop_step_pages(struct nib_kv_pool *pool, uint32_t table);

#endif
