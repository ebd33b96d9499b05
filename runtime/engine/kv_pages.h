/// Pages of the KV pool and the blocks of tokens that they are remembered by.
///
/// A page is free, or in use by as many references as it counts. A block is a page's worth of
/// tokens behind a certain prefix; it holds a reference to the page of these tokens in every class
/// that still has one. A page that only its block refers to is idle: it is kept for sequences that
/// begin alike, and taken, the longest idle one first, when no page is free. Every page is as good
/// as any other, so the pool cannot fragment. Thread-safety: one thread at a time.
#ifndef RUNTIME_ENGINE_KV_PAGES_H
#define RUNTIME_ENGINE_KV_PAGES_H

#include "shaders/shared/kv.h"
#include <nibble/base.h>

/// A page in use or idle.
struct nib_kv_page_state {
    uint32_t references;
    uint32_t block; ///< NIB_NONE: nobody else can find it
    uint32_t older; ///< neighbours among the idle pages, NIB_NONE at the ends
    uint32_t newer;
};

struct nib_kv_page_class {
    uint32_t n_pages;
    uint32_t n_free;
    uint32_t *free_pages; ///< a stack
    struct nib_kv_page_state *pages;
    uint32_t oldest; ///< idle page, or NIB_NONE
    uint32_t newest;
    uint32_t n_idle;
};

/// The tokens of one page. What comes before them is named by the serial number of the block there,
/// which no other block ever has: equal tokens behind the same serial are the same prefix.
struct nib_kv_block {
    uint64_t parent;                    ///< serial number; 0: nothing comes before
    uint64_t serial;                    ///< from 1 on; 0: the block is not in use
    uint32_t next;                      ///< with the same hash, or of the unused blocks
    uint32_t pages[NIB_KV_MAX_CLASSES]; ///< NIB_NONE: that page is gone
    int32_t tokens[NIB_KV_PAGE_TOKENS];
};

struct nib_kv_pages {
    struct nib_kv_page_class classes[NIB_KV_MAX_CLASSES];
    uint32_t n_classes;
    uint32_t anchor; ///< class without which a block is worth nothing, or NIB_NONE
    struct nib_kv_block *blocks;
    uint32_t unused_block;
    uint32_t *buckets; ///< [bucket_mask + 1]
    uint64_t bucket_mask;
    uint64_t seed; ///< of hashes, so that nobody can choose tokens that collide
    uint64_t last_serial;
};

/// Takes memory for `n_pages[c]` pages of each class. `anchor` is a class whose pages every prefix
/// needs, or NIB_NONE. Errors: memory (nib_kv_pages_free is due in any case).
enum nib_status nib_kv_pages_init(struct nib_kv_pages *pages, uint32_t n_classes,
                                  const uint32_t *n_pages, uint32_t anchor, struct nib_error *err);
void nib_kv_pages_free(struct nib_kv_pages *pages);

/// Takes a page with one reference: a free one, else the longest idle one, else NIB_NONE.
uint32_t nib_kv_pages_take(struct nib_kv_pages *pages, uint32_t kv_class);
/// Adds and drops a reference of a page in use; without any it is free.
void nib_kv_pages_retain(struct nib_kv_pages *pages, uint32_t kv_class, uint32_t page);
void nib_kv_pages_release(struct nib_kv_pages *pages, uint32_t kv_class, uint32_t page);
/// Makes the block of a page forget it, if it has one.
void nib_kv_pages_detach(struct nib_kv_pages *pages, uint32_t kv_class, uint32_t page);

/// Returns the hash of the block of `tokens` behind `parent`.
uint64_t nib_kv_block_hash(const struct nib_kv_pages *pages, uint64_t parent,
                           const int32_t *tokens);
/// Returns the block of `tokens` [NIB_KV_PAGE_TOKENS] behind `parent`, or NIB_NONE. Tokens are
/// compared, not only hashes.
uint32_t nib_kv_block_find(const struct nib_kv_pages *pages, uint64_t parent,
                           const int32_t *tokens);
/// Makes the block, which there must not be yet, without a page. It must get one at once.
uint32_t nib_kv_block_add(struct nib_kv_pages *pages, uint64_t parent, const int32_t *tokens);
/// Gives the block, which has no page of `kv_class`, one that has no block.
void nib_kv_block_give(struct nib_kv_pages *pages, uint32_t block, uint32_t kv_class,
                       uint32_t page);

#endif
