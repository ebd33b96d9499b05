// nibble-bench-decode: the share of the memory's bandwidth that decode on the CPU reaches.
//
// A step of one token reads each weight once. Rounds of steps take turns with reading, for the
// bandwidth of a shared machine changes from second to second. A round's share is the bytes of
// weights in the file that its steps need, a second, as a part of the mean of what was measured
// before and after it; what is printed are medians of all rounds, and the quartiles of the shares.
// Two rates of reading are measured: that of loops that read as many bytes as a round does, without
// anything else to do, and nib_device_measure's, the best of five short passes. Where others use
// the memory too, a round, which is a mean, can reach the first only.
#include <inttypes.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/thread_pool.h"

enum { PROMPT_TOKENS = 8, ROUND_STEPS = 8, MAX_ROUNDS = 1000 };

/// Of memory that is read, more than caches hold, and what a thread takes of it at once.
#define READ_BYTES (256u << 20)
#define READ_GRAIN (1u << 16)
/// What is fetched ahead of what is read.
#define READ_AHEAD 1024
#define LINE_BYTES 64

struct options {
    uint32_t threads; ///< 0: one per core
    uint32_t rounds;
    const char *level; ///< of kernels, or NULL
};

/// A model on the CPU that generates.
struct decoder {
    struct nib_model *model;
    struct nib_device *device;
    struct nib_engine *engine;
    struct nib_session *session;
    uint64_t step_bytes; ///< of weights that a step needs
    uint32_t threads;
};

/// Reads memory and does nothing else.
struct reader {
    struct nib_thread_pool *pool;
    const uint8_t *bytes; ///< READ_BYTES
    volatile uint64_t sink;
};

/// Bytes a second.
struct rates {
    double mean; ///< of what a round reads
    double best; ///< nib_device_measure's
};

/// What rounds gave.
struct rounds {
    uint32_t n;
    double seconds[MAX_ROUNDS];   ///< of a step
    double bandwidth[MAX_ROUNDS]; ///< means
    double share[MAX_ROUNDS];     ///< of them
    double best_share[MAX_ROUNDS];
};

static void stop_at(enum nib_status status, const struct nib_error *error)
{
    if (status == NIB_OK)
        return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

/// Returns the bytes of all tensors, without the embeddings where the head has a matrix of its own:
/// a step reads one row of them.
static uint64_t count_step_bytes(const struct nib_model *model)
{
    uint64_t bytes = 0, embedding = 0;
    bool has_head = false;
    for (uint32_t i = 0; i < nib_model_tensor_count(model); i++) {
        struct nib_tensor_info tensor;
        nib_model_get_tensor(model, i, &tensor);
        bytes += tensor.size_bytes;
        if (strcmp(tensor.name, "token_embd.weight") == 0)
            embedding = tensor.size_bytes;
        has_head |= strcmp(tensor.name, "output.weight") == 0;
    }
    return has_head ? bytes - embedding : bytes;
}

static void decoder_open(const char *path, const struct options *options, struct decoder *d)
{
    struct nib_error error;
    struct nib_model_info info;
    struct nib_engine_info engine_info;
    bool is_ready = false;
    stop_at(nib_model_open(path, NULL, &d->model, &error), &error);
    stop_at(
        nib_device_open(nib_device_params(.threads = options->threads, .cpu_mask = options->level),
                        &d->device, &error),
        &error);
    nib_model_get_info(d->model, &info);
    const struct nib_placement all = {d->device, 0, info.layers + 2};
    stop_at(nib_engine_create(d->model, nib_engine_params(.placements = &all, .n_placements = 1),
                              &d->engine, &error),
            &error);
    stop_at(nib_engine_prepare(d->engine, 0, &is_ready, &error), &error);
    nib_engine_get_info(d->engine, &engine_info);
    d->threads = options->threads ? options->threads : engine_info.device.threads;
    d->step_bytes = count_step_bytes(d->model);
}

static void decoder_close(struct decoder *d)
{
    nib_session_destroy(&d->session);
    nib_engine_destroy(&d->engine);
    nib_device_destroy(&d->device);
    nib_model_destroy(&d->model);
}

static void step(struct decoder *d)
{
    struct nib_error error;
    uint32_t active;
    stop_at(nib_engine_step(d->engine, &active, &error), &error);
    if (active == 0) {
        fprintf(stderr, "the model's context is full; use fewer --rounds\n");
        exit(1);
    }
}

/// Reads a prompt and draws the first tokens, in steps that do not count.
static void begin(struct decoder *d, uint32_t n_steps)
{
    struct nib_error error;
    int32_t ids[PROMPT_TOKENS];
    for (int i = 0; i < PROMPT_TOKENS; i++)
        ids[i] = 100 + i;
    stop_at(nib_session_create(d->engine, &d->session, &error), &error);
    stop_at(nib_session_append(d->session, ids, PROMPT_TOKENS, &error), &error);
    stop_at(nib_session_begin(
                d->session,
                nib_generate_params(.max_tokens = n_steps + ROUND_STEPS + 1, .ignore_eos = true),
                &error),
            &error);
    for (int i = 0; i < ROUND_STEPS; i++)
        step(d);
}

static void reader_open(uint32_t threads, struct reader *r)
{
    struct nib_error error;
    uint8_t *bytes = nib_pages_alloc_large(READ_BYTES);
    if (!bytes) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memset(bytes, 3, READ_BYTES);
    r->bytes = bytes;
    stop_at(nib_thread_pool_create(threads, false, &r->pool, &error), &error);
}

static void reader_close(struct reader *r)
{
    nib_thread_pool_destroy(&r->pool);
    nib_pages_free((void *)r->bytes, READ_BYTES);
}

static void read_piece(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    struct reader *r = user;
    uint64_t sum = 0;
    for (uint64_t i = first; i < last; i += LINE_BYTES) {
#ifdef __GNUC__
        __builtin_prefetch(r->bytes + i + READ_AHEAD);
#endif
        for (uint64_t k = i; k < i + LINE_BYTES; k += sizeof sum) {
            uint64_t word;
            memcpy(&word, r->bytes + k, sizeof word);
            sum += word;
        }
    }
    if (sum == 1) // never, but compilers cannot know
        r->sink = sum;
}

static struct rates measure_reading(struct decoder *d, struct reader *r)
{
    struct nib_error error;
    struct nib_device_limits limits;
    uint64_t bytes = 0, start = nib_clock_ns();
    for (; bytes < ROUND_STEPS * d->step_bytes; bytes += READ_BYTES)
        nib_thread_pool_run(r->pool, READ_BYTES, READ_GRAIN, read_piece, r);
    double mean = (double)bytes / ((double)(nib_clock_ns() - start) * 1e-9);
    stop_at(nib_device_measure(d->device, &limits, &error), &error);
    return (struct rates){.mean = mean, .best = limits.read_bytes};
}

static void measure(struct decoder *d, struct reader *reader, struct rounds *rounds)
{
    struct rates before = measure_reading(d, reader);
    for (uint32_t i = 0; i < rounds->n; i++) {
        uint64_t start = nib_clock_ns();
        for (int k = 0; k < ROUND_STEPS; k++)
            step(d);
        double seconds = (double)(nib_clock_ns() - start) * 1e-9 / ROUND_STEPS;
        double rate = (double)d->step_bytes / seconds;
        struct rates after = measure_reading(d, reader);
        rounds->seconds[i] = seconds;
        rounds->bandwidth[i] = (before.mean + after.mean) / 2;
        rounds->share[i] = rate / rounds->bandwidth[i];
        rounds->best_share[i] = rate / ((before.best + after.best) / 2);
        before = after;
    }
}

static int compare_numbers(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/// Returns the number that `part` of all are below.
static double quantile(double *numbers, uint32_t n, double part)
{
    qsort(numbers, n, sizeof *numbers, compare_numbers);
    return numbers[(uint32_t)(part * (n - 1) + 0.5)];
}

static void bench_model(const char *path, const struct options *options)
{
    struct decoder d = {0};
    struct reader reader = {0};
    static struct rounds rounds;
    rounds.n = options->rounds;
    decoder_open(path, options, &d);
    reader_open(d.threads, &reader);
    begin(&d, rounds.n * ROUND_STEPS);
    measure(&d, &reader, &rounds);
    double seconds = quantile(rounds.seconds, rounds.n, 0.5);
    printf("%s: %" PRIu32 " threads, %.1f tokens/s, %.2f GB/s of %.2f GB/s read, "
           "%.1f %% (%.1f to %.1f), of the best %.1f %%\n",
           path, d.threads, 1 / seconds, (double)d.step_bytes / seconds * 1e-9,
           quantile(rounds.bandwidth, rounds.n, 0.5) * 1e-9,
           100 * quantile(rounds.share, rounds.n, 0.5),
           100 * quantile(rounds.share, rounds.n, 0.25),
           100 * quantile(rounds.share, rounds.n, 0.75),
           100 * quantile(rounds.best_share, rounds.n, 0.5));
    fflush(stdout);
    reader_close(&reader);
    decoder_close(&d);
}

int main(int argc, char **argv)
{
    struct options options = {.rounds = 16};
    int i = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            options.threads = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--rounds") == 0)
            options.rounds = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--cpu-mask") == 0)
            options.level = argv[i + 1];
        else
            break;
    }
    if (i >= argc || strncmp(argv[i], "--", 2) == 0 || options.rounds == 0 ||
        options.rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: nibble-bench-decode [--threads N] [--rounds N] [--cpu-mask LEVEL] "
                        "MODEL.gguf...\n");
        return 2;
    }
    for (; i < argc; i++)
        bench_model(argv[i], &options);
    return 0;
}
