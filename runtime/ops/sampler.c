#include "runtime/ops/sampler.h"

#include "runtime/base/philox.h"
#include "runtime/base/status.h"
#include "runtime/ops/logits.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// Weight of the largest logit.
#define UNIT 1073741824.0f
/// A key is looked at in digits of 11, 11 and 10 bits.
#define MAX_BUCKETS 2048
#define DEFAULT_REPEAT_LAST 64

/// Tokens that are looked at together where most of them are left out.
#define BLOCK 64

struct nib_sampler {
    uint32_t n;
    uint32_t n_candidates;
    int32_t *ids;      ///< [n_candidates], ascending
    float *logits;     ///< of all tokens, then of the candidates
    uint32_t *weights; ///< the same; 0: not kept
    uint32_t *mask;    ///< [n bits]
    uint32_t *seen;    ///< [n bits], clear between calls
    uint64_t *buckets; ///< [MAX_BUCKETS]
};

static size_t words_for(uint32_t bits)
{
    return (size_t)bits / 32 + (bits % 32 != 0);
}

uint64_t nib_sampler_size(uint32_t vocabulary)
{
    return sizeof(struct nib_sampler) + (uint64_t)vocabulary * 12 +
           (uint64_t)words_for(vocabulary) * 8 + MAX_BUCKETS * sizeof(uint64_t);
}

enum nib_status nib_sampler_create(uint32_t vocabulary, struct nib_sampler **out_sampler,
                                   struct nib_error *err)
{
    *out_sampler = NULL;
    struct nib_sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        return nib_fail_memory(err);
    sampler->n = vocabulary;
    sampler->ids = calloc(vocabulary, sizeof *sampler->ids);
    sampler->logits = calloc(vocabulary, sizeof *sampler->logits);
    sampler->weights = calloc(vocabulary, sizeof *sampler->weights);
    sampler->mask = calloc(words_for(vocabulary), sizeof *sampler->mask);
    sampler->seen = calloc(words_for(vocabulary), sizeof *sampler->seen);
    sampler->buckets = calloc(MAX_BUCKETS, sizeof *sampler->buckets);
    if (!sampler->ids || !sampler->logits || !sampler->weights || !sampler->mask ||
        !sampler->seen || !sampler->buckets) {
        nib_sampler_destroy(&sampler);
        return nib_fail_memory(err);
    }
    *out_sampler = sampler;
    return NIB_OK;
}

void nib_sampler_destroy(struct nib_sampler **sampler)
{
    if (!*sampler)
        return;
    free((*sampler)->ids);
    free((*sampler)->logits);
    free((*sampler)->weights);
    free((*sampler)->mask);
    free((*sampler)->seen);
    free((*sampler)->buckets);
    free(*sampler);
    *sampler = NULL;
}

uint32_t *nib_sampler_mask(struct nib_sampler *sampler)
{
    memset(sampler->mask, 0xff, words_for(sampler->n) * sizeof *sampler->mask);
    return sampler->mask;
}

enum nib_status nib_sampling_validate(const struct nib_sampling *sampling, struct nib_error *err)
{
    const struct {
        const char *name;
        float value;
        float max;
    } numbers[] = {{"temperature", sampling->temperature, 1e6f},
                   {"top_p", sampling->top_p, 1.0f},
                   {"min_p", sampling->min_p, 1.0f},
                   {"repeat_penalty", sampling->repeat_penalty, 1e6f}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (!(numbers[i].value >= 0.0f && numbers[i].value <= numbers[i].max))
            return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is %g, but must lie between 0 and %g",
                            numbers[i].name, (double)numbers[i].value, (double)numbers[i].max);
    }
    return NIB_OK;
}

/// Returns a share in [0, 1] in units of 2^-32.
static uint32_t fixed_point(float share)
{
    double units = rint((double)share * 0x1p32);
    return units < 1.0 ? 1 : units >= 0x1p32 ? UINT32_MAX : (uint32_t)units;
}

struct nib_step_draw nib_sampler_plan_draw(const struct nib_sampling *sampling, uint64_t position)
{
    uint32_t words[4];
    struct nib_step_draw draw = {0};
    if (sampling->temperature == 0.0f)
        return draw;
    nib_philox(sampling->seed, position, words);
    draw.inverse_temperature = fminf(1.0f / sampling->temperature, FLT_MAX);
    draw.top_k = sampling->top_k;
    if (sampling->top_p > 0.0f && sampling->top_p < 1.0f)
        draw.top_share = fixed_point(sampling->top_p);
    draw.least_weight = (uint32_t)ceil((double)sampling->min_p * (double)UNIT);
    draw.random = words[0] & 0xffffff00u;
    return draw;
}

static void apply_biases(struct nib_sampler *sampler, const struct nib_choice *choice)
{
    for (uint32_t i = 0; i < choice->n_biases; i++) {
        float *logit = &sampler->logits[choice->biases[i].id];
        *logit = nib_logit_clean(*logit + choice->biases[i].bias);
    }
    if (!choice->allowed)
        return;
    for (uint32_t i = 0; i < sampler->n; i++) {
        if (!(choice->allowed[i / 32] >> (i % 32) & 1))
            sampler->logits[i] = -INFINITY;
    }
}

bool nib_sampling_has_penalty(const struct nib_sampling *sampling)
{
    return sampling->repeat_penalty != 0.0f && sampling->repeat_penalty != 1.0f;
}

static void apply_penalty(struct nib_sampler *sampler, const struct nib_choice *choice)
{
    float penalty = choice->sampling->repeat_penalty;
    if (!nib_sampling_has_penalty(choice->sampling))
        return;
    size_t last =
        choice->sampling->repeat_last ? choice->sampling->repeat_last : DEFAULT_REPEAT_LAST;
    size_t count = choice->n_tokens < last ? choice->n_tokens : last;
    const int32_t *recent = choice->tokens + (choice->n_tokens - count);
    for (size_t i = 0; i < count; i++) {
        uint32_t id = (uint32_t)recent[i];
        uint32_t bit = 1u << (id % 32);
        if (sampler->seen[id / 32] & bit)
            continue;
        sampler->seen[id / 32] |= bit;
        float logit = sampler->logits[id];
        sampler->logits[id] = nib_logit_clean(logit > 0.0f ? logit / penalty : logit * penalty);
    }
    for (size_t i = 0; i < count; i++)
        sampler->seen[(uint32_t)recent[i] / 32] = 0;
}

/// nib_logit_order without a sign.
static uint32_t key_of(float logit)
{
    return (uint32_t)nib_logit_order(logit) ^ 0x80000000u;
}

/// The tokens to keep: those with a larger key, and of those with this key the first ones until
/// `rest` is reached.
struct threshold {
    uint32_t key;
    uint64_t rest;
};

/// Finds where the measure of the tokens, from the largest logit down, reaches `target`, which is
/// at least 1 and at most the measure of all. A token's measure is 1, or its weight.
static struct threshold find_threshold(struct nib_sampler *sampler, bool by_weight, uint64_t target)
{
    static const struct {
        uint32_t shift;
        uint32_t width;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0;
    for (int d = 0; d < 3; d++) {
        uint32_t n_buckets = 1u << digits[d].width;
        memset(sampler->buckets, 0, n_buckets * sizeof *sampler->buckets);
        for (uint32_t i = 0; i < sampler->n_candidates; i++) {
            uint32_t digit = key_of(sampler->logits[i]) >> digits[d].shift;
            if (d == 0 || digit >> digits[d].width == prefix)
                sampler->buckets[digit & (n_buckets - 1)] += by_weight ? sampler->weights[i] : 1;
        }
        uint32_t bucket = n_buckets - 1;
        for (; bucket > 0 && sampler->buckets[bucket] < target; bucket--)
            target -= sampler->buckets[bucket];
        prefix = prefix << digits[d].width | bucket;
    }
    return (struct threshold){.key = prefix, .rest = target};
}

/// Sets the weight of all other candidates to 0.
static void keep_above(struct nib_sampler *sampler, bool by_weight, struct threshold threshold)
{
    for (uint32_t i = 0; i < sampler->n_candidates; i++) {
        uint32_t key = key_of(sampler->logits[i]);
        if (key > threshold.key)
            continue;
        if (key < threshold.key || threshold.rest == 0) {
            sampler->weights[i] = 0;
            continue;
        }
        uint64_t measure = by_weight ? sampler->weights[i] : 1;
        threshold.rest -= measure < threshold.rest ? measure : threshold.rest;
    }
}

static uint64_t sum_of(const uint32_t *weights, uint32_t n)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += weights[i];
    return total;
}

/// Returns the sum of the candidates' weights.
static uint64_t total_weight(const struct nib_sampler *sampler)
{
    return sum_of(sampler->weights, sampler->n_candidates);
}

/// Written so that compilers vectorise it, as copy_clean below.
static void weigh(const float *restrict logits, uint32_t n, float max, float inverse_temperature,
                  uint32_t *restrict weights)
{
    for (uint32_t i = 0; i < n; i++) {
        float x = (logits[i] - max) * inverse_temperature;
        weights[i] = (uint32_t)(int32_t)(nib_exp_negative(x) * UNIT + 0.5f);
    }
}

static void copy_clean(const float *restrict logits, uint32_t n, float *restrict out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = nib_logit_clean(logits[i]);
}

/// Returns the largest of n weights, as a number with a sign, which compilers compare faster.
static int32_t largest_of(const uint32_t *weights, uint32_t n)
{
    int32_t largest = 0;
    for (uint32_t i = 0; i < n; i++)
        largest = (int32_t)weights[i] > largest ? (int32_t)weights[i] : largest;
    return largest;
}

/// Makes the tokens with at least weight `least` the candidates.
static void gather(struct nib_sampler *sampler, uint32_t least)
{
    uint32_t count = 0;
    if (least == 0) {
        for (uint32_t i = 0; i < sampler->n; i++)
            sampler->ids[i] = (int32_t)i;
        return;
    }
    for (uint32_t first = 0; first < sampler->n; first += BLOCK) {
        uint32_t n = sampler->n - first < BLOCK ? sampler->n - first : BLOCK;
        if (largest_of(sampler->weights + first, n) < (int32_t)least)
            continue;
        for (uint32_t i = first; i < first + n; i++) {
            sampler->ids[count] = (int32_t)i;
            sampler->logits[count] = sampler->logits[i];
            sampler->weights[count] = sampler->weights[i];
            count += sampler->weights[count] >= least;
        }
    }
    sampler->n_candidates = count;
}

/// Returns whether the tokens with at least weight `least` hold all that top-k or, without it, a
/// top-p of weight `target` keeps. They are the most probable ones, so their number or sum tells.
static bool suffices(const struct nib_sampler *sampler, uint32_t least, uint32_t top_k,
                     uint64_t target)
{
    uint64_t sum = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < sampler->n; i++) {
        uint32_t inside = 0u - (uint32_t)((int32_t)sampler->weights[i] >= (int32_t)least);
        sum += sampler->weights[i] & inside;
        count -= inside;
    }
    return top_k > 0 ? count >= top_k : sum >= target;
}

/// Returns the largest of some weights from which on tokens hold all that top-k, or without it
/// top-p, keeps.
static uint32_t find_least(const struct nib_sampler *sampler, uint32_t top_k, uint64_t target)
{
    for (uint32_t shift = 4; shift < 30; shift += 8) {
        uint32_t least = (uint32_t)UNIT >> shift;
        if (suffices(sampler, least, top_k, target))
            return least;
    }
    return 0;
}

/// Returns ceil(total · share / 2^32).
static uint64_t share_of(uint64_t total, uint32_t share)
{
    return (total >> 32) * share + (((total & UINT32_MAX) * share + UINT32_MAX) >> 32);
}

/// Leaves a weight above 0 to the tokens that top-k, top-p and min-p keep, in this order.
static void filter(struct nib_sampler *sampler, const struct nib_step_draw *draw)
{
    bool by_rank = draw->top_k > 0 && draw->top_k < sampler->n;
    bool by_sum = draw->top_share > 0;
    uint64_t target = share_of(total_weight(sampler), draw->top_share);
    uint32_t least = draw->least_weight, first = least;
    if (by_rank)
        first = find_least(sampler, draw->top_k, 0);
    else if (by_sum && least == 0)
        first = find_least(sampler, 0, target);
    else if (by_sum) // keeps all that min-p keeps, or only some of them
        by_sum = suffices(sampler, least, 0, target);
    gather(sampler, first);
    if (by_rank) {
        keep_above(sampler, false, find_threshold(sampler, false, draw->top_k));
        target = share_of(total_weight(sampler), draw->top_share);
    }
    if (by_sum)
        keep_above(sampler, true, find_threshold(sampler, true, target));
    for (uint32_t i = 0; i < sampler->n_candidates; i++)
        sampler->weights[i] = sampler->weights[i] < least ? 0 : sampler->weights[i];
}

/// Returns the number of the candidate that `random` · 2^-32 falls on.
static uint32_t draw(const struct nib_sampler *sampler, uint32_t random)
{
    uint64_t total = total_weight(sampler);
    uint64_t target = (total >> 32) * random + ((total & UINT32_MAX) * random >> 32);
    uint64_t sum = 0;
    uint32_t i = 0;
    for (; i + BLOCK <= sampler->n_candidates; i += BLOCK) {
        uint64_t part = sum_of(sampler->weights + i, BLOCK);
        if (sum + part > target)
            break;
        sum += part;
    }
    for (;; i++) {
        sum += sampler->weights[i];
        if (sum > target)
            return i;
    }
}

enum nib_status nib_sampler_fail(struct nib_error *err)
{
    return nib_fail(err, NIB_ERROR_ARGUMENT,
                    "no token can come next: every logit is minus infinity or NaN, or the mask "
                    "forbids all");
}

enum nib_status nib_sampler_choose(struct nib_sampler *sampler, const float *logits,
                                   const struct nib_choice *choice, int32_t *out_id,
                                   struct nib_error *err)
{
    const struct nib_sampling *sampling = choice->sampling;
    bool is_changed = choice->n_biases > 0 || choice->allowed || nib_sampling_has_penalty(sampling);
    *out_id = 0;
    if (is_changed || sampling->temperature != 0.0f) {
        copy_clean(logits, sampler->n, sampler->logits);
        apply_biases(sampler, choice);
        apply_penalty(sampler, choice);
        logits = sampler->logits;
    }

    uint32_t best = nib_logits_argmax(logits, sampler->n);
    if (best == sampler->n)
        return nib_sampler_fail(err);
    if (sampling->temperature == 0.0f) {
        *out_id = (int32_t)best;
        return NIB_OK;
    }
    struct nib_step_draw how = nib_sampler_plan_draw(sampling, choice->n_tokens);
    weigh(sampler->logits, sampler->n, sampler->logits[best], how.inverse_temperature,
          sampler->weights);
    sampler->n_candidates = sampler->n;
    filter(sampler, &how);
    uint32_t drawn = draw(sampler, how.random);
    *out_id = sampler->ids[drawn];
    return NIB_OK;
}
