// Super-blocks with minima: q2_k, q4_k, q5_k. Group g has ŵ = d · s_g · code − dmin · m_g.
#include "runtime/compress/block_family.h"

#include <math.h>

enum { SUPER = 256, MAX_GROUPS = 16, MAX_ROUNDS = 6 };

struct super {
    struct nib_fit groups[MAX_GROUPS];
    int n_groups;
    int high; ///< of codes
    int most; ///< of sub-scales and sub-minima
    struct nib_range ideal[MAX_GROUPS];
};

struct choice {
    float d, dmin;
    int s[MAX_GROUPS], m[MAX_GROUPS];
    double error;
};

/// The normal equations of d and dmin for given codes, sub-scales and sub-minima.
struct normal {
    double aa, ab, bb, wa, wb; ///< a = s_g · code, b = −m_g
};

static struct super take_apart(const struct nib_format *format, const float *w, const float *h)
{
    struct super s = {.n_groups = SUPER / (int)format->group,
                      .high = (1 << format->bits) - 1,
                      .most = format->id == NIB_FORMAT_Q2_K ? 15 : 63};
    int group = (int)format->group;
    for (int g = 0; g < s.n_groups; g++) {
        s.groups[g] = (struct nib_fit){w + g * group, h + g * group, group};
        s.ideal[g] = nib_fit_range(&s.groups[g], s.high, 0.0f);
    }
    return s;
}

static int nearest_sub(float v, float unit, int most)
{
    if (unit == 0.0f)
        return 0;
    return (int)lrintf(fmaxf(fminf(v / unit, (float)most), 0.0f));
}

static struct nib_range group_range(const struct choice *choice, int s, int m)
{
    return (struct nib_range){choice->d * (float)s, -(choice->dmin * (float)m)};
}

/// Chooses group g's sub-scale and sub-minimum among those near its ideal, and returns the error.
static float choose_group(const struct super *super, int g, struct choice *choice)
{
    const struct nib_fit *fit = &super->groups[g];
    int nearest = nearest_sub(super->ideal[g].scale, choice->d, super->most);
    float least = INFINITY;
    choice->s[g] = nearest;
    choice->m[g] = nearest_sub(-super->ideal[g].min, choice->dmin, super->most);
    for (int s = nearest - 1; s <= nearest + 1; s++) {
        if (s < 0 || s > super->most)
            continue;
        struct nib_range range = {choice->d * (float)s, super->ideal[g].min};
        float min = nib_fit_range_min(fit, super->high, range);
        int middle = nearest_sub(-min, choice->dmin, super->most);
        for (int m = middle - 1; m <= middle + 1; m++) {
            if (m < 0 || m > super->most)
                continue;
            float error = nib_fit_range_error(fit, super->high, group_range(choice, s, m));
            if (error < least) {
                least = error;
                choice->s[g] = s;
                choice->m[g] = m;
            }
        }
    }
    return least;
}

static void add_group(const struct super *super, int g, const struct choice *choice,
                      struct normal *to)
{
    const double s = choice->s[g], m = choice->m[g];
    struct nib_range_sums sums;
    nib_fit_range_sums(&super->groups[g], super->high,
                       group_range(choice, choice->s[g], choice->m[g]), &sums);
    to->aa += s * s * (double)sums.qq;
    to->ab -= s * m * (double)sums.q;
    to->bb += m * m * (double)sums.h;
    to->wa += s * (double)sums.wq;
    to->wb -= m * (double)sums.w;
}

/// Chooses all groups' integers under d and dmin, and gives the pair that is best for the codes
/// that follow.
static void choose_subs(const struct super *super, struct choice *choice, float *out_d,
                        float *out_dmin)
{
    struct normal n = {0};
    choice->error = 0.0;
    for (int g = 0; g < super->n_groups; g++) {
        choice->error += (double)choose_group(super, g, choice);
        add_group(super, g, choice, &n);
    }
    double determinant = n.aa * n.bb - n.ab * n.ab;
    *out_d = n.aa > 0.0 ? (float)(n.wa / n.aa) : choice->d;
    *out_dmin = choice->dmin;
    if (determinant > 1e-9 * n.aa * n.bb) {
        *out_d = (float)((n.wa * n.bb - n.wb * n.ab) / determinant);
        *out_dmin = (float)((n.aa * n.wb - n.ab * n.wa) / determinant);
    }
    *out_d = nib_block_f16(*out_d);
    *out_dmin = nib_block_f16(*out_dmin);
}

void nib_block_super_range(const struct nib_format *format, const float *w, const float *h,
                           struct nib_block_parts *out)
{
    const struct super super = take_apart(format, w, h);
    float scale = 0.0f, depth = 0.0f;
    for (int g = 0; g < super.n_groups; g++) {
        scale = fmaxf(scale, super.ideal[g].scale);
        depth = fmaxf(depth, -super.ideal[g].min);
    }
    // Starts: the largest ideal scale and minimum become the last sub-scale and sub-minimum, or lie
    // a little beyond.
    static const float stretches[] = {1.0f, 0.93f};
    struct choice best = {.error = INFINITY};
    for (int i = 0; i < (int)(sizeof stretches / sizeof stretches[0]); i++) {
        struct choice trial = {.d = nib_block_f16(stretches[i] * scale / (float)super.most),
                               .dmin = nib_block_f16(stretches[i] * depth / (float)super.most)};
        double before = INFINITY;
        for (int round = 0; round < MAX_ROUNDS; round++) {
            float d, dmin;
            choose_subs(&super, &trial, &d, &dmin);
            if (trial.error < best.error || !(best.error < INFINITY))
                best = trial;
            if (!(trial.error < before) || (d == trial.d && dmin == trial.dmin) || d < 0.0f ||
                dmin < 0.0f)
                break;
            before = trial.error;
            trial.d = d;
            trial.dmin = dmin;
        }
    }
    out->scale = best.d;
    out->min = -best.dmin;
    for (int g = 0; g < super.n_groups; g++) {
        out->sub_scale[g] = (int8_t)best.s[g];
        out->sub_min[g] = (uint8_t)best.m[g];
        nib_fit_range_codes(&super.groups[g], super.high, group_range(&best, best.s[g], best.m[g]),
                            out->codes + g * (int)format->group);
    }
}
