// check_kernels [--level NAME] [--seed N] [--only TEXT]
//
// Checks the kernels of every level that this CPU has (or of one) on cases made from a seed; a
// failure names the seed and case that replay it.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static bool check_level(const char *level, uint64_t seed, const char *only)
{
    enum nib_cpu_level number;
    struct nib_error error;
    if (nib_cpu_level_find(level, &number, &error) != NIB_OK) {
        fprintf(stderr, "%s\n", error.message);
        return false;
    }
    struct nib_cpu_kernels scalar, kernels;
    nib_cpu_kernels_init(&scalar, NIB_CPU_LEVEL_SCALAR);
    nib_cpu_kernels_init(&kernels, number);
    struct check c = {.kernels = &kernels,
                      .oracle = number == NIB_CPU_LEVEL_SCALAR ? NULL : &scalar,
                      .level = level,
                      .only = only,
                      .seed = seed};
    check_matmul(&c);
    check_embed(&c);
    check_attention(&c);
    check_elementwise(&c);
    printf("%s: %" PRIu64 " of %" PRIu64 " cases passed (seed %" PRIu64 ")\n", level,
           c.n_run - c.n_failed, c.n_run, seed);
    return c.n_failed == 0 && c.n_run > 0;
}

int main(int argc, char **argv)
{
    static const char *const levels[] = {
#define X(id, name) name,
        NIB_CPU_LEVELS(X)
#undef X
    };
    uint64_t seed = 1;
    const char *only = NULL, *level = NULL;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value && strcmp(argv[i], "--seed") == 0)
            seed = strtoull(value, NULL, 10);
        else if (value && strcmp(argv[i], "--only") == 0)
            only = value;
        else if (value && strcmp(argv[i], "--level") == 0)
            level = value;
        else {
            fprintf(stderr, "usage: check_kernels [--level NAME] [--seed N] [--only TEXT]\n");
            return 2;
        }
    }
    bool is_good = true;
    if (level)
        return check_level(level, seed, only) ? 0 : 1;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        enum nib_cpu_level number;
        if (nib_cpu_level_find(levels[i], &number, NULL) == NIB_OK)
            is_good = check_level(levels[i], seed, only) && is_good;
        else
            printf("%s: left out, this CPU lacks it\n", levels[i]);
    }
    return is_good ? 0 : 1;
}
