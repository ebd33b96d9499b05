#define _GNU_SOURCE

#include "runtime/base/os.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(file, .init = make_folder, .fini = remove_folder);

static void put_text(const char *path, const char *text)
{
    put_file(path, text, strlen(text));
}

static size_t count_entries(void)
{
    size_t n = 0;
    DIR *entries = opendir(path_in_folder(NULL));
    for (struct dirent *entry; (entry = readdir(entries));)
        n += entry->d_name[0] != '.';
    closedir(entries);
    return n;
}

static void assert_content(const char *path, const void *bytes, size_t size)
{
    struct nib_file_map map;
    cr_assert_eq(nib_file_map_open(path, &map, NULL), NIB_OK);
    cr_assert_eq(map.size, size);
    if (size)
        cr_assert_eq(memcmp(map.data, bytes, size), 0);
    nib_file_map_close(&map);
}

static struct nib_file_writer *open_writer(const char *path)
{
    struct nib_file_writer *writer;
    struct nib_error err = {0};
    cr_assert_eq(nib_file_writer_open(path, &writer, &err), NIB_OK, "%s", err.message);
    return writer;
}

static void append(struct nib_file_writer *writer, const char *text)
{
    cr_assert_eq(nib_file_writer_append(writer, text, strlen(text), NULL), NIB_OK);
}

Test(file, map_shows_the_bytes)
{
    put_text(path_in_folder("a"), "hello");
    struct nib_file_map map;
    cr_assert_eq(nib_file_map_open(path_in_folder("a"), &map, NULL), NIB_OK);
    cr_assert_eq(map.size, 5);
    cr_assert_arr_eq(map.data, "hello", 5);
    nib_file_map_close(&map);
    cr_assert(!map.data && map.size == 0);
    nib_file_map_close(&map);
}

Test(file, advice_keeps_the_bytes)
{
    enum { SIZE = 50001 };
    static char text[SIZE + 1];
    for (int i = 0; i < SIZE; i++)
        text[i] = (char)('a' + i % 23);
    put_text(path_in_folder("a"), text);
    struct nib_file_map map;
    cr_assert_eq(nib_file_map_open(path_in_folder("a"), &map, NULL), NIB_OK);
    static const size_t edges[] = {0,    1,        4095, 4096,     4097,
                                   9000, SIZE - 1, SIZE, SIZE + 9, SIZE_MAX};
    for (size_t i = 0; i < 10; i++) {
        for (size_t k = 0; k < 10; k++) {
            nib_file_map_will_need(&map, edges[i], edges[k]);
            nib_file_map_drop(&map, edges[i], edges[k]);
        }
    }
    cr_assert_eq(memcmp(map.data, text, SIZE), 0);
    nib_file_map_close(&map);
    nib_file_map_will_need(&map, 0, 1);
    nib_file_map_drop(&map, 0, 1);
}

Test(file, empty_file_is_an_empty_map)
{
    put_text(path_in_folder("empty"), "");
    struct nib_file_map map;
    cr_assert_eq(nib_file_map_open(path_in_folder("empty"), &map, NULL), NIB_OK);
    cr_assert(!map.data && map.size == 0);
    nib_file_map_close(&map);
}

Test(file, map_refuses_what_is_no_file)
{
    struct nib_file_map map = {.size = 7};
    struct nib_error err;
    cr_assert_eq(nib_file_map_open(path_in_folder("absent"), &map, &err), NIB_ERROR_IO);
    cr_assert(strstr(err.message, "/absent: No such file"), "%s", err.message);
    cr_assert_eq(map.size, 0);
    cr_assert_eq(nib_file_map_open(path_in_folder(NULL), &map, &err), NIB_ERROR_IO);
    cr_assert(strstr(err.message, path_in_folder(NULL)) && strstr(err.message, "directory"), "%s",
              err.message);
    cr_assert_eq(nib_file_map_open("/dev/zero", &map, &err), NIB_ERROR_IO);
    cr_assert(strstr(err.message, "not a regular file"));
    cr_assert_eq(mkfifo(path_in_folder("pipe"), 0600), 0);
    cr_assert_eq(nib_file_map_open(path_in_folder("pipe"), &map, NULL), NIB_ERROR_IO);
}

Test(file, path_kinds)
{
    put_text(path_in_folder("a"), "x");
    cr_assert_eq(nib_path_kind(path_in_folder("a")), NIB_PATH_FILE);
    cr_assert_eq(nib_path_kind(path_in_folder("a/b")), NIB_PATH_ABSENT);
    cr_assert_eq(nib_path_kind(path_in_folder("absent")), NIB_PATH_ABSENT);
    cr_assert_eq(nib_path_kind(path_in_folder(NULL)), NIB_PATH_FOLDER);
    cr_assert_eq(nib_path_kind("/dev/null"), NIB_PATH_OTHER);
    cr_assert_eq(symlink(path_in_folder(NULL), path_in_folder("link")), 0);
    cr_assert_eq(nib_path_kind(path_in_folder("link")), NIB_PATH_FOLDER);
}

Test(file, appears_whole_on_commit)
{
    struct nib_file_writer *writer = open_writer(path_in_folder("out"));
    append(writer, "head");
    append(writer, "");
    append(writer, " and tail");
    cr_assert_eq(nib_path_kind(path_in_folder("out")), NIB_PATH_ABSENT);
    cr_assert_eq(nib_file_writer_commit(&writer, NULL), NIB_OK);
    cr_assert_null(writer);
    assert_content(path_in_folder("out"), "head and tail", 13);
    cr_assert_eq(count_entries(), 1);
}

Test(file, large_and_small_appends_and_patches_mix)
{
    enum { SIZE = 1 << 20 };
    char *bytes = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (char)(i * 2654435761u >> 13);
    struct nib_file_writer *writer = open_writer(path_in_folder("out"));
    size_t at = 0;
    for (size_t n = 1; at < SIZE; n = n * 7 % 150001) {
        size_t size = n < SIZE - at ? n : SIZE - at;
        cr_assert_eq(nib_file_writer_append(writer, bytes + at, size, NULL), NIB_OK);
        at += size;
        size_t patched = at / 2;
        bytes[patched] = (char)~bytes[patched];
        cr_assert_eq(nib_file_writer_patch(writer, patched, bytes + patched, 1, NULL), NIB_OK);
    }
    cr_assert_eq(nib_file_writer_commit(&writer, NULL), NIB_OK);
    assert_content(path_in_folder("out"), bytes, SIZE);
    free(bytes);
}

Test(file, patch_stays_within_what_was_appended)
{
    struct nib_file_writer *writer = open_writer(path_in_folder("out"));
    struct nib_error err;
    append(writer, "0123456789");
    cr_assert_eq(nib_file_writer_patch(writer, 8, "ab", 2, NULL), NIB_OK);
    cr_assert_eq(nib_file_writer_patch(writer, 9, "ab", 2, &err), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_file_writer_patch(writer, UINT64_MAX, "ab", 2, &err), NIB_ERROR_ARGUMENT);
    append(writer, "!");
    cr_assert_eq(nib_file_writer_commit(&writer, NULL), NIB_OK);
    assert_content(path_in_folder("out"), "01234567ab!", 11);
}

Test(file, destroyed_writer_leaves_the_old_file)
{
    put_text(path_in_folder("out"), "old");
    struct nib_file_writer *writer = open_writer(path_in_folder("out"));
    append(writer, "new");
    nib_file_writer_destroy(&writer);
    cr_assert_null(writer);
    nib_file_writer_destroy(&writer);
    assert_content(path_in_folder("out"), "old", 3);
    cr_assert_eq(count_entries(), 1);
}

Test(file, several_writers_of_one_file_do_not_meet)
{
    struct nib_file_writer *a = open_writer(path_in_folder("out"));
    struct nib_file_writer *b = open_writer(path_in_folder("out"));
    append(a, "from a");
    append(b, "from b");
    cr_assert_eq(nib_file_writer_commit(&b, NULL), NIB_OK);
    assert_content(path_in_folder("out"), "from b", 6);
    cr_assert_eq(nib_file_writer_commit(&a, NULL), NIB_OK);
    assert_content(path_in_folder("out"), "from a", 6);
    cr_assert_eq(count_entries(), 1);
}

Test(file, writing_through_a_link_keeps_the_link)
{
    put_text(path_in_folder("target"), "old");
    cr_assert_eq(symlink("target", path_in_folder("link")), 0);
    struct nib_file_writer *writer = open_writer(path_in_folder("link"));
    append(writer, "new");
    cr_assert_eq(nib_file_writer_commit(&writer, NULL), NIB_OK);
    struct stat info;
    cr_assert_eq(lstat(path_in_folder("link"), &info), 0);
    cr_assert(S_ISLNK(info.st_mode));
    assert_content(path_in_folder("target"), "new", 3);
}

Test(file, devices_are_written_in_place)
{
    struct nib_file_writer *writer = open_writer("/dev/null");
    append(writer, "gone");
    cr_assert_eq(nib_file_writer_patch(writer, 0, "G", 1, NULL), NIB_OK);
    cr_assert_eq(nib_file_writer_commit(&writer, NULL), NIB_OK);
    cr_assert_eq(nib_path_kind("/dev/null"), NIB_PATH_OTHER);
}

Test(file, a_full_disk_is_told_with_the_name)
{
    if (nib_path_kind("/dev/full") != NIB_PATH_OTHER)
        cr_skip_test("no /dev/full here");
    struct nib_file_writer *writer = open_writer("/dev/full");
    struct nib_error err = {0};
    append(writer, "held back");
    cr_assert_eq(nib_file_writer_commit(&writer, &err), NIB_ERROR_IO);
    cr_assert_null(writer);
    cr_assert_str_eq(err.message, "cannot write /dev/full: No space left on device");

    writer = open_writer("/dev/full");
    static const char large[1 << 17];
    cr_assert_eq(nib_file_writer_append(writer, large, sizeof large, &err), NIB_ERROR_IO);
    cr_assert_eq(nib_file_writer_commit(&writer, &err), NIB_ERROR_STATE);
}

Test(file, opening_fails_where_it_cannot_write)
{
    struct nib_error err;
    struct nib_file_writer *writer = (void *)&err;
    cr_assert_eq(nib_file_writer_open(path_in_folder(NULL), &writer, &err), NIB_ERROR_IO);
    cr_assert_null(writer);
    cr_assert(strstr(err.message, "is a folder"));
    cr_assert_eq(nib_file_writer_open(path_in_folder("no/out"), &writer, &err), NIB_ERROR_IO);
    cr_assert(strstr(err.message, "/no/out") && strstr(err.message, "No such file"));
    cr_assert_eq(nib_file_writer_open("", &writer, &err), NIB_ERROR_IO);
    cr_assert_eq(count_entries(), 0);
}

Test(file, commit_that_cannot_rename_removes_what_it_wrote)
{
    struct nib_file_writer *writer = open_writer(path_in_folder("out"));
    append(writer, "x");
    cr_assert_eq(mkdir(path_in_folder("out"), 0700), 0);
    struct nib_error err;
    cr_assert_eq(nib_file_writer_commit(&writer, &err), NIB_ERROR_IO);
    cr_assert(strstr(err.message, "/out: "), "%s", err.message);
    cr_assert_null(writer);
    cr_assert_eq(count_entries(), 1);
}
