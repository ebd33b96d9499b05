#include "runtime/compress/block_quantize.h"

#include <math.h>
#include <string.h>

#include "runtime/compress/block_family.h"

static nib_block_fn *const families[NIB_FORMAT_COUNT] = {
    [NIB_FORMAT_Q4_0] = nib_block_scale,       [NIB_FORMAT_Q4_1] = nib_block_range,
    [NIB_FORMAT_Q5_0] = nib_block_scale,       [NIB_FORMAT_Q5_1] = nib_block_range,
    [NIB_FORMAT_Q8_0] = nib_block_scale,       [NIB_FORMAT_Q2_K] = nib_block_super_range,
    [NIB_FORMAT_Q3_K] = nib_block_super_scale, [NIB_FORMAT_Q4_K] = nib_block_super_range,
    [NIB_FORMAT_Q5_K] = nib_block_super_range, [NIB_FORMAT_Q6_K] = nib_block_super_scale,
    [NIB_FORMAT_IQ4_NL] = nib_block_scale,     [NIB_FORMAT_IQ4_XS] = nib_block_super_scale,
    [NIB_FORMAT_MXFP4] = nib_block_power,
};

/// The share of the mean importance that every input has at least: calibration may have left an
/// input silent that another text uses.
#define LEAST_SHARE 1e-4f

static float mean(const float *v, uint64_t n)
{
    double sum = 0.0;
    for (uint64_t i = 0; i < n; i++)
        sum += (double)v[i];
    return n > 0 ? (float)(sum / (double)n) : 0.0f;
}

/// Quantizes block `i` of the row; `average` is the mean of its importance.
static void quantize_block(const struct nib_format *format, const float *w, const float *importance,
                           float average, uint64_t i, struct nib_block_parts *out)
{
    float h[256];
    const uint32_t n = format->block_weights;
    for (uint32_t j = 0; j < n; j++)
        h[j] = average > 0.0f ? importance[i * n + j] / average + LEAST_SHARE : 1.0f;
    families[format->id](format, w + i * n, h, out);
}

bool nib_block_quantize(const struct nib_format *format, const float *w, const float *importance,
                        uint64_t row, struct nib_row_block *block)
{
    uint64_t cols = block->cols, row_bytes;
    if (!nib_format_row_bytes(format, cols, &row_bytes))
        return false;
    if (format->code == NIB_CODE_FLOAT) {
        if (cols > 0)
            memcpy(block->values + row * cols, w, (size_t)cols * sizeof *w);
        return true;
    }
    const uint32_t n = format->block_weights, subs = n / format->group;
    const float average = importance ? mean(importance, cols) : 0.0f;
    for (uint64_t i = 0; i < cols / n; i++) {
        struct nib_block_parts parts;
        uint64_t at = row * (cols / n) + i;
        quantize_block(format, w, importance, average, i, &parts);
        memcpy(block->codes + row * cols + i * n, parts.codes, n);
        block->scale[at] = parts.scale;
        if (block->min)
            block->min[at] = parts.min;
        if (block->sub_scale)
            memcpy(block->sub_scale + at * subs, parts.sub_scale, subs);
        if (block->sub_min)
            memcpy(block->sub_min + at * subs, parts.sub_min, subs);
    }
    return true;
}
