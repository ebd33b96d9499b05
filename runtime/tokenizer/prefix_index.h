/// Finds which of many texts begin at a place: the texts lie sorted, and each byte narrows the
/// range of those that are still possible. Linear in the bytes looked at. Thread-safety: a built
/// index is immutable; safe.
#ifndef RUNTIME_TOKENIZER_PREFIX_INDEX_H
#define RUNTIME_TOKENIZER_PREFIX_INDEX_H

#include "runtime/base/arena.h"

struct nib_prefix_entry {
    struct nib_text text;
    int32_t id;
};

/// A zeroed struct is an empty index.
struct nib_prefix_index {
    struct nib_prefix_entry *entries; ///< by text, then by id
    uint32_t count;
    uint32_t first[257]; ///< entries whose first byte is b are [first[b], first[b + 1])
};

/// Takes over `entries[0 .. count)`, which the caller keeps alive with their texts; empty texts
/// never match, of equal ones that with the lowest id does.
void nib_prefix_index_build(struct nib_prefix_index *index, struct nib_prefix_entry *entries,
                            uint32_t count);

/// The texts that begin with the bytes taken so far.
struct nib_prefix_walk {
    uint32_t begin;
    uint32_t end;
    size_t depth; ///< bytes taken
};

/// Starts a walk with its first byte; returns whether any text begins with it.
static inline bool nib_prefix_start(const struct nib_prefix_index *index, uint8_t byte,
                                    struct nib_prefix_walk *walk)
{
    *walk = (struct nib_prefix_walk){index->first[byte], index->first[byte + 1], 1};
    return walk->begin < walk->end;
}

/// Takes one more byte; returns whether any text is left.
bool nib_prefix_step(const struct nib_prefix_index *index, uint8_t byte,
                     struct nib_prefix_walk *walk);

/// Returns the entry that is exactly the bytes taken, or NULL.
static inline const struct nib_prefix_entry *nib_prefix_whole(const struct nib_prefix_index *index,
                                                              const struct nib_prefix_walk *walk)
{
    const struct nib_prefix_entry *entry = &index->entries[walk->begin];
    return entry->text.size == walk->depth ? entry : NULL;
}

#endif
