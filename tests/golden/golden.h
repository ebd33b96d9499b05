/// What the golden tests share: opening models and engines, collecting logits, reading references.
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include <jansson.h>
#include <nibble/nibble.h>

#define GOLDEN_MAX_DEVICES 4

/// A model with one engine and one session.
struct golden {
    /// None: the CPU; else as the environment variable NIB_TEST_VULKAN says: "0", or "0,1" for two
    /// that share the layers; or NIB_TEST_CPU_MASK, a level of the CPU such as "scalar".
    struct nib_device *devices[GOLDEN_MAX_DEVICES];
    uint32_t n_devices;
    struct nib_model *model;
    struct nib_engine *engine;
    struct nib_session *session;
    uint32_t vocabulary;
};

/// Logits of consecutive positions.
struct golden_rows {
    float *logits; ///< [count][vocabulary]
    uint32_t vocabulary;
    uint32_t first; ///< position of the first row
    uint32_t count;
    uint32_t capacity;
};

/// Opens model `path` with an engine; any failure fails the test.
void golden_open(struct golden *golden, const char *path, const struct nib_engine_params *params);
void golden_close(struct golden *golden);
/// As golden_open, in precise mode with an f32 cache.
void golden_open_precise(struct golden *golden, const char *path);

/// Skips the test with a reason where models/`name` is absent; else writes its path.
void golden_model_path(const char *name, char *out_path, size_t capacity);

/// Computes all of `ids` in a session cut back to nothing, `chunk` tokens at a time (0: all), and
/// returns the logits of positions from `first` on, to be freed with golden_rows_free.
struct golden_rows golden_forward(struct golden *golden, const int32_t *ids, uint32_t n_ids,
                                  uint32_t chunk, uint32_t first);
void golden_rows_free(struct golden_rows *rows);
/// Returns the logits of `position`.
const float *golden_row(const struct golden_rows *rows, uint32_t position);

/// Generates `n` tokens greedily after `ids`, past ends of sequences, into `out`.
void golden_greedy(struct golden *golden, const int32_t *ids, uint32_t n_ids, uint32_t n,
                   int32_t *out);
/// Returns how many of the reference's tokens must be reproduced: those before the first margin
/// below `least`.
uint32_t golden_certain(const json_t *margins, double least);

/// Parses NIB_TEST_DATA/`path`.
json_t *golden_json(const char *path);
/// Reads an array of integers to `out`, at most `capacity`, and returns their number.
uint32_t golden_ids(const json_t *array, int32_t *out, uint32_t capacity);

#endif
