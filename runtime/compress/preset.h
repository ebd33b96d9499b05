/// Mixes of GGUF's formats that have names, and what stands in for a format that a row has no whole
/// blocks of.
///
/// Some matrices cost more when they are coarse than others of their size: values and the output of
/// the feed-forward network go straight into the residual stream, and the first and last layers
/// have no later, or earlier, layers that make good what they lose. The mixes give those a finer
/// format; their names are those of the llama.cpp project's mixes of about the same size.
#ifndef RUNTIME_COMPRESS_PRESET_H
#define RUNTIME_COMPRESS_PRESET_H

#include "runtime/ops/plan.h"
#include "runtime/quant/format.h"

/// Which layers have the finer format.
enum nib_preset_layers {
    NIB_PRESET_FEW, ///< the first eighth
    NIB_PRESET_MANY ///< the first and last eighth, and every third between them
};

/// A mix. `finer` is for NIB_ROLE_V and NIB_ROLE_FFN_DOWN (and Q, K and V in one matrix), `head`
/// for the head, or the token embedding where that is the head.
struct nib_preset {
    const char *name;
    enum nib_format_id base;
    enum nib_format_id finer;
    enum nib_format_id head;
    enum nib_preset_layers layers;
};

/// Returns the mix called `name` ("q4_k_m"), or NULL; static.
const struct nib_preset *nib_preset_find(const char *name);
/// Returns the format that the mix has for a matrix; static. `tied`: the token embedding is the
/// head.
const struct nib_format *nib_preset_format(const struct nib_preset *preset, enum nib_role role,
                                           uint32_t layer, uint32_t n_layers, bool tied);

/// Returns `format`, or the next of GGUF's, with at least as many bits, that rows of `cols` weights
/// are whole blocks of: f16 in the end. Static.
const struct nib_format *nib_format_that_fits(const struct nib_format *format, uint64_t cols);

#endif
