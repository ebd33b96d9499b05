/// Each module when memory runs out: the call says so, and nothing is lost or left behind (which
/// the leak sanitizer's build sees).
#include "runtime/base/arena.h"
#include "runtime/base/buffer.h"
#include "runtime/base/os.h"
#include "runtime/base/string_map.h"
#include "runtime/base/thread_pool.h"
#include "tests/support/alloc_fail.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(memory, arena_returns_null_and_stays_whole)
{
    struct nib_arena arena = {0};
    const char *text = nib_arena_text(&arena, "kept", 4);
    alloc_fail_after(0);
    cr_assert_null(nib_arena_alloc(&arena, 1 << 20));
    cr_assert(alloc_fail_off());
    alloc_fail_after(0);
    cr_assert_null(nib_arena_printf(&arena, "%100000d", 1));
    cr_assert(alloc_fail_off());
    cr_assert_not_null(nib_arena_alloc(&arena, 1 << 20));
    cr_assert_str_eq(text, "kept");
    nib_arena_free(&arena);
}

Test(memory, buffer_stays_unchanged)
{
    struct nib_buffer buffer = {0};
    static const char bytes[1000];
    alloc_fail_after(0);
    cr_assert_eq(nib_buffer_append(&buffer, "abc", 3, NULL), NIB_ERROR_MEMORY);
    cr_assert(alloc_fail_off() && !buffer.data);
    cr_assert_eq(nib_buffer_append(&buffer, "abc", 3, NULL), NIB_OK);
    alloc_fail_after(0);
    cr_assert_eq(nib_buffer_append(&buffer, bytes, sizeof bytes, NULL), NIB_ERROR_MEMORY);
    cr_assert(alloc_fail_off());
    alloc_fail_after(0);
    cr_assert_eq(nib_buffer_printf(&buffer, NULL, "%1000d", 1), NIB_ERROR_MEMORY);
    cr_assert(alloc_fail_off());
    cr_assert_eq(buffer.size, 3);
    cr_assert_str_eq(buffer.data, "abc");
    nib_buffer_free(&buffer);
}

Test(memory, array_stays_unchanged)
{
    int *numbers = NULL;
    size_t capacity = 0;
    cr_assert_eq(nib_array_reserve((void **)&numbers, &capacity, 1, sizeof *numbers, NULL), NIB_OK);
    numbers[0] = 7;
    size_t before = capacity;
    alloc_fail_after(0);
    cr_assert_eq(nib_array_reserve((void **)&numbers, &capacity, 1000, sizeof *numbers, NULL),
                 NIB_ERROR_MEMORY);
    cr_assert(alloc_fail_off());
    cr_assert(capacity == before && numbers[0] == 7);
    free(numbers);
}

Test(memory, string_map_stays_unchanged)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    struct nib_string_map map = {0};
    uint32_t value;
    for (uint32_t i = 0; i < 36; i++) {
        struct nib_text key = {digits + i, 1};
        alloc_fail_after(0);
        enum nib_status status = nib_string_map_add(&map, key, i, NULL, NULL);
        if (!alloc_fail_off())
            continue;
        cr_assert_eq(status, NIB_ERROR_MEMORY);
        cr_assert(!nib_string_map_find(&map, key, &value));
        cr_assert_eq(map.count, i);
        cr_assert_eq(nib_string_map_add(&map, key, i, NULL, NULL), NIB_OK);
    }
    for (uint32_t i = 0; i < 36; i++) {
        cr_assert(nib_string_map_find(&map, (struct nib_text){digits + i, 1}, &value));
        cr_assert_eq(value, i);
    }
    nib_string_map_free(&map);
}

Test(memory, thread_pool_is_made_whole_or_not_at_all)
{
    for (unsigned n = 0;; n++) {
        struct nib_thread_pool *pool;
        struct nib_error err;
        alloc_fail_after(n);
        enum nib_status status = nib_thread_pool_create(3, false, &pool, &err);
        if (!alloc_fail_off()) {
            cr_assert_eq(status, NIB_OK);
            cr_assert_gt(n, 5);
            nib_thread_pool_destroy(&pool);
            return;
        }
        cr_assert_eq(status, NIB_ERROR_MEMORY);
        cr_assert_str_eq(err.message, "out of memory");
        cr_assert_null(pool);
    }
}

Test(memory, file_writer_is_made_whole_or_not_at_all, .init = make_folder, .fini = remove_folder)
{
    const char *path = path_in_folder("out");
    for (unsigned n = 0;; n++) {
        struct nib_file_writer *writer;
        alloc_fail_after(n);
        enum nib_status status = nib_file_writer_open(path, &writer, NULL);
        if (!alloc_fail_off()) {
            cr_assert_eq(status, NIB_OK);
            cr_assert_geq(n, 2);
            nib_file_writer_destroy(&writer);
            return;
        }
        cr_assert_eq(status, NIB_ERROR_MEMORY);
        cr_assert_null(writer);
    }
}
