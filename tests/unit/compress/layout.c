// Matrices of the folders that real tools have written, read and stored again: the tensors are the
// same, byte for byte.
#include "runtime/compress/layout.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/compress/nested.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"
#include "tests/unit/import/parts.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

#define FOLDERS NIB_TEST_DATA "/checkpoints"

struct folder {
    const char *name;
    struct nib_layout layout;
};

static const struct folder folders[] = {
    {"gptq-int4-g32-sym", {.kind = NIB_LAYOUT_GPTQ, .zero_minus_one = true}},
    {"gptq-int4-g64-actorder", {.kind = NIB_LAYOUT_GPTQ, .zero_minus_one = true}},
    {"gptq-int8-g32", {.kind = NIB_LAYOUT_GPTQ, .zero_minus_one = true}},
    {"awq-int4-g32", {.kind = NIB_LAYOUT_AWQ}},
    {"bnb-nf4", {.kind = NIB_LAYOUT_BNB_4BIT, .nested = true, .dtype = "bfloat16"}},
    {"bnb-fp4", {.kind = NIB_LAYOUT_BNB_4BIT, .dtype = "bfloat16"}},
    {"bnb-int8", {.kind = NIB_LAYOUT_BNB_INT8}},
    {"ct-w4a16-g32", {.kind = NIB_LAYOUT_COMPRESSED_PACKED}},
    {"ct-awq-w4a16-asym-g32", {.kind = NIB_LAYOUT_COMPRESSED_PACKED}},
    {"ct-w8a16-channel", {.kind = NIB_LAYOUT_COMPRESSED_PACKED}},
    {"ct-w8a8-static", {.kind = NIB_LAYOUT_COMPRESSED_INT}},
    {"ct-w8a8-dynamic", {.kind = NIB_LAYOUT_COMPRESSED_INT}},
};
enum { N_FOLDERS = sizeof folders / sizeof folders[0] };

static const struct nib_tensor *find(const struct checkpoint *opened, const char *module,
                                     const char *part)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return nib_tensor_find(&opened->files->directory, name);
}

/// Numbers in the text have other lengths; what it says is the same.
static void check_state(const struct nib_tensor *expected, const struct nib_layout_tensor *tensor)
{
    struct nib_error error = {0};
    json_t *ours, *theirs;
    cr_assert_eq(
        nib_json_parse((const char *)expected->data, expected->size, "tool", &theirs, &error),
        NIB_OK);
    cr_assert_eq(nib_json_parse((const char *)tensor->data, tensor->size, "ours", &ours, &error),
                 NIB_OK, "%s", error.message);
    cr_expect(json_equal(ours, theirs), "%.*s", (int)tensor->size, (const char *)tensor->data);
    json_decref(ours);
    json_decref(theirs);
}

static void check_tensor(const struct checkpoint *opened, const char *module,
                         const struct nib_layout_tensor *tensor)
{
    const struct nib_tensor *expected = find(opened, module, tensor->part);
    cr_assert_not_null(expected, "%s.%s", module, tensor->part);
    cr_expect_eq(tensor->dtype, expected->dtype, "%s", tensor->part);
    if (strstr(tensor->part, "quant_state")) {
        check_state(expected, tensor);
        return;
    }
    cr_expect_eq(tensor->n_dims, expected->n_dims, "%s", tensor->part);
    for (uint32_t d = 0; d < tensor->n_dims; d++)
        cr_expect_eq(tensor->dims[d], expected->dims[d], "%s", tensor->part);
    cr_assert_eq(tensor->size, expected->size, "%s", tensor->part);
    cr_expect_arr_eq(tensor->data, expected->data, tensor->size, "%s.%s", module, tensor->part);
}

/// Takes the second level of scales from the folder.
static void find_scale_codes(const struct checkpoint *opened, const char *module,
                             struct nib_scale_codes *out)
{
    struct nib_error error = {0};
    json_t *state;
    const struct nib_tensor *text = find(opened, module, "weight.quant_state.bitsandbytes__nf4");
    const struct nib_tensor *scale = find(opened, module, "weight.nested_absmax");
    cr_assert_eq(nib_json_parse((const char *)text->data, text->size, module, &state, &error),
                 NIB_OK);
    cr_assert(nib_json_get_f32(state, "nested_offset", &out->offset));
    json_decref(state);
    out->codes = (uint8_t *)find(opened, module, "weight.absmax")->data;
    out->scale = malloc(scale->size);
    memcpy(out->scale, scale->data, scale->size);
    out->book = nib_nested_book;
}

static void check_module(struct checkpoint *opened, const struct folder *folder, const char *module,
                         struct nib_shape shape)
{
    struct nib_error error = {0};
    struct nib_layout layout = folder->layout;
    struct nib_scale_codes codes = {0};
    struct nib_layout_set set;
    const struct nib_row_reader *reader;
    cr_assert_eq(nib_quantization_reader(opened->quantization, &opened->files->directory, module,
                                         shape, &reader, &error),
                 NIB_OK, "%s", error.message);
    if (layout.nested) {
        find_scale_codes(opened, module, &codes);
        layout.scale_codes = &codes;
    }
    cr_assert_eq(nib_layout_describe(&layout, reader, &set, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_layout_pack(&layout, reader, &set, &error), NIB_OK, "%s", error.message);
    const uint32_t n_before = opened->quantization->n_tensors;
    cr_expect_eq(set.n_tensors, n_before, "%s: %u tensors of %u", module, set.n_tensors, n_before);
    for (uint32_t i = 0; i < set.n_tensors; i++)
        check_tensor(opened, module, &set.tensors[i]);
    nib_layout_free(&set);
    free(codes.scale);
}

ParameterizedTestParameters(layouts, stored_again)
{
    static size_t indices[N_FOLDERS];
    for (size_t i = 0; i < N_FOLDERS; i++)
        indices[i] = i;
    return cr_make_param_array(size_t, indices, N_FOLDERS);
}

static void check_folder(const struct folder *folder)
{
    static const struct {
        const char *name;
        struct nib_shape shape;
    } modules[] = {
        {"self_attn.q_proj", {128, 128}}, {"self_attn.k_proj", {64, 128}},
        {"self_attn.v_proj", {64, 128}},  {"self_attn.o_proj", {128, 128}},
        {"mlp.gate_proj", {256, 128}},    {"mlp.up_proj", {256, 128}},
        {"mlp.down_proj", {128, 256}},
    };
    struct checkpoint opened;
    checkpoint_open(&opened, folder->name);
    for (int layer = 0; layer < 3; layer++) {
        for (size_t m = 0; m < sizeof modules / sizeof modules[0]; m++) {
            char module[96];
            snprintf(module, sizeof module, "model.layers.%d.%s", layer, modules[m].name);
            opened.quantization->n_tensors = 0;
            check_module(&opened, folder, module, modules[m].shape);
        }
    }
    checkpoint_close(&opened);
}

ParameterizedTest(size_t *index, layouts, stored_again)
{
    check_folder(&folders[*index]);
}

/// JSON has points where a host's locale has commas.
Test(layouts, stored_again_where_numbers_have_commas)
{
    static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ru_RU.UTF-8"};
    const char *set = NULL;
    for (size_t i = 0; !set && i < sizeof locales / sizeof locales[0]; i++)
        set = setlocale(LC_NUMERIC, locales[i]);
    if (!set)
        cr_skip_test("this system has no such locale");
    for (size_t i = 0; i < N_FOLDERS; i++) {
        if (folders[i].layout.nested)
            check_folder(&folders[i]);
    }
}

/// A random matrix in memory.
struct memory_matrix {
    struct nib_row_block block;
    struct nib_row_reader reader;
    void *memory;
    uint32_t permutation[512];
};

static enum nib_status read_memory(const struct nib_row_reader *reader, uint64_t first,
                                   struct nib_row_block *block, struct nib_error *err)
{
    const struct nib_row_block *all = reader->source;
    const uint64_t groups = nib_format_groups(&reader->format, reader->cols);
    (void)err;
    memcpy(block->codes, all->codes + first * all->cols, block->rows * all->cols);
    memcpy(block->scale, all->scale + first * groups, block->rows * groups * sizeof(float));
    if (all->zero)
        memcpy(block->zero, all->zero + first * groups, block->rows * groups * sizeof(int16_t));
    return NIB_OK;
}

static void make_matrix(struct memory_matrix *matrix, enum nib_format_id id, uint32_t group,
                        uint64_t rows, uint64_t cols)
{
    uint32_t state = (uint32_t)(rows * 7 + cols + group);
    *matrix = (struct memory_matrix){0};
    matrix->reader = (struct nib_row_reader){.name = "m",
                                             .format = *nib_format_get(id),
                                             .rows = rows,
                                             .cols = cols,
                                             .read = read_memory,
                                             .source = &matrix->block};
    struct nib_format *format = &matrix->reader.format;
    format->group = group;
    matrix->memory = calloc(1, nib_row_block_size(format, rows, cols));
    nib_row_block_init(&matrix->block, format, rows, cols, matrix->memory);
    const uint64_t n_groups = nib_format_groups(format, cols);
    for (uint64_t i = 0; i < rows * cols; i++)
        matrix->block.codes[i] = (uint8_t)random_below(&state, 1u << format->bits);
    for (uint64_t i = 0; i < rows * n_groups; i++) {
        matrix->block.scale[i] = (float)(1 + random_below(&state, 200)) * 0x1p-9f;
        if (matrix->block.zero)
            matrix->block.zero[i] =
                (int16_t)(random_below(&state, 3) ? random_below(&state, 1u << format->bits) : 0);
    }
}

/// The same with integers of fewer bits.
static void make_narrow_matrix(struct memory_matrix *matrix, enum nib_format_id id, uint32_t bits)
{
    make_matrix(matrix, id, 32, 64, 96);
    struct nib_format *format = &matrix->reader.format;
    const uint8_t mask = (uint8_t)((1u << bits) - 1);
    format->bits = bits;
    format->center = format->center ? 1 << (bits - 1) : 0;
    for (uint64_t i = 0; i < matrix->reader.rows * matrix->reader.cols; i++)
        matrix->block.codes[i] &= mask;
    for (uint64_t i = 0; matrix->block.zero && i < matrix->reader.rows * 3; i++)
        matrix->block.zero[i] &= mask;
}

static void shuffle_columns(struct memory_matrix *matrix)
{
    uint32_t state = 11;
    for (uint32_t i = 0; i < matrix->reader.cols; i++)
        matrix->permutation[i] = i;
    for (uint32_t i = (uint32_t)matrix->reader.cols - 1; i > 0; i--) {
        const uint32_t k = random_below(&state, i + 1);
        const uint32_t column = matrix->permutation[i];
        matrix->permutation[i] = matrix->permutation[k];
        matrix->permutation[k] = column;
    }
    matrix->reader.permutation = matrix->permutation;
}

/// Stores the matrix and reads it back by the importer.
static void check_round_trip(struct memory_matrix *matrix, const struct nib_layout *layout,
                             const char *config)
{
    char names[NIB_LAYOUT_MAX_TENSORS][64];
    struct nib_error error = {0};
    struct nib_layout_set set;
    struct parts parts;
    cr_assert_eq(nib_layout_describe(layout, &matrix->reader, &set, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(nib_layout_pack(layout, &matrix->reader, &set, &error), NIB_OK, "%s",
                 error.message);
    parts_begin(&parts, config);
    for (uint32_t i = 0; i < set.n_tensors; i++) {
        const struct nib_layout_tensor *tensor = &set.tensors[i];
        snprintf(names[i], sizeof names[i], "m.%s", tensor->part);
        uint8_t *data = parts_add(&parts, names[i], tensor->dtype,
                                  tensor->n_dims ? tensor->dims[0] : 1, tensor->dims[1]);
        memcpy(data, tensor->data, tensor->size);
    }
    const struct nib_row_reader *reader =
        parts_reader(&parts, matrix->reader.rows, matrix->reader.cols);
    cr_expect_eq(reader->format.id, matrix->reader.format.id);
    cr_expect_eq(reader->activation, matrix->reader.activation);
    cr_expect_eq(reader->activation_scale, matrix->reader.activation_scale);
    const uint64_t cols = matrix->reader.cols;
    float *weights = read_weights(reader, 24);
    float *row = calloc(cols, sizeof *row);
    for (uint64_t r = 0; r < matrix->reader.rows; r++) {
        nib_row_dequantize(&matrix->reader.format, &matrix->block, r, row);
        for (uint64_t j = 0; j < cols; j++) {
            const uint64_t i = matrix->reader.permutation ? matrix->reader.permutation[j] : j;
            cr_assert_eq(weights[r * cols + i], row[j], "row %u, column %u", (unsigned)r,
                         (unsigned)i);
        }
    }
    free(row);
    free(weights);
    parts_end(&parts);
    nib_layout_free(&set);
    free(matrix->memory);
}

#define GPTQ(bits, group, more) \
    "{'quant_method':'gptq','bits':" #bits ",'group_size':" #group ",'sym':false" more "}"

Test(layouts, gptq_zero_points)
{
    struct memory_matrix matrix;
    const struct nib_layout v1 = {.kind = NIB_LAYOUT_GPTQ, .zero_minus_one = true};
    const struct nib_layout v2 = {.kind = NIB_LAYOUT_GPTQ};
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 32, 72, 96);
    check_round_trip(&matrix, &v1, GPTQ(4, 32, ",'checkpoint_format':'gptq'"));
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 32, 72, 96);
    check_round_trip(&matrix, &v2, GPTQ(4, 32, ",'checkpoint_format':'gptq_v2'"));
    make_matrix(&matrix, NIB_FORMAT_INT8_ZERO, 0, 100, 64);
    check_round_trip(&matrix, &v1, GPTQ(8, -1, ""));
}

Test(layouts, gptq_narrow_codes)
{
    struct memory_matrix matrix;
    const struct nib_layout v1 = {.kind = NIB_LAYOUT_GPTQ, .zero_minus_one = true};
    const struct nib_layout v2 = {.kind = NIB_LAYOUT_GPTQ};
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 3);
    check_round_trip(&matrix, &v1, GPTQ(3, 32, ""));
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 2);
    check_round_trip(&matrix, &v1, GPTQ(2, 32, ""));
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 3);
    check_round_trip(&matrix, &v2, GPTQ(3, 32, ",'checkpoint_format':'gptq_v2'"));
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4, 3);
    shuffle_columns(&matrix);
    check_round_trip(&matrix, &v1, "{'quant_method':'gptq','bits':3,'group_size':32,'sym':true}");
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4, 2);
    check_round_trip(&matrix, &v1, "{'quant_method':'gptq','bits':2,'group_size':32,'sym':true}");
}

Test(layouts, gptq_short_last_group_and_permutation)
{
    struct memory_matrix matrix;
    const struct nib_layout layout = {.kind = NIB_LAYOUT_GPTQ, .zero_minus_one = true};
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 64, 16, 96);
    shuffle_columns(&matrix);
    check_round_trip(&matrix, &layout, GPTQ(4, 64, ",'desc_act':true"));
}

#define AWQ(version, group) \
    "{'quant_method':'awq','bits':4,'group_size':" #group ",'version':'" version "'}"

Test(layouts, awq_orders)
{
    struct memory_matrix matrix;
    const struct nib_layout gemm = {.kind = NIB_LAYOUT_AWQ};
    const struct nib_layout gemv = {.kind = NIB_LAYOUT_AWQ, .gemv = true};
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 64, 136, 192);
    check_round_trip(&matrix, &gemm, AWQ("gemm", 64));
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 64, 24, 192);
    check_round_trip(&matrix, &gemv, AWQ("gemv", 64));
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 32, 24, 192);
    check_round_trip(&matrix, &gemv, AWQ("gemv", 32));
}

#define COMPRESSED(format, weights, more)                                           \
    "{'quant_method':'compressed-tensors','format':'" format "','config_groups':{'" \
    "g':{'targets':['Linear'],'weights':{'type':'int'," weights "}" more "}}}"

Test(layouts, compressed_tensors)
{
    struct memory_matrix matrix;
    struct nib_layout packed = {.kind = NIB_LAYOUT_COMPRESSED_PACKED};
    const struct nib_layout plain = {.kind = NIB_LAYOUT_COMPRESSED_INT};
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 32, 20, 96);
    check_round_trip(&matrix, &packed,
                     COMPRESSED("pack-quantized",
                                "'num_bits':4,'strategy':'group','group_size':32,'symmetric':false",
                                ""));
    make_matrix(&matrix, NIB_FORMAT_INT8_ZERO, 0, 20, 50);
    check_round_trip(
        &matrix, &packed,
        COMPRESSED("pack-quantized", "'num_bits':8,'strategy':'channel','symmetric':false", ""));
    make_matrix(&matrix, NIB_FORMAT_INT4, 32, 16, 64);
    shuffle_columns(&matrix);
    packed.group_index = true;
    check_round_trip(
        &matrix, &packed,
        COMPRESSED("pack-quantized", "'num_bits':4,'strategy':'group','group_size':32", ""));
    make_matrix(&matrix, NIB_FORMAT_INT8, 0, 70, 50);
    matrix.reader.format.scale = NIB_SCALE_F32;
    matrix.reader.activation = NIB_ACTIVATION_INT8_STATIC;
    matrix.reader.activation_scale = 0.3f;
    check_round_trip(&matrix, &plain,
                     COMPRESSED("int-quantized", "'num_bits':8,'strategy':'channel'",
                                ",'input_activations':{'num_bits':8}"));
}

Test(layouts, compressed_tensors_narrow_codes)
{
    struct memory_matrix matrix;
    const struct nib_layout layout = {.kind = NIB_LAYOUT_COMPRESSED_PACKED};
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4, 3);
    check_round_trip(
        &matrix, &layout,
        COMPRESSED("pack-quantized", "'num_bits':3,'strategy':'group','group_size':32", ""));
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 3);
    check_round_trip(&matrix, &layout,
                     COMPRESSED("pack-quantized",
                                "'num_bits':3,'strategy':'group','group_size':32,'symmetric':false",
                                ""));
    make_narrow_matrix(&matrix, NIB_FORMAT_INT4, 2);
    check_round_trip(
        &matrix, &layout,
        COMPRESSED("pack-quantized", "'num_bits':2,'strategy':'group','group_size':32", ""));
}

static void expect_refused(enum nib_format_id id, uint32_t group, uint64_t rows, uint64_t cols,
                           enum nib_layout_kind kind)
{
    struct memory_matrix matrix;
    struct nib_layout_set set;
    struct nib_error error = {0};
    const struct nib_layout layout = {.kind = kind, .dtype = "float16"};
    make_matrix(&matrix, id, group, rows, cols);
    cr_expect_eq(nib_layout_describe(&layout, &matrix.reader, &set, &error), NIB_ERROR_UNSUPPORTED,
                 "%d: %s", (int)kind, error.message);
    cr_expect(strstr(error.message, "matrix 'm'"), "%s", error.message);
    free(matrix.memory);
}

Test(layouts, what_does_not_fit)
{
    expect_refused(NIB_FORMAT_NF4, 64, 16, 64, NIB_LAYOUT_GPTQ);
    expect_refused(NIB_FORMAT_INT4, 32, 12, 64, NIB_LAYOUT_GPTQ);
    expect_refused(NIB_FORMAT_INT8, 32, 16, 64, NIB_LAYOUT_AWQ);
    expect_refused(NIB_FORMAT_INT4_ZERO, 64, 16, 96, NIB_LAYOUT_AWQ);
    expect_refused(NIB_FORMAT_INT4_ZERO, 32, 12, 96, NIB_LAYOUT_AWQ);
    expect_refused(NIB_FORMAT_INT4, 64, 16, 64, NIB_LAYOUT_BNB_4BIT);
    expect_refused(NIB_FORMAT_NF4, 32, 16, 64, NIB_LAYOUT_BNB_4BIT);
    expect_refused(NIB_FORMAT_NF4, 64, 16, 96, NIB_LAYOUT_BNB_4BIT);
    expect_refused(NIB_FORMAT_INT8, 32, 16, 64, NIB_LAYOUT_BNB_INT8);
    expect_refused(NIB_FORMAT_INT8_ZERO, 0, 16, 64, NIB_LAYOUT_BNB_INT8);
    expect_refused(NIB_FORMAT_INT4, 64, 16, 96, NIB_LAYOUT_COMPRESSED_PACKED);
    expect_refused(NIB_FORMAT_INT4, 0, 16, 96, NIB_LAYOUT_COMPRESSED_INT);
}

Test(layouts, zero_point_out_of_range)
{
    struct memory_matrix matrix;
    struct nib_layout_set set;
    struct nib_error error = {0};
    const struct nib_layout layout = {.kind = NIB_LAYOUT_AWQ};
    make_matrix(&matrix, NIB_FORMAT_INT4_ZERO, 32, 16, 64);
    matrix.block.zero[5] = 16;
    cr_assert_eq(nib_layout_describe(&layout, &matrix.reader, &set, &error), NIB_OK);
    cr_expect_eq(nib_layout_pack(&layout, &matrix.reader, &set, &error), NIB_ERROR_ARGUMENT);
    cr_expect(strstr(error.message, "row 2"), "%s", error.message);
    cr_expect_null(set.memory);
    matrix.block.zero[5] = 0;
    shuffle_columns(&matrix);
    cr_expect_eq(nib_layout_pack(&layout, &matrix.reader, &set, &error), NIB_ERROR_ARGUMENT);
    free(matrix.memory);
}
