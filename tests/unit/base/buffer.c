#include "runtime/base/buffer.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(buffer, grows_and_stays_terminated)
{
    struct nib_buffer buffer = {0};
    for (size_t i = 0; i < 5000; i++) {
        char byte = (char)i;
        cr_assert_eq(nib_buffer_append(&buffer, &byte, 1, NULL), NIB_OK);
        cr_assert_eq(buffer.size, i + 1);
        cr_assert_eq(buffer.data[buffer.size], '\0');
    }
    for (int i = 0; i < 5000; i++)
        cr_assert_eq(buffer.data[i], (char)i);
    nib_buffer_free(&buffer);
    cr_assert(!buffer.data && buffer.size == 0 && buffer.capacity == 0);
}

Test(buffer, nothing_appended_is_an_empty_string)
{
    struct nib_buffer buffer = {0};
    cr_assert_eq(nib_buffer_append(&buffer, NULL, 0, NULL), NIB_OK);
    cr_assert_str_eq(buffer.data, "");
    nib_buffer_free(&buffer);
}

Test(buffer, formats_text)
{
    struct nib_buffer buffer = {0};
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(nib_buffer_printf(&buffer, NULL, "%02d,", i), NIB_OK);
    }
    cr_assert_eq(buffer.size, 300);
    cr_assert_str_eq(buffer.data + 291, "97,98,99,");
    nib_buffer_free(&buffer);
}

Test(buffer, sizes_that_overflow_leave_it_unchanged)
{
    struct nib_buffer buffer = {0};
    struct nib_error err;
    cr_assert_eq(nib_buffer_append(&buffer, "abc", 3, NULL), NIB_OK);
    cr_assert_eq(nib_buffer_append(&buffer, "x", SIZE_MAX, &err), NIB_ERROR_MEMORY);
    cr_assert_eq(nib_buffer_append(&buffer, "x", SIZE_MAX - 3, &err), NIB_ERROR_MEMORY);
    cr_assert_eq(err.status, NIB_ERROR_MEMORY);
    cr_assert_eq(buffer.size, 3);
    cr_assert_str_eq(buffer.data, "abc");
    nib_buffer_free(&buffer);
}

Test(buffer, array_reserve_grows_by_at_least_half)
{
    uint32_t *numbers = NULL;
    size_t capacity = 0;
    size_t n_growths = 0;
    for (size_t i = 0; i < 10000; i++) {
        size_t before = capacity;
        cr_assert_eq(nib_array_reserve((void **)&numbers, &capacity, i + 1, sizeof *numbers, NULL),
                     NIB_OK);
        cr_assert_gt(capacity, i);
        if (capacity != before) {
            cr_assert_geq(capacity, before + before / 2);
            n_growths++;
        }
        numbers[i] = (uint32_t)i;
    }
    cr_assert_lt(n_growths, 25);
    for (size_t i = 0; i < 10000; i++)
        cr_assert_eq(numbers[i], i);

    struct nib_error err;
    size_t before = capacity;
    cr_assert_eq(nib_array_reserve((void **)&numbers, &capacity, SIZE_MAX / 2, 4, &err),
                 NIB_ERROR_MEMORY);
    cr_assert_eq(capacity, before);
    cr_assert_eq(numbers[9999], 9999);
    free(numbers);
}
