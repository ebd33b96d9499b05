// The input of a matmul: columns put into the order of the weight's codes, and quantized.
#include <math.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/cpu/kernels.h"
#include "runtime/quant/activation.h"

/// Returns row r with its columns in the codes' order: the input itself, or a copy in `to`.
static const float *permute(const struct nib_cpu_matmul *a, uint64_t r, float *to)
{
    const float *in = a->in.data + r * a->in.stride;
    const uint32_t *permutation = a->weight->permutation;
    if (!permutation)
        return in;
    for (uint64_t i = 0; i < a->weight->cols; i++)
        to[i] = in[permutation[i]];
    return to;
}

/// Writes codes as integers with the scale and sum of each run, or as the numbers they stand for.
/// `scale` holds one scale for each `group` columns.
static void finish_row(const struct nib_cpu_matmul *a, uint64_t r, const int16_t *codes,
                       const float *scale, uint64_t group)
{
    const struct nib_cpu_input *input = a->input;
    uint64_t cols = a->weight->cols;
    if (!nib_cpu_input_has_codes(a->activation, &a->weight->format)) {
        for (uint64_t i = 0; i < cols; i++)
            input->values[r * cols + i] = scale[i / group] * (float)codes[i];
        return;
    }
    memcpy(input->codes + r * cols, codes, cols * sizeof *codes);
    for (uint32_t n = 0, begin = 0; n < input->n_runs; begin = input->runs[n++].end) {
        int32_t sum = 0;
        for (uint32_t i = begin; i < input->runs[n].end; i++)
            sum += codes[i];
        input->scale[r * input->n_runs + n] = scale[begin / group];
        input->sum[r * input->n_runs + n] = (float)sum;
    }
}

static const int16_t *widen(const int8_t *codes, uint64_t cols, int16_t *to)
{
    for (uint64_t i = 0; i < cols; i++)
        to[i] = codes[i];
    return to;
}

/// The modes with a scale per group, token or tensor. Groups are taken in the codes' order.
static void prepare_row(const struct nib_cpu_matmul *a, uint64_t r, struct nib_cpu_scratch *scratch)
{
    uint64_t cols = a->weight->cols;
    float *copy = a->input->values ? a->input->values + r * cols : NULL;
    const float *x = permute(a, r, copy);
    int8_t *codes = scratch->input_codes;
    int16_t *wide = scratch->wide_codes;
    float *scale = scratch->group_scale;
    uint64_t group = nib_activation_has_groups(a->activation) ? NIB_ACTIVATION_GROUP : cols;
    if (a->activation == NIB_ACTIVATION_INT16_GROUP) {
        nib_activation_quantize_groups_16(x, cols, wide, scale, scratch->group_sum);
        finish_row(a, r, wide, scale, group);
        return;
    }
    if (a->activation == NIB_ACTIVATION_INT8_GROUP) {
        nib_activation_quantize_groups(x, cols, codes, scale, scratch->group_sum);
    } else if (a->activation == NIB_ACTIVATION_INT8_TOKEN) {
        *scale = nib_activation_quantize_token(x, cols, codes);
    } else {
        *scale = a->weight->activation_scale;
        nib_activation_quantize_static(x, cols, *scale, codes);
    }
    finish_row(a, r, widen(codes, cols, wide), scale, group);
}

/// LLM_INT8 over the rows of one sequence: a column with an outlier in any of them leaves the
/// integer product of all and is multiplied in floating point. What becomes codes is rounded to
/// binary16 first, as the method's authors' tool does; outlier columns keep their fp32 input.
static void prepare_sequence(const struct nib_cpu_matmul *a, uint64_t first, uint64_t last,
                             struct nib_cpu_scratch *scratch)
{
    uint64_t cols = a->weight->cols;
    float threshold = a->weight->outlier_threshold;
    float limit = threshold > 0 ? threshold : INFINITY;
    uint8_t *outlier = scratch->outlier;
    bool has_codes = nib_cpu_input_has_codes(a->activation, &a->weight->format);
    memset(outlier, 0, cols);
    for (uint64_t r = first; r < last; r++) {
        float *values = a->input->values + r * cols;
        const float *x = permute(a, r, values);
        for (uint64_t i = 0; i < cols; i++) {
            values[i] = nib_f32_from_f16(nib_f16_from_f32(x[i]));
            if (!(values[i] < limit && values[i] > -limit))
                outlier[i] = 1;
        }
    }
    bool has_outliers = memchr(outlier, 1, cols);
    const uint32_t *permutation = a->weight->permutation;
    for (uint64_t r = first; r < last; r++) {
        const float *in = a->in.data + r * a->in.stride;
        float *values = a->input->values + r * cols;
        int8_t *codes = scratch->input_codes;
        // Its scale comes from all values below the threshold, those in outlier columns included.
        float scale = nib_activation_quantize_regular(values, cols, threshold, codes, outlier);
        for (uint64_t i = 0; i < cols; i++) {
            codes[i] = outlier[i] ? 0 : codes[i];
            if (outlier[i])
                values[i] = in[permutation ? permutation[i] : i];
            else
                values[i] = has_codes ? 0.0f : scale * (float)codes[i];
        }
        a->input->dense[r] = has_outliers;
        if (has_codes)
            finish_row(a, r, widen(codes, cols, scratch->wide_codes), &scale, cols);
    }
}

void nib_cpu_scalar_prepare(const struct nib_cpu_matmul *a, uint64_t first, uint64_t last,
                            uint32_t thread)
{
    struct nib_cpu_scratch *scratch = &a->scratch[thread];
    if (a->activation == NIB_ACTIVATION_LLM_INT8) {
        prepare_sequence(a, first, last, scratch);
        return;
    }
    for (uint64_t r = first; r < last; r++) {
        if (a->activation == NIB_ACTIVATION_F32)
            permute(a, r, a->input->values + r * a->weight->cols);
        else
            prepare_row(a, r, scratch);
    }
}
