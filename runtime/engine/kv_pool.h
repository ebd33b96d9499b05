/// Bookkeeping of the KV pool: which page belongs to whom. The bytes are the backends'.
///
/// Every class of layers (those that see everything, those with a window) has pages and page tables
/// of its own; a page number means the same page in every layer of its class and in every
/// placement. Tables share pages: those of a prefix that another table computed before, or is
/// computing (nib_kv_pool_attach), and all those of a table that was forked. A shared page is
/// copied before it is written to. Pages of prefixes are kept when no table holds them any more,
/// until pages are needed (kv_pages.h). Nothing but create takes memory.
/// Thread-safety: one thread at a time.
#ifndef RUNTIME_ENGINE_KV_POOL_H
#define RUNTIME_ENGINE_KV_POOL_H

#include "shaders/shared/kv.h"
#include <nibble/base.h>

/// What a row sees of a class.
struct nib_kv_reach {
    uint32_t window; ///< tokens, itself included; 0: all before it
    uint32_t recent; ///< the class is of newest tokens: what NIB_KV_FIRST_RECENT takes; or 0
    uint32_t first;  ///< pages from the start on that every row sees besides; without newest tokens
                     ///< the class has no others. Or 0
};

struct nib_kv_pool_params {
    uint32_t n_classes;                   ///< 1 to NIB_KV_MAX_CLASSES
    uint32_t n_pages[NIB_KV_MAX_CLASSES]; ///< at least 1 each
    struct nib_kv_reach reach[NIB_KV_MAX_CLASSES];
    uint32_t n_step_pages; ///< that classes of newest tokens have besides, see nib_kv_pool_extend
    uint32_t n_tables;     ///< sequences that can have pages at a time
    uint32_t context;      ///< tokens a sequence can hold, at least 1
    bool share;            ///< find and keep prefixes
    /// Copies the bytes of page `source` to `target` in every layer of `kv_class`.
    enum nib_status (*copy)(void *user, uint32_t kv_class, uint32_t source, uint32_t target,
                            struct nib_error *err);
    void *user;
};

struct nib_kv_pool;

/// Errors: argument, memory.
enum nib_status nib_kv_pool_create(const struct nib_kv_pool_params *params,
                                   struct nib_kv_pool **out_pool, struct nib_error *err);
void nib_kv_pool_destroy(struct nib_kv_pool **pool);

/// Where the pages of one class are.
struct nib_kv_pool_usage {
    uint32_t n_pages;
    uint32_t n_free;
    uint32_t n_idle; ///< kept for their prefix alone; the others are held by tables
};
struct nib_kv_pool_usage nib_kv_pool_get_usage(const struct nib_kv_pool *pool, uint32_t kv_class);

/// Gives table `table` pages of its own for the tokens from those it has up to `n_tokens` <=
/// context, and gives back the pages that no token from there on can see through the class's
/// window. Of new pages of newest tokens only the first ones that its reach names, and those that
/// tokens from `n_tokens` on see, are taken; those between them become pages of the step, numbered
/// from n_pages on, which commit and truncate drop and begin deals out anew. Errors: KV full, those
/// of the copy (the table is as it was, but for pages behind its window).
enum nib_status nib_kv_pool_extend(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                   struct nib_error *err);
/// Returns the number of tokens up to which `table` can be extended without another page: at least
/// those it has, at most `n_tokens`.
uint32_t nib_kv_pool_room(const struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens);
/// Cuts table `table` down to `n_tokens` tokens. Returns how many of its tokens are still usable:
/// min(n_tokens, those it had), or 0 where a window's pages that the next token would see are gone;
/// where newest tokens' pages are gone, the last multiple of NIB_KV_RECENT_STRIDE pages, or the
/// class's first ones where these are more.
uint32_t nib_kv_pool_truncate(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens);
/// Makes table `to`, which is empty, hold what `from` holds.
void nib_kv_pool_fork(struct nib_kv_pool *pool, uint32_t from, uint32_t to);
/// Gives table `table`, which is empty, pages of its own for `n_tokens` tokens, a whole number of
/// pages, computed elsewhere, but for those that the next token cannot see. Others never find them.
/// Errors: KV full (no page was taken).
enum nib_status nib_kv_pool_restore(struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens,
                                    struct nib_error *err);

/// Lets others find the whole pages of the first `n_computed` tokens, those that the table has been
/// extended to and that are computed. `tokens` are the sequence's.
void nib_kv_pool_commit(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                        uint32_t n_computed);
/// Gives table `table` the pages of the longest prefix of `tokens[0 .. limit)` that are known,
/// where it is longer than what the table has. Returns the number of tokens that it then has.
uint32_t nib_kv_pool_attach(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                            uint32_t limit);

/// Begins a step: no table claims a page, or has pages of a step.
void nib_kv_pool_begin(struct nib_kv_pool *pool);
/// Claims for `table` that it computes the rest of the next page, if its `n_tokens` tokens fill
/// that. Returns false where another table has claimed that page in this step, which one that can
/// `wait` for it had better do. (Pages are compared by their hash alone: to wait in vain costs a
/// step.)
bool nib_kv_pool_claim(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens,
                       uint32_t n_tokens);

/// All page tables in the layout of a step: entry `offset + kv_class · stride + i` is the page of
/// tokens 32 i to 32 i + 31, or NIB_NONE where there is none (any more). Alive as long as the pool.
const uint32_t *nib_kv_pool_tables(const struct nib_kv_pool *pool);
uint32_t nib_kv_pool_offset(const struct nib_kv_pool *pool, uint32_t table);
uint32_t nib_kv_pool_stride(const struct nib_kv_pool *pool);

/// Pages [0, n_first) and [first, end) of a sequence; n_first <= first.
struct nib_kv_places {
    uint32_t n_first;
    uint32_t first;
    uint32_t end;
};
/// Returns those that a sequence of `n_tokens` tokens needs to go on, in a class with this reach.
struct nib_kv_places nib_kv_needed(struct nib_kv_reach reach, uint32_t n_tokens);
/// Returns how many they are, and the one at `index` of them.
static inline uint32_t nib_kv_count(const struct nib_kv_places *places)
{
    return places->n_first + places->end - places->first;
}
static inline uint32_t nib_kv_place(const struct nib_kv_places *places, uint32_t index)
{
    return index < places->n_first ? index : places->first + index - places->n_first;
}
/// Tells whether table `table` has those that its first `n_tokens` tokens need to go on, in every
/// class.
bool nib_kv_pool_can_resume(const struct nib_kv_pool *pool, uint32_t table, uint32_t n_tokens);

#endif
