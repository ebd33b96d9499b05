/// A random model of two layers, run through the backend's table of functions.
#ifndef TESTS_UNIT_CPU_TINY_MODEL_H
#define TESTS_UNIT_CPU_TINY_MODEL_H

#include "runtime/cpu/cpu_backend.h"

enum {
    TINY_LAYERS = 2,
    TINY_SEGMENTS = TINY_LAYERS + 2,
    TINY_HEADS = 4,
    TINY_KV_HEADS = 2,
    TINY_VOCABULARY = 37,
    TINY_MAX_ROWS = 64,
    TINY_CONTEXT = 128,
    TINY_TABLE = TINY_CONTEXT / NIB_KV_PAGE_TOKENS,
    TINY_PAGES = 4 * TINY_TABLE, ///< of each class
    TINY_MAX_OPS = 40,
    TINY_MAX_WEIGHTS = 24
};

/// What the model is like.
struct tiny_params {
    enum nib_format_id format; ///< of the layers' matrices
    enum nib_activation activation;
    enum nib_kv_format key_format;
    enum nib_kv_format value_format;
    bool has_permutation;
};

struct tiny_model {
    struct tiny_params params;
    struct nib_plan plan;
    struct nib_op ops[TINY_MAX_OPS];
    struct nib_weight weights[TINY_MAX_WEIGHTS];
    struct nib_row_reader readers[TINY_MAX_WEIGHTS];
    void *memory[TINY_MAX_WEIGHTS]; ///< of the readers' rows
    struct nib_row_block blocks[TINY_MAX_WEIGHTS];
    struct nib_segment segments[TINY_SEGMENTS];
    struct nib_rope_table rope;
    struct nib_kv_layer kv_layers[TINY_LAYERS]; ///< the second has a window and a class of its own
    float *frequency;
    uint32_t *permutation;
    uint64_t random;
};

/// Makes the model, the same for the same params. Every call ends the test where it fails.
void tiny_model_init(struct tiny_model *m, const struct tiny_params *params);
void tiny_model_free(struct tiny_model *m);

/// An instance of a run of its segments, all weights packed.
struct tiny_instance {
    const struct tiny_model *model;
    const struct nib_backend *backend;
    void *device; ///< NULL: the caller's
    void *self;
};
void tiny_open(struct tiny_instance *t, const struct tiny_model *m, uint32_t threads,
               uint32_t first_segment, uint32_t n_segments);
/// As tiny_open, on a backend's device that is open, which stays so.
void tiny_open_on(struct tiny_instance *t, const struct tiny_model *m,
                  const struct nib_backend *backend, void *device, uint32_t first_segment,
                  uint32_t n_segments);
/// Ends the instance; closes a device that tiny_open has opened.
void tiny_close(struct tiny_instance *t);

/// Some tokens of a sequence.
struct tiny_chunk {
    uint32_t sequence;
    uint32_t first; ///< position
    uint32_t n;
    uint32_t n_silent; ///< its first tokens, which want no logits
};
/// What a step holds.
struct tiny_step {
    const struct tiny_chunk *chunks;
    uint32_t n_chunks;
    uint32_t n_padding; ///< rows at its end
    uint32_t page_offset;
    uint32_t max_logits; ///< logits in one run of the head; 0: all
};
/// Runs a step of chunks, and writes the logits, [rows that want them][TINY_VOCABULARY].
/// Sequence s has tokens made from s and the position, and pages from `page_offset` on.
void tiny_run(struct tiny_instance *t, const struct tiny_step *step, float *logits);
/// Runs the tokens [first, first + n) of one sequence.
void tiny_run_chunk(struct tiny_instance *t, uint32_t sequence, uint32_t first, uint32_t n,
                    float *logits);

#endif
