/// A backend for tests of scheduling, paging and placements: the "model" is a hash of the tokens
/// that a row can see, which simulate() gives without any of these. What the engine must not do is
/// counted.
#ifndef TESTS_UNIT_ENGINE_FAKE_BACKEND_H
#define TESTS_UNIT_ENGINE_FAKE_BACKEND_H

#include "runtime/engine/shared_model.h"
#include "runtime/model/model.h"
#include "runtime/ops/backend.h"

/// What tests set and look at. One per device.
struct fake_device {
    struct nib_device device; ///< to be given to placements; its references stay above 0
    enum nib_backend_kind kind;
    uint64_t memory_left;
    uint32_t most_segments;     ///< that there is memory for; 0: any number
    enum nib_status run_status; ///< of the run after `runs_left` more
    uint32_t runs_left;
    enum nib_status end_status; ///< of the step's end after `ends_left` more
    uint32_t ends_left;
    enum nib_status supports_status;
    enum nib_status copy_status;
    enum nib_status pack_status;
    _Atomic uint32_t most_packed; ///< packing one weight more waits until this is raised
    uint32_t n_copied;            ///< pages
    uint32_t n_rows;              ///< that were computed, in all runs from segment 0
    uint32_t ready_calls;         ///< calls of `ready` with a budget until it is done
    uint32_t n_runs;
    _Atomic uint32_t n_packed;
    uint32_t n_steps_with_many;  ///< runs over more than one sequence
    _Atomic bool is_in_use;      ///< by a thread, which is to be the only one
    _Atomic uint32_t violations; ///< breaches of the contract
};

void fake_device_init(struct fake_device *fake);

/// Writes the logits [vocabulary] that the fake model of `plan` gives after `tokens[0 .. n)`.
void fake_simulate(const struct nib_plan *plan, const int32_t *tokens, uint32_t n, float *logits);

#endif
