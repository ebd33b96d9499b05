#include "runtime/engine/kv_pages.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

static enum nib_status init_class(struct nib_kv_page_class *page_class, uint32_t n_pages,
                                  struct nib_error *err)
{
    page_class->n_pages = n_pages;
    page_class->n_free = n_pages;
    page_class->oldest = NIB_NONE;
    page_class->newest = NIB_NONE;
    page_class->free_pages = calloc(n_pages, sizeof *page_class->free_pages);
    page_class->pages = calloc(n_pages, sizeof *page_class->pages);
    if (!page_class->free_pages || !page_class->pages)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_pages; i++) {
        page_class->free_pages[i] = n_pages - 1 - i;
        page_class->pages[i].block = NIB_NONE;
    }
    return NIB_OK;
}

/// A block has a page that no other block has, so that there are never more blocks than pages.
static enum nib_status init_blocks(struct nib_kv_pages *pages, struct nib_error *err)
{
    uint64_t n_blocks = 0;
    for (uint32_t c = 0; c < pages->n_classes; c++)
        n_blocks += pages->classes[c].n_pages;
    if (pages->anchor != NIB_NONE)
        n_blocks = pages->classes[pages->anchor].n_pages;
    uint64_t n_buckets = 1;
    while (n_buckets < n_blocks)
        n_buckets *= 2;
    if (n_blocks >= NIB_NONE || n_buckets > SIZE_MAX / sizeof *pages->buckets)
        return nib_fail_memory(err);
    pages->blocks = calloc((size_t)n_blocks, sizeof *pages->blocks);
    pages->buckets = calloc((size_t)n_buckets, sizeof *pages->buckets);
    if (!pages->blocks || !pages->buckets)
        return nib_fail_memory(err);
    pages->bucket_mask = n_buckets - 1;
    for (uint64_t i = 0; i < n_buckets; i++)
        pages->buckets[i] = NIB_NONE;
    for (uint64_t i = 0; i < n_blocks; i++)
        pages->blocks[i].next = i + 1 < n_blocks ? (uint32_t)(i + 1) : NIB_NONE;
    return NIB_OK;
}

enum nib_status nib_kv_pages_init(struct nib_kv_pages *pages, uint32_t n_classes,
                                  const uint32_t *n_pages, uint32_t anchor, struct nib_error *err)
{
    *pages = (struct nib_kv_pages){.n_classes = n_classes, .anchor = anchor, .seed = nib_entropy()};
    for (uint32_t c = 0; c < n_classes; c++) {
        enum nib_status status = init_class(&pages->classes[c], n_pages[c], err);
        if (status != NIB_OK)
            return status;
    }
    return init_blocks(pages, err);
}

void nib_kv_pages_free(struct nib_kv_pages *pages)
{
    for (uint32_t c = 0; c < NIB_KV_MAX_CLASSES; c++) {
        free(pages->classes[c].free_pages);
        free(pages->classes[c].pages);
    }
    free(pages->blocks);
    free(pages->buckets);
    *pages = (struct nib_kv_pages){0};
}

/// A page that only its block refers to any more becomes the newest idle one.
static void add_idle(struct nib_kv_page_class *page_class, uint32_t page)
{
    struct nib_kv_page_state *state = &page_class->pages[page];
    state->older = page_class->newest;
    state->newer = NIB_NONE;
    if (state->older != NIB_NONE)
        page_class->pages[state->older].newer = page;
    else
        page_class->oldest = page;
    page_class->newest = page;
    page_class->n_idle++;
}

static void remove_idle(struct nib_kv_page_class *page_class, uint32_t page)
{
    const struct nib_kv_page_state *state = &page_class->pages[page];
    if (state->older != NIB_NONE)
        page_class->pages[state->older].newer = state->newer;
    else
        page_class->oldest = state->newer;
    if (state->newer != NIB_NONE)
        page_class->pages[state->newer].older = state->older;
    else
        page_class->newest = state->older;
    page_class->n_idle--;
}

static bool is_idle(const struct nib_kv_page_state *state)
{
    return state->references == 1 && state->block != NIB_NONE;
}

void nib_kv_pages_retain(struct nib_kv_pages *pages, uint32_t kv_class, uint32_t page)
{
    struct nib_kv_page_class *page_class = &pages->classes[kv_class];
    if (is_idle(&page_class->pages[page]))
        remove_idle(page_class, page);
    page_class->pages[page].references++;
}

void nib_kv_pages_release(struct nib_kv_pages *pages, uint32_t kv_class, uint32_t page)
{
    struct nib_kv_page_class *page_class = &pages->classes[kv_class];
    struct nib_kv_page_state *state = &page_class->pages[page];
    if (--state->references == 0)
        page_class->free_pages[page_class->n_free++] = page;
    else if (is_idle(state))
        add_idle(page_class, page);
}

static uint32_t *bucket_of(const struct nib_kv_pages *pages, const struct nib_kv_block *block)
{
    return &pages->buckets[nib_kv_block_hash(pages, block->parent, block->tokens) &
                           pages->bucket_mask];
}

/// Forgets a block without pages.
static void remove_block(struct nib_kv_pages *pages, uint32_t b)
{
    struct nib_kv_block *block = &pages->blocks[b];
    uint32_t *link = bucket_of(pages, block);
    while (*link != b)
        link = &pages->blocks[*link].next;
    *link = block->next;
    block->serial = 0;
    block->next = pages->unused_block;
    pages->unused_block = b;
}

/// Takes the block's page of `kv_class` from it.
static void take_away(struct nib_kv_pages *pages, uint32_t b, uint32_t kv_class)
{
    struct nib_kv_page_class *page_class = &pages->classes[kv_class];
    uint32_t page = pages->blocks[b].pages[kv_class];
    if (page == NIB_NONE)
        return;
    pages->blocks[b].pages[kv_class] = NIB_NONE;
    if (is_idle(&page_class->pages[page]))
        remove_idle(page_class, page);
    page_class->pages[page].block = NIB_NONE;
    nib_kv_pages_release(pages, kv_class, page);
}

void nib_kv_pages_detach(struct nib_kv_pages *pages, uint32_t kv_class, uint32_t page)
{
    uint32_t b = pages->classes[kv_class].pages[page].block;
    if (b == NIB_NONE)
        return;
    take_away(pages, b, kv_class);
    bool is_empty = true;
    for (uint32_t c = 0; c < pages->n_classes; c++) {
        if (kv_class == pages->anchor)
            take_away(pages, b, c);
        is_empty = is_empty && pages->blocks[b].pages[c] == NIB_NONE;
    }
    if (is_empty)
        remove_block(pages, b);
}

uint32_t nib_kv_pages_take(struct nib_kv_pages *pages, uint32_t kv_class)
{
    struct nib_kv_page_class *page_class = &pages->classes[kv_class];
    if (page_class->n_free == 0 && page_class->oldest != NIB_NONE)
        nib_kv_pages_detach(pages, kv_class, page_class->oldest);
    if (page_class->n_free == 0)
        return NIB_NONE;
    uint32_t page = page_class->free_pages[--page_class->n_free];
    page_class->pages[page].references = 1;
    return page;
}

uint64_t nib_kv_block_hash(const struct nib_kv_pages *pages, uint64_t parent, const int32_t *tokens)
{
    // Multiplied by odd constants from the fraction of the golden ratio and the square root of 3,
    // the high bits folded into the low ones, which number the buckets.
    uint64_t hash = (parent ^ pages->seed) * 0x9e3779b97f4a7c15u;
    for (uint32_t i = 0; i < NIB_KV_PAGE_TOKENS; i++) {
        hash = (hash ^ (uint32_t)tokens[i]) * 0xbb67ae8584caa73bu;
        hash ^= hash >> 32;
    }
    return hash;
}

uint32_t nib_kv_block_find(const struct nib_kv_pages *pages, uint64_t parent, const int32_t *tokens)
{
    uint32_t b = pages->buckets[nib_kv_block_hash(pages, parent, tokens) & pages->bucket_mask];
    for (; b != NIB_NONE; b = pages->blocks[b].next) {
        const struct nib_kv_block *block = &pages->blocks[b];
        if (block->parent == parent && memcmp(block->tokens, tokens, sizeof block->tokens) == 0)
            return b;
    }
    return NIB_NONE;
}

uint32_t nib_kv_block_add(struct nib_kv_pages *pages, uint64_t parent, const int32_t *tokens)
{
    uint32_t b = pages->unused_block;
    struct nib_kv_block *block = &pages->blocks[b];
    pages->unused_block = block->next;
    block->parent = parent;
    block->serial = ++pages->last_serial;
    memcpy(block->tokens, tokens, sizeof block->tokens);
    for (uint32_t c = 0; c < NIB_KV_MAX_CLASSES; c++)
        block->pages[c] = NIB_NONE;
    uint32_t *bucket = bucket_of(pages, block);
    block->next = *bucket;
    *bucket = b;
    return b;
}

void nib_kv_block_give(struct nib_kv_pages *pages, uint32_t block, uint32_t kv_class, uint32_t page)
{
    pages->blocks[block].pages[kv_class] = page;
    pages->classes[kv_class].pages[page].block = block;
    pages->classes[kv_class].pages[page].references++;
}
