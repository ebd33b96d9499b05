#include "check.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Floats before, between and after the rows of an output.
#define GUARD 17
/// What untouched memory holds.
#define SENTINEL 0x7fc0dea1u

bool check_begin(struct check *c, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(c->name, sizeof c->name, format, list);
    va_end(list);
    if (c->only && !strstr(c->name, c->only))
        return false;
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ c->seed; // FNV-1a
    for (const char *p = c->name; *p; p++)
        hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
    c->random = hash;
    c->has_failed = false;
    c->n_run++;
    return true;
}

void check_fail(struct check *c, const char *format, ...)
{
    if (c->has_failed)
        return;
    c->has_failed = true;
    c->n_failed++;
    va_list list;
    va_start(list, format);
    fprintf(stderr, "%s: %s: ", c->level, c->name);
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n  replay: check_kernels --level %s --seed %" PRIu64 " --only '%s'\n",
            c->level, c->seed, c->name);
    va_end(list);
}

uint64_t random_u64(struct check *c)
{
    // SplitMix64, Steele, Lea and Flood 2014.
    uint64_t z = c->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t random_below(struct check *c, uint32_t n)
{
    return (uint32_t)(random_u64(c) % n);
}

float random_float(struct check *c, float size)
{
    double unit = (double)(random_u64(c) >> 11) * 0x1p-53;
    return (float)(2 * unit - 1) * size;
}

float *random_floats(struct check *c, uint64_t n)
{
    static const float special[] = {0.0f, -0.0f, 1e-42f, -3e-39f, 40.0f, -90.0f};
    float *x = new_zeros(n, sizeof *x);
    for (uint64_t i = 0; i < n; i++) {
        bool is_special = random_below(c, 16) == 0;
        x[i] = is_special ? special[random_below(c, 6)] : random_float(c, 2.0f);
    }
    return x;
}

void *new_zeros(uint64_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

/// Rows of a kernel's output between guards.
struct guarded {
    float *memory;
    uint64_t n_rows, width, stride, size;
};

static void guarded_create(const struct kernel_case *k, struct guarded *g)
{
    g->n_rows = k->n_rows;
    g->width = k->width;
    g->stride = k->width + GUARD;
    g->size = g->n_rows * g->stride + GUARD;
    g->memory = new_zeros(g->size, sizeof *g->memory);
    const uint32_t sentinel = SENTINEL;
    for (uint64_t i = 0; i < g->size; i++)
        memcpy(&g->memory[i], &sentinel, sizeof sentinel);
    for (uint64_t r = 0; k->initial && r < g->n_rows; r++) {
        memcpy(g->memory + GUARD + r * g->stride, k->initial + r * k->width,
               k->width * sizeof(float));
    }
}

static const float *guarded_row(const struct guarded *g, uint64_t r)
{
    return g->memory + GUARD + r * g->stride;
}

static void check_guards(struct check *c, const struct guarded *g)
{
    const uint32_t sentinel = SENTINEL;
    for (uint64_t i = 0; i < g->size; i++) {
        bool is_output = i >= GUARD && (i - GUARD) % g->stride < g->width;
        if (!is_output && memcmp(&g->memory[i], &sentinel, sizeof sentinel) != 0) {
            check_fail(c, "wrote outside its output, %" PRIu64 " floats from the start", i);
            return;
        }
    }
}

static void run(const struct kernel_case *k, const struct nib_cpu_kernels *kernels,
                const struct guarded *g)
{
    *k->out = (struct nib_cpu_rows){.data = g->memory + GUARD, .stride = g->stride};
    k->call(kernels, k->args, 0, k->n_items, 0);
}

static void run_in_pieces(struct check *c, const struct kernel_case *k, const struct guarded *g)
{
    *k->out = (struct nib_cpu_rows){.data = g->memory + GUARD, .stride = g->stride};
    uint32_t thread = 0;
    for (uint64_t first = 0, last; first < k->n_items; first = last) {
        last = first + 1 + random_below(c, 7);
        last = last < k->n_items ? last : k->n_items;
        k->call(c->kernels, k->args, first, last, thread);
        thread = 1 - thread;
    }
}

static void check_values(struct check *c, const struct kernel_case *k, const struct guarded *actual,
                         const struct guarded *oracle)
{
    for (uint64_t r = 0; r < k->n_rows; r++) {
        for (uint64_t i = 0; i < k->width; i++) {
            double got = (double)guarded_row(actual, r)[i];
            double want =
                oracle ? (double)guarded_row(oracle, r)[i] : k->expected[r * k->width + i];
            double bound = k->bound[r * k->width + i];
            // 2^-120: products of denormals are lost.
            double error = fabs(got - want), most = k->tolerance * bound + 0x1p-120;
            if (!(error <= most)) {
                check_fail(c,
                           "row %" PRIu64 ", column %" PRIu64 ": %.9g instead of %.9g, bound %.3g",
                           r, i, got, want, most);
                return;
            }
        }
    }
}

void check_kernel(struct check *c, const struct kernel_case *k)
{
    struct guarded whole, pieces, oracle = {0};
    guarded_create(k, &whole);
    guarded_create(k, &pieces);
    run(k, c->kernels, &whole);
    run_in_pieces(c, k, &pieces);
    if (c->oracle) {
        guarded_create(k, &oracle);
        run(k, c->oracle, &oracle);
    }
    check_values(c, k, &whole, NULL);
    if (c->oracle)
        check_values(c, k, &whole, &oracle);
    check_guards(c, &whole);
    check_guards(c, &pieces);
    if (memcmp(whole.memory, pieces.memory, whole.size * sizeof(float)) != 0)
        check_fail(c, "depends on how the loop is cut into pieces");
    free(whole.memory);
    free(pieces.memory);
    free(oracle.memory);
}
