// Runs a fuzz target over a corpus without libFuzzer: every file as it is, and cut short at up to
// MAX_CUTS lengths. Each input lies in a heap block of exactly its size, so that an address
// sanitizer sees a read beyond its end.
#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CUTS = 256, MAX_PATH = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy + (size ? 0 : 1), size);
    free(copy);
    return 1;
}

static uint8_t *read_file(const char *path, size_t *out_size)
{
    *out_size = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    uint8_t *data = NULL;
    long size = -1;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0)
        data = malloc((size_t)size + 1);
    if (data && fread(data, 1, (size_t)size, file) != (size_t)size) {
        free(data);
        data = NULL;
    }
    fclose(file);
    if (data)
        *out_size = (size_t)size;
    return data;
}

static int run_file(const char *path)
{
    size_t size;
    uint8_t *data = read_file(path, &size);
    if (!data) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 0;
    }
    const size_t stride = size / MAX_CUTS + 1;
    int ok = run_copy(data, size);
    for (size_t cut = 0; ok && cut < size; cut += stride)
        ok = run_copy(data, cut);
    free(data);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
        return 2;
    }
    DIR *folder = opendir(argv[1]);
    if (!folder) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    int files = 0, failed = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[MAX_PATH];
        if (entry->d_name[0] == '.')
            continue;
        const int length = snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
        if (length < 0 || length >= MAX_PATH || !run_file(path))
            failed++;
        files++;
    }
    closedir(folder);
    printf("%d files, %d failed\n", files, failed);
    return failed || !files;
}
