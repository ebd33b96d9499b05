/// Telling a caller how far long work has come, at most ten times a second.
#ifndef RUNTIME_ENGINE_PROGRESS_H
#define RUNTIME_ENGINE_PROGRESS_H

#include <nibble/base.h>

/// Thread-safety: one thread at a time.
struct nib_meter {
    struct nib_progress progress;
    const char *what; ///< static
    uint64_t total;
    uint64_t next_ns; ///< no report before this time; 0 at first
};

/// Reports `done` if it is due or equals the total. Returns false where the caller wants to stop.
bool nib_meter_report(struct nib_meter *meter, uint64_t done);

#endif
