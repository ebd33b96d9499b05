// nibble-bench-load: time to load a model on the CPU, beside that of reading its file.
//
// Each round loads the model from path to ready engine, and reads the file into memory that the
// system has just given, which is zeroed page by page as it is read into; the fastest round of each
// counts. The first round also brings the file into the system's cache.
#include <inttypes.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/os.h"

enum { READ_BYTES = 16 << 20 };

/// Returns seconds, or 0 on failure.
static double read_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = nib_pages_alloc(size);
    uint64_t start = nib_clock_ns();
    size_t done = 0, count = 1;
    if (file && bytes)
        setvbuf(file, NULL, _IONBF, 0); // straight to the pages
    while (file && bytes && done < size && count > 0) {
        count = fread(bytes + done, 1, size - done < READ_BYTES ? size - done : READ_BYTES, file);
        done += count;
    }
    double seconds = (double)(nib_clock_ns() - start) / 1e9;
    if (file)
        fclose(file);
    nib_pages_free(bytes, size);
    return done == size ? seconds : 0;
}

/// Returns seconds, or 0 on failure, which is printed.
static double load(const char *path, uint32_t threads, struct nib_memory *out_memory)
{
    struct nib_error error;
    struct nib_model *model = NULL;
    struct nib_device *device = NULL;
    struct nib_engine *engine = NULL;
    bool ready = false;
    uint64_t start = nib_clock_ns();
    enum nib_status status = nib_model_open(path, NULL, &model, &error);
    if (status == NIB_OK)
        status = nib_device_open(nib_device_params(.threads = threads), &device, &error);
    if (status == NIB_OK) {
        struct nib_model_info info;
        nib_model_get_info(model, &info);
        const struct nib_placement all = {device, 0, info.layers + 2};
        status = nib_engine_create(model, nib_engine_params(.placements = &all, .n_placements = 1),
                                   &engine, &error);
    }
    if (status == NIB_OK)
        status = nib_engine_prepare(engine, 0, &ready, &error);
    double seconds = (double)(nib_clock_ns() - start) / 1e9;
    if (status == NIB_OK) {
        struct nib_engine_info info;
        nib_engine_get_info(engine, &info);
        *out_memory = info.memory;
    } else {
        fprintf(stderr, "%s\n", error.message);
    }
    nib_engine_destroy(&engine);
    nib_device_destroy(&device);
    nib_model_destroy(&model);
    return status == NIB_OK ? seconds : 0;
}

int main(int argc, char **argv)
{
    uint32_t threads = 0;
    bool is_good = argc == 2;
    if (argc == 4 && strcmp(argv[1], "--threads") == 0) {
        threads = (uint32_t)strtoul(argv[2], NULL, 10);
        is_good = true;
    }
    struct nib_file_map map;
    struct nib_error error;
    if (!is_good) {
        fprintf(stderr, "usage: nibble-bench-load [--threads N] MODEL.gguf\n");
        return 2;
    }
    const char *path = argv[argc - 1];
    if (nib_file_map_open(path, &map, &error) != NIB_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    size_t size = map.size;
    nib_file_map_close(&map);

    double best_load = 0, best_read = 0;
    struct nib_memory memory = {0};
    for (int i = 0; i < 5; i++) {
        double read_s = read_file(path, size), load_s = load(path, threads, &memory);
        if (read_s == 0 || load_s == 0)
            return 1;
        best_read = i == 0 || read_s < best_read ? read_s : best_read;
        best_load = i == 0 || load_s < best_load ? load_s : best_load;
    }
    printf("file %zu bytes, weights %" PRIu64 " bytes\n", size, memory.weights_bytes);
    printf("read %.3f s, load %.3f s, %.2f of it\n", best_read, best_load, best_load / best_read);
    return 0;
}
