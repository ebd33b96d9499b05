#include "runtime/compress/grid.h"

#include "runtime/base/half.h"
#include "runtime/compress/compress.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// Ranges that the search tries, from the whole one down to a fraction of it.
#define N_SHRINKS 40
#define LEAST_SHRINK 0.45f
/// Weights of which a percentile is taken exactly; of more, as many are looked at.
#define MAX_SORTED 4096

/// A set of weights and its range.
struct range {
    const struct nib_grid_rule *rule;
    const float *w;
    const float *importance; ///< or NULL
    uint64_t n;
    float low, high; ///< low <= 0 <= high
};

static float stored_min(const struct nib_format *format, float min)
{
    float stored = nib_scale_stored(format->scale, fabsf(min));
    if (min == 0)
        return 0;
    return min < 0 ? -stored : stored;
}

/// Returns the grid that covers [low, high] with all codes.
static struct nib_grid grid_of(const struct nib_format *format, float low, float high)
{
    const float last = (float)((1u << format->bits) - 1);
    struct nib_grid grid = {0};
    if (format->zero == NIB_ZERO_NONE) {
        const float magnitude = -low > high ? -low : high;
        grid.scale = nib_scale_stored(format->scale, magnitude / (last / 2));
        return grid;
    }
    grid.scale = nib_scale_stored(format->scale, (high - low) / last);
    if (format->zero == NIB_ZERO_MINIMUM) {
        grid.min = stored_min(format, low);
        return grid;
    }
    const float zero = nib_round(-low / grid.scale);
    grid.zero = (int32_t)(zero < last ? zero : last);
    return grid;
}

/// A vector of every CPU of the architecture; where compilers have none, one number.
#ifdef __GNUC__
#define LANES 4
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t lanes_mask __attribute__((vector_size(16)));
#else
#define LANES 1
typedef float lanes;
#endif

static inline lanes max_of(lanes a, lanes b)
{
#ifdef __GNUC__
    const lanes_mask is_a = a > b;
    return (lanes)(((lanes_mask)a & is_a) | ((lanes_mask)b & ~is_a));
#else
    return a > b ? a : b;
#endif
}

static inline lanes load_lanes(const float *from)
{
    lanes out;
    memcpy(&out, from, sizeof out);
    return out;
}

static inline float sum_of(lanes x)
{
#ifdef __GNUC__
    return x[0] + x[1] + (x[2] + x[3]);
#else
    return x;
#endif
}

/// What a grid makes of weights; see grid_error().
struct fit {
    lanes error, product, square;
};

/// The numbers of a grid that its error is computed with.
struct steps {
    float scale, inverse, min;
    float lowest, highest; ///< integers that the scale multiplies
};

static inline void add_weights(const struct steps *grid, const float *weights,
                               const float *importance, struct fit *fit)
{
    const lanes h = load_lanes(importance), v = load_lanes(weights) - grid->min, zero = {0};
    lanes x = v * grid->inverse + NIB_ROUNDING_SHIFT - NIB_ROUNDING_SHIFT;
    x = max_of(x, zero + grid->lowest);
    x = -max_of(-x, zero - grid->highest);
    const lanes e = v - grid->scale * x;
    fit->error += h * e * e;
    fit->product += h * v * x;
    fit->square += h * x * x;
}

/// Returns Σ importance · (w − its value)², and for least squares Σ importance · w · x and
/// Σ importance · x², x being the integer that the scale multiplies.
static float grid_error(const struct range *r, const struct nib_grid *grid, float out_fit[2])
{
    static const float ones[4] = {1, 1, 1, 1};
    const struct nib_format *format = r->rule->format;
    const float shift = (float)(format->center + grid->zero);
    const struct steps steps = {
        .scale = grid->scale,
        .inverse = 1 / grid->scale,
        .min = grid->min,
        .lowest = -shift,
        .highest = (float)((1u << format->bits) - 1) - shift,
    };
    const float *importance = r->importance ? r->importance : ones;
    const uint64_t step = r->importance ? LANES : 0, rest = r->n % LANES;
    struct fit fit = {0};
    for (uint64_t i = 0; i + LANES <= r->n; i += LANES, importance += step)
        add_weights(&steps, r->w + i, importance, &fit);
    if (rest > 0) { // lanes without importance add nothing
        float w[LANES] = {0}, last[LANES] = {0};
        memcpy(w, r->w + r->n - rest, (size_t)rest * sizeof *w);
        memcpy(last, importance, (size_t)rest * sizeof *last);
        add_weights(&steps, w, last, &fit);
    }
    out_fit[0] = sum_of(fit.product);
    out_fit[1] = sum_of(fit.square);
    return sum_of(fit.error);
}

/// Takes `grid`, and then the same with its scale fitted to its codes, where they are better than
/// `*best`.
static void try_grid(const struct range *r, struct nib_grid grid, float *least,
                     struct nib_grid *best)
{
    float fit[2];
    for (int i = 0; i < 2; i++) {
        float error = grid_error(r, &grid, fit);
        if (error < *least) {
            *least = error;
            *best = grid;
        }
        if (!(fit[0] > 0) || !(fit[1] > 0))
            return;
        float scale = nib_scale_stored(r->rule->format->scale, fit[0] / fit[1]);
        if (scale == grid.scale)
            return;
        grid.scale = scale;
    }
}

static struct nib_grid search(const struct range *r)
{
    const struct nib_format *format = r->rule->format;
    const int32_t last = (1 << format->bits) - 1;
    struct nib_grid best = grid_of(format, r->low, r->high);
    float least = INFINITY;
    for (int i = 0; i <= N_SHRINKS; i++) {
        float shrink = 1 - (1 - LEAST_SHRINK) * (float)i / N_SHRINKS;
        struct nib_grid grid = grid_of(format, r->low * shrink, r->high * shrink);
        try_grid(r, grid, &least, &best);
        for (int step = -1; format->zero == NIB_ZERO_INTEGER && step <= 1; step += 2) {
            struct nib_grid beside = grid;
            beside.zero += step;
            if (beside.zero >= 0 && beside.zero <= last)
                try_grid(r, beside, &least, &best);
        }
    }
    return best;
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/// Returns the magnitude that `percentile` percent of the weights do not exceed.
static float magnitude_at(const struct range *r, float percentile)
{
    float sorted[MAX_SORTED];
    uint64_t n = r->n < MAX_SORTED ? r->n : MAX_SORTED;
    for (uint64_t i = 0; i < n; i++)
        sorted[i] = fabsf(r->w[i * r->n / n]);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_floats);
    uint64_t place = (uint64_t)ceilf((float)n * percentile / 100);
    return sorted[place == 0 ? 0 : place - 1 < n ? place - 1 : n - 1];
}

void nib_grid_find(const struct nib_grid_rule *rule, const float *w, const float *importance,
                   uint64_t n, struct nib_grid *out_grid)
{
    struct range r = {.rule = rule, .w = w, .importance = importance, .n = n};
    for (uint64_t i = 0; i < n; i++) {
        r.low = w[i] < r.low ? w[i] : r.low;
        r.high = w[i] > r.high ? w[i] : r.high;
    }
    if (rule->range == NIB_QUANTIZE_RANGE_MSE && (r.low < 0 || r.high > 0)) {
        *out_grid = search(&r);
        return;
    }
    if (rule->range == NIB_QUANTIZE_RANGE_PERCENTILE) {
        float most = magnitude_at(&r, rule->percentile);
        r.low = r.low < -most ? -most : r.low;
        r.high = r.high > most ? most : r.high;
    }
    *out_grid = grid_of(rule->format, r.low, r.high);
}

void nib_grid_store(const struct nib_format *format, const struct nib_grid *grid, uint64_t row,
                    uint64_t group, struct nib_row_block *block)
{
    const uint64_t place = row * nib_format_groups(format, block->cols) + group;
    block->scale[place] = grid->scale;
    if (block->zero)
        block->zero[place] = (int16_t)grid->zero;
    if (block->min)
        block->min[place] = grid->min;
}
