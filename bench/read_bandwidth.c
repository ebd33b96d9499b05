#include "bench/read_bandwidth.h"

#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"

enum { READ_BYTES = 1 << 29, LINE_WORDS = 8, READ_AHEAD = 128, PIECE_WORDS = 1 << 16 };

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

enum nib_status read_bandwidth_open(uint32_t threads, struct read_bandwidth *out_reader,
                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_reader = (struct read_bandwidth){0};
    NIB_TRY(nib_thread_pool_create(threads, false, &out_reader->pool, err));
    out_reader->words = nib_pages_alloc_large(READ_BYTES);
    if (!out_reader->words) {
        status = nib_fail_memory(err);
        goto fail;
    }
    memset(out_reader->words, 3, READ_BYTES);
    return NIB_OK;

fail:
    read_bandwidth_close(out_reader);
    return status;
}

void read_bandwidth_close(struct read_bandwidth *reader)
{
    if (reader->words)
        nib_pages_free(reader->words, READ_BYTES);
    nib_thread_pool_destroy(&reader->pool);
    *reader = (struct read_bandwidth){0};
}

double read_bandwidth_measure(const struct read_bandwidth *reader)
{
    struct read_loop loop = {.words = reader->words};
    uint64_t start = nib_clock_ns();
    nib_thread_pool_run(reader->pool, READ_BYTES / sizeof *loop.words, PIECE_WORDS, read_piece,
                        &loop);
    return READ_BYTES / (double)(nib_clock_ns() - start) * 1e9;
}
