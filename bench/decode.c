// nibble-bench-decode: the share of the memory's bandwidth that decode on the CPU reaches.
//
// A step of one token reads each weight once. Rounds of steps take turns with nib_device_measure,
// for the bandwidth of a shared machine changes from second to second. A round's share is the bytes
// of weights in the file that its steps need, a second, as a part of the mean of what was measured
// before and after it; what is printed are medians of all rounds, and the quartiles of the shares.
#include <inttypes.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/os.h"

enum { PROMPT_TOKENS = 8, ROUND_STEPS = 8, MAX_ROUNDS = 1000 };

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

/// What rounds gave.
struct rounds {
    uint32_t n;
    double seconds[MAX_ROUNDS];   ///< of a step
    double bandwidth[MAX_ROUNDS]; ///< bytes a second
    double share[MAX_ROUNDS];
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

/// Returns bytes a second.
static double measure_read(struct decoder *d)
{
    struct nib_error error;
    struct nib_device_limits limits;
    stop_at(nib_device_measure(d->device, &limits, &error), &error);
    return limits.read_bytes;
}

static void measure(struct decoder *d, struct rounds *rounds)
{
    double before = measure_read(d);
    for (uint32_t i = 0; i < rounds->n; i++) {
        uint64_t start = nib_clock_ns();
        for (int k = 0; k < ROUND_STEPS; k++)
            step(d);
        double seconds = (double)(nib_clock_ns() - start) * 1e-9 / ROUND_STEPS;
        double after = measure_read(d);
        rounds->seconds[i] = seconds;
        rounds->bandwidth[i] = (before + after) / 2;
        rounds->share[i] = (double)d->step_bytes / seconds / rounds->bandwidth[i];
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
    static struct rounds rounds;
    rounds.n = options->rounds;
    decoder_open(path, options, &d);
    begin(&d, rounds.n * ROUND_STEPS);
    measure(&d, &rounds);
    double seconds = quantile(rounds.seconds, rounds.n, 0.5);
    printf("%s: %" PRIu32 " threads, %.1f tokens/s, %.2f GB/s of %.2f GB/s read, "
           "%.1f %% (%.1f to %.1f)\n",
           path, d.threads, 1 / seconds, (double)d.step_bytes / seconds * 1e-9,
           quantile(rounds.bandwidth, rounds.n, 0.5) * 1e-9,
           100 * quantile(rounds.share, rounds.n, 0.5),
           100 * quantile(rounds.share, rounds.n, 0.25),
           100 * quantile(rounds.share, rounds.n, 0.75));
    fflush(stdout);
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
