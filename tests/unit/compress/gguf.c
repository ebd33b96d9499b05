// GGUF files written of folders and of GGUF files, read again.
#include "runtime/compress/compress.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/os.h"
#include "runtime/import/source_parts.h"
#include "tests/support/folder.h"

TestSuite(gguf_output, .init = make_folder, .fini = remove_folder);

static struct nib_error error;

static struct nib_source *open_ok(const char *path)
{
    struct nib_source *source;
    cr_assert_eq(nib_source_open(path, NULL, &source, &error), NIB_OK, "%s", error.message);
    return source;
}

static enum nib_status quantize(const char *in, const char *out, const char *format)
{
    struct nib_source *source = open_ok(in);
    struct nib_quantization_report report;
    const struct nib_quantize_params *params =
        nib_quantize_params(.method = NIB_QUANTIZE_IMPORTANCE, .container = NIB_QUANTIZE_AS_GGUF,
                            .format = format, .threads = 2);
    unlink(out);
    enum nib_status status = nib_compress_run(source, out, params, &report, &error);
    nib_source_destroy(&source);
    return status;
}

/// Reads all of a tensor.
static float *read_all(const struct nib_source *source, enum nib_role role, uint32_t layer,
                       uint64_t *out_rows, uint64_t *out_cols)
{
    struct nib_row_reader reader;
    struct nib_row_block block;
    cr_assert_eq(nib_source_reader(source, role, layer, &reader, &error), NIB_OK);
    void *memory = malloc(nib_row_block_size(&reader.format, reader.rows, reader.cols));
    float *values = malloc((size_t)(reader.rows * reader.cols) * sizeof *values);
    nib_row_block_init(&block, &reader.format, reader.rows, reader.cols, memory);
    cr_assert_eq(reader.read(&reader, 0, &block, &error), NIB_OK);
    for (uint64_t row = 0; row < reader.rows; row++)
        nib_row_dequantize(&reader.format, &block, row, values + row * reader.cols);
    free(memory);
    *out_rows = reader.rows;
    *out_cols = reader.cols;
    return values;
}

/// The row of a folder's Q or K that is row `row` of a GGUF file with pairs.
static uint64_t row_of_halves(uint64_t row, uint64_t dim)
{
    uint64_t in_head = row % dim;
    return row - in_head + in_head / 2 + in_head % 2 * (dim / 2);
}

static void compare_tensor(const struct nib_source *a, const struct nib_source *b,
                           enum nib_role role, uint32_t layer, double most)
{
    uint64_t rows, cols, b_rows, b_cols;
    cr_assert_eq(nib_source_has(a, role, layer), nib_source_has(b, role, layer), "%s, layer %u",
                 nib_role_name(role), layer);
    if (!nib_source_has(a, role, layer))
        return;
    float *x = read_all(a, role, layer, &rows, &cols);
    float *y = read_all(b, role, layer, &b_rows, &b_cols);
    cr_assert_eq(rows, b_rows);
    cr_assert_eq(cols, b_cols);
    const bool is_paired = (role == NIB_ROLE_Q || role == NIB_ROLE_K) &&
                           nib_source_arch(b)->interleaved &&
                           strcmp(nib_source_container(a), "gguf") != 0;
    double off = 0, energy = 0;
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t from = is_paired ? row_of_halves(r, nib_source_config(a)->key_dim) : r;
        for (uint64_t c = 0; c < cols; c++) {
            double v = (double)x[from * cols + c], d = v - (double)y[r * cols + c];
            off += d * d;
            energy += v * v;
        }
    }
    cr_assert(off <= most * most * energy, "%s, layer %u: %g", nib_role_name(role), layer,
              sqrt(off / energy));
    free(x);
    free(y);
}

static void compare_sources(const char *a_path, const char *b_path, double most)
{
    struct nib_source *a = open_ok(a_path), *b = open_ok(b_path);
    const struct nib_model_config *x = nib_source_config(a), *y = nib_source_config(b);
    cr_assert_eq(x->n_layers, y->n_layers);
    cr_assert_eq(x->context, y->context);
    cr_assert_eq(x->vocabulary, y->vocabulary);
    cr_assert_eq(x->sliding_window, y->sliding_window);
    cr_assert_float_eq(x->attention_scale, y->attention_scale, 1e-7f);
    cr_assert_float_eq(x->embedding_scale, y->embedding_scale, 1e-5f);
    cr_assert_float_eq(x->logit_scale, y->logit_scale, 1e-6f);
    cr_assert_eq(x->residual_scale, y->residual_scale);
    cr_assert_eq(x->attention_softcap, y->attention_softcap);
    cr_assert_eq(x->norm_epsilon, y->norm_epsilon);
    for (uint32_t layer = 0; layer < x->n_layers; layer++) {
        cr_assert_eq(x->layers[layer].window, y->layers[layer].window);
        cr_assert_eq(x->layers[layer].rope, y->layers[layer].rope);
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            if (layer == 0 || nib_arch_in_layer(role))
                compare_tensor(a, b, role, layer, nib_role_is_matrix(role) ? most : 0);
        }
    }
    nib_source_destroy(&a);
    nib_source_destroy(&b);
}

static const char *const ARCHITECTURES[] = {"gemma2", "gemma3", "granite", "llama3-rope", "olmo2",
                                            "phi3",   "qwen2",  "qwen3",   "smollm3"};

Test(gguf_output, of_folders_holds_what_they_hold)
{
    for (size_t i = 0; i < sizeof ARCHITECTURES / sizeof ARCHITECTURES[0]; i++) {
        char folder[600];
        snprintf(folder, sizeof folder, "%s/architectures/%s", NIB_TEST_DATA, ARCHITECTURES[i]);
        cr_assert_eq(quantize(folder, path_in_folder("full.gguf"), "f32"), NIB_OK, "%s: %s",
                     ARCHITECTURES[i], error.message);
        compare_sources(folder, path_in_folder("full.gguf"), 0);
    }
}

Test(gguf_output, of_gguf_files_is_quantized_and_keeps_the_rest)
{
    const char *folder = NIB_TEST_DATA "/architectures/llama3-rope";
    cr_assert_eq(quantize(folder, path_in_folder("full.gguf"), "f32"), NIB_OK);
    cr_assert_eq(quantize(path_in_folder("full.gguf"), path_in_folder("q8.gguf"), "q8_0"), NIB_OK,
                 "%s", error.message);
    compare_sources(path_in_folder("full.gguf"), path_in_folder("q8.gguf"), 0.01);

    // The factors of RoPE are no weights, but belong to the model.
    struct nib_source *source = open_ok(path_in_folder("q8.gguf"));
    const struct nib_gguf *gguf = nib_source_gguf(source);
    uint32_t file_type = 0;
    cr_assert_not_null(nib_source_config(source)->ropes[0].divisors);
    cr_assert(nib_gguf_get_u32(nib_gguf_find(gguf, "general.file_type"), &file_type));
    cr_assert_eq(file_type, 7);
    nib_source_destroy(&source);
}

Test(gguf_output, threads_change_nothing)
{
    const char *folder = NIB_TEST_DATA "/architectures/qwen2";
    struct nib_source *source = open_ok(folder);
    struct nib_quantization_report report;
    struct nib_file_map maps[2];
    for (uint32_t i = 0; i < 2; i++) {
        const char *path = path_in_folder(i ? "b.gguf" : "a.gguf");
        const struct nib_quantize_params *params =
            nib_quantize_params(.method = NIB_QUANTIZE_IMPORTANCE,
                                .container = NIB_QUANTIZE_AS_GGUF, .format = "q4_0",
                                .threads = 1 + 2 * i);
        cr_assert_eq(nib_compress_run(source, path, params, &report, &error), NIB_OK);
        cr_assert_eq(nib_file_map_open(path, &maps[i], &error), NIB_OK);
        cr_assert_eq(report.file_bytes, maps[i].size);
    }
    cr_assert_eq(maps[0].size, maps[1].size);
    cr_assert_arr_eq(maps[0].data, maps[1].data, maps[0].size);
    nib_file_map_close(&maps[0]);
    nib_file_map_close(&maps[1]);
    nib_source_destroy(&source);
}

Test(gguf_output, refuses_windows_that_llama_cannot_have)
{
    cr_assert_eq(
        quantize(NIB_TEST_DATA "/architectures/mistral-window", path_in_folder("m.gguf"), "q8_0"),
        NIB_ERROR_UNSUPPORTED);
    cr_assert_not_null(strstr(error.message, "sliding window"), "%s", error.message);
    cr_assert_eq(nib_path_kind(path_in_folder("m.gguf")), NIB_PATH_ABSENT);
}
