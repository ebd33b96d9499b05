/// Function tables that watch what Nibble does with a host's device: every object that it makes and
/// destroys, every submission, every wait.
#ifndef TESTS_EMBED_WATCH_H
#define TESTS_EMBED_WATCH_H

#include "tests/embed/host.h"

/// What was seen. Of the process; a Criterion test is one.
struct watch_counts {
    _Atomic uint32_t made;      ///< objects and memory
    _Atomic uint32_t destroyed; ///< of these
    _Atomic uint32_t foreign;   ///< destroyed, though Nibble had not made them
    _Atomic uint32_t idle;      ///< waits for the queue or the device
    _Atomic uint32_t submits;
    _Atomic uint32_t unlocked; ///< submits without the host's lock
    _Atomic uint32_t crowded;  ///< submits while two earlier ones of the same clock were under way
    _Atomic uint32_t named;    ///< objects that were given a name
    _Atomic uint32_t labels;   ///< begun minus ended
    _Atomic uint32_t labelled; ///< begun
};
extern struct watch_counts watch;

/// Begins to watch `host`: returns the vkGetInstanceProcAddr to be given to Nibble.
PFN_vkGetInstanceProcAddr watch_begin(struct host *host);
/// Checks that all objects are gone, and that nothing was done that must not be.
void watch_end(void);
/// Whether an object that Nibble has made lives, and has a name.
bool watch_all_named(void);

#endif
