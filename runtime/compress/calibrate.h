/// Calibration: a text's windows go through the model layer by layer, all windows through one layer
/// before the next, so that a layer's inputs can be looked at while its weights are worked on, and
/// the next one sees what became of them. Hidden states of all windows stay in memory.
#ifndef RUNTIME_COMPRESS_CALIBRATE_H
#define RUNTIME_COMPRESS_CALIBRATE_H

#include "runtime/compress/compress.h"
#include "runtime/ops/backend.h"

/// Parts of a layer, each of which begins and ends with the hidden state.
enum nib_block { NIB_BLOCK_ATTENTION, NIB_BLOCK_FFN, NIB_BLOCK_COUNT };

/// Thread-safety: one thread at a time.
struct nib_calibration;

struct nib_calibration_params {
    const struct nib_source *source;
    struct nib_device *device; ///< the CPU; outlives the calibration
    const int32_t *ids;
    size_t n_ids;
    uint32_t windows; ///< at most so many
    uint32_t context;
    /// Called now and then during runs; returns false to stop: the run fails with
    /// NIB_ERROR_CANCELLED. May be NULL.
    bool (*tick)(void *user);
    void *user;
};

/// Makes one and computes the embeddings. Errors: argument (the text is shorter than a window, an
/// id is outside the vocabulary), memory, those of the backend.
enum nib_status nib_calibration_create(const struct nib_calibration_params *params,
                                       struct nib_calibration **out_calibration,
                                       struct nib_error *err);
void nib_calibration_destroy(struct nib_calibration **calibration);
/// Returns the number of tokens of all windows.
uint64_t nib_calibration_tokens(const struct nib_calibration *calibration);
uint32_t nib_calibration_windows(const struct nib_calibration *calibration);

/// Begins layer `layer`, with no weights yet; ends the one before.
enum nib_status nib_calibration_begin_layer(struct nib_calibration *calibration, uint32_t layer,
                                            struct nib_error *err);
/// Gives the layer a tensor, or another one in its place: fp32, rows in the source's order.
/// `values` stay in use until the layer ends or they are replaced; changing them in place is
/// allowed where they are given anew after it.
enum nib_status nib_calibration_set(struct nib_calibration *calibration, enum nib_role role,
                                    const float *values, struct nib_error *err);

/// Returns the role of the first matrix of the layer that has the same input as the matrix of
/// `role`: under that name the input is seen.
enum nib_role nib_calibration_input(const struct nib_calibration *calibration, enum nib_role role);
/// Returns the part of the layer that has the matrix of `role`.
enum nib_block nib_calibration_block(const struct nib_calibration *calibration, enum nib_role role);

/// Sees `n_rows` rows, `stride` floats apart, of the input of the matrix of `role` and those with
/// the same input, in window `window`.
typedef void nib_observe_fn(void *user, enum nib_role role, const float *rows, uint64_t stride,
                            uint32_t n_rows, uint32_t window);

/// One pass of all windows through a part of the layer.
struct nib_calibration_pass {
    enum nib_block block;
    nib_observe_fn *observe; ///< or NULL
    void *user;
    /// The pass ends at this input (as nib_calibration_input has it), after it was observed;
    /// NIB_ROLE_COUNT: it goes to the end.
    enum nib_role last;
    bool advances; ///< the part's output becomes the hidden state; with `last` NIB_ROLE_COUNT alone
    uint32_t windows; ///< the first so many; 0: all
    /// Where the part's outputs go instead, [tokens][hidden_size]; NULL: nowhere.
    float *out;
};
enum nib_status nib_calibration_run(struct nib_calibration *calibration,
                                    const struct nib_calibration_pass *pass, struct nib_error *err);
/// Returns the hidden states, [tokens][hidden_size].
float *nib_calibration_hidden(struct nib_calibration *calibration);

#endif
