#define _GNU_SOURCE

#include "tests/support/folder.h"
#include "tests/unit/formats/bytes.h"
#include "tests/unit/formats/visit.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { N_PARTS = 3 };

static struct nib_error error;

static void copy_parts(void)
{
    make_folder();
    for (int i = 1; i <= N_PARTS; i++) {
        char name[64];
        snprintf(name, sizeof(name), "split-%05d-of-00003.gguf", i);
        struct nib_buffer file = read_test_file(name);
        put_file(path_in_folder(name), file.data, file.size);
        nib_buffer_free(&file);
    }
}

TestSuite(gguf_split, .init = copy_parts, .fini = remove_folder);

static const char *part(int number)
{
    char name[64];
    snprintf(name, sizeof(name), "split-%05d-of-00003.gguf", number);
    return path_in_folder(name);
}

static void expect_failure(const char *path, enum nib_status status, const char *message)
{
    struct nib_gguf *gguf;
    error = (struct nib_error){0};
    cr_expect_eq(nib_gguf_open(path, &gguf, &error), status, "%s", error.message);
    cr_expect_null(gguf);
    cr_expect_not_null(strstr(error.message, message), "%s", error.message);
    nib_gguf_destroy(&gguf);
}

/// Replaces a text of the file by another one of the same size.
static void patch(const char *path, const char *key, size_t skip, const void *bytes, size_t size)
{
    struct nib_buffer copy = {0};
    struct nib_file_map map;
    cr_assert_eq(nib_file_map_open(path, &map, NULL), NIB_OK);
    cr_assert_eq(nib_buffer_append(&copy, map.data, map.size, NULL), NIB_OK);
    nib_file_map_close(&map);
    char *at = memmem(copy.data, copy.size, key, strlen(key));
    cr_assert_not_null(at, "%s", key);
    memcpy(at + strlen(key) + skip, bytes, size);
    put_file(path, copy.data, copy.size);
    nib_buffer_free(&copy);
}

Test(gguf_split, any_part_brings_in_all)
{
    struct nib_buffer whole_file = read_test_file("package.gguf");
    struct nib_gguf *whole, *gguf;
    cr_assert_eq(nib_gguf_parse((uint8_t *)whole_file.data, whole_file.size, "p", &whole, NULL),
                 NIB_OK);
    for (int i = 1; i <= N_PARTS; i++) {
        cr_assert_eq(nib_gguf_open(part(i), &gguf, &error), NIB_OK, "%s", error.message);
        cr_expect_eq(gguf->directory.n_maps, N_PARTS);
        cr_expect_eq(gguf->directory.n_tensors, whole->directory.n_tensors);
        cr_expect_not_null(nib_gguf_find(gguf, "test.texts"));
        for (uint32_t t = 0; t < whole->directory.n_tensors; t++) {
            const struct nib_tensor *a = &whole->directory.tensors[t];
            const struct nib_tensor *b = nib_tensor_find(&gguf->directory, a->name);
            cr_assert_not_null(b, "%s", a->name);
            cr_expect(a->dtype == b->dtype && a->size == b->size &&
                      memcmp(a->dims, b->dims, sizeof(a->dims)) == 0 &&
                      memcmp(a->data, b->data, a->size) == 0);
        }
        nib_gguf_destroy(&gguf);
    }
    nib_gguf_destroy(&whole);
    nib_buffer_free(&whole_file);
}

Test(gguf_split, missing_part)
{
    unlink(part(2));
    expect_failure(part(1), NIB_ERROR_NOT_FOUND, "part 2 of 3 of the model is missing");
    expect_failure(part(2), NIB_ERROR_IO, "split-00002-of-00003.gguf");
}

Test(gguf_split, renamed_part)
{
    cr_assert_eq(rename(part(1), path_in_folder("m.gguf")), 0);
    expect_failure(path_in_folder("m.gguf"), NIB_ERROR_FORMAT, "-00001-of-00003.gguf");
}

Test(gguf_split, swapped_parts)
{
    struct nib_buffer third = read_test_file("split-00003-of-00003.gguf");
    put_file(part(2), third.data, third.size);
    expect_failure(part(1), NIB_ERROR_FORMAT, "holds part 3 of 3");
    nib_buffer_free(&third);
}

Test(gguf_split, damaged_part)
{
    cr_assert_eq(truncate(part(3), 100), 0);
    expect_failure(part(1), NIB_ERROR_FORMAT, "split-00003-of-00003.gguf");
}

Test(gguf_split, tensor_in_two_parts)
{
    patch(part(1), "plain.", 0, "xxx", 3);
    patch(part(1), "plain.", 0, "i32", 3);
    expect_failure(part(1), NIB_ERROR_FORMAT, "'plain.i32' is there twice");
}

Test(gguf_split, wrong_numbers)
{
    // A value lies 4 bytes of type after its key.
    patch(part(1), "split.tensors.count", 4, "\x06", 1);
    expect_failure(part(1), NIB_ERROR_FORMAT, "split.tensors.count");
    patch(part(1), "split.no", 4, "\x03", 1);
    expect_failure(part(1), NIB_ERROR_FORMAT, "do not number");
    patch(part(1), "split.no", 4, "\x00", 1);
    patch(part(1), "split.count", 4, "\xff\xff", 2);
    expect_failure(part(1), NIB_ERROR_FORMAT, "-00001-of-65535.gguf");
}

/// llama-gguf-split --merge keeps the keys and sets split.no and split.count to 0.
Test(gguf_split, merged_parts)
{
    struct nib_gguf *gguf;
    patch(part(1), "split.count", 4, "\x00", 1);
    cr_assert_eq(rename(part(1), path_in_folder("merged.gguf")), 0);
    cr_assert_eq(nib_gguf_open(path_in_folder("merged.gguf"), &gguf, &error), NIB_OK, "%s",
                 error.message);
    cr_expect_eq(gguf->directory.n_maps, 1);
    cr_expect_gt(gguf->directory.n_tensors, 0);
    nib_gguf_destroy(&gguf);
}

Test(gguf_split, missing_file_and_folder)
{
    expect_failure(path_in_folder("absent.gguf"), NIB_ERROR_IO, "absent.gguf");
    expect_failure(path_in_folder("."), NIB_ERROR_IO, "/.");
    put_file(path_in_folder("empty.gguf"), "", 0);
    expect_failure(path_in_folder("empty.gguf"), NIB_ERROR_FORMAT, "not a GGUF file");
}
