/// How tokens are drawn, by the flags, the model's authors, or else the program's defaults.
#ifndef TOOLS_NIBBLE_SAMPLING_H
#define TOOLS_NIBBLE_SAMPLING_H

#include "tools/nibble/options.h"

/// Returns the sampling that the flags ask for. What they leave out is the model's own advice where
/// it gives any, else temperature 0.8, top-p 0.95 and min-p 0.05; the seed is a new one.
struct nib_sampling sampling_choose(const struct options *options, const struct nib_model *model);

#endif
