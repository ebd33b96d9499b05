/// The rate at which the threads of a pool read memory: what benchmarks call the bandwidth.
#ifndef BENCH_READ_BANDWIDTH_H
#define BENCH_READ_BANDWIDTH_H

#include "runtime/base/thread_pool.h"

/// Memory larger than any cache, and the threads that read it.
struct read_bandwidth {
    struct nib_thread_pool *pool;
    uint64_t *words;
};

/// Takes the memory, touches all of it, and starts `threads` threads, the caller's own counted.
/// Errors: memory, io.
enum nib_status read_bandwidth_open(uint32_t threads, struct read_bandwidth *out_reader,
                                    struct nib_error *err);
void read_bandwidth_close(struct read_bandwidth *reader);
/// Returns bytes a second of one pass over the memory.
double read_bandwidth_measure(const struct read_bandwidth *reader);

#endif
