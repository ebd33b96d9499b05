// Folders written of models whose quantization is known: those of real tools, which must come out
// as they were, and small GGUF files.
#include "runtime/compress/folder.h"

#include "runtime/base/os.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/source_parts.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDERS NIB_TEST_DATA "/checkpoints"
enum { MAX_ENTRIES = 64 };

static struct nib_error error;
static struct nib_compress_entry entries[MAX_ENTRIES];

TestSuite(folder, .init = make_folder, .fini = remove_folder);

static struct nib_source *open_ok(const char *path)
{
    struct nib_source *source;
    cr_assert_eq(nib_source_open(path, NULL, &source, &error), NIB_OK, "%s", error.message);
    return source;
}

/// Plans to write every tensor in the format that it has.
static struct nib_compress_plan plan_of(const struct nib_source *source,
                                        enum nib_quantize_container container)
{
    struct nib_compress_plan plan = {
        .source = source, .params = {.container = container}, .entries = entries};
    for (int pass = 0; pass < 3; pass++) {
        for (uint32_t layer = 0; layer < nib_source_config(source)->n_layers; layer++) {
            for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
                const int own = role == NIB_ROLE_TOKEN_EMBEDDING ? 0
                                : nib_arch_in_layer(role)        ? 1
                                                                 : 2;
                struct nib_row_reader reader;
                if (own != pass || !nib_source_has(source, role, layer))
                    continue;
                cr_assert_eq(nib_source_reader(source, role, layer, &reader, &error), NIB_OK);
                const bool is_float = reader.format.code == NIB_CODE_FLOAT;
                cr_assert_lt(plan.n_entries, MAX_ENTRIES);
                entries[plan.n_entries++] = (struct nib_compress_entry){
                    .role = role,
                    .layer = layer,
                    .name = reader.name,
                    .rows = reader.rows,
                    .cols = reader.cols,
                    .is_quantized = !is_float,
                    .scheme = {.format = reader.format,
                               .activation = reader.activation,
                               .outlier_threshold = reader.outlier_threshold}};
                if (is_float && !nib_role_is_matrix(role))
                    entries[plan.n_entries - 1].scheme.format = entries[0].scheme.format;
                if (reader.permutation) {
                    plan.params.method = NIB_QUANTIZE_GPTQ;
                    plan.params.act_order = plan.params.no_static_groups = true;
                }
            }
        }
    }
    return plan;
}

/// Reads the whole tensor of an entry.
static void *read_all(const struct nib_compress_plan *plan, uint32_t index,
                      struct nib_row_reader *out_reader, struct nib_row_block *out_block)
{
    const struct nib_compress_entry *entry = &plan->entries[index];
    cr_assert_eq(nib_source_reader(plan->source, entry->role, entry->layer, out_reader, &error),
                 NIB_OK);
    void *memory = malloc(nib_row_block_size(&out_reader->format, entry->rows, entry->cols));
    nib_row_block_init(out_block, &out_reader->format, entry->rows, entry->cols, memory);
    cr_assert_eq(out_reader->read(out_reader, 0, out_block, &error), NIB_OK, "%s", error.message);
    return memory;
}

static void put(const struct nib_compress_plan *plan, uint32_t index, void *writer)
{
    struct nib_row_reader reader;
    struct nib_row_block block;
    void *memory = read_all(plan, index, &reader, &block);
    const struct nib_compress_entry *entry = &plan->entries[index];
    enum nib_status status;
    if (entry->is_quantized) {
        const struct nib_quantized_matrix matrix = {.role = entry->role,
                                                    .layer = entry->layer,
                                                    .format = reader.format,
                                                    .rows = entry->rows,
                                                    .cols = entry->cols,
                                                    .block = block,
                                                    .permutation = reader.permutation,
                                                    .activation = reader.activation,
                                                    .activation_scale = reader.activation_scale};
        status = nib_folder_writer.put_matrix(writer, index, &matrix, &error);
    } else {
        // In two pieces where there are several rows.
        const uint64_t first = entry->rows / 2;
        status = first == 0
                     ? NIB_OK
                     : nib_folder_writer.put_rows(writer, index, 0, first, block.values, &error);
        if (status == NIB_OK)
            status = nib_folder_writer.put_rows(writer, index, first, entry->rows - first,
                                                block.values + first * entry->cols, &error);
    }
    cr_assert_eq(status, NIB_OK, "%s", error.message);
    free(memory);
}

static void write_folder(const struct nib_compress_plan *plan)
{
    void *writer;
    uint64_t bytes;
    cr_assert_eq(nib_folder_writer.check(plan, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_folder_writer.begin(plan, path_in_folder("out"), &writer, &error), NIB_OK,
                 "%s", error.message);
    cr_expect_eq(nib_path_kind(path_in_folder("out")), NIB_PATH_ABSENT);
    for (uint32_t i = 0; i < plan->n_entries; i++)
        put(plan, i, writer);
    cr_assert_eq(nib_folder_writer.finish(&writer, &bytes, &error), NIB_OK, "%s", error.message);
    cr_expect_null(writer);
    cr_expect_gt(bytes, 100000);
}

struct fixture {
    const char *name;
    enum nib_quantize_container container;
    bool differs; ///< in bytes: scales are stored in another way
};
static const struct fixture fixtures[] = {
    {"gptq-int4-g32-sym", NIB_QUANTIZE_AS_GPTQ, false},
    {"gptq-int4-g64-actorder", NIB_QUANTIZE_AS_GPTQ, false},
    {"gptq-int8-g32", NIB_QUANTIZE_AS_GPTQ, false},
    {"awq-int4-g32", NIB_QUANTIZE_AS_AWQ, false},
    {"bnb-nf4", NIB_QUANTIZE_AS_BITSANDBYTES, true},
    {"bnb-fp4", NIB_QUANTIZE_AS_BITSANDBYTES, false},
    {"bnb-int8", NIB_QUANTIZE_AS_BITSANDBYTES, false},
    {"ct-w4a16-g32", NIB_QUANTIZE_AS_COMPRESSED_TENSORS, false},
    {"ct-awq-w4a16-asym-g32", NIB_QUANTIZE_AS_COMPRESSED_TENSORS, false},
    {"ct-w8a16-channel", NIB_QUANTIZE_AS_COMPRESSED_TENSORS, false},
    {"ct-w8a8-static", NIB_QUANTIZE_AS_COMPRESSED_TENSORS, false},
    {"ct-w8a8-dynamic", NIB_QUANTIZE_AS_COMPRESSED_TENSORS, false},
};
enum { N_FIXTURES = sizeof fixtures / sizeof fixtures[0] };

static void expect_same_tensors(const char *folder)
{
    struct nib_safetensors *ours, *theirs;
    cr_assert_eq(nib_safetensors_open_folder(path_in_folder("out"), &ours, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_safetensors_open_folder(folder, &theirs, &error), NIB_OK);
    cr_expect_eq(ours->directory.n_tensors, theirs->directory.n_tensors);
    for (uint32_t i = 0; i < theirs->directory.n_tensors; i++) {
        const struct nib_tensor *expected = &theirs->directory.tensors[i];
        const struct nib_tensor *tensor = nib_tensor_find(&ours->directory, expected->name);
        cr_assert_not_null(tensor, "%s", expected->name);
        cr_expect_eq(tensor->dtype, expected->dtype, "%s", expected->name);
        if (strstr(expected->name, "quant_state"))
            continue; // a text whose spaces differ
        cr_assert_eq(tensor->size, expected->size, "%s", expected->name);
        cr_expect_arr_eq(tensor->data, expected->data, tensor->size, "%s", expected->name);
    }
    nib_safetensors_destroy(&ours);
    nib_safetensors_destroy(&theirs);
}

/// Both sources read the same weights.
static void expect_same_weights(const struct nib_compress_plan *plan)
{
    struct nib_source *copy = open_ok(path_in_folder("out"));
    struct nib_compress_plan again = *plan;
    again.source = copy;
    cr_expect_str_eq(nib_source_quantization(copy), nib_source_quantization(plan->source));
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        struct nib_row_reader readers[2];
        struct nib_row_block blocks[2];
        void *memory[2] = {read_all(plan, i, &readers[0], &blocks[0]),
                           read_all(&again, i, &readers[1], &blocks[1])};
        const size_t cols = (size_t)plan->entries[i].cols;
        float *rows[2] = {calloc(cols, sizeof(float)), calloc(cols, sizeof(float))};
        cr_expect_eq(readers[1].activation, readers[0].activation, "%s", readers[0].name);
        for (uint64_t r = 0; r < plan->entries[i].rows; r++) {
            for (int k = 0; k < 2; k++)
                nib_row_dequantize(&readers[k].format, &blocks[k], r, rows[k]);
            cr_assert_arr_eq(rows[0], rows[1], cols * sizeof(float), "%s", readers[0].name);
        }
        for (int k = 0; k < 2; k++) {
            free(memory[k]);
            free(rows[k]);
        }
    }
    nib_source_destroy(&copy);
}

ParameterizedTestParameters(folder, as_the_tools)
{
    static size_t indices[N_FIXTURES];
    for (size_t i = 0; i < N_FIXTURES; i++)
        indices[i] = i;
    return cr_make_param_array(size_t, indices, N_FIXTURES);
}

ParameterizedTest(size_t *index, folder, as_the_tools)
{
    const struct fixture *fixture = &fixtures[*index];
    char path[512];
    snprintf(path, sizeof path, FOLDERS "/%s", fixture->name);
    struct nib_source *source = open_ok(path);
    const struct nib_compress_plan plan = plan_of(source, fixture->container);
    write_folder(&plan);
    if (!fixture->differs)
        expect_same_tensors(path);
    expect_same_weights(&plan);
    nib_source_destroy(&source);
}

/// A small limit cuts the tensors into several files and an index.
Test(folder, shards)
{
    struct nib_source *source = open_ok(FOLDERS "/ct-w4a16-g32");
    const struct nib_compress_plan plan = plan_of(source, NIB_QUANTIZE_AS_COMPRESSED_TENSORS);
    struct nib_folder folder = {.plan = &plan};
    struct nib_folder_tensors *tensors;
    char out[512];
    json_t *index;
    snprintf(out, sizeof out, "%s", path_in_folder(""));
    folder.temp = out;
    cr_assert_eq(nib_folder_tensors_create(&folder, 150000, &tensors, &error), NIB_OK, "%s",
                 error.message);
    for (uint32_t i = 0; i < plan.n_entries; i++) {
        struct nib_row_reader reader;
        struct nib_row_block block;
        void *memory = read_all(&plan, i, &reader, &block);
        const struct nib_quantized_matrix matrix = {.block = block};
        cr_assert_eq(
            entries[i].is_quantized
                ? nib_folder_tensors_put_matrix(tensors, i, &matrix, &error)
                : nib_folder_tensors_put_rows(tensors, i, entries[i].rows, block.values, &error),
            NIB_OK, "%s", error.message);
        free(memory);
    }
    cr_assert_eq(nib_folder_tensors_finish(tensors, &error), NIB_OK, "%s", error.message);
    nib_folder_tensors_destroy(&tensors);
    nib_buffer_free(&folder.names);

    struct nib_safetensors *files;
    cr_assert_eq(nib_json_open(out, "model.safetensors.index.json", true, &index, &error), NIB_OK);
    uint32_t total;
    cr_expect(nib_json_get_u32(json_object_get(index, "metadata"), "total_size", &total));
    json_decref(index);
    cr_assert_eq(nib_safetensors_open_folder(out, &files, &error), NIB_OK, "%s", error.message);
    cr_expect_eq(files->directory.n_maps, 4);
    uint64_t size = 0;
    for (uint32_t i = 0; i < files->directory.n_tensors; i++)
        size += files->directory.tensors[i].size;
    cr_expect_eq(size, total);
    nib_safetensors_destroy(&files);
    nib_source_destroy(&source);
}

/// Nothing is left of what was given up.
Test(folder, whole_or_not_at_all)
{
    struct nib_source *source = open_ok(FOLDERS "/bnb-int8");
    const struct nib_compress_plan plan = plan_of(source, NIB_QUANTIZE_AS_BITSANDBYTES);
    void *writer;
    uint64_t bytes;
    cr_assert_eq(nib_folder_writer.begin(&plan, path_in_folder("out/"), &writer, &error), NIB_OK);
    put(&plan, 0, writer);
    nib_folder_writer.discard(&writer);
    cr_expect_null(writer);
    nib_folder_writer.discard(&writer);
    cr_assert_eq(nib_folder_writer.begin(&plan, path_in_folder("out"), &writer, &error), NIB_OK);
    put(&plan, 0, writer);
    cr_expect_eq(nib_folder_writer.finish(&writer, &bytes, &error), NIB_ERROR_STATE);
    cr_expect_null(writer);
    cr_expect_eq(rmdir(path_in_folder("")), 0, "files were left");
    make_folder();
    cr_expect_eq(nib_folder_writer.begin(&plan, path_in_folder("none/out"), &writer, &error),
                 NIB_ERROR_IO);
    nib_source_destroy(&source);
}

static void expect_refused(const struct nib_compress_plan *plan, const char *words)
{
    cr_expect_eq(nib_folder_writer.check(plan, &error), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, words), "%s", error.message);
}

Test(folder, refused)
{
    struct nib_source *source = open_ok(FOLDERS "/gptq-int4-g32-sym");
    struct nib_compress_plan plan = plan_of(source, NIB_QUANTIZE_AS_GPTQ);
    cr_expect_eq(nib_folder_writer.check(&plan, &error), NIB_OK, "%s", error.message);
    uint32_t matrix = 0;
    while (!entries[matrix].is_quantized)
        matrix++;
    const struct nib_compress_entry old = entries[matrix];
    entries[matrix].is_quantized = false;
    expect_refused(&plan, "is kept");
    entries[matrix] = old;
    entries[matrix].scheme.format.group = 64;
    expect_refused(&plan, "differ in format");
    plan.params.container = NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
    cr_expect_eq(nib_folder_writer.check(&plan, &error), NIB_OK, "%s", error.message);
    entries[matrix].is_quantized = false;
    cr_expect_eq(nib_folder_writer.check(&plan, &error), NIB_OK, "%s", error.message);
    entries[0].is_quantized = true;
    expect_refused(&plan, "=keep");
    nib_source_destroy(&source);
}

/// Each scheme of a mixed folder names its matrices, and the importer finds them by it.
Test(folder, mixed)
{
    struct nib_source *source = open_ok(FOLDERS "/ct-w8a16-channel");
    struct nib_compress_plan plan = plan_of(source, NIB_QUANTIZE_AS_COMPRESSED_TENSORS);
    for (uint32_t i = 0; i < plan.n_entries; i++) {
        if (entries[i].role == NIB_ROLE_FFN_DOWN)
            entries[i].scheme.activation = NIB_ACTIVATION_INT8_TOKEN;
    }
    write_folder(&plan);
    struct nib_source *copy = open_ok(path_in_folder("out"));
    struct nib_row_reader reader;
    cr_assert_eq(nib_source_reader(copy, NIB_ROLE_FFN_DOWN, 1, &reader, &error), NIB_OK);
    cr_expect_eq(reader.activation, NIB_ACTIVATION_INT8_TOKEN);
    cr_assert_eq(nib_source_reader(copy, NIB_ROLE_FFN_UP, 1, &reader, &error), NIB_OK);
    cr_expect_eq(reader.activation, NIB_ACTIVATION_F32);
    error.message[0] = '\0';
    cr_expect_eq(nib_folder_writer.check(&plan, &error), NIB_OK);
    cr_expect_str_empty(error.message);
    nib_source_destroy(&copy);
    nib_source_destroy(&source);
}
