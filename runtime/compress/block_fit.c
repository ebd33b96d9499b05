#include "runtime/compress/block_fit.h"

#include <math.h>

enum { LANES = NIB_FIT_LANES, MAX_ROUNDS = 8 };

static inline float inverse(float v)
{
    return v == 0.0f ? 0.0f : 1.0f / v;
}

/// Rounds v to the nearest integer from `low` to `high`, ties to even; these are below 2^22, so
/// that a sum with 1.5 · 2^23 has no bits for a fraction.
static inline float round_between(float v, float low, float high)
{
    const float shift = 0x1.8p23f;
    v = v < high ? v : high;
    v = v > low ? v : low;
    return (v + shift) - shift;
}

static inline float nearest_in_book(const struct nib_levels *levels, float v)
{
    float level = levels->low;
    for (int k = 0; k < 15; k++)
        level += v > levels->middle[k] ? levels->distance[k] : 0.0f;
    return level;
}

static float sum_lanes(const float *lanes)
{
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

struct nib_levels nib_levels_of(const struct nib_format *format)
{
    struct nib_levels levels = {.center = format->center, .book = format->book};
    if (!format->book) {
        levels.low = (float)-format->center;
        levels.high = (float)((1 << format->bits) - 1 - format->center);
        return levels;
    }
    levels.low = format->book[0];
    levels.high = format->book[15];
    for (int k = 0; k < 15; k++) {
        levels.middle[k] = 0.5f * (format->book[k] + format->book[k + 1]);
        levels.distance[k] = format->book[k + 1] - format->book[k];
    }
    return levels;
}

/// Writes the levels nearest to w_i / d.
static void find_levels(const struct nib_fit *fit, const struct nib_levels *levels, float id,
                        float *restrict out)
{
    if (levels->book) {
        for (int i = 0; i < fit->n; i++)
            out[i] = nearest_in_book(levels, fit->w[i] * id);
    } else {
        for (int i = 0; i < fit->n; i++)
            out[i] = round_between(fit->w[i] * id, levels->low, levels->high);
    }
}

/// Σ h w l and Σ h l² of the levels l nearest to w_i · id.
struct scale_sums {
    float wl, ll;
};

static struct scale_sums sum_scale(const struct nib_fit *fit, const struct nib_levels *levels,
                                   float id)
{
    float l[NIB_FIT_MAX_WEIGHTS], wl[LANES] = {0}, ll[LANES] = {0};
    find_levels(fit, levels, id, l);
    for (int i = 0; i < fit->n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float hl = fit->h[i + j] * l[i + j];
            wl[j] += hl * fit->w[i + j];
            ll[j] += hl * l[i + j];
        }
    }
    return (struct scale_sums){sum_lanes(wl), sum_lanes(ll)};
}

/// What the best scale for these codes takes off the error of ŵ = 0.
static float scale_gain(struct scale_sums sums)
{
    return sums.ll > 0.0f ? sums.wl * sums.wl / sums.ll : 0.0f;
}

float nib_fit_scale(const struct nib_fit *fit, const struct nib_levels *levels)
{
    float extreme = 0.0f;
    for (int i = 0; i < fit->n; i++)
        extreme = fabsf(fit->w[i]) > extreme ? fabsf(fit->w[i]) : extreme;
    if (extreme == 0.0f)
        return 0.0f;

    // The largest weight becomes a level up to three codes inside or outside of the largest one.
    const int n_starts = 24;
    float largest = -levels->low > levels->high ? -levels->low : levels->high;
    float reach = levels->book ? 0.35f : fminf(3.0f / largest, 0.6f);
    float best_gain = -1.0f;
    struct scale_sums best = {0};
    for (int k = 0; k <= n_starts; k++) {
        float stretch = 1.0f + reach * (2.0f * (float)k / (float)n_starts - 1.0f);
        for (int sign = -1; sign <= 1; sign += 2) {
            float id = (float)sign * largest * stretch / extreme;
            struct scale_sums sums = sum_scale(fit, levels, id);
            float gain = scale_gain(sums);
            if (gain > best_gain) {
                best_gain = gain;
                best = sums;
            }
        }
    }
    for (int round = 0; round < MAX_ROUNDS && best.ll > 0.0f; round++) {
        struct scale_sums sums = sum_scale(fit, levels, inverse(best.wl / best.ll));
        float gain = scale_gain(sums);
        if (!(gain > best_gain))
            break;
        best_gain = gain;
        best = sums;
    }
    return best.ll > 0.0f ? best.wl / best.ll : 0.0f;
}

float nib_fit_scale_error(const struct nib_fit *fit, const struct nib_levels *levels, float d,
                          double sums[2])
{
    float l[NIB_FIT_MAX_WEIGHTS], error[LANES] = {0}, wl[LANES] = {0}, ll[LANES] = {0};
    find_levels(fit, levels, inverse(d), l);
    for (int i = 0; i < fit->n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float hl = fit->h[i + j] * l[i + j];
            float off = fit->w[i + j] - d * l[i + j];
            error[j] += fit->h[i + j] * off * off;
            wl[j] += hl * fit->w[i + j];
            ll[j] += hl * l[i + j];
        }
    }
    if (sums) {
        sums[0] += (double)sum_lanes(wl);
        sums[1] += (double)sum_lanes(ll);
    }
    return sum_lanes(error);
}

void nib_fit_scale_codes(const struct nib_fit *fit, const struct nib_levels *levels, float d,
                         uint8_t *codes)
{
    float l[NIB_FIT_MAX_WEIGHTS];
    find_levels(fit, levels, inverse(d), l);
    for (int i = 0; i < fit->n; i++) {
        if (!levels->book) {
            codes[i] = (uint8_t)((int32_t)l[i] + levels->center);
            continue;
        }
        codes[i] = 0;
        while (levels->book[codes[i]] < l[i])
            codes[i]++;
    }
}

/// Writes the codes nearest to (w_i − min) / scale.
static void find_codes(const struct nib_fit *fit, int high, struct nib_range range,
                       float *restrict out)
{
    float id = inverse(range.scale);
    for (int i = 0; i < fit->n; i++)
        out[i] = round_between((fit->w[i] - range.min) * id, 0.0f, (float)high);
}

void nib_fit_range_sums(const struct nib_fit *fit, int high, struct nib_range range,
                        struct nib_range_sums *out_sums)
{
    float c[NIB_FIT_MAX_WEIGHTS];
    float h[LANES] = {0}, w[LANES] = {0}, q[LANES] = {0}, qq[LANES] = {0}, wq[LANES] = {0};
    find_codes(fit, high, range, c);
    for (int i = 0; i < fit->n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float hq = fit->h[i + j] * c[i + j];
            h[j] += fit->h[i + j];
            w[j] += fit->h[i + j] * fit->w[i + j];
            q[j] += hq;
            qq[j] += hq * c[i + j];
            wq[j] += hq * fit->w[i + j];
        }
    }
    *out_sums = (struct nib_range_sums){sum_lanes(h), sum_lanes(w), sum_lanes(q), sum_lanes(qq),
                                        sum_lanes(wq)};
}

/// Solves for the best range of some codes, its minimum at most `highest_min`, and returns what it
/// takes off the error of ŵ = 0.
static float solve_range(const struct nib_range_sums *s, float highest_min,
                         struct nib_range *out_range)
{
    float determinant = s->h * s->qq - s->q * s->q;
    struct nib_range range = {0.0f, s->h > 0.0f ? s->w / s->h : 0.0f};
    if (determinant > 1e-6f * s->h * s->qq) {
        range.scale = (s->h * s->wq - s->q * s->w) / determinant;
        range.min = (s->w - range.scale * s->q) / s->h;
    }
    if (range.min > highest_min) {
        range.min = highest_min;
        range.scale = s->qq > 0.0f ? (s->wq - range.min * s->q) / s->qq : 0.0f;
    }
    if (range.scale < 0.0f)
        range.scale = 0.0f;
    *out_range = range;
    float d = range.scale, m = range.min;
    return 2.0f * (d * s->wq + m * s->w) - d * d * s->qq - 2.0f * d * m * s->q - m * m * s->h;
}

/// Goes back and forth between codes and range, and returns the gain of the last that gained.
static float refine_range(const struct nib_fit *fit, int high, float highest_min, float gain,
                          struct nib_range *range)
{
    for (int round = 0; round < MAX_ROUNDS; round++) {
        struct nib_range_sums sums;
        struct nib_range next;
        nib_fit_range_sums(fit, high, *range, &sums);
        float next_gain = solve_range(&sums, highest_min, &next);
        if (!(next_gain > gain))
            break;
        gain = next_gain;
        *range = next;
    }
    return gain;
}

struct nib_range nib_fit_range(const struct nib_fit *fit, int high, float highest_min)
{
    float low = fit->w[0], top = fit->w[0];
    for (int i = 1; i < fit->n; i++) {
        low = fit->w[i] < low ? fit->w[i] : low;
        top = fit->w[i] > top ? fit->w[i] : top;
    }
    low = low < highest_min ? low : highest_min;
    if (!(top > low))
        return (struct nib_range){0.0f, low};

    // The ends move inwards, since few weights lie there, by up to so many codes.
    static const float moves[] = {-0.15f, 0.0f, 0.3f, 0.6f, 1.0f, 1.5f};
    enum { N_MOVES = sizeof moves / sizeof moves[0] };
    float code = (top - low) / (float)high;
    float unit = high > 3 ? code : 0.4f * code;
    struct nib_range best = {code, low};
    float best_gain = -INFINITY;
    for (int k = 0; k < N_MOVES * N_MOVES; k++) {
        float from = low + moves[k / N_MOVES] * unit, to = top - moves[k % N_MOVES] * unit;
        struct nib_range range = {(to - from) / (float)high, fminf(from, highest_min)};
        struct nib_range_sums sums;
        nib_fit_range_sums(fit, high, range, &sums);
        float gain = solve_range(&sums, highest_min, &range);
        if (gain > best_gain) {
            best_gain = gain;
            best = range;
        }
    }
    refine_range(fit, high, highest_min, best_gain, &best);
    return best;
}

float nib_fit_range_min(const struct nib_fit *fit, int high, struct nib_range range)
{
    for (int round = 0; round < 2; round++) {
        struct nib_range_sums sums;
        nib_fit_range_sums(fit, high, range, &sums);
        range.min = sums.h > 0.0f ? (sums.w - range.scale * sums.q) / sums.h : 0.0f;
    }
    return range.min;
}

float nib_fit_range_error(const struct nib_fit *fit, int high, struct nib_range range)
{
    float c[NIB_FIT_MAX_WEIGHTS], error[LANES] = {0};
    find_codes(fit, high, range, c);
    for (int i = 0; i < fit->n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float off = fit->w[i + j] - (range.scale * c[i + j] + range.min);
            error[j] += fit->h[i + j] * off * off;
        }
    }
    return sum_lanes(error);
}

void nib_fit_range_codes(const struct nib_fit *fit, int high, struct nib_range range,
                         uint8_t *codes)
{
    float c[NIB_FIT_MAX_WEIGHTS];
    find_codes(fit, high, range, c);
    for (int i = 0; i < fit->n; i++)
        codes[i] = (uint8_t)c[i];
}
