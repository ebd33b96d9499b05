#include "runtime/cpu/kernels.h"
#include "runtime/cpu/scalar/lanes.h"

/// Takes rows [first, first + n) of the weight apart.
static void load_block(const struct nib_cpu_matrix *weight, uint64_t first, uint32_t n,
                       void *memory, struct nib_row_block *out_block)
{
    nib_row_block_init(out_block, &weight->format, n, weight->cols, memory);
    for (uint32_t k = 0; k < n; k++)
        nib_cpu_matrix_load(weight, first + k, k, out_block);
}

static void dequantize_block(const struct nib_cpu_matrix *weight, const struct nib_row_block *block,
                             float *values)
{
    for (uint64_t k = 0; k < block->rows; k++)
        nib_row_dequantize(&weight->format, block, k, values + k * weight->cols);
}

/// Writes n codes as integers: less `zero`, or looked up.
static void widen(const uint8_t *restrict codes, uint64_t n, int32_t zero, int16_t *restrict out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = (int16_t)(codes[i] - zero);
}

static void look_up(const int8_t *restrict book, const uint8_t *restrict codes, uint64_t n,
                    int16_t *restrict out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = book[codes[i] & 15];
}

/// Writes row k of the block as integers, and the scale and minimum of each run.
static void decode_row(const struct nib_cpu_matmul *a, const struct nib_row_block *block,
                       uint32_t k, const struct nib_cpu_scratch *scratch)
{
    const struct nib_format *format = &a->weight->format;
    uint64_t cols = a->weight->cols, n_groups = nib_format_groups(format, cols);
    const uint8_t *codes = block->codes + k * cols;
    int16_t *out = scratch->codes + k * cols;
    if (format->code == NIB_CODE_BOOK) {
        look_up(format->book_int, codes, cols, out);
    } else if (!block->zero) {
        widen(codes, cols, format->center, out);
    } else {
        uint64_t group = format->group ? format->group : cols;
        for (uint64_t g = 0, begin = 0; g < n_groups; g++, begin += group) {
            uint64_t n = cols - begin < group ? cols - begin : group;
            int32_t zero = block->zero[k * n_groups + g];
            widen(codes + begin, n, format->center + zero, out + begin);
        }
    }
    nib_row_group_scales(format, block, k, scratch->group_scale, scratch->group_min);
    uint32_t n_runs = a->input->n_runs;
    for (uint32_t i = 0; i < n_runs; i++) {
        uint32_t group = a->input->runs[i].group;
        scratch->run_scale[(uint64_t)k * n_runs + i] = scratch->group_scale[group];
        scratch->run_min[(uint64_t)k * n_runs + i] = scratch->group_min[group];
    }
}

static inline int32_t dot_codes(const int16_t *restrict a, const int16_t *restrict b, uint32_t n)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/// Returns Σ over runs of sx · (scale · Σ w x + min · Σ x), the inner sums exact, the rest in fp32.
static float dot_runs(const struct nib_cpu_input *input, uint64_t cols, uint64_t r, uint32_t k,
                      const struct nib_cpu_scratch *scratch)
{
    const int16_t *w = scratch->codes + k * cols, *x = input->codes + r * cols;
    uint32_t n_runs = input->n_runs;
    const float *w_scale = scratch->run_scale + (uint64_t)k * n_runs;
    const float *w_min = scratch->run_min + (uint64_t)k * n_runs;
    const float *x_scale = input->scale + r * n_runs, *x_sum = input->sum + r * n_runs;
    float y = 0.0f;
    for (uint32_t i = 0, begin = 0; i < n_runs; i++) {
        // The usual length as a constant, for which compilers unroll the loop.
        uint32_t n = input->runs[i].end - begin;
        int32_t dot =
            n == 32 ? dot_codes(w + begin, x + begin, 32) : dot_codes(w + begin, x + begin, n);
        y += x_scale[i] * (w_scale[i] * (float)dot + w_min[i] * x_sum[i]);
        begin += n;
    }
    return y;
}

/// Adds the bias and stores the outputs of n weight rows for input row r.
static void store(const struct nib_cpu_matmul *a, uint64_t r, uint64_t first, uint32_t n,
                  const float *sums)
{
    float *out = a->out.data + r * a->out.stride + first;
    for (uint32_t k = 0; k < n; k++)
        out[k] = a->bias ? sums[k] + a->bias[first + k] : sums[k];
}

static void multiply_values(const struct nib_cpu_matmul *a, uint64_t first, uint32_t n,
                            const struct nib_cpu_scratch *scratch)
{
    const struct nib_cpu_matrix *weight = a->weight;
    struct nib_row_block block;
    load_block(weight, first, n, scratch->block, &block);
    dequantize_block(weight, &block, scratch->values);
    bool has_values =
        nib_cpu_input_has_values(a->activation, &weight->format, weight->permutation != NULL);
    const float *in = has_values ? a->input->values : a->in.data;
    uint64_t stride = has_values ? weight->cols : a->in.stride;
    for (uint64_t r = 0; r < a->n_rows; r++) {
        float sums[NIB_CPU_BLOCK_ROWS];
        if (n == NIB_CPU_BLOCK_ROWS) {
            nib_dot_4(scratch->values, weight->cols, in + r * stride, weight->cols, sums);
        } else {
            for (uint32_t k = 0; k < n; k++)
                sums[k] =
                    nib_dot(scratch->values + k * weight->cols, in + r * stride, weight->cols);
        }
        store(a, r, first, n, sums);
    }
}

static void multiply_codes(const struct nib_cpu_matmul *a, uint64_t first, uint32_t n,
                           const struct nib_cpu_scratch *scratch)
{
    const struct nib_cpu_matrix *weight = a->weight;
    const struct nib_cpu_input *input = a->input;
    struct nib_row_block block;
    load_block(weight, first, n, scratch->block, &block);
    for (uint32_t k = 0; k < n; k++)
        decode_row(a, &block, k, scratch);
    bool has_outliers =
        a->activation == NIB_ACTIVATION_LLM_INT8 && memchr(input->dense, 1, a->n_rows) != NULL;
    if (has_outliers)
        dequantize_block(weight, &block, scratch->values);
    for (uint64_t r = 0; r < a->n_rows; r++) {
        float sums[NIB_CPU_BLOCK_ROWS];
        for (uint32_t k = 0; k < n; k++) {
            sums[k] = dot_runs(input, weight->cols, r, k, scratch);
            if (has_outliers && input->dense[r])
                sums[k] += nib_dot(scratch->values + k * weight->cols,
                                   input->values + r * weight->cols, weight->cols);
        }
        store(a, r, first, n, sums);
    }
}

void nib_cpu_scalar_matmul(const struct nib_cpu_matmul *a, uint64_t first, uint64_t last,
                           uint32_t thread)
{
    bool has_codes = nib_cpu_input_has_codes(a->activation, &a->weight->format);
    for (uint64_t row = first; row < last; row += NIB_CPU_BLOCK_ROWS) {
        uint64_t rest = last - row;
        uint32_t n = rest < NIB_CPU_BLOCK_ROWS ? (uint32_t)rest : NIB_CPU_BLOCK_ROWS;
        if (has_codes)
            multiply_codes(a, row, n, &a->scratch[thread]);
        else
            multiply_values(a, row, n, &a->scratch[thread]);
    }
}
