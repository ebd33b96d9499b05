/// Static ranges of activations, from calibration.
#ifndef RUNTIME_COMPRESS_STATIC_RANGE_H
#define RUNTIME_COMPRESS_STATIC_RANGE_H

#include "runtime/compress/stats.h"

/// Returns the scale of an input with one range for all tokens, codes −128 to 127: that of the
/// largest magnitude (min-max), of the one that `percentile` percent do not exceed, or (MSE and
/// DEFAULT) the one with the least squared error. `sum` has channels and magnitudes.
float nib_static_scale(const struct nib_stats_sum *sum, enum nib_quantize_range range,
                       float percentile);

#endif
