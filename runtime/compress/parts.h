/// What an interrupted run has done: a folder beside the output with a file for each finished
/// layer, from which the same run goes on.
#ifndef RUNTIME_COMPRESS_PARTS_H
#define RUNTIME_COMPRESS_PARTS_H

#include "runtime/compress/run.h"

/// Thread-safety: one thread at a time.
struct nib_parts;

/// Opens the folder `path`.part, which is made where it is not there. Errors: io, memory.
enum nib_status nib_parts_open(const struct nib_compress_plan *plan, const char *path,
                               struct nib_parts **out_parts, struct nib_error *err);
/// Forgets the folder; removes it where it is empty.
void nib_parts_close(struct nib_parts **parts);
/// Removes all layers.
void nib_parts_remove(struct nib_parts *parts);

/// Takes note of numbers that the layers to come are made of: the text's embeddings, then each
/// layer's weights before anything changes them. A layer is of the same model, whatever its path,
/// where all that was seen before it is the same.
void nib_parts_see(struct nib_parts *parts, const float *values, uint64_t n);

/// Returns whether layer `layer` is there.
bool nib_parts_has(const struct nib_parts *parts, uint32_t layer);
/// Reads a layer's quantized matrices and its other tensors into `work`, whose own were read from
/// the source. Safe for untrusted input. Errors: argument (the file is of another run or of another
/// model), format, io, memory.
enum nib_status nib_parts_load(const struct nib_parts *parts, struct nib_layer_work *work,
                               struct nib_error *err);
/// Writes a finished layer. Errors: io, memory.
enum nib_status nib_parts_save(const struct nib_parts *parts, const struct nib_layer_work *work,
                               struct nib_error *err);

#endif
