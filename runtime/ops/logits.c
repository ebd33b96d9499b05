#include "runtime/ops/logits.h"

#include <float.h>
#include <math.h>

/// Partial sums that compilers can keep in vector registers.
#define LANES 8
/// Logits among which the position of the largest is looked for one by one.
#define BLOCK 512

/// Returns the largest order of n cleaned logits.
static int32_t largest_order(const float *logits, uint32_t n)
{
    // As they are, for half the work: what cleaning would have changed is seen in the result.
    const int32_t nothing = nib_logit_order(-INFINITY), most = nib_logit_order(FLT_MAX);
    int32_t best = INT32_MIN;
    for (uint32_t i = 0; i < n; i++) {
        int32_t order = nib_logit_order(logits[i]);
        best = order > best ? order : best;
    }
    if (best > nothing && best <= most && best != nib_logit_order(-0.0f))
        return best;
    best = nothing;
    for (uint32_t i = 0; i < n; i++) {
        int32_t order = nib_logit_order(nib_logit_clean(logits[i]));
        best = order > best ? order : best;
    }
    return best;
}

uint32_t nib_logits_argmax(const float *logits, uint32_t n)
{
    const int32_t nothing = nib_logit_order(-INFINITY);
    int32_t best = nothing;
    uint32_t block = 0;
    for (uint32_t first = 0; first < n; first += BLOCK) {
        int32_t order = largest_order(logits + first, n - first < BLOCK ? n - first : BLOCK);
        if (order > best) {
            best = order;
            block = first;
        }
    }
    if (best == nothing)
        return n;
    uint32_t position = block;
    while (nib_logit_order(nib_logit_clean(logits[position])) != best)
        position++;
    return position;
}

double nib_logits_log_sum(const float *logits, uint32_t n, uint32_t argmax)
{
    float max = nib_logit_clean(logits[argmax]);
    double sums[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++)
            sums[j] += (double)nib_exp_negative(nib_logit_clean(logits[i + j]) - max);
    }
    double sum = 0.0;
    for (; i < n; i++)
        sum += (double)nib_exp_negative(nib_logit_clean(logits[i]) - max);
    for (uint32_t j = 0; j < LANES; j++)
        sum += sums[j];
    return (double)max + log(sum);
}

void nib_logits_top(const float *logits, uint32_t n, double log_sum,
                    struct nib_token_logprob *out_top, uint32_t n_top)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n && n_top > 0; i++) {
        float logprob = (float)((double)nib_logit_clean(logits[i]) - log_sum);
        if (count == n_top && !(logprob > out_top[count - 1].logprob))
            continue;
        uint32_t place = count < n_top ? count++ : count - 1;
        for (; place > 0 && logprob > out_top[place - 1].logprob; place--)
            out_top[place] = out_top[place - 1];
        out_top[place] = (struct nib_token_logprob){.id = (int32_t)i, .logprob = logprob};
    }
}
