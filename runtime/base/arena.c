#include "runtime/base/arena.h"

#include "runtime/base/checked.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_SIZE = 1 << 15 };

struct nib_arena_block {
    struct nib_arena_block *older;
    size_t capacity;
    alignas(max_align_t) unsigned char data[];
};

static struct nib_arena_block *block_create(size_t capacity)
{
    size_t size;
    if (!nib_add_size(sizeof(struct nib_arena_block), capacity, &size))
        return NULL;
    struct nib_arena_block *block = calloc(1, size);
    if (block)
        block->capacity = capacity;
    return block;
}

void *nib_arena_alloc(struct nib_arena *arena, size_t size)
{
    const size_t unit = alignof(max_align_t);
    size_t padded;
    if (!nib_add_size(size ? size : 1, unit - 1, &padded))
        return NULL;
    padded -= padded % unit;

    struct nib_arena_block *newest = arena->newest;
    if (newest && padded <= newest->capacity - arena->used) {
        void *object = newest->data + arena->used;
        arena->used += padded;
        return object;
    }

    // What is large gets a block of its own, and the newest block's rest stays in use.
    bool large = padded > BLOCK_SIZE / 4;
    struct nib_arena_block *block = block_create(large ? padded : BLOCK_SIZE);
    if (!block)
        return NULL;
    if (large && newest) {
        block->older = newest->older;
        newest->older = block;
    } else {
        block->older = newest;
        arena->newest = block;
        arena->used = padded;
    }
    return block->data;
}

void *nib_arena_array(struct nib_arena *arena, size_t count, size_t size)
{
    size_t total;
    if (!nib_mul_size(count, size, &total))
        return NULL;
    return nib_arena_alloc(arena, total);
}

char *nib_arena_text(struct nib_arena *arena, const char *text, size_t size)
{
    size_t total;
    if (!nib_add_size(size, 1, &total))
        return NULL;
    char *copy = nib_arena_alloc(arena, total);
    if (copy && size)
        memcpy(copy, text, size);
    return copy;
}

char *nib_arena_printf(struct nib_arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        return NULL;

    char *text = nib_arena_alloc(arena, (size_t)length + 1);
    if (!text)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}

void nib_arena_free(struct nib_arena *arena)
{
    struct nib_arena_block *block = arena->newest;
    while (block) {
        struct nib_arena_block *older = block->older;
        free(block);
        block = older;
    }
    *arena = (struct nib_arena){0};
}
