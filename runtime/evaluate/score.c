#include "runtime/evaluate/score.h"

#include "runtime/ops/logits.h"
#include <math.h>
#include <stdlib.h>

bool nib_score_row(const float *logits, uint32_t n, struct nib_scored_row *out_row)
{
    *out_row = (struct nib_scored_row){.logits = logits, .n = n};
    out_row->argmax = nib_logits_argmax(logits, n);
    if (out_row->argmax == n)
        return false;
    out_row->log_sum = nib_logits_log_sum(logits, n, out_row->argmax);
    return true;
}

double nib_score_nll(const struct nib_scored_row *row, uint32_t id)
{
    return row->log_sum - (double)nib_logit_clean(row->logits[id]);
}

double nib_score_divergence(const struct nib_scored_row *reference,
                            const struct nib_scored_row *model)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < reference->n; i++) {
        double log_p = (double)nib_logit_clean(reference->logits[i]) - reference->log_sum;
        float p = nib_exp_negative((float)(log_p < 0.0 ? log_p : 0.0));
        if (p == 0.0f)
            continue;
        double log_q = (double)nib_logit_clean(model->logits[i]) - model->log_sum;
        sum += (double)p * (log_p - log_q);
    }
    return sum > 0.0 ? sum : 0.0;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

double nib_score_quantile(double *values, size_t n, double share)
{
    qsort(values, n, sizeof *values, compare_doubles);
    double place = share * (double)(n - 1);
    size_t below = (size_t)place;
    if (below + 1 >= n)
        return values[n - 1];
    return values[below] + (place - (double)below) * (values[below + 1] - values[below]);
}
