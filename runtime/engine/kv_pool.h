/// Bookkeeping of the KV pool: which page belongs to whom. The bytes are the backends'.
///
/// Every class of layers (those that see everything, those with a window) has pages and page tables
/// of its own; a page number means the same page in every layer of its class and in every
/// placement. Pages are counted references, so that tables can come to share them.
/// Thread-safety: one thread at a time.
#ifndef RUNTIME_ENGINE_KV_POOL_H
#define RUNTIME_ENGINE_KV_POOL_H

#include "shaders/shared/kv.h"
#include <nibble/base.h>

struct nib_kv_pool_params {
    uint32_t n_classes;                   ///< 1 to NIB_KV_MAX_CLASSES
    uint32_t n_pages[NIB_KV_MAX_CLASSES]; ///< at least 1 each
    uint32_t window[NIB_KV_MAX_CLASSES];  ///< tokens a row sees, itself included; 0: all before it
    uint32_t n_tables;                    ///< sequences that can have pages at a time
    uint32_t context;                     ///< tokens a sequence can hold, at least 1
};

struct nib_kv_pool;

/// Errors: argument, memory.
enum nib_status nib_kv_pool_create(const struct nib_kv_pool_params *params,
                                   struct nib_kv_pool **out_pool, struct nib_error *err);
void nib_kv_pool_destroy(struct nib_kv_pool **pool);

/// Takes a free page of `kv_class` with one reference and returns its number, or NIB_NONE where all
/// are in use.
uint32_t nib_kv_pool_take(struct nib_kv_pool *pool, uint32_t kv_class);
/// Adds and drops a reference to a page in use; the last one frees it.
void nib_kv_pool_retain(struct nib_kv_pool *pool, uint32_t kv_class, uint32_t page);
void nib_kv_pool_release(struct nib_kv_pool *pool, uint32_t kv_class, uint32_t page);
/// Returns the number of free pages.
uint32_t nib_kv_pool_free_pages(const struct nib_kv_pool *pool, uint32_t kv_class);

/// Gives table `table` pages for tokens up to `n_tokens` <= context, the tokens it holds being
/// computed already, and gives back the pages that no token from there on can see through the
/// class's window. Errors: KV full (no page was taken).
enum nib_status nib_kv_pool_extend(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                   struct nib_error *err);
/// Cuts table `table` down to `n_tokens` tokens. Returns how many of its tokens are still usable:
/// min(n_tokens, those it had), or 0 where a window's pages that the next token would see are gone.
uint32_t nib_kv_pool_truncate(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens);

/// All page tables in the layout of a step: entry `offset + kv_class · stride + i` is the page of
/// tokens 32 i to 32 i + 31, or NIB_NONE where there is none (any more). Alive as long as the pool.
const uint32_t *nib_kv_pool_tables(const struct nib_kv_pool *pool);
uint32_t nib_kv_pool_offset(const struct nib_kv_pool *pool, uint32_t table);
uint32_t nib_kv_pool_stride(const struct nib_kv_pool *pool);

#endif
