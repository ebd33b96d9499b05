#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/quant/activation.h"

/// The case's shape.
struct shape {
    uint64_t rows; ///< of the weight
    uint64_t cols;
    uint32_t n; ///< rows of the input
    bool has_permutation;
    bool has_bias;
    uint32_t first_rows; ///< of the first of two sequences; 0: all are one sequence's
};

/// A matmul and all that it points to.
struct test {
    struct weights weights;
    struct nib_cpu_input input;
    struct nib_cpu_matmul args;
    const struct shape *shape;
    float *x; ///< [n][cols] in the codes' order
    float *bias;
    double *seen; ///< [n][cols] the input as the kernel should see it
    double *expected;
    double *bound;
};

static void call_matmul(const struct nib_cpu_kernels *kernels, const void *args, uint64_t first,
                        uint64_t last, uint32_t thread)
{
    const struct nib_cpu_matmul *a = &((const struct test *)args)->args;
    bool has_input = a->activation != NIB_ACTIVATION_F32 || a->weight->permutation;
    uint32_t first_rows = ((const struct test *)args)->shape->first_rows;
    if (first == 0 && has_input && first_rows < a->n_rows) {
        if (first_rows > 0)
            kernels->prepare(a, 0, first_rows, thread);
        kernels->prepare(a, first_rows, a->n_rows, thread);
    } else if (first == 0 && has_input) {
        kernels->prepare(a, 0, a->n_rows, thread);
    }
    kernels->matmul(a, first, last, thread);
}

/// Writes what x · (most / max) gives, as numbers.
static void see_groups(const float *x, uint64_t cols, float most, double *seen)
{
    for (uint64_t first = 0; first < cols; first += 32) {
        uint64_t end = first + 32 < cols ? first + 32 : cols;
        float max = 0;
        for (uint64_t i = first; i < end; i++)
            max = fmaxf(max, fabsf(x[i]));
        for (uint64_t i = first; i < end; i++) {
            seen[i] =
                max < 0x1p-100f ? 0 : (double)rintf(x[i] * (most / max)) * (double)(max / most);
        }
    }
}

static void see_scaled(const float *x, uint64_t cols, float scale, double *seen)
{
    for (uint64_t i = 0; i < cols; i++) {
        float code = scale > 0 ? rintf(x[i] / scale) : 0;
        seen[i] = (double)fminf(fmaxf(code, -128), 127) * (double)scale;
    }
}

static void see_outliers(const struct test *t, const struct shape *s)
{
    for (uint32_t r = 0; r < s->n; r++) {
        const float *x = t->x + r * s->cols;
        float max = 0;
        for (uint64_t i = 0; i < s->cols; i++) {
            float half = nib_f32_from_f16(nib_f16_from_f32(x[i]));
            max = fabsf(half) < 6.0f ? fmaxf(max, fabsf(half)) : max;
        }
        for (uint64_t i = 0; i < s->cols; i++) {
            bool is_outlier = false;
            uint32_t first = r < s->first_rows ? 0 : s->first_rows;
            uint32_t last = r < s->first_rows ? s->first_rows : s->n;
            for (uint32_t k = first; k < last; k++)
                is_outlier |= fabsf(nib_f32_from_f16(nib_f16_from_f32(t->x[k * s->cols + i]))) >= 6;
            float half = nib_f32_from_f16(nib_f16_from_f32(x[i])), scale = max / 127.0f;
            float code = scale > 0 ? rintf(half / scale) : 0;
            t->seen[r * s->cols + i] = is_outlier ? (double)x[i] : (double)code * (double)scale;
        }
    }
}

static void see(const struct test *t, const struct shape *s)
{
    for (uint32_t r = 0; r < s->n; r++) {
        const float *x = t->x + r * s->cols;
        double *seen = t->seen + r * s->cols;
        float max = 0;
        for (uint64_t i = 0; i < s->cols; i++)
            max = fmaxf(max, fabsf(x[i]));
        switch (t->args.activation) {
        case NIB_ACTIVATION_INT8_GROUP:
            see_groups(x, s->cols, 127.0f, seen);
            break;
        case NIB_ACTIVATION_INT16_GROUP:
            see_groups(x, s->cols, NIB_ACTIVATION_MAX_16, seen);
            break;
        case NIB_ACTIVATION_INT8_TOKEN:
            see_scaled(x, s->cols, max / 127.5f, seen);
            break;
        case NIB_ACTIVATION_INT8_STATIC:
            see_scaled(x, s->cols, t->weights.reader.activation_scale, seen);
            break;
        default:
            for (uint64_t i = 0; i < s->cols; i++)
                seen[i] = (double)x[i];
        }
    }
    if (t->args.activation == NIB_ACTIVATION_LLM_INT8)
        see_outliers(t, s);
}

static void multiply(const struct test *t, const struct shape *s)
{
    for (uint64_t o = 0; o < s->rows; o++) {
        for (uint64_t i = 0; i < s->cols; i++) {
            double size, w = weights_get(&t->weights, o, i, &size);
            for (uint32_t r = 0; r < s->n; r++) {
                double x = t->seen[r * s->cols + i];
                t->expected[r * s->rows + o] += w * x;
                t->bound[r * s->rows + o] += size * fabs(x);
            }
        }
        for (uint32_t r = 0; t->bias && r < s->n; r++) {
            t->expected[r * s->rows + o] += (double)t->bias[o];
            t->bound[r * s->rows + o] += fabs((double)t->bias[o]);
        }
    }
}

/// Makes the input: x in the codes' order and, in a view of its own stride, in the features' order.
static void create_input(struct check *c, struct test *t, const struct shape *s)
{
    uint64_t stride = s->cols + 3;
    float *in = new_zeros(s->n * stride, sizeof *in);
    t->x = random_floats(c, s->n * s->cols);
    if (s->n > 1)
        memset(t->x, 0, s->cols * sizeof(float)); // a row of zeros
    for (uint32_t r = 0; r < s->n; r++) {
        for (uint64_t i = 0; i < s->cols; i++) {
            uint64_t feature = t->weights.permutation ? t->weights.permutation[i] : i;
            in[r * stride + feature] = t->x[r * s->cols + i];
        }
    }
    t->args.in = (struct nib_cpu_rows){.data = in, .stride = stride};
    const struct nib_format *format = &t->weights.reader.format;
    struct nib_cpu_input *input = &t->input;
    input->n_runs = nib_cpu_runs(t->args.activation, format, s->cols, NULL);
    input->runs = new_zeros(input->n_runs, sizeof *input->runs);
    nib_cpu_runs(t->args.activation, format, s->cols, input->runs);
    bool has_odd_groups = t->weights.matrix.has_panels && !t->weights.matrix.panels.has_even_groups;
    if (nib_cpu_input_has_values(t->args.activation, format, s->has_permutation) || has_odd_groups)
        input->values = new_zeros(s->n * s->cols, sizeof(float));
    input->scale = new_zeros((uint64_t)s->n * input->n_runs, sizeof(float));
    input->sum = new_zeros((uint64_t)s->n * input->n_runs, sizeof(float));
    input->dense = new_zeros(s->n, 1);
    input->outliers = new_zeros(s->n * (s->cols + 3), sizeof(uint32_t));
    // Two rows of codes where they have 16 bits.
    uint64_t blocks = 2 * s->n * nib_ceil_div_u64(s->cols, 32);
    input->quads = new_zeros(blocks, 32);
    input->quad_scale = new_zeros(blocks, sizeof(float));
    input->quad_start = new_zeros(2 * blocks, sizeof(int32_t));
    input->quad_fold = new_zeros(2 * blocks, sizeof(float));
    input->pair_start = new_zeros(blocks, sizeof(int32_t));
    input->codes = new_zeros(blocks, 32 * sizeof(int16_t));
}

static void destroy(struct test *t)
{
    void *const all[] = {t->x,
                         t->bias,
                         t->seen,
                         t->expected,
                         t->bound,
                         t->input.runs,
                         t->input.codes,
                         t->input.scale,
                         t->input.sum,
                         t->input.dense,
                         t->input.outliers,
                         t->args.in.data,
                         t->input.values,
                         t->input.quads,
                         t->input.quad_scale,
                         t->input.quad_start,
                         t->input.quad_fold,
                         t->input.pair_start};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free_scratch(t->args.scratch);
    weights_destroy(&t->weights);
}

/// A row's outputs must be the same bits whatever other rows are there, but for LLM_INT8, whose
/// outliers are those of all rows of a sequence.
static void check_rows_apart(struct check *c, struct test *t, const struct shape *s)
{
    if (t->args.activation == NIB_ACTIVATION_LLM_INT8)
        return;
    float *all = new_zeros(s->n * s->rows, sizeof *all), *one = new_zeros(s->rows, sizeof *one);
    struct test part = *t;
    struct nib_cpu_matmul *args = &part.args;
    args->out = (struct nib_cpu_rows){.data = all, .stride = s->rows};
    call_matmul(c->kernels, &part, 0, s->rows, 0);
    for (uint32_t r = 0; r < s->n; r++) {
        args->n_rows = 1;
        args->in.data = t->args.in.data + r * t->args.in.stride;
        args->out.data = one;
        call_matmul(c->kernels, &part, 0, s->rows, 0);
        if (memcmp(one, all + r * s->rows, s->rows * sizeof *one) != 0)
            check_fail(c, "row %u depends on the rows beside it", r);
    }
    free(all);
    free(one);
}

/// Outputs must be the same bits where the input was prepared by column blocks, in two pieces.
static void check_prepared_blocks(struct check *c, struct test *t, const struct shape *s)
{
    const struct nib_cpu_kernels *kernels = c->kernels;
    if (!kernels->prepare_blocks || !nib_cpu_prepares_blocks(t->args.activation, t->args.weight))
        return;
    float *rows = new_zeros(s->n * s->rows, sizeof *rows);
    float *blocks = new_zeros(s->n * s->rows, sizeof *blocks);
    struct nib_cpu_matmul *args = &t->args;
    uint64_t n_blocks = nib_ceil_div_u64(s->cols, 32), n = 2 * s->n * n_blocks;
    args->out = (struct nib_cpu_rows){.data = rows, .stride = s->rows};
    call_matmul(kernels, t, 0, s->rows, 0);
    memset(args->input->quads, 0x55, n * 32);
    memset(args->input->quad_scale, 0xff, n * sizeof(float));
    memset(args->input->quad_start, 0x55, 2 * n * sizeof(int32_t));
    memset(args->input->quad_fold, 0xff, 2 * n * sizeof(float));
    memset(args->input->pair_start, 0x55, n * sizeof(int32_t));
    memset(args->input->codes, 0x55, n * 32 * sizeof(int16_t));
    kernels->prepare_blocks(args, n_blocks / 2, n_blocks, 1);
    kernels->prepare_blocks(args, 0, n_blocks / 2, 0);
    args->out.data = blocks;
    kernels->matmul(args, 0, s->rows, 0);
    if (memcmp(rows, blocks, s->n * s->rows * sizeof *rows) != 0)
        check_fail(c, "outputs depend on how the input is prepared");
    free(rows);
    free(blocks);
}

static void check_one(struct check *c, const struct nib_format *format,
                      enum nib_activation activation, enum weights_style style,
                      const struct shape *s)
{
    if (!check_begin(c, "matmul %s group %u %s %ux%u by %u style %d%s", format->name, format->group,
                     nib_activation_name(activation), (unsigned)s->rows, (unsigned)s->cols, s->n,
                     (int)style, s->has_permutation ? " permuted" : ""))
        return;
    struct test t = {.args = {.activation = activation, .n_rows = s->n}, .shape = s};
    struct weights_params params = {.format = format,
                                    .rows = s->rows,
                                    .cols = s->cols,
                                    .style = style,
                                    .has_permutation = s->has_permutation};
    weights_create(c, &params, &t.weights);
    create_input(c, &t, s);
    t.bias = s->has_bias ? random_floats(c, s->rows) : NULL;
    t.seen = new_zeros(s->n * s->cols, sizeof(double));
    t.expected = new_zeros(s->n * s->rows, sizeof(double));
    t.bound = new_zeros(s->n * s->rows, sizeof(double));
    t.args.weight = &t.weights.matrix;
    t.args.bias = t.bias;
    t.args.input = &t.input;
    t.args.scratch = new_scratch(format, s->cols);
    see(&t, s);
    multiply(&t, s);
    // Roundings on the way of one term: 8 in the weight, the product, the lanes and the bias; then
    // one for each later term of its lane (of 8 scalar ones, or of a block of 32 and then for each
    // later block), or two for each later run.
    double terms = fmax((double)s->cols / 8, 18 + (double)s->cols / 32);
    struct kernel_case k = {
        .call = call_matmul,
        .args = &t,
        .out = &t.args.out,
        .n_items = s->rows,
        .n_rows = s->n,
        .width = s->rows,
        .expected = t.expected,
        .bound = t.bound,
        .tolerance = ROUNDING * (8 + terms + 2 * fmax(t.input.n_runs, (double)s->cols / 32)),
    };
    check_kernel(c, &k);
    check_rows_apart(c, &t, s);
    check_prepared_blocks(c, &t, s);
    destroy(&t);
}

void check_matmul(struct check *c)
{
    static const uint32_t groups[] = {0, 24, 64, 128, 8, 16, 7, 100, 42, 199};
    enum { GROUPS = sizeof groups / sizeof *groups };
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *listed = nib_format_get((enum nib_format_id)id);
        for (int a = 0; a < NIB_ACTIVATION_COUNT; a++) {
            enum nib_activation activation = (enum nib_activation)a;
            uint64_t unit = listed->block_weights ? listed->block_weights : 1;
            uint64_t cols = unit > 1 ? 2 * unit : 103;
            for (int style = 0; style < WEIGHTS_STYLES; style++) {
                struct shape s = {.rows = 9, .cols = cols, .n = 3, .has_bias = style == 0};
                check_one(c, listed, activation, (enum weights_style)style, &s);
            }
            // More blocks, panels and rows than kernels of many rows take at once, or begin with.
            struct shape tall = {
                .rows = 99, .cols = (unit > 1 ? 2 : 6) * cols, .n = 57, .has_bias = true};
            check_one(c, listed, activation, WEIGHTS_RANDOM, &tall);
            tall.n = 135;
            if (activation == NIB_ACTIVATION_INT8_GROUP)
                check_one(c, listed, activation, WEIGHTS_LARGEST, &tall);
            struct shape narrow = {.rows = 1, .cols = unit, .n = 1};
            check_one(c, listed, activation, WEIGHTS_RANDOM, &narrow);
            struct shape wide = {.rows = 6, .cols = 3 * cols, .n = 5, .has_permutation = true};
            check_one(c, listed, activation, WEIGHTS_RANDOM, &wide);
            struct shape two = {.rows = 19, .cols = cols, .n = 23, .first_rows = 5};
            check_one(c, listed, activation, WEIGHTS_RANDOM, &two);
            for (size_t g = 0; listed->block_bytes == 0 && g < GROUPS; g++) {
                struct nib_format format = *listed;
                format.group = groups[g];
                format.scale = g % 2 ? NIB_SCALE_BF16 : NIB_SCALE_F32;
                struct shape s = {.rows = 5, .cols = 200, .n = 2, .has_permutation = g == 3};
                check_one(c, &format, activation, WEIGHTS_LARGEST, &s);
                struct shape t = {.rows = 33,
                                  .cols = 203,
                                  .n = 9,
                                  .has_permutation = g % 3 == 0,
                                  .has_bias = true,
                                  .first_rows = 8};
                check_one(c, &format, activation, WEIGHTS_RANDOM, &t);
            }
        }
    }
    // Runs are cut before their integer sums could overflow.
    struct nib_format whole = *nib_format_get(NIB_FORMAT_INT8_ZERO);
    whole.group = 0;
    struct shape longest = {.rows = 2, .cols = 2 * NIB_CPU_MAX_RUN + 5, .n = 1};
    check_one(c, &whole, NIB_ACTIVATION_INT8_TOKEN, WEIGHTS_LARGEST, &longest);
}

static void call_embed(const struct nib_cpu_kernels *kernels, const void *args, uint64_t first,
                       uint64_t last, uint32_t thread)
{
    kernels->embed(args, first, last, thread);
}

void check_embed(struct check *c)
{
    enum { ROWS = 7, VOCABULARY = 11 };
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *format = nib_format_get((enum nib_format_id)id);
        if (!check_begin(c, "embed %s", format->name))
            continue;
        uint64_t cols = format->block_weights > 1 ? format->block_weights : 75;
        struct weights_params params = {.format = format, .rows = VOCABULARY, .cols = cols};
        struct weights w;
        weights_create(c, &params, &w);
        struct nib_step_row rows[ROWS];
        double *expected = new_zeros(ROWS * cols, sizeof *expected);
        double *bound = new_zeros(ROWS * cols, sizeof *bound);
        for (uint32_t r = 0; r < ROWS; r++) {
            rows[r] = (struct nib_step_row){.token = random_below(c, VOCABULARY)};
            for (uint64_t i = 0; i < cols; i++) {
                double size;
                expected[r * cols + i] = 1.5 * weights_get(&w, rows[r].token, i, &size);
                bound[r * cols + i] = 1.5 * size;
            }
        }
        struct nib_cpu_embed args = {
            .weight = &w.matrix, .rows = rows, .scale = 1.5f, .scratch = new_scratch(format, cols)};
        struct kernel_case k = {.call = call_embed,
                                .args = &args,
                                .out = &args.out,
                                .n_items = ROWS,
                                .n_rows = ROWS,
                                .width = cols,
                                .expected = expected,
                                .bound = bound,
                                .tolerance = 6 * ROUNDING};
        check_kernel(c, &k);
        free(expected);
        free(bound);
        free_scratch(args.scratch);
        weights_destroy(&w);
    }
}
