/// Single matmuls whose activations the checkpoint wants in int8, at every level of kernels: the
/// input of a layer is given, so that no earlier rounding shows, and its output must be the tool's.
#include "runtime/base/bytes.h"
#include "runtime/cpu/kernels.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/source.h"
#include "tests/support/worst.h"
#include "tests/unit/vulkan/rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/// One matmul and all that it points to.
struct probe {
    struct nib_cpu_matrix matrix;
    struct nib_cpu_matmul args;
    struct nib_cpu_input input;
    struct nib_cpu_scratch scratch;
};

static void *zeros(uint64_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    cr_assert_not_null(memory);
    return memory;
}

static void probe_create(struct probe *probe, const struct nib_row_reader *reader, uint32_t n_rows)
{
    struct nib_error error;
    *probe = (struct probe){0};
    cr_assert_eq(nib_cpu_matrix_pack(&probe->matrix, &(struct nib_cpu_packing){0}, reader, &error),
                 NIB_OK, "%s", error.message);
    const struct nib_format *format = &probe->matrix.format;
    const uint64_t cols = reader->cols;
    struct nib_cpu_input *input = &probe->input;
    input->n_runs = nib_cpu_runs(reader->activation, format, cols, NULL);
    input->runs = zeros(input->n_runs, sizeof *input->runs);
    nib_cpu_runs(reader->activation, format, cols, input->runs);
    input->values = zeros(n_rows * cols, sizeof(float));
    input->codes = zeros(n_rows * cols, sizeof(int16_t));
    input->scale = zeros((uint64_t)n_rows * input->n_runs, sizeof(float));
    input->sum = zeros((uint64_t)n_rows * input->n_runs, sizeof(float));
    input->dense = zeros(n_rows, 1);
    probe->scratch = (struct nib_cpu_scratch){
        .block = zeros(nib_row_block_size(format, NIB_CPU_BLOCK_ROWS, cols), 1),
        .values = zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(float)),
        .codes = zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(int16_t)),
        .run_scale = zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(float)),
        .run_min = zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(float)),
        .group_scale = zeros(cols, sizeof(float)),
        .group_min = zeros(cols, sizeof(float)),
        .group_sum = zeros(cols, sizeof(int32_t)),
        .input_codes = zeros(cols, 1),
        .wide_codes = zeros(cols, sizeof(int16_t)),
        .outlier = zeros(cols, 1),
    };
    probe->args = (struct nib_cpu_matmul){
        .weight = &probe->matrix,
        .activation = reader->activation,
        .n_rows = n_rows,
        .in = {zeros(n_rows * cols, sizeof(float)), cols},
        .out = {zeros(n_rows * reader->rows, sizeof(float)), reader->rows},
        .input = input,
        .scratch = &probe->scratch,
    };
}

static void probe_destroy(struct probe *probe)
{
    const struct nib_cpu_input *input = &probe->input;
    const struct nib_cpu_scratch *scratch = &probe->scratch;
    void *const all[] = {
        input->runs,        input->values,       input->codes,         input->scale,
        input->sum,         input->dense,        scratch->block,       scratch->values,
        scratch->codes,     scratch->run_scale,  scratch->run_min,     scratch->group_scale,
        scratch->group_min, scratch->group_sum,  scratch->input_codes, scratch->wide_codes,
        scratch->outlier,   probe->args.in.data, probe->args.out.data};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    nib_cpu_matrix_free(&probe->matrix);
}

static double deviation(const float *numbers, uint64_t count)
{
    double sum = 0.0, squares = 0.0;
    for (uint64_t i = 0; i < count; i++)
        sum += (double)numbers[i];
    const double mean = sum / (double)count;
    for (uint64_t i = 0; i < count; i++)
        squares += ((double)numbers[i] - mean) * ((double)numbers[i] - mean);
    return sqrt(squares / (double)count);
}

static const struct nib_tensor *find(const struct nib_safetensors *tensors, const char *module,
                                     const char *part)
{
    char name[128];
    snprintf(name, sizeof name, "probe.model.layers.0.%s.%s", module, part);
    const struct nib_tensor *tensor = nib_tensor_find(&tensors->directory, name);
    cr_assert_not_null(tensor, "%s", name);
    cr_assert(tensor->dtype == NIB_DTYPE_F32 && tensor->n_dims == 2);
    return tensor;
}

/// Runs the matmul at `level` and compares it with `expected`.
static void check_level(struct probe *probe, enum nib_cpu_level level, const float *expected,
                        double tolerance)
{
    struct nib_cpu_kernels kernels;
    const uint64_t n = probe->args.n_rows * probe->matrix.rows;
    double worst = 0.0;
    nib_cpu_kernels_init(&kernels, level);
    kernels.prepare(&probe->args, 0, probe->args.n_rows, 0);
    kernels.matmul(&probe->args, 0, probe->matrix.rows, 0);
    for (uint64_t i = 0; i < n; i++) {
        const double off = fabs((double)probe->args.out.data[i] - (double)expected[i]);
        worst = worst_of(worst, off);
    }
    const double relative = worst / deviation(expected, n);
    cr_log_info("level %d: off by %g of the deviation", (int)level, relative);
    cr_expect(relative <= tolerance, "level %d: off by %g of the deviation", (int)level, relative);
}

/// Runs the matmul on the Vulkan device and compares it with `expected`.
static void check_vulkan(struct probe *probe, const struct nib_row_reader *reader,
                         const float *expected, double tolerance)
{
    const uint64_t n = probe->args.n_rows * probe->matrix.rows;
    void *device = rig_open(NULL);
    rig_probe(device, reader, (uint32_t)probe->args.n_rows, probe->args.in.data,
              probe->args.out.data);
    rig_close(device);
    double worst = 0.0;
    for (uint64_t i = 0; i < n; i++) {
        const double off = fabs((double)probe->args.out.data[i] - (double)expected[i]);
        worst = worst_of(worst, off);
    }
    const double relative = worst / deviation(expected, n);
    cr_log_info("vulkan: off by %g of the deviation", relative);
    cr_expect(relative <= tolerance, "vulkan: off by %g of the deviation", relative);
}

static void check_module(const struct nib_source *source, const struct nib_safetensors *tensors,
                         enum nib_role role, const char *module, double tolerance)
{
    static const char *const levels[] = {
#define X(id, name) name,
        NIB_CPU_LEVELS(X)
#undef X
    };
    struct nib_row_reader reader;
    struct nib_error error;
    struct probe probe;
    const struct nib_tensor *x = find(tensors, module, "x");
    const struct nib_tensor *y = find(tensors, module, "y");
    cr_assert_eq(nib_source_reader(source, role, 0, &reader, &error), NIB_OK, "%s", error.message);
    cr_assert(x->dims[1] == reader.cols && y->dims[1] == reader.rows && x->dims[0] == y->dims[0]);
    probe_create(&probe, &reader, (uint32_t)x->dims[0]);
    float *expected = zeros(y->size, 1);
    memcpy(probe.args.in.data, x->data, x->size);
    memcpy(expected, y->data, y->size);
    if (getenv("NIB_TEST_VULKAN"))
        check_vulkan(&probe, &reader, expected, tolerance);
    for (size_t i = 0; !getenv("NIB_TEST_VULKAN") && i < sizeof levels / sizeof levels[0]; i++) {
        enum nib_cpu_level level;
        if (nib_cpu_level_find(levels[i], &level, &error) == NIB_OK)
            check_level(&probe, level, expected, tolerance);
    }
    free(expected);
    probe_destroy(&probe);
}

static void check_folder(const char *folder, double tolerance)
{
    char path[1024];
    struct nib_error error;
    struct nib_source *source;
    struct nib_safetensors *tensors;
    snprintf(path, sizeof path, "%s/checkpoints/%s", NIB_TEST_DATA, folder);
    cr_assert_eq(nib_source_open(path, NULL, &source, &error), NIB_OK, "%s", error.message);
    snprintf(path, sizeof path, "%s/checkpoints/%s/expected.safetensors", NIB_TEST_DATA, folder);
    cr_assert_eq(nib_safetensors_open(path, &tensors, &error), NIB_OK, "%s", error.message);
    check_module(source, tensors, NIB_ROLE_Q, "self_attn.q_proj", tolerance);
    check_module(source, tensors, NIB_ROLE_FFN_DOWN, "mlp.down_proj", tolerance);
    nib_safetensors_destroy(&tensors);
    nib_source_destroy(&source);
}

Test(probes, w8a8_static)
{
    check_folder("ct-w8a8-static", 1e-5);
}

Test(probes, w8a8_dynamic)
{
    check_folder("ct-w8a8-dynamic", 1e-5);
}

Test(probes, llm_int8)
{
    check_folder("bnb-int8", 1e-4);
}
