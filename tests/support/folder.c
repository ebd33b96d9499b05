#define _XOPEN_SOURCE 700 // mkdtemp, nftw

#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Of the one test that this process runs.
static char folder[256];

void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    char made[sizeof folder];
    int length = snprintf(made, sizeof made, "%s/nibble-test-XXXXXX", parent ? parent : "/tmp");
    cr_assert_lt(length, (int)sizeof made, "TMPDIR is too long");
    cr_assert_not_null(mkdtemp(made));
    memcpy(folder, made, sizeof folder); // only what is ours is ever removed
    atexit(remove_folder);               // Criterion skips .fini where a test is skipped
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    remove(path);
    return 0;
}

void remove_folder(void)
{
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *path_in_folder(const char *name)
{
    static char paths[4][400];
    static int next;
    if (!name)
        return folder;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void put_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(data, 1, size, file), size);
    cr_assert_eq(fclose(file), 0);
}
