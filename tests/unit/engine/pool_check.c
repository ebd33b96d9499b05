#include "tests/unit/engine/pool_check.h"

#include <stdlib.h>
#include <string.h>

/// Adds the references of tables and blocks to `counts` [n_pages].
static const char *count_references(const struct nib_kv_pool *pool, uint32_t c, uint32_t *counts)
{
    uint32_t n_pages = pool->pages.classes[c].n_pages;
    for (uint32_t t = 0; t < pool->params.n_tables; t++) {
        const struct nib_kv_range *held = &pool->states[t].held[c];
        const uint32_t *pages = nib_kv_table(pool, t, c);
        for (uint32_t i = 0; i < pool->stride; i++) {
            bool is_first = i < pool->params.reach[c].first;
            bool is_held = (i >= held->first || is_first) && i < held->end;
            if (is_held != (pages[i] != NIB_NONE))
                return "a table and its range differ";
            if (is_held && pages[i] >= n_pages)
                return "a table has a page that does not exist";
            if (is_held)
                counts[pages[i]]++;
        }
    }
    for (uint32_t p = 0; p < n_pages; p++) {
        uint32_t b = pool->pages.classes[c].pages[p].block;
        if (b != NIB_NONE && pool->pages.blocks[b].pages[c] != p)
            return "a page and its block differ";
        counts[p] += b != NIB_NONE;
    }
    return NULL;
}

static const char *check_class(const struct nib_kv_pool *pool, uint32_t c, uint32_t *counts)
{
    const struct nib_kv_page_class *page_class = &pool->pages.classes[c];
    const char *wrong = count_references(pool, c, counts);
    if (wrong)
        return wrong;
    uint32_t n_free = 0, n_idle = 0;
    for (uint32_t p = 0; p < page_class->n_pages; p++) {
        const struct nib_kv_page_state *page = &page_class->pages[p];
        if (counts[p] != page->references)
            return "a page's references are counted wrongly";
        n_free += counts[p] == 0;
        n_idle += counts[p] == 1 && page->block != NIB_NONE;
    }
    if (n_free != page_class->n_free)
        return "free pages are lost";
    for (uint32_t i = 0; i < n_free; i++) {
        if (counts[page_class->free_pages[i]]++ != 0)
            return "a free page is in use, or free twice";
    }
    uint32_t older = NIB_NONE, n_listed = 0;
    for (uint32_t p = page_class->oldest; p != NIB_NONE; p = page_class->pages[p].newer) {
        if (page_class->pages[p].older != older || page_class->pages[p].block == NIB_NONE ||
            page_class->pages[p].references != 1 || n_listed++ == n_idle)
            return "the list of idle pages is broken";
        older = p;
    }
    if (n_listed != n_idle || n_idle != page_class->n_idle || older != page_class->newest)
        return "idle pages are not in their list";
    return NULL;
}

static const char *check_blocks(const struct nib_kv_pool *pool)
{
    const struct nib_kv_pages *pages = &pool->pages;
    uint32_t n_blocks = 0, n_unused = 0;
    for (uint32_t c = 0; c < pages->n_classes; c++)
        n_blocks += pages->classes[c].n_pages;
    if (pages->anchor != NIB_NONE)
        n_blocks = pages->classes[pages->anchor].n_pages;
    for (uint32_t b = pages->unused_block; b != NIB_NONE; b = pages->blocks[b].next)
        n_unused++;
    for (uint32_t b = 0; b < n_blocks; b++) {
        const struct nib_kv_block *block = &pages->blocks[b];
        if (block->serial == 0) {
            n_unused--;
            continue;
        }
        bool has_page = false;
        for (uint32_t c = 0; c < pages->n_classes; c++) {
            uint32_t page = block->pages[c];
            has_page |= page != NIB_NONE;
            if (page != NIB_NONE && pages->classes[c].pages[page].block != b)
                return "a block and its page differ";
        }
        if (!has_page || (pages->anchor != NIB_NONE && block->pages[pages->anchor] == NIB_NONE))
            return "a block has not the page that it needs";
        if (nib_kv_block_find(pages, block->parent, block->tokens) != b)
            return "a block cannot be found";
    }
    return n_unused == 0 ? NULL : "blocks are lost";
}

const char *pool_check(const struct nib_kv_pool *pool)
{
    const char *wrong = check_blocks(pool);
    for (uint32_t c = 0; c < pool->params.n_classes && !wrong; c++) {
        uint32_t *counts = calloc(pool->pages.classes[c].n_pages, sizeof *counts);
        wrong = counts ? check_class(pool, c, counts) : "out of memory";
        free(counts);
    }
    return wrong;
}
