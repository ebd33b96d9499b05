/// A tiny model with an engine on the fake backend.
#ifndef TESTS_UNIT_ENGINE_RIG_H
#define TESTS_UNIT_ENGINE_RIG_H

#include "runtime/engine/engine.h"
#include "tests/unit/engine/fake_backend.h"

/// A model with two classes of layers: windows of 16 tokens, and some layers that see everything.
#define RIG_MODEL "architectures/gemma3"

struct rig {
    struct fake_device fake;
    struct nib_model *model;
    struct nib_engine *engine;
};

/// Opens RIG_MODEL with `params`, whose placements, where it has none, become the fake device.
void rig_open(struct rig *rig, struct nib_engine_params params);
/// The same with any model file.
void rig_open_file(struct rig *rig, const char *path, struct nib_engine_params params);
/// Closes all, and fails the test where the fake device saw a breach of the contract.
void rig_close(struct rig *rig);

struct nib_session *rig_session(struct rig *rig);
/// Appends ids made from `seed`.
void rig_append(struct nib_session *session, uint32_t count, uint32_t seed);
/// Returns the token that is drawn with `sampling` after the session's first `n` tokens, by
/// simulation.
int32_t rig_expected(struct nib_session *session, const struct nib_sampling *sampling, uint32_t n);

#endif
