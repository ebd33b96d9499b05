#include "runtime/base/string_map.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct nib_text text_of(const char *string)
{
    return (struct nib_text){string, strlen(string)};
}

Test(string_map, finds_what_was_added)
{
    enum { N = 50000 };
    static char keys[N][12];
    struct nib_string_map map = {0};
    uint32_t value;
    bool was_there;
    for (uint32_t i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "k%u", i);
        cr_assert(!nib_string_map_find(&map, text_of(keys[i]), &value));
        cr_assert_eq(nib_string_map_add(&map, text_of(keys[i]), i * 3, &was_there, NULL), NIB_OK);
        cr_assert(!was_there);
    }
    cr_assert_eq(map.count, N);
    for (uint32_t i = 0; i < N; i++) {
        char copy[12];
        memcpy(copy, keys[i], sizeof copy);
        cr_assert(nib_string_map_find(&map, text_of(copy), &value));
        cr_assert_eq(value, i * 3);
    }
    cr_assert(!nib_string_map_find(&map, text_of("k50000"), &value));
    cr_assert_eq(value, 0);
    nib_string_map_free(&map);
    cr_assert(!nib_string_map_find(&map, text_of("k1"), &value));
}

Test(string_map, keeps_the_first_value)
{
    struct nib_string_map map = {0};
    uint32_t value;
    bool was_there;
    nib_string_map_add(&map, text_of("a"), 1, NULL, NULL);
    cr_assert_eq(nib_string_map_add(&map, text_of("a"), 2, &was_there, NULL), NIB_OK);
    cr_assert(was_there);
    cr_assert(nib_string_map_find(&map, text_of("a"), &value));
    cr_assert_eq(value, 1);
    cr_assert_eq(map.count, 1);
    nib_string_map_free(&map);
}

Test(string_map, keys_of_all_lengths_and_bytes_differ)
{
    static const char zeros[64];
    struct nib_string_map map = {0};
    uint32_t value;
    for (uint32_t size = 0; size < 64; size++) {
        struct nib_text key = {size ? zeros : NULL, size};
        cr_assert(!nib_string_map_find(&map, key, &value));
        nib_string_map_add(&map, key, size + 1, NULL, NULL);
    }
    for (uint32_t size = 0; size < 64; size++) {
        cr_assert(nib_string_map_find(&map, (struct nib_text){zeros, size}, &value));
        cr_assert_eq(value, size + 1);
    }
    nib_string_map_free(&map);
}

Test(string_map, reserve_makes_room_at_once)
{
    struct nib_string_map map = {0};
    cr_assert_eq(nib_string_map_reserve(&map, 1000, NULL), NIB_OK);
    const void *slots = map.slots;
    static char keys[1000][8];
    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(keys[i], sizeof keys[i], "%u", i);
        nib_string_map_add(&map, text_of(keys[i]), i, NULL, NULL);
    }
    cr_assert_eq(map.slots, slots);
    struct nib_error err;
    cr_assert_eq(nib_string_map_reserve(&map, SIZE_MAX, &err), NIB_ERROR_MEMORY);
    cr_assert_eq(map.count, 1000);
    nib_string_map_free(&map);
}

Test(string_map, seeds_differ)
{
    struct nib_string_map a = {0}, b = {0};
    nib_string_map_add(&a, text_of("x"), 0, NULL, NULL);
    nib_string_map_add(&b, text_of("x"), 0, NULL, NULL);
    cr_assert_neq(a.seed, b.seed);
    nib_string_map_free(&a);
    nib_string_map_free(&b);
}
