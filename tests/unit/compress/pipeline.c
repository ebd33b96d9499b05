// Whole runs on tiny models: every method and container, faithfulness, resuming, refusals.
#include "runtime/compress/compress.h"

#include "runtime/base/os.h"
#include "runtime/compress/calibrate.h"
#include "runtime/engine/registry.h"
#include "runtime/formats/safetensors.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BASE NIB_TEST_DATA "/checkpoints/base"
enum { WINDOWS = 6, CONTEXT = 48, N_IDS = WINDOWS * CONTEXT };
enum { NOT_A_NUMBER = 0x7fc0 };

static struct nib_error error;
static int32_t ids[N_IDS];
static char out[600], spoilt[600];

/// Removes a file, or a folder with its files.
static void remove_tree(const char *path)
{
    char name[1200];
    unlink(path);
    DIR *dir = opendir(path);
    for (struct dirent *item; dir && (item = readdir(dir));) {
        snprintf(name, sizeof name, "%s/%s", path, item->d_name);
        unlink(name);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

static void set_up(void)
{
    uint32_t state = 11;
    make_folder();
    snprintf(out, sizeof out, "%s", path_in_folder("out"));
    snprintf(spoilt, sizeof spoilt, "%s", path_in_folder("spoilt"));
    for (int i = 0; i < N_IDS; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)(state >> 8) % 64;
    }
}

TestSuite(pipeline, .init = set_up, .fini = remove_folder);

static struct nib_source *open_ok(const char *path)
{
    struct nib_source *source;
    cr_assert_eq(nib_source_open(path, NULL, &source, &error), NIB_OK, "%s", error.message);
    return source;
}

static char *read_all(const char *path, size_t *out_size)
{
    struct nib_file_map map;
    cr_assert_eq(nib_file_map_open(path, &map, &error), NIB_OK, "%s", error.message);
    char *copy = malloc(map.size);
    memcpy(copy, map.data, map.size);
    *out_size = map.size;
    nib_file_map_close(&map);
    return copy;
}

/// Opens a copy of the tiny model with one number, in bf16, of a tensor replaced.
static struct nib_source *open_spoilt(const char *tensor, size_t element, uint16_t bits)
{
    struct nib_safetensors *file;
    char path[700];
    size_t size;
    cr_assert_eq(nib_safetensors_open_folder(BASE, &file, &error), NIB_OK, "%s", error.message);
    const uint8_t *data = nib_tensor_find(&file->directory, tensor)->data;
    char *copy = read_all(BASE "/model.safetensors", &size);
    size_t place = 0; // of the tensor: where the file first has its first bytes
    while (memcmp(copy + place, data, 64) != 0)
        place++;
    memcpy(copy + place + 2 * element, &bits, sizeof bits);
    remove_tree(spoilt);
    mkdir(spoilt, 0700);
    snprintf(path, sizeof path, "%s/model.safetensors", spoilt);
    put_file(path, copy, size);
    free(copy);
    copy = read_all(BASE "/config.json", &size);
    snprintf(path, sizeof path, "%s/config.json", spoilt);
    put_file(path, copy, size);
    free(copy);
    nib_safetensors_destroy(&file);
    return open_ok(spoilt);
}

/// Returns the hidden states behind the last layer, to be freed; weights alone are quantized.
static float *last_hidden(const struct nib_source *source)
{
    struct nib_device *device;
    struct nib_calibration *calibration;
    const struct nib_device_params params = {.backend = NIB_BACKEND_CPU, .threads = 2};
    cr_assert_eq(nib_registry_open(&params, &device, &error), NIB_OK);
    const struct nib_calibration_params wanted = {.source = source,
                                                  .device = device,
                                                  .ids = ids,
                                                  .n_ids = N_IDS,
                                                  .windows = WINDOWS,
                                                  .context = CONTEXT};
    cr_assert_eq(nib_calibration_create(&wanted, &calibration, &error), NIB_OK, "%s",
                 error.message);
    const uint32_t hidden_size = nib_source_config(source)->hidden_size;
    for (uint32_t layer = 0; layer < nib_source_config(source)->n_layers; layer++) {
        float *values[NIB_ROLE_COUNT] = {0};
        cr_assert_eq(nib_calibration_begin_layer(calibration, layer, &error), NIB_OK);
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            struct nib_row_reader reader;
            if (!nib_arch_in_layer(role) || !nib_source_has(source, role, layer))
                continue;
            cr_assert_eq(nib_source_reader(source, role, layer, &reader, &error), NIB_OK);
            values[role] = malloc(reader.rows * reader.cols * sizeof(float));
            float *line = malloc(reader.cols * sizeof *line);
            void *memory = malloc(nib_row_block_size(&reader.format, 1, reader.cols));
            for (uint64_t r = 0; r < reader.rows; r++) {
                struct nib_row_block block;
                float *to = values[role] + r * reader.cols;
                nib_row_block_init(&block, &reader.format, 1, reader.cols, memory);
                cr_assert_eq(reader.read(&reader, r, &block, &error), NIB_OK);
                nib_row_dequantize(&reader.format, &block, 0, line);
                for (uint64_t i = 0; i < reader.cols; i++)
                    to[reader.permutation ? reader.permutation[i] : i] = line[i];
            }
            free(memory);
            free(line);
            cr_assert_eq(nib_calibration_set(calibration, role, values[role], &error), NIB_OK);
        }
        for (enum nib_block block = 0; block < NIB_BLOCK_COUNT; block++) {
            const struct nib_calibration_pass pass = {
                .block = block, .last = NIB_ROLE_COUNT, .advances = true};
            cr_assert_eq(nib_calibration_run(calibration, &pass, &error), NIB_OK, "%s",
                         error.message);
        }
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++)
            free(values[role]);
    }
    float *hidden = malloc((size_t)N_IDS * hidden_size * sizeof *hidden);
    memcpy(hidden, nib_calibration_hidden(calibration),
           (size_t)N_IDS * hidden_size * sizeof *hidden);
    nib_calibration_destroy(&calibration);
    nib_device_release(device);
    return hidden;
}

/// Returns |hidden of the output − hidden of the original|² / |hidden of the original|².
static double output_error(const struct nib_source *source)
{
    struct nib_source *quantized = open_ok(out);
    float *before = last_hidden(source), *after = last_hidden(quantized);
    const size_t n = (size_t)N_IDS * nib_source_config(source)->hidden_size;
    double difference = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)after[i] - (double)before[i];
        difference += d * d;
        power += (double)before[i] * (double)before[i];
    }
    free(before);
    free(after);
    nib_source_destroy(&quantized);
    return difference / power;
}

static struct nib_quantize_params calibrated(enum nib_quantize_method method)
{
    return (struct nib_quantize_params){
        .struct_size = sizeof(struct nib_quantize_params),
        .method = method,
        .calibration = ids,
        .n_calibration = N_IDS,
        .context = CONTEXT,
        .threads = 2,
    };
}

static double run(const struct nib_source *source, const struct nib_quantize_params *params)
{
    struct nib_quantization_report report;
    remove_tree(out);
    cr_assert_eq(nib_compress_run(source, out, params, &report, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_gt(report.quantized_weights, 0);
    return output_error(source);
}

Test(pipeline, searched_methods_beat_rounding)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_RTN);
    params.group = 64;
    const double plain = run(source, &params);
    params.method = NIB_QUANTIZE_GPTQ;
    cr_expect_lt(run(source, &params), 0.8 * plain);
    params.act_order = true;
    cr_expect_lt(run(source, &params), 0.8 * plain);
    params.no_static_groups = true;
    cr_expect_lt(run(source, &params), 0.8 * plain);
    params = calibrated(NIB_QUANTIZE_RTN);
    params.group = 64;
    params.zero = NIB_QUANTIZE_ASYMMETRIC;
    const double with_zeros = run(source, &params);
    params.method = NIB_QUANTIZE_AWQ;
    cr_expect_lt(run(source, &params), 0.9 * with_zeros);
    nib_source_destroy(&source);
}

Test(pipeline, bytes_are_close)
{
    static const enum nib_quantize_method methods[] = {
        NIB_QUANTIZE_RTN, NIB_QUANTIZE_GPTQ, NIB_QUANTIZE_LLM_INT8, NIB_QUANTIZE_SMOOTHQUANT};
    struct nib_source *source = open_ok(BASE);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        struct nib_quantize_params params = calibrated(methods[i]);
        params.bits = 8;
        cr_expect_lt(run(source, &params), 1e-3, "method %d", (int)methods[i]);
    }
    nib_source_destroy(&source);
}

/// Embedding and head have no statistics, and are rounded whatever the method.
Test(pipeline, the_head_is_quantized_where_rules_say_so)
{
    static const enum nib_quantize_method methods[] = {NIB_QUANTIZE_GPTQ, NIB_QUANTIZE_AWQ};
    struct nib_source *source = open_ok(BASE);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        struct nib_quantize_params params = calibrated(methods[i]);
        params.container = NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
        params.zero = NIB_QUANTIZE_SYMMETRIC;
        params.group = 32;
        params.mix = "output=int4/32,ffn_down@1=keep";
        cr_expect_lt(run(source, &params), 0.1);
    }
    nib_source_destroy(&source);
}

/// Architectures whose norms, biases and fused matrices take scales in differently.
ParameterizedTestParameters(pipeline, every_architecture)
{
    static char names[][16] = {"gemma2", "gemma3", "granite", "olmo2", "phi3", "qwen2", "qwen3"};
    return cr_make_param_array(char[16], names, sizeof names / sizeof names[0]);
}

ParameterizedTest(char name[16], pipeline, every_architecture)
{
    static const enum nib_quantize_method methods[] = {NIB_QUANTIZE_SMOOTHQUANT, NIB_QUANTIZE_AWQ,
                                                       NIB_QUANTIZE_GPTQ};
    char path[300];
    snprintf(path, sizeof path, "%s/architectures/%s", NIB_TEST_DATA, name);
    struct nib_source *source = open_ok(path);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        struct nib_quantize_params params = calibrated(methods[i]);
        params.container = methods[i] == NIB_QUANTIZE_SMOOTHQUANT
                               ? NIB_QUANTIZE_AS_DEFAULT
                               : NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
        params.group = methods[i] == NIB_QUANTIZE_SMOOTHQUANT ? 0 : 16;
        const double error_of_method = run(source, &params);
        params.method = NIB_QUANTIZE_RTN;
        const double most =
            methods[i] == NIB_QUANTIZE_SMOOTHQUANT ? 3e-3 : 0.75 * run(source, &params);
        cr_expect_lt(error_of_method, most, "%s, method %d", name, (int)methods[i]);
    }
    nib_source_destroy(&source);
}

/// Compares the tensors whose names end in `suffix` with those of a real tool's folder.
static void compare_tensors(const char *folder, const char *suffix)
{
    struct nib_safetensors *tool, *ours;
    char path[600];
    uint32_t n_compared = 0;
    snprintf(path, sizeof path, "%s/checkpoints/%s", NIB_TEST_DATA, folder);
    cr_assert_eq(nib_safetensors_open_folder(path, &tool, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_safetensors_open_folder(out, &ours, &error), NIB_OK, "%s", error.message);
    for (uint32_t i = 0; i < tool->directory.n_tensors; i++) {
        const struct nib_tensor *wanted = &tool->directory.tensors[i];
        const size_t size = strlen(wanted->name), end = strlen(suffix);
        if (size < end || strcmp(wanted->name + size - end, suffix) != 0)
            continue;
        const struct nib_tensor *tensor = nib_tensor_find(&ours->directory, wanted->name);
        cr_assert_not_null(tensor, "%s", wanted->name);
        cr_assert_eq(tensor->size, wanted->size);
        cr_assert_eq(memcmp(tensor->data, wanted->data, tensor->size), 0, "%s: %s", folder,
                     wanted->name);
        n_compared++;
    }
    cr_assert_geq(n_compared, 21);
    nib_safetensors_destroy(&tool);
    nib_safetensors_destroy(&ours);
}

Test(pipeline, codes_are_those_of_bitsandbytes)
{
    static const struct {
        enum nib_quantize_method method;
        bool is_single;
        const char *folder, *scales;
    } cases[] = {
        {NIB_QUANTIZE_LLM_INT8, false, "bnb-int8", ".SCB"},
        {NIB_QUANTIZE_FP4, true, "bnb-fp4", ".absmax"},
        {NIB_QUANTIZE_NF4, false, "bnb-nf4", ".nested_absmax"},
    };
    struct nib_source *source = open_ok(BASE);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct nib_quantize_params params = calibrated(cases[i].method);
        params.single_quantized = cases[i].is_single;
        run(source, &params);
        compare_tensors(cases[i].folder, "_proj.weight");
        compare_tensors(cases[i].folder, cases[i].scales);
    }
    nib_source_destroy(&source);
}

struct stop {
    uint64_t at; ///< thousandths of layers
};

/// Waits, since progress is reported ten times a second at most.
static bool stop(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    (void)total;
    nanosleep(&(struct timespec){.tv_nsec = 101000000}, NULL);
    return done < ((struct stop *)user)->at;
}

/// Begins a run that is stopped once the first layer is done.
static void interrupt(const struct nib_source *source, struct nib_quantize_params params)
{
    struct nib_quantization_report report;
    struct stop at = {.at = 1200};
    remove_tree(out);
    params.progress = (struct nib_progress){.report = stop, .user = &at};
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_ERROR_CANCELLED);
    cr_assert_eq(nib_path_kind(out), NIB_PATH_ABSENT);
}

/// Goes on with an interrupted run, whose file `name` must be `whole`, of `size` bytes.
static void expect_resumed(const struct nib_source *source,
                           const struct nib_quantize_params *params, const char *name,
                           const char *whole, size_t size)
{
    struct nib_quantization_report report;
    char part[700];
    size_t again_size;
    snprintf(part, sizeof part, "%s.part", out);
    cr_assert_eq(nib_compress_run(source, out, params, &report, &error), NIB_OK, "%s",
                 error.message);
    cr_expect_geq(report.resumed_layers, 1);
    char *again = read_all(name, &again_size);
    cr_assert_eq(size, again_size);
    cr_expect_eq(memcmp(whole, again, size), 0, "%s", params->mix);
    cr_expect_eq(nib_path_kind(part), NIB_PATH_ABSENT);
    free(again);
}

static void expect_refused(const struct nib_source *source,
                           const struct nib_quantize_params *params, const char *words)
{
    struct nib_quantization_report report;
    cr_expect_eq(nib_compress_run(source, out, params, &report, &error), NIB_ERROR_ARGUMENT, "%s",
                 words);
    cr_expect(strstr(error.message, words), "%s", error.message);
}

Test(pipeline, an_interrupted_run_goes_on)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_GPTQ);
    char name[700];
    size_t size;
    snprintf(name, sizeof name, "%s/model.safetensors", out);
    params.group = 32;
    run(source, &params);
    char *whole = read_all(name, &size);
    interrupt(source, params);
    params.damping = 0.05f;
    expect_refused(source, &params, "other parameters");
    params.damping = 0;
    expect_resumed(source, &params, name, whole, size);
    free(whole);
    nib_source_destroy(&source);
}

/// The rows of ffn_down alone are whole super-blocks.
Test(pipeline, layers_of_every_block_are_taken_over)
{
    static const char *const mixes[] = {"ffn_down@0=q2_k,ffn_down@1=q3_k",
                                        "ffn_down@0=q4_k,ffn_down@1=q5_k",
                                        "ffn_down@0=q6_k,ffn_down@1=iq4_xs"};
    struct nib_source *source = open_ok(BASE);
    struct nib_source *broken = open_spoilt("model.layers.2.mlp.up_proj.weight", 7, NOT_A_NUMBER);
    struct nib_quantization_report report;
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++) {
        struct nib_quantize_params params = calibrated(NIB_QUANTIZE_IMPORTANCE);
        size_t size;
        params.format = "q4_0";
        params.mix = mixes[i];
        run(source, &params);
        char *whole = read_all(out, &size);
        remove_tree(out);
        // It breaks off in the last layer; those before are the model's.
        cr_assert_eq(nib_compress_run(broken, out, &params, &report, &error), NIB_ERROR_FORMAT);
        expect_resumed(source, &params, out, whole, size);
        free(whole);
    }
    nib_source_destroy(&broken);
    nib_source_destroy(&source);
}

Test(pipeline, layers_of_another_model_are_refused)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_source *broken = open_spoilt("model.layers.1.mlp.up_proj.weight", 7, NOT_A_NUMBER);
    const struct nib_quantize_params params = calibrated(NIB_QUANTIZE_GPTQ);
    struct nib_quantization_report report;
    cr_assert_eq(nib_compress_run(broken, out, &params, &report, &error), NIB_ERROR_FORMAT);
    nib_source_destroy(&broken);
    struct nib_source *other = open_spoilt("model.layers.0.mlp.up_proj.weight", 7, 0);
    expect_refused(other, &params, "another model");
    nib_source_destroy(&other);
    other = open_spoilt("model.embed_tokens.weight", (size_t)ids[0] * 128, 0x3f80);
    expect_refused(other, &params, "another model");
    nib_source_destroy(&other);
    cr_expect_eq(nib_compress_run(source, out, &params, &report, &error), NIB_OK, "%s",
                 error.message);
    cr_expect_eq(report.resumed_layers, 1);
    nib_source_destroy(&source);
}

/// Columns in the order of their inputs need no place in the container where a row is one group.
Test(pipeline, one_group_needs_no_order)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_GPTQ);
    params.container = NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
    params.granularity = NIB_QUANTIZE_BY_CHANNEL;
    params.act_order = true;
    const double with_static_groups = run(source, &params);
    params.no_static_groups = true;
    cr_expect_lt(run(source, &params), 1.05 * with_static_groups);
    nib_source_destroy(&source);
}

Test(pipeline, the_head_has_static_inputs)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_SMOOTHQUANT);
    struct nib_row_reader reader;
    params.mix = "output=int8";
    cr_expect_lt(run(source, &params), 1e-3);
    struct nib_source *quantized = open_ok(out);
    cr_assert_eq(nib_source_reader(quantized, NIB_ROLE_OUTPUT, 0, &reader, &error), NIB_OK);
    cr_expect_eq(reader.activation, NIB_ACTIVATION_INT8_STATIC);
    cr_expect_gt(reader.activation_scale, 0);
    nib_source_destroy(&quantized);
    nib_source_destroy(&source);
}

Test(pipeline, nothing_is_written_over)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantization_report report;
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_RTN);
    put_file(out, "x", 1);
    for (int is_file = 0; is_file < 2; is_file++) {
        char slash[700];
        size_t size;
        params.container = is_file ? NIB_QUANTIZE_AS_GGUF : NIB_QUANTIZE_AS_GPTQ;
        snprintf(slash, sizeof slash, "%s%s", out, is_file ? "" : "/");
        cr_expect_eq(nib_compress_run(source, slash, &params, &report, &error), NIB_ERROR_IO);
        cr_expect(strstr(error.message, "exists already"), "%s", error.message);
        free(read_all(out, &size));
        cr_expect_eq(size, 1);
        cr_expect_eq(nib_compress_run(source, "", &params, &report, &error), NIB_ERROR_ARGUMENT);
    }
    nib_source_destroy(&source);
}

/// Inputs, and errors of the searches, that are infinite.
Test(pipeline, what_is_not_finite_is_named)
{
    static const enum nib_quantize_method methods[] = {NIB_QUANTIZE_AWQ, NIB_QUANTIZE_SMOOTHQUANT,
                                                       NIB_QUANTIZE_GPTQ, NIB_QUANTIZE_IMPORTANCE};
    static const char *const tensors[] = {"model.layers.1.input_layernorm.weight",
                                          "model.layers.1.self_attn.v_proj.weight"};
    struct nib_quantization_report report;
    for (size_t t = 0; t < sizeof tensors / sizeof tensors[0]; t++) {
        struct nib_source *source = open_spoilt(tensors[t], 5, 0x7f7f); // 3.4e38
        const size_t n = t == 0 ? 4 : 3; // GGUF's blocks cut a weight off at what they can hold
        for (size_t m = 0; m < n; m++) {
            const struct nib_quantize_params params = calibrated(methods[m]);
            cr_expect_eq(nib_compress_run(source, out, &params, &report, &error), NIB_ERROR_FORMAT,
                         "%s, method %d", tensors[t], (int)methods[m]);
            cr_expect(strstr(error.message, "model.layers.1.") && strstr(error.message, "large"),
                      "%s, method %d: %s", tensors[t], (int)methods[m], error.message);
            char part[700];
            snprintf(part, sizeof part, "%s.part", out);
            remove_tree(part);
        }
        nib_source_destroy(&source);
    }
}

/// The tool's binary16 has no such numbers.
Test(pipeline, bytes_of_weights_beyond_binary16)
{
    struct nib_source *source =
        open_spoilt("model.layers.1.self_attn.q_proj.weight", 128 * 3 + 5, 0xc7c3); // −99840
    struct nib_quantization_report report;
    const struct nib_quantize_params params = calibrated(NIB_QUANTIZE_LLM_INT8);
    struct nib_safetensors *file;
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_safetensors_open_folder(out, &file, &error), NIB_OK, "%s", error.message);
    const char *scales = "model.layers.1.self_attn.q_proj.SCB";
    const char *codes = "model.layers.1.self_attn.q_proj.weight";
    float scale;
    memcpy(&scale, nib_tensor_find(&file->directory, scales)->data + 3 * sizeof scale,
           sizeof scale);
    cr_expect_eq(scale, 65504);
    cr_expect_eq((int8_t)nib_tensor_find(&file->directory, codes)->data[128 * 3 + 5], -127);
    nib_safetensors_destroy(&file);
    nib_source_destroy(&source);
}

/// A GPTQ folder of which nothing is quantized is a plain one.
Test(pipeline, all_is_kept)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantization_report report;
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_RTN);
    params.container = NIB_QUANTIZE_AS_GPTQ;
    params.mix = "*=keep";
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_OK, "%s",
                 error.message);
    cr_expect_eq(report.quantized_weights, 0);
    cr_expect_eq(output_error(source), 0);
    nib_source_destroy(&source);
}

Test(pipeline, refusals)
{
    struct nib_source *source = open_ok(BASE);
    struct nib_quantization_report report;
    struct nib_quantize_params params = calibrated(NIB_QUANTIZE_GPTQ);
    params.n_calibration = CONTEXT - 1;
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "fewer than one window"), "%s", error.message);
    params.n_calibration = 0;
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "--calib"), "%s", error.message);
    params = calibrated(NIB_QUANTIZE_AWQ);
    params.group = 48;
    cr_assert_neq(nib_compress_run(source, out, &params, &report, &error), NIB_OK);
    params = calibrated(NIB_QUANTIZE_RTN);
    params.mix = "ffn_up@0=int8,nonsense";
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "nonsense"), "%s", error.message);
    params.mix = NULL;
    params.bits = 5;
    cr_assert_eq(nib_compress_run(source, out, &params, &report, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_path_kind(out), NIB_PATH_ABSENT);
    nib_source_destroy(&source);
}
