#include "runtime/model/model.h"

#include <math.h>

static const double TURN = 6.283185307179586; // 2π

/// Wavelengths longer than the original context are stretched by `factor`, short ones stay, and
/// those between pass from one to the other (Llama 3.1).
static double llama3(const struct nib_rope_config *rope, double original, double frequency)
{
    const double turns = original * frequency / TURN; // within the original context
    const double low = (double)rope->low_frequency_factor;
    const double high = (double)rope->high_frequency_factor;
    const double factor = (double)rope->factor;
    if (turns > high)
        return frequency;
    if (turns < low)
        return frequency / factor;
    const double smooth = (turns - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

/// Where YaRN passes from frequencies that stay to stretched ones, in pairs of dimensions.
struct yarn_range {
    double low;
    double high;
};

/// Returns the pair that turns `turns` times within the original context.
static double yarn_pair(const struct nib_rope_config *rope, double original, double turns)
{
    return rope->dims * log(original / (turns * TURN)) / (2 * log((double)rope->base));
}

static struct yarn_range yarn_range(const struct nib_rope_config *rope, double original)
{
    struct yarn_range range = {
        yarn_pair(rope, original, (double)rope->beta_fast),
        yarn_pair(rope, original, (double)rope->beta_slow),
    };
    if (rope->truncate) {
        range.low = floor(range.low);
        range.high = ceil(range.high);
    }
    range.low = fmax(range.low, 0);
    range.high = fmin(range.high, rope->dims - 1.0);
    if (range.low == range.high)
        range.high += 0.001; // against a division by zero, as in the authors' code
    return range;
}

static double yarn(struct yarn_range range, double factor, uint32_t pair, double frequency)
{
    const double stretched = fmin(fmax((pair - range.low) / (range.high - range.low), 0), 1);
    return frequency / factor * stretched + frequency * (1 - stretched);
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double magnitude(const struct nib_rope_config *rope, double original, double factor)
{
    const bool scaled =
        rope->scaling == NIB_ROPE_SCALING_YARN || rope->scaling == NIB_ROPE_SCALING_LONGROPE;
    if (!scaled)
        return 1;
    if (rope->attention_factor != 0)
        return (double)rope->attention_factor;
    if (rope->scaling == NIB_ROPE_SCALING_LONGROPE)
        return factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
    if (rope->mscale != 0 && rope->mscale_all_dims != 0)
        return yarn_mscale(factor, (double)rope->mscale) /
               yarn_mscale(factor, (double)rope->mscale_all_dims);
    return yarn_mscale(factor, 1);
}

void nib_rope_frequencies(const struct nib_rope_config *rope, uint32_t model_context,
                          uint32_t context, float *out_frequency, float *out_magnitude)
{
    const double original = rope->original_context ? rope->original_context : model_context;
    const double factor = rope->factor != 0 ? (double)rope->factor : model_context / original;
    struct yarn_range range = {0, 1};
    if (rope->scaling == NIB_ROPE_SCALING_YARN)
        range = yarn_range(rope, original);
    const float *stretch = context > original ? rope->long_factors : rope->short_factors;

    for (uint32_t pair = 0; pair < rope->dims / 2; pair++) {
        double frequency = pow((double)rope->base, -2.0 * pair / rope->dims);
        switch (rope->scaling) {
        case NIB_ROPE_SCALING_NONE:
            break;
        case NIB_ROPE_SCALING_LINEAR:
            frequency /= factor;
            break;
        case NIB_ROPE_SCALING_LLAMA3:
            frequency = llama3(rope, original, frequency);
            break;
        case NIB_ROPE_SCALING_YARN:
            frequency = yarn(range, factor, pair, frequency);
            break;
        case NIB_ROPE_SCALING_LONGROPE:
            frequency /= (double)stretch[pair];
            break;
        }
        if (rope->divisors)
            frequency /= (double)rope->divisors[pair];
        out_frequency[pair] = (float)frequency;
    }
    *out_magnitude = (float)magnitude(rope, original, factor);
}
