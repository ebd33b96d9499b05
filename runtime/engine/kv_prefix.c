#include "runtime/engine/kv_pool_state.h"

/// Returns whether the table's whole pages are all known, so that the next one can be looked up.
static bool is_known(const struct nib_kv_table_state *state)
{
    return !state->is_private && state->n_known == state->n_tokens / NIB_KV_PAGE_TOKENS;
}

/// Puts `page`, which others hold as well, in the place of the table's own.
static void swap_page(struct nib_kv_pool *pool, uint32_t kv_class, uint32_t *entry, uint32_t page)
{
    nib_kv_pages_retain(&pool->pages, kv_class, page);
    nib_kv_pages_release(&pool->pages, kv_class, *entry);
    *entry = page;
}

/// Brings the table's page `place` and block `block`, which are of the same tokens, together: the
/// block gets what it lacks, the table drops what is there twice.
static void join_block(struct nib_kv_pool *pool, uint32_t table, uint32_t place, uint32_t block)
{
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        uint32_t *entry = &nib_kv_table(pool, table, c)[place];
        uint32_t page = pool->pages.blocks[block].pages[c];
        if (*entry == NIB_NONE || *entry == page)
            continue;
        if (page != NIB_NONE)
            swap_page(pool, c, entry, page);
        else if (pool->pages.classes[c].pages[*entry].block == NIB_NONE)
            nib_kv_block_give(&pool->pages, block, c, *entry);
    }
}

/// Returns whether the table has what a new block of page `place` needs.
static bool can_add_block(const struct nib_kv_pool *pool, uint32_t table, uint32_t place)
{
    bool can = false;
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        uint32_t page = nib_kv_table(pool, table, c)[place];
        bool has = page != NIB_NONE && pool->pages.classes[c].pages[page].block == NIB_NONE;
        if (c == pool->pages.anchor)
            return has;
        can = can || has;
    }
    return can;
}

void nib_kv_pool_commit(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                        uint32_t n_computed)
{
    struct nib_kv_table_state *state = &pool->states[table];
    uint32_t end = n_computed / NIB_KV_PAGE_TOKENS;
    nib_kv_drop_step_pages(pool, table);
    if (!pool->params.share)
        return;
    while (!state->is_private && state->n_known < end) {
        uint32_t place = state->n_known;
        const int32_t *block_tokens = tokens + (size_t)place * NIB_KV_PAGE_TOKENS;
        uint32_t block = nib_kv_block_find(&pool->pages, state->serial, block_tokens);
        if (block == NIB_NONE) {
            if (!can_add_block(pool, table, place)) {
                state->is_private = true;
                return;
            }
            block = nib_kv_block_add(&pool->pages, state->serial, block_tokens);
        }
        join_block(pool, table, place, block);
        state->serial = pool->pages.blocks[block].serial;
        state->n_known++;
    }
}

/// Follows the blocks of `tokens[0 .. limit)` behind those that the table knows, noting them in
/// pool->found, and returns the number of pages up to which, in every class, all pages are there
/// that the token behind them sees; 0 for none.
static uint32_t find_blocks(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                            uint32_t limit)
{
    const struct nib_kv_table_state *state = &pool->states[table];
    uint32_t best = 0;
    uint32_t run[NIB_KV_MAX_CLASSES]; // pages that are there in a row, up to the last one
    for (uint32_t c = 0; c < pool->params.n_classes; c++)
        run[c] = state->n_known > state->held[c].first ? state->n_known - state->held[c].first : 0;
    uint64_t serial = state->serial;
    for (uint32_t i = state->n_known; i < limit / NIB_KV_PAGE_TOKENS; i++) {
        uint32_t block =
            nib_kv_block_find(&pool->pages, serial, tokens + (size_t)i * NIB_KV_PAGE_TOKENS);
        if (block == NIB_NONE)
            break;
        pool->found[i] = block;
        serial = pool->pages.blocks[block].serial;
        bool complete = true;
        for (uint32_t c = 0; c < pool->params.n_classes; c++) {
            bool is_there = pool->pages.blocks[block].pages[c] != NIB_NONE;
            if (!is_there && i < pool->params.reach[c].first)
                return best; // what all rows behind it see is gone
            run[c] = is_there ? run[c] + 1 : 0;
            struct nib_kv_places needed =
                nib_kv_needed(pool->params.reach[c], (i + 1) * NIB_KV_PAGE_TOKENS);
            complete = complete && run[c] >= needed.end - needed.first;
        }
        best = complete ? i + 1 : best;
    }
    return best;
}

uint32_t nib_kv_pool_attach(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                            uint32_t limit)
{
    struct nib_kv_table_state *state = &pool->states[table];
    if (!pool->params.share || !is_known(state))
        return state->n_tokens;
    uint32_t end = find_blocks(pool, table, tokens, limit);
    if (end == 0)
        return state->n_tokens;
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        struct nib_kv_range *held = &state->held[c];
        uint32_t *pages = nib_kv_table(pool, table, c);
        struct nib_kv_places needed =
            nib_kv_needed(pool->params.reach[c], end * NIB_KV_PAGE_TOKENS);
        // Retained before others are released, so that none is taken for idle in between.
        for (uint32_t i = state->n_known; i < needed.end; i++) {
            if (i >= needed.n_first && i < needed.first)
                continue;
            uint32_t page = pool->pages.blocks[pool->found[i]].pages[c];
            if (i < held->end) {
                swap_page(pool, c, &pages[i], page);
            } else {
                nib_kv_pages_retain(&pool->pages, c, page);
                pages[i] = page;
            }
        }
        for (uint32_t i = held->first; i < held->end && i < needed.first; i++) {
            if (i < needed.n_first)
                continue;
            nib_kv_pages_release(&pool->pages, c, pages[i]);
            pages[i] = NIB_NONE;
        }
        held->first = held->first > needed.first ? held->first : needed.first;
        held->end = needed.end;
    }
    state->serial = pool->pages.blocks[pool->found[end - 1]].serial;
    state->n_known = end;
    state->n_tokens = end * NIB_KV_PAGE_TOKENS;
    return state->n_tokens;
}

void nib_kv_pool_begin(struct nib_kv_pool *pool)
{
    pool->step++;
    pool->n_step_pages = 0;
}

bool nib_kv_pool_claim(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                       uint32_t n_tokens)
{
    const struct nib_kv_table_state *state = &pool->states[table];
    if (!pool->params.share || !is_known(state) || n_tokens / NIB_KV_PAGE_TOKENS <= state->n_known)
        return true;
    uint64_t hash = nib_kv_block_hash(&pool->pages, state->serial,
                                      tokens + (size_t)state->n_known * NIB_KV_PAGE_TOKENS);
    uint64_t place = hash & pool->claim_mask;
    while (pool->claims[place].step == pool->step) {
        if (pool->claims[place].hash == hash)
            return false;
        place = (place + 1) & pool->claim_mask;
    }
    pool->claims[place] = (struct nib_kv_claim){.hash = hash, .step = pool->step};
    return true;
}
