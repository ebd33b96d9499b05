/// A bump allocator: many small objects that die together.
/// Thread-safety: one thread at a time.
#ifndef RUNTIME_BASE_ARENA_H
#define RUNTIME_BASE_ARENA_H

#include <nibble/base.h>

struct nib_arena_block;

/// A zeroed struct is an empty arena.
struct nib_arena {
    struct nib_arena_block *newest;
    size_t used; ///< bytes taken in the newest block
};

/// Returns `size` zeroed bytes, aligned for any type, or NULL where memory has run out. Alive until
/// nib_arena_free.
void *nib_arena_alloc(struct nib_arena *arena, size_t size);
/// Returns zeroed memory for `count` objects of `size` bytes, or NULL (also where the product
/// overflows).
void *nib_arena_array(struct nib_arena *arena, size_t count, size_t size);
/// Returns a terminated copy of `size` bytes of text, or NULL.
char *nib_arena_text(struct nib_arena *arena, const char *text, size_t size);
/// Returns a terminated string made by printf's rules, or NULL.
char *nib_arena_printf(struct nib_arena *arena, const char *format, ...) NIB_PRINTF(2, 3);
/// Frees everything; the arena is empty again.
void nib_arena_free(struct nib_arena *arena);

#endif
