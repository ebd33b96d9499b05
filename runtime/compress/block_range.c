// Blocks of one group with a minimum: q4_1, q5_1.
#include "runtime/compress/block_family.h"

#include <math.h>

enum { GROUP = 32 };

void nib_block_range(const struct nib_format *format, const float *w, const float *h,
                     struct nib_block_parts *out)
{
    const struct nib_fit fit = {w, h, GROUP};
    const int high = (1 << format->bits) - 1;
    float low = w[0], top = w[0];
    for (int i = 1; i < GROUP; i++) {
        low = w[i] < low ? w[i] : low;
        top = w[i] > top ? w[i] : top;
    }
    // What rounding to nearest does is tried as well: weights that lie on such a grid keep it.
    const struct nib_range tries[] = {nib_fit_range(&fit, high, INFINITY),
                                      {(top - low) / (float)high, low}};
    // Which holds where no error is finite.
    struct nib_range best = {nib_block_f16(tries[1].scale), nib_block_f16(tries[1].min)};
    float least = INFINITY;
    for (int i = 0; i < 4; i++) {
        struct nib_range range = tries[i / 2];
        range.scale = nib_block_f16(range.scale);
        if (i % 2)
            range.min = nib_fit_range_min(&fit, high, range);
        range.min = nib_block_f16(range.min);
        float error = nib_fit_range_error(&fit, high, range);
        if (error < least) {
            least = error;
            best = range;
        }
    }
    out->scale = best.scale;
    out->min = best.min;
    nib_fit_range_codes(&fit, high, best, out->codes);
}
