#ifdef __linux__
#define _GNU_SOURCE // RTLD_NODELETE
#include <dlfcn.h>
#endif

#include "rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "tests/support/worst.h"

/// The weights as read, and a plan around them.
struct one {
    const struct rig_matmul *params;
    uint64_t random;
    void *memory;
    struct nib_row_block block;
    uint32_t *permutation;
    float *bias;
    struct nib_row_reader readers[2];
    struct nib_weight weights[2];
    struct nib_op ops[3];
    struct nib_segment segments[3];
    struct nib_plan plan;
};

static void *open_device(const char *mask, const char *variant)
{
    void *device = NULL;
    struct nib_error error;
#ifdef __linux__
    // What lavapipe keeps would count as a leak once its code is gone.
    dlopen("libvulkan_lvp.so", RTLD_NOW | RTLD_NODELETE);
#endif
    const char *number = getenv("NIB_TEST_VULKAN");
    uint32_t index = number ? (uint32_t)strtoul(number, NULL, 10) : 0;
    enum nib_status status = nib_vulkan_backend.device_open(
        nib_device_params(.backend = NIB_BACKEND_VULKAN, .index = index, .vulkan_mask = mask,
                          .vulkan_variant = variant),
        &device, &error);
    if (status == NIB_ERROR_NOT_FOUND)
        cr_skip_test("no Vulkan device: %s", error.message);
    if (status == NIB_ERROR_UNSUPPORTED && variant)
        cr_skip_test("%s", error.message);
    cr_assert_eq(status, NIB_OK, "%s", error.message);
    return device;
}

bool rig_leaves_out(uint32_t i, uint32_t n)
{
    return i % n != 0 && getenv("NIB_TEST_SHORT");
}

void *rig_open(const char *mask)
{
    return open_device(mask, NULL);
}

void *rig_open_variant(const char *variant)
{
    return open_device(NULL, variant);
}

void rig_close(void *device)
{
    nib_vulkan_backend.device_close(device);
}

static void *new_zeros(uint64_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    cr_assert_not_null(memory);
    return memory;
}

static uint32_t next_random(struct one *o)
{
    o->random = o->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(o->random >> 33);
}

static float random_float(struct one *o)
{
    return (float)next_random(o) / 1073741824.0f - 1.0f;
}

static enum nib_status read_rows(const struct nib_row_reader *reader, uint64_t first,
                                 struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    nib_row_block_copy(&reader->format, reader->source, first, block);
    return NIB_OK;
}

static enum nib_status read_bias(const struct nib_row_reader *reader, uint64_t first,
                                 struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    (void)first;
    memcpy(block->values, reader->source, reader->cols * sizeof(float));
    return NIB_OK;
}

/// A number that a scale of the format's type can be; denormal halves among them.
static float random_scale(struct one *o)
{
    enum nib_scale_type type = o->params->format.scale;
    float x = random_float(o) * (next_random(o) % 8 ? 0.1f : 1e-5f);
    if (o->params->extreme == RIG_ZERO_SCALES && next_random(o) % 5)
        x = 0.0f;
    if (o->params->extreme == RIG_DENORMAL_SCALES)
        x = type == NIB_SCALE_F16 ? 5.9604645e-8f : 1e-37f; // the least half; fp32's would vanish
    if (type == NIB_SCALE_E8M0)
        return ldexpf(1.0f, -(int)(next_random(o) % 10));
    if (type == NIB_SCALE_BF16)
        return nib_f32_from_bf16(nib_bf16_from_f32(x));
    return type == NIB_SCALE_F16 ? nib_f32_from_f16(nib_f16_from_f32(x)) : x;
}

static float random_value(struct one *o)
{
    float x = random_float(o);
    if (o->params->format.id == NIB_FORMAT_BF16)
        return nib_f32_from_bf16(nib_bf16_from_f32(x));
    return o->params->format.id == NIB_FORMAT_F16 ? nib_f32_from_f16(nib_f16_from_f32(x)) : x;
}

static void fill(struct one *o)
{
    const struct nib_format *format = &o->params->format;
    uint64_t rows = o->params->rows, cols = o->params->cols;
    uint64_t groups = nib_format_groups(format, cols);
    uint64_t supers = format->super ? nib_format_supers(format, cols) : groups;
    struct nib_row_block *b = &o->block;
    o->memory = new_zeros(nib_row_block_size(format, rows, cols), 1);
    nib_row_block_init(b, format, rows, cols, o->memory);
    uint32_t codes = format->bits <= 8 ? 1u << format->bits : 1;
    for (uint64_t i = 0; b->values && i < rows * cols; i++)
        b->values[i] = random_value(o);
    for (uint64_t i = 0; b->codes && i < rows * cols; i++)
        b->codes[i] =
            (uint8_t)(o->params->extreme == RIG_MOST_CODES ? codes - 1 : next_random(o) % codes);
    for (uint64_t i = 0; b->scale && i < rows * supers; i++)
        b->scale[i] = random_scale(o);
    for (uint64_t i = 0; b->min && i < rows * supers; i++)
        b->min[i] = random_scale(o);
    for (uint64_t i = 0; b->sub_scale && i < rows * groups; i++)
        b->sub_scale[i] = (int8_t)(next_random(o) % 256);
    for (uint64_t i = 0; b->sub_min && i < rows * groups; i++)
        b->sub_min[i] = (uint8_t)(next_random(o) % 64);
    for (uint64_t i = 0; b->zero && i < rows * groups; i++)
        b->zero[i] = (int16_t)(next_random(o) % (codes + 1));
}

static void make_permutation(struct one *o)
{
    uint32_t n = o->params->cols;
    o->permutation = new_zeros(n, sizeof *o->permutation);
    for (uint32_t i = 0; i < n; i++) { // Fisher and Yates
        uint32_t k = next_random(o) % (i + 1);
        o->permutation[i] = o->permutation[k];
        o->permutation[k] = i;
    }
}

static void make_plan(struct one *o)
{
    const struct rig_matmul *p = o->params;
    o->weights[0] = (struct nib_weight){.role = NIB_ROLE_FFN_DOWN,
                                        .segment = 1,
                                        .shared_with = NIB_NO_WEIGHT,
                                        .rows = p->rows,
                                        .cols = p->cols,
                                        .format = p->format};
    o->weights[1] = (struct nib_weight){.role = NIB_ROLE_FFN_DOWN_BIAS,
                                        .segment = 1,
                                        .shared_with = NIB_NO_WEIGHT,
                                        .rows = 1,
                                        .cols = p->rows,
                                        .format = *nib_format_get(NIB_FORMAT_F32)};
    struct nib_view out = {.value = 1, .width = p->rows};
    o->ops[0] = (struct nib_op){.kind = NIB_OP_MATMUL, .segment = 1};
    o->ops[0].matmul = (struct nib_op_matmul){.in = {.width = p->cols},
                                              .out = out,
                                              .bias = p->has_bias ? 1 : NIB_NO_WEIGHT,
                                              .activation = p->activation,
                                              .experts = NIB_NO_WEIGHT,
                                              .tap = NIB_NO_WEIGHT};
    uint32_t n_ops = 1;
    if (p->is_apart) {
        o->ops[n_ops] = (struct nib_op){.kind = NIB_OP_SCALE, .segment = 1};
        o->ops[n_ops++].scale = (struct nib_op_scale){.x = {.width = p->rows}};
    }
    o->ops[n_ops] = (struct nib_op){.kind = NIB_OP_ADD, .segment = 1};
    o->ops[n_ops++].add = (struct nib_op_add){.in = out, .out = {.width = p->rows}, .scale = 1.0f};
    o->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    o->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER, .n_ops = n_ops};
    o->segments[2] = (struct nib_segment){.kind = NIB_SEGMENT_HEAD, .first_op = n_ops};
    o->plan = (struct nib_plan){.values = {{"hidden", p->cols}, {"out", p->rows}, {"logits", 1}},
                                .n_values = 3,
                                .ops = o->ops,
                                .n_ops = n_ops,
                                .segments = o->segments,
                                .n_segments = 3,
                                .weights = o->weights,
                                .n_weights = 2,
                                .logits_value = 2,
                                .hidden_size = p->cols,
                                .vocabulary = 1,
                                .context = 32,
                                .max_rows = p->n_inputs,
                                .key_format = NIB_KV_F32,
                                .value_format = NIB_KV_F32};
}

static void init(struct one *o, const struct rig_matmul *params)
{
    *o = (struct one){.params = params, .random = 99};
    fill(o);
    if (params->has_permutation)
        make_permutation(o);
    o->bias = new_zeros(params->rows, sizeof *o->bias);
    for (uint32_t i = 0; i < params->rows; i++)
        o->bias[i] = random_float(o);
    o->readers[0] = (struct nib_row_reader){.name = "weight",
                                            .format = params->format,
                                            .rows = params->rows,
                                            .cols = params->cols,
                                            .permutation = o->permutation,
                                            .activation_scale = 0.02f,
                                            .outlier_threshold = 1.5f,
                                            .read = read_rows,
                                            .source = &o->block};
    o->readers[1] = (struct nib_row_reader){.name = "bias",
                                            .format = *nib_format_get(NIB_FORMAT_F32),
                                            .rows = 1,
                                            .cols = params->rows,
                                            .read = read_bias,
                                            .source = o->bias};
    make_plan(o);
}

static uint32_t n_sequences_of(const struct rig_matmul *params)
{
    return params->n_sequences ? params->n_sequences : 1;
}

static void run(const struct one *o, const struct nib_backend *backend, void *device,
                const float *in, float *out)
{
    void *self;
    struct nib_error error;
    struct nib_instance_params params = {.plan = &o->plan,
                                         .device = device,
                                         .first_segment = 1,
                                         .n_segments = 1,
                                         .max_sequences = n_sequences_of(o->params),
                                         .max_logits = 1};
    cr_assert_eq(backend->create(&params, &self, &error), NIB_OK, "%s", error.message);
    for (uint32_t w = 0; w < 1u + o->params->has_bias; w++)
        cr_assert_eq(backend->pack(self, w, &o->readers[w], &error), NIB_OK, "%s", error.message);
    struct nib_step_row *rows = new_zeros(o->params->n_inputs, sizeof *rows);
    uint32_t n_sequences = n_sequences_of(o->params), n = o->params->n_inputs;
    struct nib_step_sequence *sequences = new_zeros(n_sequences, sizeof *sequences);
    for (uint32_t s = 0; s < n_sequences; s++) {
        uint32_t begin = s * n / n_sequences, end = (s + 1) * n / n_sequences;
        sequences[s] = (struct nib_step_sequence){.first_row = begin, .n_rows = end - begin};
        for (uint32_t r = begin; r < end; r++)
            rows[r] =
                (struct nib_step_row){.position = r - begin, .sequence = s, .logit_row = NIB_NONE};
    }
    uint32_t table = 0;
    struct nib_step step = {.header = {.n_rows = o->params->n_inputs,
                                       .n_used_rows = o->params->n_inputs,
                                       .n_sequences = n_sequences,
                                       .page_table_stride = 1},
                            .rows = rows,
                            .sequences = sequences,
                            .page_tables = &table};
    cr_assert_eq(backend->run(self, 1, 1, &step, in, out, &error), NIB_OK, "%s", error.message);
    if (backend->wait)
        cr_assert_eq(backend->wait(self, &error), NIB_OK, "%s", error.message);
    free(rows);
    free(sequences);
    backend->destroy(self);
}

static void fill_input(struct one *o, uint64_t n, float *in)
{
    enum rig_extreme extreme = o->params->extreme;
    float size = extreme == RIG_LARGE_INPUTS || extreme == RIG_DENORMAL_SCALES ? 1e6f : 1.0f;
    for (uint64_t i = 0; i < n; i++) {
        float x = random_float(o) * (next_random(o) % 16 ? 1.0f : 2.0f);
        in[i] = extreme == RIG_MOST_CODES ? 1.0f : size * x;
    }
}

double rig_compare(void *device, const struct rig_matmul *params)
{
    struct one o;
    struct nib_error error;
    void *cpu;
    init(&o, params);
    uint64_t n = (uint64_t)params->n_inputs * params->cols;
    float *in = new_zeros(n, sizeof *in), *a = new_zeros(n, sizeof *a),
          *b = new_zeros(n, sizeof *b);
    fill_input(&o, n, in);
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.cpu_mask = "scalar", .threads = 1),
                                             &cpu, &error),
                 NIB_OK, "%s", error.message);
    run(&o, &nib_cpu_backend, cpu, in, a);
    run(&o, &nib_vulkan_backend, device, in, b);
    nib_cpu_backend.device_close(cpu);
    double worst = 0, size = 0;
    for (uint64_t i = 0; i < n; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        worst = worst_of(worst, difference);
        size = fmax(size, fabs((double)a[i]));
    }
    free(in);
    free(a);
    free(b);
    free(o.memory);
    free(o.permutation);
    free(o.bias);
    return worst / size;
}

void rig_probe(void *device, const struct nib_row_reader *reader, uint32_t n_inputs,
               const float *in, float *out)
{
    const struct rig_matmul params = {.format = reader->format,
                                      .activation = reader->activation,
                                      .rows = (uint32_t)reader->rows,
                                      .cols = (uint32_t)reader->cols,
                                      .n_inputs = n_inputs,
                                      .is_apart = true};
    struct one o = {.params = &params};
    o.readers[0] = *reader;
    make_plan(&o);
    float *hidden = new_zeros((uint64_t)n_inputs * params.cols, sizeof *hidden);
    run(&o, &nib_vulkan_backend, device, in, hidden);
    for (uint32_t r = 0; r < n_inputs; r++)
        memcpy(out + (size_t)r * params.rows, hidden + (size_t)r * params.cols,
               params.rows * sizeof *out);
    free(hidden);
}
