/// A run in progress, for the files that share the work.
#ifndef RUNTIME_COMPRESS_RUN_H
#define RUNTIME_COMPRESS_RUN_H

#include "runtime/compress/calibrate.h"
#include "runtime/compress/compress.h"
#include "runtime/compress/layer.h"
#include "runtime/compress/stats.h"
#include "runtime/engine/progress.h"

struct nib_parts;

struct nib_run {
    struct nib_compress_plan plan;
    const struct nib_checkpoint_writer *writer;
    void *output;
    struct nib_thread_pool *pool;
    struct nib_dense *dense;
    struct nib_device *device;           ///< NULL where nothing is calibrated
    struct nib_calibration *calibration; ///< likewise
    struct nib_parts *parts;             ///< likewise
    struct nib_quantization_report report;
    uint64_t bits; ///< of all quantized matrices so far

    struct nib_meter meter; ///< counts thousandths of layers
    uint32_t layer;
    uint64_t ticks;           ///< in this layer
    uint64_t ticks_per_layer; ///< in the one before; 0: there was none
};

/// A layer at work: its weights, and what became of them.
struct nib_layer_work {
    struct nib_run *run;
    struct nib_layer layer;
    struct nib_quantized_matrix **matrices; ///< [layer.n]; NULL: not quantized (yet)
    struct nib_stats_sum *stats;            ///< [NIB_ROLE_COUNT] by input
    uint32_t stats_needs;                   ///< of enum nib_stats_need
    bool has_magnitudes;
    uint32_t wanted; ///< inputs, as bits, that the current pass looks at
};

/// Quantizes entry `i` of the layer's into work->matrices[i]; `stats` may be NULL.
enum nib_status nib_work_quantize(struct nib_layer_work *work, uint32_t i,
                                  const struct nib_stats_sum *stats, struct nib_error *err);
/// Lets the text go through the layer, quantizing its matrices, and replaces the hidden states.
enum nib_status nib_work_calibrate(struct nib_layer_work *work, struct nib_error *err);
/// The same with a layer that an earlier run has quantized.
enum nib_status nib_work_repeat(struct nib_layer_work *work, struct nib_error *err);

/// Returns whether the work is on the head, or the token embedding where that is the head, behind
/// all layers.
bool nib_work_is_head(const struct nib_layer_work *work);
/// Quantizes the head by what it sees of the text.
enum nib_status nib_work_quantize_head(struct nib_layer_work *work, struct nib_error *err);

/// Works out the relative squared error of the matrix's output on the calibration text, or of its
/// weights where the job has no Hessian. Errors: memory.
enum nib_status nib_matrix_error(const struct nib_quantize_job *job,
                                 const struct nib_quantized_matrix *matrix, double *out_error,
                                 struct nib_error *err);

/// Returns whether a run of the plan needs a calibration text, or makes use of one that is there.
bool nib_run_is_calibrated(const struct nib_compress_plan *plan);
/// Counts a piece of work; returns whether the run goes on.
bool nib_run_tick(void *run);

#endif
