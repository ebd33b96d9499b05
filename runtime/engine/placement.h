/// Placements at work: which segments run on which device, and what the CPU takes over from devices
/// that cannot run theirs or are lost.
#ifndef RUNTIME_ENGINE_PLACEMENT_H
#define RUNTIME_ENGINE_PLACEMENT_H

#include "runtime/engine/engine.h"

/// Checks the placements and opens or retains their devices. Errors: argument, memory.
enum nib_status nib_placements_open(struct nib_engine *engine,
                                    const struct nib_engine_params *params, struct nib_error *err);
/// Makes the placements' instances. Where the params allow it, the segments that a device does not
/// run go to the CPU, and their number of placements grows. Errors: unsupported (an op), memory (of
/// the KV pool, the CPU's part is larger than the machine's memory), those of the backends.
enum nib_status nib_placements_create(struct nib_engine *engine,
                                      const struct nib_engine_params *params,
                                      struct nib_error *err);
void nib_placements_close(struct nib_engine *engine);

/// Returns the bytes of the KV pool that the placements' instances keep in the host's memory.
uint64_t nib_host_kv_bytes(const struct nib_engine *engine);

/// Returns whether a backend's failure is the device's: lost, or out of memory.
bool nib_is_loss(enum nib_status status);
/// Notes what a call of the part's backend returned, and returns it.
enum nib_status nib_part_result(struct nib_engine *engine, const struct nib_part *part,
                                enum nib_status status);
/// Returns whether the CPU is to go on after a call that failed with `status`.
bool nib_engine_may_fall_back(const struct nib_engine *engine, enum nib_status status);
/// Lets the CPU take over the segments of every other device: their weights are yet to be loaded,
/// the KV pool is empty, and the sessions compute their tokens anew. `reason` is noted. Fails with
/// nothing changed. Errors: memory, those of the CPU backend.
enum nib_status nib_engine_fall_back(struct nib_engine *engine, const char *reason,
                                     struct nib_error *err);

#endif
