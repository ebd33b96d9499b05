/// Pair merging: of all neighbouring symbols of a piece the best pair becomes one symbol, again and
/// again, until none is left that may (Sennrich, Haddow, Birch 2016). A heap of candidates over a
/// linked list: O(n log n) in the length of the piece.
#ifndef RUNTIME_TOKENIZER_MERGE_H
#define RUNTIME_TOKENIZER_MERGE_H

#include "runtime/base/arena.h"
#include "runtime/tokenizer/vocab.h"

/// Ranked merges, found by their two parts. A zeroed struct is an empty table.
/// Thread-safety: a built table is immutable; safe.
struct nib_merge_table {
    const struct nib_vocab_merge *merges; ///< by rank
    uint32_t *slots;                      ///< rank + 1, or 0 where free; open addressing
    uint32_t mask;                        ///< number of slots - 1
    uint64_t seed;
};

/// Builds the table of `merges[0 .. count)`, which must stay alive, in memory of `arena`. Of merges
/// with equal parts the first counts. Errors: memory.
enum nib_status nib_merge_table_build(struct nib_merge_table *table, struct nib_arena *arena,
                                      const struct nib_vocab_merge *merges, uint32_t count,
                                      struct nib_error *err);

/// Working memory, grown as needed. A zeroed struct is empty.
struct nib_merge_scratch {
    struct nib_merge_symbol *symbols;
    size_t symbols_capacity;
    struct nib_merge_candidate *heap;
    size_t heap_capacity;
    size_t heap_size;
};
void nib_merge_scratch_free(struct nib_merge_scratch *scratch);

#endif
