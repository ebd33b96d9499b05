/// Mixes of GGUF's formats that have names, and what stands in for a format that a row has no whole
/// blocks of.
///
/// Some matrices cost more when they are coarse than others of their size: values and the output of
/// the feed-forward network go straight into the residual stream, the head decides between
/// neighbouring tokens, and the first and last layers have no later, or earlier, layers that make
/// good what they lose. The mixes give those a finer format; their names are those of the llama.cpp
/// project's, and no matrix is coarser than in the mix of the same name there.
#ifndef RUNTIME_COMPRESS_PRESET_H
#define RUNTIME_COMPRESS_PRESET_H

#include "runtime/ops/plan.h"
#include "runtime/quant/format.h"

/// Which layers a rule of a mix is about. N: their number.
enum nib_preset_layers {
    NIB_PRESET_ALL,
    NIB_PRESET_TWO,       ///< the first two
    NIB_PRESET_FOUR,      ///< the first four
    NIB_PRESET_SIXTEENTH, ///< the first N / 16
    NIB_PRESET_EIGHTH,    ///< the first N / 8
    NIB_PRESET_MANY       ///< the first and last N / 8, and every third between them
};

/// Matrices of the layers that a rule is about.
enum nib_preset_role {
    NIB_PRESET_NONE, ///< of unused rules
    NIB_PRESET_V,
    NIB_PRESET_QKV,
    NIB_PRESET_ATTENTION_OUT,
    NIB_PRESET_FFN_DOWN
};

struct nib_preset_rule {
    enum nib_preset_role role;
    enum nib_preset_layers layers;
    enum nib_format_id format;
};

#define NIB_PRESET_RULES 6

/// A mix. `head` is for the head, or the token embedding where that is the head. Of several rules
/// that fit, the last one holds.
struct nib_preset {
    const char *name;
    enum nib_format_id base;
    enum nib_format_id head;
    struct nib_preset_rule rules[NIB_PRESET_RULES];
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
