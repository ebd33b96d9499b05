#include "runtime/import/source.h"
#include "tests/support/alloc_fail.h"
#include "tests/support/folder.h"
#include "tests/unit/import/tiny.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;
static struct tiny tiny;

TestSuite(source, .init = make_folder, .fini = remove_folder);

static const char *const architectures[] = {
    "llama3-rope", "smollm3", "mistral-window", "qwen2", "qwen3",
    "gemma2",      "gemma3",  "phi3",           "olmo2", "granite",
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

static const char *folder_of(const char *architecture)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/architectures/%s", NIB_TEST_DATA, architecture);
    return path;
}

static struct nib_source *open_ok(const char *path)
{
    struct nib_source *source;
    enum nib_status status = nib_source_open(path, NULL, &source, &error);
    cr_assert_eq(status, NIB_OK, "%s", error.message);
    return source;
}

/// Reads all rows of `role` as fp32.
static float *read_all(const struct nib_source *source, enum nib_role role, uint32_t layer,
                       struct nib_row_reader *out_reader)
{
    cr_assert_eq(nib_source_reader(source, role, layer, out_reader, &error), NIB_OK, "%s",
                 error.message);
    size_t n = (size_t)(out_reader->rows * out_reader->cols);
    size_t size = nib_row_block_size(&out_reader->format, 1, out_reader->cols);
    float *values = malloc(n * sizeof *values);
    void *memory = malloc(size);
    struct nib_row_block block;
    nib_row_block_init(&block, &out_reader->format, 1, out_reader->cols, memory);
    for (uint64_t row = 0; row < out_reader->rows; row++) {
        cr_assert_eq(out_reader->read(out_reader, row, &block, &error), NIB_OK);
        nib_row_dequantize(&out_reader->format, &block, 0, values + row * out_reader->cols);
    }
    free(memory);
    return values;
}

Test(source, folders_of_all_architectures)
{
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        struct nib_source *source = open_ok(folder_of(architectures[i]));
        const struct nib_model_config *config = nib_source_config(source);
        cr_expect(config->vocabulary == 320 && config->n_layers == 3 && config->hidden_size == 96);
        cr_expect_str_eq(nib_source_container(source), "safetensors");
        cr_expect_str_eq(nib_source_quantization(source), "bf16");
        cr_expect_null(nib_source_tokenizer(source));
        cr_expect_gt(nib_source_file_bytes(source), 500000);
        uint32_t n_matrices = 0;
        for (uint32_t role = 0; role < NIB_ROLE_COUNT; role++)
            n_matrices += nib_role_is_matrix(role) && nib_source_has(source, role, 2);
        cr_expect_eq(n_matrices, strcmp(architectures[i], "phi3") == 0 ? 4 : 7);
        cr_expect(!nib_source_has(source, NIB_ROLE_Q, 3));
        nib_source_destroy(&source);
        cr_expect_null(source);
    }
}

Test(source, heads_tied_or_not)
{
    struct nib_source *source = open_ok(folder_of("gemma3"));
    cr_expect(!nib_source_has(source, NIB_ROLE_OUTPUT, 0));
    nib_source_destroy(&source);
    source = open_ok(folder_of("qwen3"));
    cr_expect(nib_source_has(source, NIB_ROLE_OUTPUT, 0));
    nib_source_destroy(&source);
}

Test(source, biases)
{
    struct nib_source *source = open_ok(folder_of("qwen2"));
    struct nib_row_reader reader;
    cr_expect(nib_source_has(source, NIB_ROLE_Q_BIAS, 0));
    cr_expect(!nib_source_has(source, NIB_ROLE_ATTENTION_OUT_BIAS, 0));
    cr_assert_eq(nib_source_reader(source, NIB_ROLE_K_BIAS, 1, &reader, &error), NIB_OK);
    cr_expect(reader.rows == 1 && reader.cols == 32 && reader.format.id == NIB_FORMAT_BF16);
    nib_source_destroy(&source);
}

Test(source, norm_offset_is_added)
{
    struct nib_source *source = open_ok(folder_of("gemma2"));
    struct nib_row_reader reader;
    float *norm = read_all(source, NIB_ROLE_ATTENTION_NORM, 0, &reader);
    const struct nib_tensor *tensor =
        nib_tensor_find(nib_source_tensors(source), "model.layers.0.input_layernorm.weight");
    cr_expect(reader.format.id == NIB_FORMAT_F32 && reader.raw == NULL && reader.cols == 96);
    for (uint32_t i = 0; i < 96; i++) {
        uint32_t bits = (uint32_t)tensor->data[2 * i + 1] << 24 | (uint32_t)tensor->data[2 * i]
                                                                      << 16;
        float stored;
        memcpy(&stored, &bits, sizeof stored);
        cr_assert_eq(norm[i], stored + 1);
    }
    free(norm);
    // Gemma's names mean something else than llama's.
    cr_assert_eq(nib_source_reader(source, NIB_ROLE_ATTENTION_POST_NORM, 1, &reader, &error),
                 NIB_OK);
    cr_expect_str_eq(reader.name, "model.layers.1.post_attention_layernorm.weight");
    cr_assert_eq(nib_source_reader(source, NIB_ROLE_FFN_NORM, 1, &reader, &error), NIB_OK);
    cr_expect_str_eq(reader.name, "model.layers.1.pre_feedforward_layernorm.weight");
    nib_source_destroy(&source);
}

Test(source, matrices_lie_in_the_file)
{
    struct nib_source *source = open_ok(folder_of("llama3-rope"));
    struct nib_row_reader reader;
    float *up = read_all(source, NIB_ROLE_FFN_UP, 2, &reader);
    const struct nib_tensor *tensor =
        nib_tensor_find(nib_source_tensors(source), "model.layers.2.mlp.up_proj.weight");
    cr_expect(reader.raw == tensor->data && reader.rows == 192 && reader.cols == 96);
    cr_expect_eq(reader.activation, NIB_ACTIVATION_F32);
    reader.drop(&reader, 0, reader.rows);
    free(up);
    nib_source_destroy(&source);
}

/// Writes the tiny file to the test's folder and opens it.
static enum nib_status open_tiny_with(const struct nib_model_params *params,
                                      struct nib_source **out_source)
{
    struct nib_buffer file;
    const char *path = path_in_folder("tiny.gguf");
    tiny_end(&tiny, &file);
    put_file(path, file.data, file.size);
    nib_buffer_free(&file);
    return nib_source_open(path, params, out_source, &error);
}

static enum nib_status open_tiny(struct nib_source **out_source)
{
    return open_tiny_with(NULL, out_source);
}

Test(source, gguf_files_of_all_architectures)
{
    for (uint32_t i = 0; i < n_tiny_kinds; i++) {
        struct nib_source *source;
        tiny_begin(&tiny, tiny_kinds[i].arch, NULL);
        tiny_layers(&tiny, &tiny_kinds[i]);
        cr_assert_eq(open_tiny(&source), NIB_OK, "%s: %s", tiny_kinds[i].arch, error.message);
        cr_expect_str_eq(nib_source_container(source), "gguf");
        cr_expect_str_eq(nib_source_quantization(source), "f32");
        cr_expect_eq(nib_source_config(source)->vocabulary, TINY_VOCABULARY);
        cr_expect_eq(nib_source_has(source, NIB_ROLE_FFN_GATE_UP, 1), tiny_kinds[i].fused);
        cr_expect(!nib_source_has(source, NIB_ROLE_OUTPUT, 0));
        nib_source_destroy(&source);
    }
}

Test(source, missing_tensors)
{
    static const char *const names[] = {
        "token_embd.weight",     "output_norm.weight",       "blk.0.attn_norm.weight",
        "blk.1.attn_q.weight",   "blk.1.attn_k.weight",      "blk.1.attn_v.weight",
        "blk.0.attn_q.bias",     "blk.0.attn_output.weight", "blk.1.ffn_norm.weight",
        "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight",      "blk.1.ffn_down.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct nib_source *source;
        tiny_begin(&tiny, "qwen2", names[i]);
        tiny_layers(&tiny, &tiny_kinds[2]);
        cr_expect_eq(open_tiny(&source), NIB_ERROR_NOT_FOUND, "%s", names[i]);
        cr_expect(strstr(error.message, names[i]) && strstr(error.message, "tiny.gguf"), "%s",
                  error.message);
    }
}

Test(source, wrong_shapes)
{
    static const struct {
        const char *name;
        uint32_t rows;
        uint32_t cols;
    } wrong[] = {
        {"token_embd.weight", TINY_VOCABULARY, TINY_HIDDEN + 1},
        {"token_embd.weight", 0, TINY_HIDDEN},
        {"output_norm.weight", 0, TINY_HIDDEN - 1},
        {"blk.0.attn_q.weight", TINY_HIDDEN + 1, TINY_HIDDEN},
        {"blk.1.ffn_down.weight", TINY_FFN, TINY_HIDDEN},
        {"output.weight", TINY_VOCABULARY + 1, TINY_HIDDEN},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct nib_source *source;
        tiny_begin(&tiny, "llama", wrong[i].name);
        tiny_layers(&tiny, &tiny_kinds[0]);
        tiny.without = NULL;
        tiny_tensor(&tiny, wrong[i].name, wrong[i].rows, wrong[i].cols);
        cr_expect_eq(open_tiny(&source), NIB_ERROR_FORMAT, "case %zu", i);
        cr_expect_null(source);
        cr_expect(strstr(error.message, wrong[i].name), "%s", error.message);
    }
}

/// A matrix of one row has a vector's shape, but must have its numbers, too.
Test(source, quantized_vectors)
{
    enum { VOCABULARY = 32, Q8_0 = 8 }; // a block
    for (int i = 0; i < 2; i++) {
        struct nib_source *source;
        tiny_begin(&tiny, "llama", "token_embd.weight");
        tiny_layers(&tiny, &tiny_kinds[0]);
        tiny.without = NULL;
        tiny_tensor(&tiny, "token_embd.weight", VOCABULARY, TINY_HIDDEN);
        tiny_tensor(&tiny, "output.bias", 1, VOCABULARY);
        if (i == 0) {
            cr_assert_eq(open_tiny(&source), NIB_OK, "%s", error.message);
            cr_expect(nib_source_has(source, NIB_ROLE_OUTPUT_BIAS, 0));
            nib_source_destroy(&source);
            continue;
        }
        tiny.tensors.data[tiny.tensors.size - 12] = Q8_0; // before 8 bytes of offset
        cr_expect_eq(open_tiny(&source), NIB_ERROR_UNSUPPORTED, "%s", error.message);
        cr_expect(strstr(error.message, "tiny.gguf") && strstr(error.message, "'output.bias'") &&
                      strstr(error.message, "q8_0") && strstr(error.message, "take a file"),
                  "%s", error.message);
    }
}

static void take_line(void *user, enum nib_log_level level, const char *text)
{
    (void)level;
    strncat(user, text, 400);
}

/// Tensors of RoPE factors are read with the configuration; what is not read at all is told.
Test(source, unused_tensors)
{
    static char lines[1024];
    const struct nib_model_params params = {
        .log = {.user = lines, .write = take_line, .level = NIB_LOG_INFO}};
    for (uint32_t i = 0; i < 2; i++) {
        struct nib_source *source;
        tiny_begin(&tiny, "phi3", NULL);
        tiny_layers(&tiny, &tiny_kinds[6]);
        tiny_tensor(&tiny, "rope_factors_long.weight", 0, TINY_HEAD_DIM / 2);
        tiny_tensor(&tiny, "rope_factors_short.weight", 0, TINY_HEAD_DIM / 2);
        if (i == 1)
            tiny_tensor(&tiny, "more.weight", 0, 4);
        cr_assert_eq(open_tiny_with(&params, &source), NIB_OK, "%s", error.message);
        cr_expect(i == 0 ? lines[0] == '\0' : strstr(lines, "1 of ") != NULL, "%s", lines);
        nib_source_destroy(&source);
    }
}

Test(source, no_such_place)
{
    struct nib_source *source;
    cr_expect_eq(nib_source_open(path_in_folder("none"), NULL, &source, &error),
                 NIB_ERROR_NOT_FOUND);
    cr_expect_eq(nib_source_open(path_in_folder("."), NULL, &source, &error), NIB_ERROR_NOT_FOUND);
    cr_expect(strstr(error.message, "config.json"), "%s", error.message);
    static const char llama[] = "{\"model_type\":\"llama\",\"hidden_size\":8,"
                                "\"intermediate_size\":8,\"num_hidden_layers\":1,"
                                "\"num_attention_heads\":1,\"max_position_embeddings\":8}";
    put_file(path_in_folder("config.json"), llama, sizeof llama - 1);
    cr_expect_eq(nib_source_open(path_in_folder("."), NULL, &source, &error), NIB_ERROR_NOT_FOUND);
    cr_expect(strstr(error.message, "model.safetensors"), "%s", error.message);
}

Test(source, generation_defaults)
{
    struct nib_generation_defaults defaults;
    struct nib_source *source = open_ok(folder_of("llama3-rope"));
    nib_source_generation_defaults(source, &defaults);
    cr_expect(defaults.temperature == -1 && defaults.top_k == -1 && defaults.do_sample == -1);
    nib_source_destroy(&source);

    tiny_begin(&tiny, "llama", NULL);
    tiny_layers(&tiny, &tiny_kinds[0]);
    tiny.arch = "general.sampling";
    tiny_f32(&tiny, "temp", 0.5f);
    tiny_f32(&tiny, "min_p", -2);
    tiny_f32(&tiny, "top_p", 1.5f);
    tiny_u32(&tiny, "top_k", 64);
    cr_assert_eq(open_tiny(&source), NIB_OK, "%s", error.message);
    nib_source_generation_defaults(source, &defaults);
    cr_expect(defaults.temperature == 0.5f && defaults.top_k == 64 && defaults.min_p == -1 &&
              defaults.top_p == -1);
    nib_source_destroy(&source);
}

static bool refuse(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    *(bool *)user = done == total;
    return false;
}

Test(source, progress_can_cancel)
{
    bool called = false;
    struct nib_source *source;
    const struct nib_model_params params = {.progress = {refuse, &called}};
    cr_expect_eq(nib_source_open(folder_of("phi3"), &params, &source, &error), NIB_ERROR_CANCELLED);
    cr_expect(called && source == NULL);
}

/// Opens `path` with its first, second, ... allocation failing, until none fails.
static void fail_each(const char *path)
{
    for (uint32_t n = 0;; n++) {
        struct nib_source *source;
        cr_assert_lt(n, 10000);
        alloc_fail_after(n);
        enum nib_status status = nib_source_open(path, NULL, &source, &error);
        bool failed = alloc_fail_off();
        cr_assert_eq(status == NIB_OK, source != NULL);
        nib_source_destroy(&source);
        if (!failed) {
            cr_assert_eq(status, NIB_OK, "%s", error.message);
            cr_expect_gt(n, 5);
            return;
        }
        cr_assert_eq(status, NIB_ERROR_MEMORY, "allocation %u: %d %s", n, status, error.message);
    }
}

Test(source, every_allocation_may_fail)
{
    struct nib_source *source;
    tiny_begin(&tiny, "gemma3", NULL);
    tiny_layers(&tiny, &tiny_kinds[5]);
    cr_assert_eq(open_tiny(&source), NIB_OK);
    nib_source_destroy(&source);
    fail_each(path_in_folder("tiny.gguf"));
    fail_each(folder_of("smollm3"));
}
