/// Placements that share a run of segments: where it is cut.
#ifndef RUNTIME_ENGINE_DIVISION_H
#define RUNTIME_ENGINE_DIVISION_H

#include "runtime/engine/engine.h"

/// Gives the engine's parts without segments theirs, and all parts their first one, as
/// nib_placement has it. Their devices are open. `shares` [n_parts] may be NULL. Errors: argument.
enum nib_status nib_placements_divide(struct nib_engine *engine, const float *shares,
                                      struct nib_error *err);

#endif
