#include "runtime/engine/kv_pool.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/engine/kv_pool_state.h"
#include <stdlib.h>
#include <string.h>

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / NIB_KV_PAGE_TOKENS + (n_tokens % NIB_KV_PAGE_TOKENS != 0);
}

/// Tells whether a class is of tokens that are kept in f16 beside their codes.
static bool is_in_f16(struct nib_kv_reach reach)
{
    return reach.recent > 0 || reach.first > 0;
}

static enum nib_status take_memory(struct nib_kv_pool *pool, uint64_t n_entries,
                                   struct nib_error *err)
{
    const struct nib_kv_pool_params *params = &pool->params;
    uint32_t anchor = NIB_NONE;
    for (uint32_t c = 0; c < params->n_classes && anchor == NIB_NONE; c++)
        anchor = params->reach[c].window || is_in_f16(params->reach[c]) ? NIB_NONE : c;
    enum nib_status status =
        nib_kv_pages_init(&pool->pages, params->n_classes, params->n_pages, anchor, err);
    if (status != NIB_OK)
        return status;
    // At most half full, so that free places are near.
    uint64_t n_claims = 2;
    while (n_claims < 2 * (uint64_t)params->n_tables)
        n_claims *= 2;
    pool->claim_mask = n_claims - 1;
    pool->tables = calloc((size_t)n_entries, sizeof *pool->tables);
    pool->states = calloc(params->n_tables, sizeof *pool->states);
    pool->found = calloc(pool->stride, sizeof *pool->found);
    pool->claims = calloc((size_t)n_claims, sizeof *pool->claims);
    if (!pool->tables || !pool->states || !pool->found || !pool->claims)
        return nib_fail_memory(err);
    for (uint64_t i = 0; i < n_entries; i++)
        pool->tables[i] = NIB_NONE;
    return NIB_OK;
}

enum nib_status nib_kv_pool_create(const struct nib_kv_pool_params *params,
                                   struct nib_kv_pool **out_pool, struct nib_error *err)
{
    *out_pool = NULL;
    uint64_t stride = pages_for(params->context);
    uint64_t n_entries;
    if (!nib_mul_u64(stride * params->n_classes, params->n_tables, &n_entries) ||
        n_entries >= NIB_NONE)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "%u sequences of %u tokens need more KV pages than 32 bits can number",
                        params->n_tables, params->context);
    struct nib_kv_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return nib_fail_memory(err);
    pool->params = *params;
    pool->stride = (uint32_t)stride;
    pool->step = 1;
    enum nib_status status = take_memory(pool, n_entries, err);
    if (status != NIB_OK)
        nib_kv_pool_destroy(&pool);
    *out_pool = pool;
    return status;
}

void nib_kv_pool_destroy(struct nib_kv_pool **pool)
{
    if (!*pool)
        return;
    nib_kv_pages_free(&(*pool)->pages);
    free((*pool)->tables);
    free((*pool)->states);
    free((*pool)->found);
    free((*pool)->claims);
    free(*pool);
    *pool = NULL;
}

struct nib_kv_pool_usage nib_kv_pool_get_usage(const struct nib_kv_pool *pool, uint32_t kv_class)
{
    const struct nib_kv_page_class *page_class = &pool->pages.classes[kv_class];
    return (struct nib_kv_pool_usage){
        .n_pages = page_class->n_pages, .n_free = page_class->n_free, .n_idle = page_class->n_idle};
}

/// Drops what a table's entry refers to: a page, or one of the step.
static void drop_page(struct nib_kv_pool *pool, uint32_t kv_class, uint32_t *entry)
{
    if (*entry < pool->params.n_pages[kv_class])
        nib_kv_pages_release(&pool->pages, kv_class, *entry);
    *entry = NIB_NONE;
}

/// Drops the table's pages outside [first, end), but keeps those below `end` that all rows see.
static void narrow(struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class, uint32_t first,
                   uint32_t end)
{
    struct nib_kv_range *held = &pool->states[table].held[kv_class];
    uint32_t *pages = nib_kv_table(pool, table, kv_class);
    // The last ones first: what they follow stays known longer.
    while (held->end > end)
        drop_page(pool, kv_class, &pages[--held->end]);
    held->first = nib_min_u32(held->first, held->end);
    for (; held->first < nib_min_u32(first, held->end); held->first++) {
        if (held->first >= pool->params.reach[kv_class].first)
            drop_page(pool, kv_class, &pages[held->first]);
    }
}

void nib_kv_drop_step_pages(struct nib_kv_pool *pool, uint32_t table)
{
    struct nib_kv_table_state *state = &pool->states[table];
    for (uint32_t c = 0; c < pool->params.n_classes && state->step_end > 0; c++) {
        if (pool->params.reach[c].recent > 0)
            narrow(pool, table, c, state->step_end, UINT32_MAX);
    }
    state->step_end = 0;
}

/// Returns the page that holds the table's last token where more tokens would go into it and others
/// refer to it, so that it must be copied first; else NIB_NONE.
static uint32_t shared_end(const struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class)
{
    const struct nib_kv_table_state *state = &pool->states[table];
    uint32_t place = state->n_tokens / NIB_KV_PAGE_TOKENS;
    if (state->n_tokens % NIB_KV_PAGE_TOKENS == 0 || place >= state->held[kv_class].end)
        return NIB_NONE;
    uint32_t page = nib_kv_table(pool, table, kv_class)[place];
    bool is_shared = pool->pages.classes[kv_class].pages[page].references > 1;
    return is_shared ? page : NIB_NONE;
}

/// Returns how many of the new pages [begin, end) can be those of the step: newest tokens' that no
/// token behind them sees.
static uint32_t step_pages(const struct nib_kv_pool *pool, uint32_t kv_class, uint32_t begin,
                           uint32_t end)
{
    const struct nib_kv_reach *reach = &pool->params.reach[kv_class];
    uint32_t left = pool->params.n_step_pages - pool->n_step_pages;
    begin = max_u32(begin, reach->first);
    bool has_any = reach->recent > 0 && end > begin && end - begin > reach->recent;
    return has_any ? nib_min_u32(end - begin - reach->recent, left) : 0;
}

/// Returns the number of pages that the table must take to hold `n_tokens` tokens.
static uint32_t pages_needed(const struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class,
                             uint32_t n_tokens)
{
    uint32_t begin = pool->states[table].held[kv_class].end;
    uint32_t end = max_u32(begin, nib_kv_end(pool->params.reach[kv_class], n_tokens));
    return end - begin - step_pages(pool, kv_class, begin, end) +
           (shared_end(pool, table, kv_class) != NIB_NONE ? 1 : 0);
}

static uint32_t pages_left(const struct nib_kv_pool *pool, uint32_t kv_class)
{
    const struct nib_kv_page_class *page_class = &pool->pages.classes[kv_class];
    return page_class->n_free + page_class->n_idle;
}

/// Makes sure of the pages for `n_tokens` tokens. Where nothing is left and the page to be copied
/// is the table's but for its block, the block is forgotten instead.
static enum nib_status require_pages(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                     struct nib_error *err)
{
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        uint32_t page = shared_end(pool, table, c);
        if (page != NIB_NONE && pages_needed(pool, table, c, n_tokens) > pages_left(pool, c)) {
            const struct nib_kv_page_state *state = &pool->pages.classes[c].pages[page];
            if (state->references == 2 && state->block != NIB_NONE)
                nib_kv_pages_detach(&pool->pages, c, page);
        }
        uint32_t needed = pages_needed(pool, table, c, n_tokens);
        if (needed > pages_left(pool, c))
            return nib_fail(err, NIB_ERROR_KV_FULL,
                            "the KV pool has %u free pages, %u are needed; end a session or lower "
                            "the number of sessions",
                            pages_left(pool, c), needed);
    }
    return NIB_OK;
}

/// Copies the last page where it is shared.
static enum nib_status own_end(struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class,
                               struct nib_error *err)
{
    uint32_t source = shared_end(pool, table, kv_class);
    if (source == NIB_NONE)
        return NIB_OK;
    uint32_t target = nib_kv_pages_take(&pool->pages, kv_class);
    enum nib_status status = pool->params.copy(pool->params.user, kv_class, source, target, err);
    if (status != NIB_OK) {
        nib_kv_pages_release(&pool->pages, kv_class, target);
        return status;
    }
    uint32_t place = pool->states[table].n_tokens / NIB_KV_PAGE_TOKENS;
    nib_kv_table(pool, table, kv_class)[place] = target;
    nib_kv_pages_release(&pool->pages, kv_class, source);
    return NIB_OK;
}

/// Takes pages up to page `end`, which there are.
static void take_until(struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class, uint32_t end)
{
    struct nib_kv_range *held = &pool->states[table].held[kv_class];
    uint32_t *pages = nib_kv_table(pool, table, kv_class);
    uint32_t n_step = step_pages(pool, kv_class, held->end, end);
    while (held->end < end) {
        uint32_t *page = &pages[held->end++];
        if (n_step == 0 || held->end <= pool->params.reach[kv_class].first) {
            *page = nib_kv_pages_take(&pool->pages, kv_class);
            continue;
        }
        *page = pool->params.n_pages[kv_class] + pool->n_step_pages++;
        pool->states[table].step_end = held->end;
        n_step--;
    }
}

enum nib_status nib_kv_pool_extend(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                   struct nib_error *err)
{
    struct nib_kv_table_state *state = &pool->states[table];
    if (n_tokens <= state->n_tokens)
        return NIB_OK;
    // What the last whole page's end sees stays, so that a sequence can be saved from there.
    uint32_t whole = state->n_tokens - state->n_tokens % NIB_KV_PAGE_TOKENS;
    for (uint32_t c = 0; c < pool->params.n_classes; c++)
        narrow(pool, table, c, nib_kv_first_seen(pool->params.reach[c], whole), UINT32_MAX);
    enum nib_status status = require_pages(pool, table, n_tokens, err);
    for (uint32_t c = 0; c < pool->params.n_classes && status == NIB_OK; c++)
        status = own_end(pool, table, c, err);
    if (status != NIB_OK)
        return status;
    for (uint32_t c = 0; c < pool->params.n_classes; c++)
        take_until(pool, table, c, nib_kv_end(pool->params.reach[c], n_tokens));
    state->n_tokens = n_tokens;
    return NIB_OK;
}

uint32_t nib_kv_pool_room(const struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens)
{
    const struct nib_kv_table_state *state = &pool->states[table];
    uint32_t room = pages_for(state->n_tokens) * NIB_KV_PAGE_TOKENS;
    return nib_min_u32(max_u32(room, state->n_tokens), n_tokens);
}

/// Finds out anew which blocks a table that was cut short begins with.
static void find_known(struct nib_kv_pool *pool, uint32_t table)
{
    struct nib_kv_table_state *state = &pool->states[table];
    uint32_t n = nib_min_u32(state->n_known, state->n_tokens / NIB_KV_PAGE_TOKENS);
    if (n == state->n_known)
        return;
    state->n_known = n;
    state->serial = 0;
    for (uint32_t c = 0; c < pool->params.n_classes && n > 0 && state->serial == 0; c++) {
        uint32_t page = nib_kv_table(pool, table, c)[n - 1];
        uint32_t block = page == NIB_NONE ? NIB_NONE : pool->pages.classes[c].pages[page].block;
        if (block != NIB_NONE)
            state->serial = pool->pages.blocks[block].serial;
    }
    state->is_private = state->is_private || (n > 0 && state->serial == 0);
}

/// Tells whether the table has the pages of a class that its first `n_tokens` tokens need.
static bool has_needed(const struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class,
                       uint32_t n_tokens)
{
    struct nib_kv_places needed = nib_kv_needed(pool->params.reach[kv_class], n_tokens);
    return needed.first == needed.end || pool->states[table].held[kv_class].first <= needed.first;
}

bool nib_kv_pool_can_resume(const struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens)
{
    bool can = true;
    for (uint32_t c = 0; c < pool->params.n_classes; c++)
        can = can && has_needed(pool, table, c, n_tokens);
    return can;
}

/// Returns how many of the table's first `n_tokens` tokens have all pages that the next one sees.
static uint32_t usable(const struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens)
{
    const struct nib_kv_pool_params *params = &pool->params;
    for (uint32_t c = 0; c < params->n_classes; c++) {
        if (is_in_f16(params->reach[c]) && !has_needed(pool, table, c, n_tokens))
            n_tokens = max_u32(params->reach[c].first * NIB_KV_PAGE_TOKENS,
                               n_tokens - n_tokens % (NIB_KV_RECENT_STRIDE * NIB_KV_PAGE_TOKENS));
    }
    return nib_kv_pool_can_resume(pool, table, n_tokens) ? n_tokens : 0;
}

uint32_t nib_kv_pool_truncate(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens)
{
    struct nib_kv_table_state *state = &pool->states[table];
    nib_kv_drop_step_pages(pool, table);
    uint32_t kept = usable(pool, table, nib_min_u32(n_tokens, state->n_tokens));
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        narrow(pool, table, c, 0, nib_kv_end(pool->params.reach[c], kept));
    }
    if (kept == 0)
        *state = (struct nib_kv_table_state){0};
    state->n_tokens = kept;
    find_known(pool, table);
    return kept;
}

void nib_kv_pool_fork(struct nib_kv_pool *pool, uint32_t from, uint32_t to)
{
    pool->states[to] = pool->states[from];
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        const struct nib_kv_range *held = &pool->states[from].held[c];
        const uint32_t *source = nib_kv_table(pool, from, c);
        uint32_t *target = nib_kv_table(pool, to, c);
        for (uint32_t i = 0; i < held->end; i++) {
            target[i] = source[i];
            if (source[i] != NIB_NONE)
                nib_kv_pages_retain(&pool->pages, c, source[i]);
        }
    }
}

struct nib_kv_places nib_kv_needed(struct nib_kv_reach reach, uint32_t n_tokens)
{
    uint32_t end = nib_kv_end(reach, n_tokens), n_first = nib_min_u32(reach.first, end);
    uint32_t first = max_u32(nib_kv_first_seen(reach, n_tokens), n_first);
    return (struct nib_kv_places){n_first, nib_min_u32(first, end), end};
}

enum nib_status nib_kv_pool_restore(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                    struct nib_error *err)
{
    struct nib_kv_table_state *state = &pool->states[table];
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        struct nib_kv_places needed = nib_kv_needed(pool->params.reach[c], n_tokens);
        if (nib_kv_count(&needed) > pages_left(pool, c))
            return nib_fail(err, NIB_ERROR_KV_FULL,
                            "the KV pool has %u free pages, %u are needed; end a session",
                            pages_left(pool, c), nib_kv_count(&needed));
    }
    for (uint32_t c = 0; c < pool->params.n_classes; c++) {
        struct nib_kv_places needed = nib_kv_needed(pool->params.reach[c], n_tokens);
        take_until(pool, table, c, needed.n_first);
        state->held[c] = (struct nib_kv_range){needed.first, needed.first};
        take_until(pool, table, c, needed.end);
    }
    state->n_tokens = n_tokens;
    state->is_private = n_tokens > 0;
    return NIB_OK;
}

const uint32_t *nib_kv_pool_tables(const struct nib_kv_pool *pool)
{
    return pool->tables;
}

uint32_t nib_kv_pool_offset(const struct nib_kv_pool *pool, uint32_t table)
{
    return table * pool->params.n_classes * pool->stride;
}

uint32_t nib_kv_pool_stride(const struct nib_kv_pool *pool)
{
    return pool->stride;
}
