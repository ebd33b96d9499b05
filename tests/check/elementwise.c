#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { ROWS = 5 };

/// Inputs and expected outputs of a kernel on rows.
struct test {
    uint64_t width;
    float *x, *y, *z; ///< [ROWS][width]
    double *expected;
    double *bound;
};

static void create(struct check *c, struct test *t, uint64_t width)
{
    t->width = width;
    t->x = random_floats(c, ROWS * width);
    t->y = random_floats(c, ROWS * width);
    t->z = random_floats(c, ROWS * width);
    t->expected = new_zeros(ROWS * width, sizeof(double));
    t->bound = new_zeros(ROWS * width, sizeof(double));
}

/// Runs the kernel, whose output has `n_rows` lines, and frees the test.
static void finish(struct check *c, struct test *t, struct kernel_case *k, uint64_t n_rows)
{
    k->n_items = ROWS;
    k->n_rows = n_rows;
    k->width = t->width;
    k->expected = t->expected;
    k->bound = t->bound;
    check_kernel(c, k);
    void *const all[] = {t->x, t->y, t->z, t->expected, t->bound};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static struct nib_cpu_rows rows_of(const struct test *t, float *x)
{
    return (struct nib_cpu_rows){.data = x, .stride = t->width};
}

#define X(name, args_struct)                                                         \
    static void call_##name(const struct nib_cpu_kernels *kernels, const void *args, \
                            uint64_t first, uint64_t last, uint32_t thread)          \
    {                                                                                \
        kernels->name((const struct args_struct *)args, first, last, thread);        \
    }
X(norm, nib_cpu_norm)
X(rope, nib_cpu_rope)
X(activate, nib_cpu_activate)
X(add, nib_cpu_add)
X(scale, nib_cpu_scale)
X(softcap, nib_cpu_softcap)
#undef X

static void check_norm(struct check *c, uint32_t group, uint32_t n_groups, bool has_weight)
{
    if (!check_begin(c, "norm %u x %u%s", n_groups, group, has_weight ? " weighted" : ""))
        return;
    struct test t;
    create(c, &t, (uint64_t)group * n_groups);
    memset(t.x, 0, group * sizeof(float)); // a group of zeros
    for (uint64_t first = 0; first < ROWS * t.width; first += group) {
        double sum = 0;
        for (uint32_t i = 0; i < group; i++)
            sum += (double)t.x[first + i] * (double)t.x[first + i];
        for (uint32_t i = 0; i < group; i++) {
            double y = (double)t.x[first + i] / sqrt(sum / group + (double)1e-5f);
            t.expected[first + i] = has_weight ? y * (double)t.y[i] : y;
            t.bound[first + i] = fabs(t.expected[first + i]);
        }
    }
    struct nib_cpu_norm args = {.in = rows_of(&t, t.x),
                                .weight = has_weight ? t.y : NULL,
                                .n_groups = n_groups,
                                .group = group,
                                .epsilon = 1e-5f};
    struct kernel_case k = {.call = call_norm,
                            .args = &args,
                            .out = &args.out,
                            .tolerance = ROUNDING * (12 + (double)group / 8)};
    finish(c, &t, &k, ROWS);
}

/// The kernel's rows lie one after the other, so all of them are guarded as one line.
struct angles_case {
    struct nib_cpu_angles args;
    struct nib_cpu_rows out;
};

static void call_angles(const struct nib_cpu_kernels *kernels, const void *args, uint64_t first,
                        uint64_t last, uint32_t thread)
{
    const struct angles_case *a = args;
    struct nib_cpu_angles with_out = a->args;
    with_out.out = a->out.data;
    kernels->angles(&with_out, first, last, thread);
}

static void check_angles(struct check *c, uint32_t dims)
{
    if (!check_begin(c, "angles %u", dims))
        return;
    struct test t;
    create(c, &t, dims);
    struct nib_step_row rows[ROWS];
    struct nib_rope_table table = {.dims = dims, .frequency = t.y, .magnitude = 1.25f};
    for (uint32_t j = 0; j < dims / 2; j++)
        t.y[j] = powf(10000.0f, -2.0f * (float)j / (float)dims);
    for (uint32_t r = 0; r < ROWS; r++) {
        rows[r] = (struct nib_step_row){.position = random_below(c, r ? 100000 : 1)};
        for (uint32_t j = 0; j < dims / 2; j++) {
            float angle = (float)rows[r].position * t.y[j];
            t.expected[r * dims + j] = 1.25 * cos((double)angle);
            t.expected[r * dims + dims / 2 + j] = 1.25 * sin((double)angle);
        }
    }
    for (uint64_t i = 0; i < ROWS * t.width; i++)
        t.bound[i] = 1.25;
    struct angles_case args = {.args = {.table = &table, .rows = rows}};
    struct kernel_case k = {
        .call = call_angles, .args = &args, .out = &args.out, .tolerance = 4 * ROUNDING};
    t.width *= ROWS;
    finish(c, &t, &k, 1);
}

static void check_rope(struct check *c, uint32_t head_dim, uint32_t dims, bool interleaved)
{
    enum { HEADS = 3 };
    if (!check_begin(c, "rope %u of %u%s", dims, head_dim, interleaved ? " interleaved" : ""))
        return;
    struct test t;
    create(c, &t, (uint64_t)HEADS * head_dim);
    for (uint64_t i = 0; i < ROWS * t.width; i++) {
        t.expected[i] = (double)t.x[i];
        t.bound[i] = fabs((double)t.x[i]);
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        const float *angles = t.y + r * dims;
        for (uint32_t h = 0; h < HEADS; h++) {
            uint64_t base = r * t.width + (uint64_t)h * head_dim;
            for (uint32_t j = 0; j < dims / 2; j++) {
                uint64_t u = base + (interleaved ? 2 * j : j);
                uint64_t v = base + (interleaved ? 2 * j + 1 : j + dims / 2);
                double cosine = (double)angles[j], sine = (double)angles[dims / 2 + j];
                double a = (double)t.x[u], b = (double)t.x[v];
                t.expected[u] = a * cosine - b * sine;
                t.expected[v] = a * sine + b * cosine;
                t.bound[u] = fabs(a * cosine) + fabs(b * sine);
                t.bound[v] = fabs(a * sine) + fabs(b * cosine);
            }
        }
    }
    struct nib_cpu_rope args = {.n_heads = HEADS,
                                .head_dim = head_dim,
                                .dims = dims,
                                .interleaved = interleaved,
                                .angles = t.y};
    struct kernel_case k = {.call = call_rope,
                            .args = &args,
                            .out = &args.x,
                            .initial = t.x,
                            .tolerance = 3 * ROUNDING};
    finish(c, &t, &k, ROWS);
}

static double gate(enum nib_gate_function function, double x)
{
    if (function == NIB_GATE_SILU)
        return x / (1 + exp(-x));
    if (function == NIB_GATE_GELU)
        return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void check_activate(struct check *c, enum nib_gate_function function, uint64_t width)
{
    if (!check_begin(c, "activate %d width %u", (int)function, (unsigned)width))
        return;
    struct test t;
    create(c, &t, width);
    for (uint64_t i = 0; i < ROWS * width; i++) {
        t.expected[i] = gate(function, (double)t.x[i]) * (double)t.y[i];
        // 1 + tanh and 1 + erf lose their relative precision near -1.
        t.bound[i] = fabs((double)t.x[i] * (double)t.y[i]);
    }
    struct nib_cpu_activate args = {.gate = rows_of(&t, t.x),
                                    .up = rows_of(&t, t.y),
                                    .width = (uint32_t)width,
                                    .function = function};
    struct kernel_case k = {
        .call = call_activate, .args = &args, .out = &args.out, .tolerance = 8 * ROUNDING};
    finish(c, &t, &k, ROWS);
}

static void check_add(struct check *c, uint64_t width)
{
    if (!check_begin(c, "add width %u", (unsigned)width))
        return;
    struct test t;
    create(c, &t, width);
    for (uint64_t i = 0; i < ROWS * width; i++) {
        t.expected[i] = (double)t.x[i] + (double)0.3f * (double)t.y[i];
        t.bound[i] = fabs((double)t.x[i]) + 0.3 * fabs((double)t.y[i]);
    }
    struct nib_cpu_add args = {.in = rows_of(&t, t.y), .width = (uint32_t)width, .scale = 0.3f};
    struct kernel_case k = {.call = call_add,
                            .args = &args,
                            .out = &args.out,
                            .initial = t.x,
                            .tolerance = 3 * ROUNDING};
    finish(c, &t, &k, ROWS);
}

static void check_scale(struct check *c, uint64_t width)
{
    if (!check_begin(c, "scale width %u", (unsigned)width))
        return;
    struct test t;
    create(c, &t, width);
    for (uint64_t i = 0; i < ROWS * width; i++) {
        t.expected[i] = (double)-1.7f * (double)t.x[i];
        t.bound[i] = fabs(t.expected[i]);
    }
    struct nib_cpu_scale args = {.width = (uint32_t)width, .factor = -1.7f};
    struct kernel_case k = {.call = call_scale,
                            .args = &args,
                            .out = &args.x,
                            .initial = t.x,
                            .tolerance = 2 * ROUNDING};
    finish(c, &t, &k, ROWS);
}

static void check_softcap(struct check *c, uint64_t width)
{
    if (!check_begin(c, "softcap width %u", (unsigned)width))
        return;
    struct test t;
    create(c, &t, width);
    for (uint64_t i = 0; i < ROWS * width; i++) {
        t.expected[i] = 30 * tanh((double)t.x[i] / 30);
        t.bound[i] = fabs((double)t.x[i]);
    }
    struct nib_cpu_softcap args = {.width = (uint32_t)width, .cap = 30.0f};
    struct kernel_case k = {.call = call_softcap,
                            .args = &args,
                            .out = &args.x,
                            .initial = t.x,
                            .tolerance = 5 * ROUNDING};
    finish(c, &t, &k, ROWS);
}

void check_elementwise(struct check *c)
{
    static const uint64_t widths[] = {1, 7, 8, 33, 128};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_norm(c, (uint32_t)widths[i], 1, true);
        check_norm(c, (uint32_t)widths[i], 3, i % 2);
        for (int f = NIB_GATE_SILU; f <= NIB_GATE_GELU; f++)
            check_activate(c, (enum nib_gate_function)f, widths[i]);
        check_add(c, widths[i]);
        check_scale(c, widths[i]);
        check_softcap(c, widths[i]);
    }
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        check_rope(c, 64, 64, interleaved);
        check_rope(c, 80, 32, interleaved);
        check_rope(c, 2, 2, interleaved);
        check_rope(c, 96, 48, interleaved);
        check_rope(c, 44, 38, interleaved);
    }
    check_angles(c, 64);
    check_angles(c, 2);
}
