// Super-blocks without minima: q3_k, q6_k, iq4_xs.
#include "runtime/compress/block_family.h"

#include <math.h>

enum { SUPER = 256, MAX_GROUPS = 16, MAX_ROUNDS = 6 };

struct super {
    struct nib_fit groups[MAX_GROUPS];
    int n_groups;
    struct nib_levels levels;
    int low, high; ///< of sub-scales
    float ideal[MAX_GROUPS];
};

struct choice {
    float d;
    int sub[MAX_GROUPS];
    double error;
};

/// Returns the range of a format's sub-scales: signed integers of so many bits.
static int sub_limit(const struct nib_format *format)
{
    return format->id == NIB_FORMAT_Q6_K ? 128 : 32;
}

static struct super take_apart(const struct nib_format *format, const float *w, const float *h)
{
    struct super s = {.n_groups = SUPER / (int)format->group,
                      .levels = nib_levels_of(format),
                      .low = -sub_limit(format),
                      .high = sub_limit(format) - 1};
    int group = (int)format->group;
    for (int g = 0; g < s.n_groups; g++) {
        s.groups[g] = (struct nib_fit){w + g * group, h + g * group, group};
        s.ideal[g] = nib_fit_scale(&s.groups[g], &s.levels);
    }
    return s;
}

/// Chooses each group's sub-scale under d among those nearest to its ideal, and returns the d that
/// is best for the codes that follow.
static float choose_subs(const struct super *s, struct choice *choice)
{
    double wl = 0.0, ll = 0.0;
    choice->error = 0.0;
    for (int g = 0; g < s->n_groups; g++) {
        float ideal = choice->d == 0.0f ? 0.0f : s->ideal[g] / choice->d;
        int nearest = (int)lrintf(fmaxf(fminf(ideal, (float)s->high), (float)s->low));
        float least = INFINITY;
        choice->sub[g] = nearest;
        double best_sums[2] = {0.0, 0.0};
        for (int sub = nearest - 1; sub <= nearest + 1; sub++) {
            if (sub < s->low || sub > s->high)
                continue;
            double sums[2] = {0.0, 0.0};
            float error =
                nib_fit_scale_error(&s->groups[g], &s->levels, choice->d * (float)sub, sums);
            if (error < least) {
                least = error;
                choice->sub[g] = sub;
                best_sums[0] = sums[0];
                best_sums[1] = sums[1];
            }
        }
        choice->error += (double)least;
        wl += best_sums[0] * choice->sub[g];
        ll += best_sums[1] * choice->sub[g] * choice->sub[g];
    }
    return ll > 0.0 ? (float)(wl / ll) : choice->d;
}

void nib_block_super_scale(const struct nib_format *format, const float *w, const float *h,
                           struct nib_block_parts *out)
{
    const struct super s = take_apart(format, w, h);
    float extreme = 0.0f;
    for (int g = 0; g < s.n_groups; g++)
        extreme = fabsf(s.ideal[g]) > fabsf(extreme) ? s.ideal[g] : extreme;

    // Starts: the largest ideal scale becomes a sub-scale at or near the end of their range.
    static const float stretches[] = {1.0f, 0.96f, 1.05f, -1.0f};
    struct choice best = {.error = INFINITY};
    for (int i = 0; i < (int)(sizeof stretches / sizeof stretches[0]); i++) {
        float last = stretches[i] > 0.0f ? (float)s.low : (float)s.high;
        struct choice choice = {.d = nib_block_f16(fabsf(stretches[i]) * extreme / last)};
        double before = INFINITY;
        for (int round = 0; round < MAX_ROUNDS; round++) {
            struct choice trial = {.d = choice.d};
            float next = nib_block_f16(choose_subs(&s, &trial));
            if (trial.error < best.error || !(best.error < INFINITY))
                best = trial;
            if (!(trial.error < before) || next == choice.d)
                break;
            before = trial.error;
            choice.d = next;
        }
    }
    out->scale = best.d;
    for (int g = 0; g < s.n_groups; g++) {
        out->sub_scale[g] = (int8_t)best.sub[g];
        nib_fit_scale_codes(&s.groups[g], &s.levels, best.d * (float)best.sub[g],
                            out->codes + g * (int)format->group);
    }
}
