#include "runtime/engine/kv_pool.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

struct page_class {
    uint32_t window;
    uint32_t n_free;
    uint32_t *free_pages; ///< a stack
    uint32_t *references;
};

/// Pages [first, end) of a table are held.
struct page_range {
    uint32_t first;
    uint32_t end;
};

struct table_state {
    uint32_t n_tokens;
    struct page_range held[NIB_KV_MAX_CLASSES];
};

struct nib_kv_pool {
    struct page_class classes[NIB_KV_MAX_CLASSES];
    uint32_t n_classes;
    uint32_t stride;
    uint32_t *tables;           ///< [table][class][stride]
    struct table_state *states; ///< [table]
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / NIB_KV_PAGE_TOKENS + (n_tokens % NIB_KV_PAGE_TOKENS != 0);
}

static enum nib_status init_class(struct page_class *page_class, uint32_t n_pages, uint32_t window,
                                  struct nib_error *err)
{
    page_class->window = window;
    page_class->n_free = n_pages;
    page_class->free_pages = calloc(n_pages, sizeof *page_class->free_pages);
    page_class->references = calloc(n_pages, sizeof *page_class->references);
    if (!page_class->free_pages || !page_class->references)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_pages; i++)
        page_class->free_pages[i] = n_pages - 1 - i;
    return NIB_OK;
}

enum nib_status nib_kv_pool_create(const struct nib_kv_pool_params *params,
                                   struct nib_kv_pool **out_pool, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
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
    pool->n_classes = params->n_classes;
    pool->stride = (uint32_t)stride;
    for (uint32_t c = 0; c < params->n_classes; c++)
        NIB_TRY(init_class(&pool->classes[c], params->n_pages[c], params->window[c], err));
    pool->tables = calloc((size_t)n_entries, sizeof *pool->tables);
    pool->states = calloc(params->n_tables, sizeof *pool->states);
    if (!pool->tables || !pool->states)
        NIB_TRY(nib_fail_memory(err));
    for (uint64_t i = 0; i < n_entries; i++)
        pool->tables[i] = NIB_NONE;
    *out_pool = pool;
    return NIB_OK;

fail:
    nib_kv_pool_destroy(&pool);
    return status;
}

void nib_kv_pool_destroy(struct nib_kv_pool **pool)
{
    if (!*pool)
        return;
    for (uint32_t c = 0; c < NIB_KV_MAX_CLASSES; c++) {
        free((*pool)->classes[c].free_pages);
        free((*pool)->classes[c].references);
    }
    free((*pool)->tables);
    free((*pool)->states);
    free(*pool);
    *pool = NULL;
}

uint32_t nib_kv_pool_take(struct nib_kv_pool *pool, uint32_t kv_class)
{
    struct page_class *page_class = &pool->classes[kv_class];
    if (page_class->n_free == 0)
        return NIB_NONE;
    uint32_t page = page_class->free_pages[--page_class->n_free];
    page_class->references[page] = 1;
    return page;
}

void nib_kv_pool_retain(struct nib_kv_pool *pool, uint32_t kv_class, uint32_t page)
{
    pool->classes[kv_class].references[page]++;
}

void nib_kv_pool_release(struct nib_kv_pool *pool, uint32_t kv_class, uint32_t page)
{
    struct page_class *page_class = &pool->classes[kv_class];
    if (--page_class->references[page] == 0)
        page_class->free_pages[page_class->n_free++] = page;
}

uint32_t nib_kv_pool_free_pages(const struct nib_kv_pool *pool, uint32_t kv_class)
{
    return pool->classes[kv_class].n_free;
}

static uint32_t *table_of(struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class)
{
    return pool->tables + nib_kv_pool_offset(pool, table) + (size_t)kv_class * pool->stride;
}

/// The first page that a row at `position` sees.
static uint32_t first_seen_page(const struct page_class *page_class, uint32_t position)
{
    if (page_class->window == 0 || position < page_class->window)
        return 0;
    return (position - page_class->window + 1) / NIB_KV_PAGE_TOKENS;
}

/// Drops the table's pages outside [first, end).
static void narrow(struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class, uint32_t first,
                   uint32_t end)
{
    struct page_range *held = &pool->states[table].held[kv_class];
    uint32_t *pages = table_of(pool, table, kv_class);
    while (held->first < min_u32(first, held->end)) {
        nib_kv_pool_release(pool, kv_class, pages[held->first]);
        pages[held->first++] = NIB_NONE;
    }
    while (held->end > held->first && held->end > end) {
        nib_kv_pool_release(pool, kv_class, pages[--held->end]);
        pages[held->end] = NIB_NONE;
    }
}

enum nib_status nib_kv_pool_extend(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                   struct nib_error *err)
{
    struct table_state *state = &pool->states[table];
    uint32_t end = pages_for(n_tokens);
    for (uint32_t c = 0; c < pool->n_classes; c++)
        narrow(pool, table, c, first_seen_page(&pool->classes[c], state->n_tokens), end);
    for (uint32_t c = 0; c < pool->n_classes; c++) {
        if (end - state->held[c].end > pool->classes[c].n_free)
            return nib_fail(err, NIB_ERROR_KV_FULL,
                            "the KV pool has %u free pages, %u are needed; end a session or lower "
                            "the number of sessions",
                            pool->classes[c].n_free, end - state->held[c].end);
    }
    for (uint32_t c = 0; c < pool->n_classes; c++) {
        uint32_t *pages = table_of(pool, table, c);
        while (state->held[c].end < end)
            pages[state->held[c].end++] = nib_kv_pool_take(pool, c);
    }
    state->n_tokens = n_tokens;
    return NIB_OK;
}

uint32_t nib_kv_pool_truncate(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens)
{
    struct table_state *state = &pool->states[table];
    uint32_t kept = min_u32(n_tokens, state->n_tokens);
    for (uint32_t c = 0; c < pool->n_classes; c++) {
        if (state->held[c].first > first_seen_page(&pool->classes[c], kept))
            kept = 0;
    }
    for (uint32_t c = 0; c < pool->n_classes; c++)
        narrow(pool, table, c, 0, pages_for(kept));
    if (kept == 0)
        memset(state->held, 0, sizeof state->held);
    state->n_tokens = kept;
    return kept;
}

const uint32_t *nib_kv_pool_tables(const struct nib_kv_pool *pool)
{
    return pool->tables;
}

uint32_t nib_kv_pool_offset(const struct nib_kv_pool *pool, uint32_t table)
{
    return table * pool->n_classes * pool->stride;
}

uint32_t nib_kv_pool_stride(const struct nib_kv_pool *pool)
{
    return pool->stride;
}
