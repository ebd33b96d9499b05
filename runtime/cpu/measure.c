// What the CPU can do at most.
#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/base/thread_pool.h"
#include "runtime/cpu/instance.h"

/// Larger than caches.
#define READ_BYTES (256u << 20)
#define LINE_WORDS 8
#define READ_AHEAD 128 ///< words
/// Words that a thread reads at once.
#define READ_GRAIN (1u << 16)
/// Of which the best counts.
#define READS 5
#define PEAKS 20
#define PEAK_ROUNDS 100000

struct read_loop {
    const uint64_t *words;
    volatile uint64_t sink;
};

static void read_piece(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    struct read_loop *loop = user;
    uint64_t sum = 0;
    for (uint64_t i = first; i < last; i += LINE_WORDS) {
#ifdef __GNUC__
        __builtin_prefetch(loop->words + i + READ_AHEAD);
#endif
        for (uint64_t k = i; k < i + LINE_WORDS; k++)
            sum += loop->words[k];
    }
    if (sum == 1) // never, but compilers cannot know
        loop->sink = sum;
}

static enum nib_status measure_read(struct nib_thread_pool *pool, double *out_rate,
                                    struct nib_error *err)
{
    uint64_t *words = nib_pages_alloc_large(READ_BYTES);
    if (!words)
        return nib_fail_memory(err);
    memset(words, 3, READ_BYTES);
    struct read_loop loop = {.words = words};
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < READS; i++) {
        uint64_t start = nib_clock_ns();
        nib_thread_pool_run(pool, READ_BYTES / sizeof *words, READ_GRAIN, read_piece, &loop);
        uint64_t ns = nib_clock_ns() - start;
        best = ns < best ? ns : best;
    }
    nib_pages_free(words, READ_BYTES);
    *out_rate = READ_BYTES / (double)(best + 1) * 1e9;
    return NIB_OK;
}

/// Returns multiply-adds a second of one thread.
static double measure_peak(uint64_t (*peak)(uint64_t rounds))
{
    double best = 0;
    for (int i = 0; i < PEAKS; i++) {
        uint64_t start = nib_clock_ns();
        double macs = (double)peak(PEAK_ROUNDS);
        double rate = macs / (double)(nib_clock_ns() - start + 1) * 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

double nib_cpu_measure_byte_peak(const struct nib_cpu_device *device)
{
    const struct nib_cpu_kernels *k = &device->kernels;
    double one = measure_peak(k->int8_byte_peak ? k->int8_byte_peak : k->f32_peak);
    return one * nib_thread_pool_size(device->pool);
}

enum nib_status nib_cpu_measure(void *device, struct nib_device_limits *out_limits,
                                struct nib_error *err)
{
    const struct nib_cpu_device *d = device;
    uint32_t n_threads = nib_thread_pool_size(d->pool);
    *out_limits = (struct nib_device_limits){0};
    enum nib_status status = measure_read(d->pool, &out_limits->read_bytes, err);
    if (status != NIB_OK)
        return status;
    out_limits->f32_macs = measure_peak(d->kernels.f32_peak) * n_threads;
    out_limits->int8_macs = d->kernels.int8_peak ? measure_peak(d->kernels.int8_peak) * n_threads
                                                 : out_limits->f32_macs;
    return NIB_OK;
}
