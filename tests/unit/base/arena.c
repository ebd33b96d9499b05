#include "runtime/base/arena.h"

#include <criterion/criterion.h>
#include <stdalign.h>
#include <string.h>

Test(arena, objects_are_zeroed_aligned_and_apart)
{
    struct nib_arena arena = {0};
    unsigned char *objects[2000];
    size_t sizes[2000];
    for (size_t i = 0; i < 2000; i++) {
        sizes[i] = i % 97 == 0 ? 10000 + 40 * i : i % 61; // some get a block of their own
        objects[i] = nib_arena_alloc(&arena, sizes[i]);
        cr_assert_not_null(objects[i]);
        cr_assert_eq((uintptr_t)objects[i] % alignof(max_align_t), 0);
        for (size_t k = 0; k < sizes[i]; k++)
            cr_assert_eq(objects[i][k], 0);
        memset(objects[i], (int)(i % 255 + 1), sizes[i]);
    }
    for (size_t i = 0; i < 2000; i++) {
        for (size_t k = 0; k < sizes[i]; k++)
            cr_assert_eq(objects[i][k], i % 255 + 1);
    }
    nib_arena_free(&arena);
    cr_assert_null(arena.newest);
    nib_arena_free(&arena);
}

Test(arena, empty_objects_differ)
{
    struct nib_arena arena = {0};
    void *a = nib_arena_alloc(&arena, 0);
    void *b = nib_arena_array(&arena, 0, 8);
    cr_assert(a && b && a != b);
    nib_arena_free(&arena);
}

Test(arena, sizes_that_overflow_give_null)
{
    struct nib_arena arena = {0};
    cr_assert_null(nib_arena_alloc(&arena, SIZE_MAX));
    cr_assert_null(nib_arena_alloc(&arena, SIZE_MAX - 20));
    cr_assert_null(nib_arena_array(&arena, SIZE_MAX / 2, 3));
    cr_assert_null(nib_arena_text(&arena, "x", SIZE_MAX));
    cr_assert_not_null(nib_arena_alloc(&arena, 1));
    nib_arena_free(&arena);
}

Test(arena, text_is_copied_and_terminated)
{
    struct nib_arena arena = {0};
    const char *text = nib_arena_text(&arena, "a\0bc", 3);
    cr_assert_arr_eq(text, "a\0b", 4);
    cr_assert_str_eq(nib_arena_text(&arena, NULL, 0), "");
    cr_assert_str_eq(nib_arena_printf(&arena, "%s.%d", "layer", 7), "layer.7");
    char pattern[5000];
    memset(pattern, 'x', sizeof pattern - 1);
    pattern[sizeof pattern - 1] = '\0';
    cr_assert_eq(strlen(nib_arena_printf(&arena, "%s%s", pattern, pattern)), 9998);
    nib_arena_free(&arena);
}
