// Layouts that no folder of tests/data/checkpoints has: matrices are written field by field after
// the formats' definitions and must come back the same.
#include "tests/unit/import/parts.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_ROWS = 48, MAX_COLS = 192 };

/// A random matrix: weight (r, i) is scale · (code − zero) of group of[i].
struct matrix {
    uint32_t rows, cols, bits, n_groups;
    enum nib_dtype scale_type;
    uint32_t of[MAX_COLS];
    uint32_t code[MAX_ROWS][MAX_COLS];
    uint32_t zero[MAX_ROWS][MAX_COLS]; ///< by group; so below
    float scale[MAX_ROWS][MAX_COLS];
};
static struct matrix matrix;

/// Fills `matrix`, with groups in order; `group` 0: one.
static void make_matrix(uint32_t rows, uint32_t cols, uint32_t bits, uint32_t group)
{
    uint32_t state = rows * 31 + cols * 7 + bits + group;
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.bits = bits;
    matrix.n_groups = group ? (cols + group - 1) / group : 1;
    matrix.scale_type = NIB_DTYPE_F16;
    for (uint32_t i = 0; i < cols; i++)
        matrix.of[i] = group ? i / group : 0;
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t i = 0; i < cols; i++)
            matrix.code[r][i] = random_below(&state, 1u << bits);
        for (uint32_t g = 0; g < matrix.n_groups; g++) {
            matrix.zero[r][g] = random_below(&state, 4) ? random_below(&state, 1u << bits) : 0;
            matrix.scale[r][g] = (float)(1 + random_below(&state, 200)) * 0x1p-9f;
        }
    }
}

static void make_symmetric(void)
{
    for (uint32_t r = 0; r < matrix.rows; r++) {
        for (uint32_t g = 0; g < matrix.n_groups; g++)
            matrix.zero[r][g] = 1u << (matrix.bits - 1);
    }
}

/// Gives the columns' groups to one another at random.
static void shuffle_groups(void)
{
    uint32_t state = 5;
    for (uint32_t i = matrix.cols - 1; i > 0; i--) {
        const uint32_t k = random_below(&state, i + 1);
        const uint32_t group = matrix.of[i];
        matrix.of[i] = matrix.of[k];
        matrix.of[k] = group;
    }
}

/// Returns the matrix's reader; tensors are counted anew.
static const struct nib_row_reader *find_reader(struct parts *parts)
{
    parts->quantization->n_tensors = 0;
    return parts_reader(parts, matrix.rows, matrix.cols);
}

static void expect_matrix(struct parts *parts, enum nib_format_id format)
{
    const struct nib_row_reader *reader = find_reader(parts);
    cr_expect_eq(reader->format.id, format, "%s", reader->format.name);
    for (uint32_t step = 1; step <= 27; step += 13) {
        float *weights = read_weights(reader, step);
        for (uint32_t r = 0; r < matrix.rows; r++) {
            for (uint32_t i = 0; i < matrix.cols; i++) {
                const uint32_t g = matrix.of[i];
                const int32_t code = (int32_t)matrix.code[r][i] - (int32_t)matrix.zero[r][g];
                cr_assert_eq(weights[r * matrix.cols + i], matrix.scale[r][g] * (float)code,
                             "row %u, column %u, %u rows at once", r, i, step);
            }
        }
        free(weights);
    }
}

/// Writes integer `index` of a stream of bits whose words are `stride` apart from word `first` on.
static void put_bits(uint8_t *data, uint32_t first, uint32_t stride, uint32_t index, uint32_t value)
{
    for (uint32_t b = 0; b < matrix.bits; b++) {
        const uint32_t place = index * matrix.bits + b;
        const uint32_t word = first + place / 32 * stride;
        put_word(data, word, nib_load_u32(data + 4 * word) | (value >> b & 1) << place % 32);
    }
}

/// Writes "m.qweight", "m.qzeros", "m.scales" of GPTQ; zeros less `minus`.
static void add_gptq(struct parts *parts, uint32_t minus)
{
    const uint32_t words = matrix.rows * matrix.bits / 32;
    const uint32_t by_field = matrix.bits == 3 ? minus : 0;
    uint8_t *codes =
        parts_add(parts, "m.qweight", NIB_DTYPE_I32, matrix.cols * matrix.bits / 32, matrix.rows);
    uint8_t *zeros = parts_add(parts, "m.qzeros", NIB_DTYPE_I32, matrix.n_groups, words);
    uint8_t *scales = parts_add(parts, "m.scales", matrix.scale_type, matrix.n_groups, matrix.rows);
    for (uint32_t r = 0; r < matrix.rows; r++) {
        for (uint32_t i = 0; i < matrix.cols; i++)
            put_bits(codes, r, matrix.rows, i, matrix.code[r][i]);
        for (uint32_t g = 0; g < matrix.n_groups; g++) {
            put_bits(zeros, g * words, 1, r, matrix.zero[r][g] - by_field);
            put_float(scales, g * matrix.rows + r, matrix.scale_type, matrix.scale[r][g]);
        }
    }
    // As the tool does: a whole word less ones in its fields, so that fields of 0 borrow; but not
    // fields of 3 bits, which wrap around.
    const uint32_t ones = matrix.bits == 2   ? 0x55555555u
                          : matrix.bits == 4 ? 0x11111111u
                          : matrix.bits == 8 ? 0x01010101u
                                             : 0;
    for (uint32_t i = 0; i < matrix.n_groups * words; i++)
        put_word(zeros, i, nib_load_u32(zeros + 4 * i) - minus * ones);
}

static void add_group_index(struct parts *parts, const char *name)
{
    uint8_t *index = parts_add(parts, name, NIB_DTYPE_I32, matrix.cols, 0);
    for (uint32_t i = 0; i < matrix.cols; i++)
        put_word(index, i, matrix.of[i]);
}

#define GPTQ(bits, group, more) \
    "{'quant_method':'gptq','bits':" #bits ",'group_size':" #group ",'sym':false" more "}"

Test(layouts, gptq_int4_asymmetric)
{
    struct parts parts;
    make_matrix(40, 96, 4, 32);
    parts_begin(&parts, GPTQ(4, 32, ",'checkpoint_format':'gptq'"));
    add_gptq(&parts, 1);
    add_group_index(&parts, "m.g_idx");
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
}

Test(layouts, gptq_int8_asymmetric)
{
    struct parts parts;
    make_matrix(20, 64, 8, 64);
    parts_begin(&parts, GPTQ(8, 64, ""));
    add_gptq(&parts, 1);
    expect_matrix(&parts, NIB_FORMAT_INT8_ZERO);
    parts_end(&parts);
}

Test(layouts, gptq_int2_and_int3)
{
    struct parts parts;
    make_matrix(32, 96, 3, 32);
    parts_begin(&parts, GPTQ(3, 32, ""));
    add_gptq(&parts, 1);
    add_group_index(&parts, "m.g_idx");
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
    make_matrix(48, 128, 2, 64);
    parts_begin(&parts, GPTQ(2, 64, ""));
    add_gptq(&parts, 1);
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
    make_matrix(32, 160, 3, 64);
    make_symmetric();
    shuffle_groups();
    parts_begin(&parts, "{'quant_method':'gptq','bits':3,'group_size':64,'desc_act':true}");
    add_gptq(&parts, 1);
    add_group_index(&parts, "m.g_idx");
    expect_matrix(&parts, NIB_FORMAT_INT4);
    parts_end(&parts);
    make_matrix(16, 64, 2, 0);
    make_symmetric();
    parts_begin(&parts, "{'quant_method':'gptq','bits':2,'group_size':-1,'format':'gptq_v2'}");
    add_gptq(&parts, 0);
    expect_matrix(&parts, NIB_FORMAT_INT4);
    parts_end(&parts);
}

Test(layouts, gptq_v2)
{
    struct parts parts;
    make_matrix(16, 64, 4, 16);
    matrix.scale_type = NIB_DTYPE_F32;
    parts_begin(&parts, GPTQ(4, 16, ",'checkpoint_format':'gptq_v2'"));
    add_gptq(&parts, 0);
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
}

Test(layouts, gptq_symmetric_in_name_only)
{
    struct parts parts;
    make_matrix(16, 64, 4, 64);
    make_symmetric();
    matrix.zero[3][0] = 7;
    parts_begin(&parts, "{'quant_method':'gptq','bits':4,'group_size':64,'sym':true}");
    add_gptq(&parts, 1);
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
}

Test(layouts, gptq_v2_symmetric_whole_rows)
{
    struct parts parts;
    make_matrix(8, 72, 8, 0);
    make_symmetric();
    matrix.scale_type = NIB_DTYPE_BF16;
    parts_begin(&parts, "{'quant_method':'gptq','bits':8,'group_size':-1,'format':'gptq_v2'}");
    add_gptq(&parts, 0);
    expect_matrix(&parts, NIB_FORMAT_INT8);
    parts_end(&parts);
}

Test(layouts, gptq_short_last_group)
{
    struct parts parts;
    make_matrix(16, 144, 4, 64);
    parts_begin(&parts, GPTQ(4, 64, ""));
    add_gptq(&parts, 1);
    add_group_index(&parts, "m.g_idx");
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
}

Test(layouts, gptq_act_order_with_short_last_group)
{
    struct parts parts;
    make_matrix(16, 144, 4, 64);
    shuffle_groups();
    parts_begin(&parts, GPTQ(4, 64, ",'desc_act':true"));
    add_gptq(&parts, 1);
    add_group_index(&parts, "m.g_idx");
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
}

static void add_awq_gemm(struct parts *parts)
{
    // Output 8c + j is in this field of a word.
    static const uint32_t field[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const uint32_t words = matrix.rows / 8;
    uint8_t *codes = parts_add(parts, "m.qweight", NIB_DTYPE_I32, matrix.cols, words);
    uint8_t *zeros = parts_add(parts, "m.qzeros", NIB_DTYPE_I32, matrix.n_groups, words);
    uint8_t *scales = parts_add(parts, "m.scales", matrix.scale_type, matrix.n_groups, matrix.rows);
    for (uint32_t r = 0; r < matrix.rows; r++) {
        for (uint32_t i = 0; i < matrix.cols; i++)
            put_field(codes, i * words + r / 8, 4, field[r % 8], matrix.code[r][i]);
        for (uint32_t g = 0; g < matrix.n_groups; g++) {
            put_field(zeros, g * words + r / 8, 4, field[r % 8], matrix.zero[r][g]);
            put_float(scales, g * matrix.rows + r, matrix.scale_type, matrix.scale[r][g]);
        }
    }
}

static void add_awq_gemv(struct parts *parts, uint32_t width)
{
    const uint32_t words = matrix.cols / 8;
    uint8_t *codes = parts_add(parts, "m.qweight", NIB_DTYPE_I32, matrix.rows, words);
    uint8_t *zeros = parts_add(parts, "m.qzeros", NIB_DTYPE_I32, matrix.rows, width);
    uint8_t *scales = parts_add(parts, "m.scales", matrix.scale_type, matrix.rows, 8 * width);
    for (uint32_t r = 0; r < matrix.rows; r++) {
        for (uint32_t i = 0; i < matrix.cols; i++)
            put_field(codes, r * words + i / 8, 4, i % 8, matrix.code[r][i]);
        for (uint32_t g = 0; g < matrix.n_groups; g++) {
            put_field(zeros, r * width + g / 8, 4, g % 8, matrix.zero[r][g]);
            put_float(scales, r * 8 * width + g, matrix.scale_type, matrix.scale[r][g]);
        }
    }
}

Test(layouts, awq_gemm)
{
    struct parts parts;
    for (uint32_t cols = 128; cols > 120; cols -= 5) {
        make_matrix(24, cols, 4, 64);
        parts_begin(&parts, "{'quant_method':'awq','bits':4,'group_size':64,'version':'GEMM'}");
        add_awq_gemm(&parts);
        expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
        parts_end(&parts);
    }
}

/// Groups, and the words of zero points that the tool makes for them.
Test(layouts, awq_gemv)
{
    static const struct {
        uint32_t cols, group, width;
        const char *config;
    } cases[] = {
        {192, 32, 4, "{'quant_method':'awq','bits':4,'group_size':32,'version':'gemv'}"},
        {192, 64, 2, "{'quant_method':'awq','bits':4,'group_size':64,'version':'gemv'}"},
        {128, 128, 1, "{'quant_method':'awq','bits':4,'group_size':128,'version':'gemv'}"},
        {192, 0, 1, "{'quant_method':'awq','bits':4,'group_size':-1,'version':'gemv'}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parts parts;
        make_matrix(16, cases[i].cols, 4, cases[i].group);
        parts_begin(&parts, cases[i].config);
        add_awq_gemv(&parts, cases[i].width);
        expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
        parts_end(&parts);
    }
}

#define COMPRESSED(format, weights, input)                                                   \
    "{'quant_method':'compressed-tensors','format':'" format "','config_groups':{'group_0':" \
    "{'targets':['Linear'],'weights':{'type':'int'," weights "},'input_activations':" input "}}}"

/// Writes a packed matrix, with zero points where `asymmetric`.
static void add_packed(struct parts *parts, bool asymmetric)
{
    const uint32_t per_word = 32 / matrix.bits;
    const uint32_t words = (matrix.cols + per_word - 1) / per_word;
    uint8_t *shape = parts_add(parts, "m.weight_shape", NIB_DTYPE_I64, 2, 0);
    uint8_t *codes = parts_add(parts, "m.weight_packed", NIB_DTYPE_I32, matrix.rows, words);
    uint8_t *scales =
        parts_add(parts, "m.weight_scale", matrix.scale_type, matrix.rows, matrix.n_groups);
    nib_store_u64(shape, matrix.rows);
    nib_store_u64(shape + 8, matrix.cols);
    uint8_t *zeros = NULL;
    if (asymmetric)
        zeros = parts_add(parts, "m.weight_zero_point", NIB_DTYPE_I32,
                          (matrix.rows + per_word - 1) / per_word, matrix.n_groups);
    for (uint32_t r = 0; r < matrix.rows; r++) {
        for (uint32_t i = 0; i < matrix.cols; i++)
            put_field(codes, r * words + i / per_word, matrix.bits, i % per_word,
                      matrix.code[r][i]);
        for (uint32_t g = 0; g < matrix.n_groups; g++) {
            put_float(scales, r * matrix.n_groups + g, matrix.scale_type, matrix.scale[r][g]);
            if (zeros)
                put_field(zeros, r / per_word * matrix.n_groups + g, matrix.bits, r % per_word,
                          matrix.zero[r][g]);
        }
    }
}

Test(layouts, packed_int4_with_partial_words)
{
    struct parts parts;
    make_matrix(13, 67, 4, 32);
    parts_begin(&parts, COMPRESSED("pack-quantized",
                                   "'num_bits':4,'group_size':32,'symmetric':false", "null"));
    add_packed(&parts, true);
    expect_matrix(&parts, NIB_FORMAT_INT4_ZERO);
    parts_end(&parts);
}

Test(layouts, packed_int8_asymmetric_channels)
{
    struct parts parts;
    make_matrix(10, 33, 8, 0);
    matrix.scale_type = NIB_DTYPE_F32;
    parts_begin(&parts, COMPRESSED("pack-quantized",
                                   "'num_bits':8,'strategy':'channel','symmetric':false", "null"));
    add_packed(&parts, true);
    expect_matrix(&parts, NIB_FORMAT_INT8_ZERO);
    parts_end(&parts);
}

Test(layouts, packed_int4_with_groups_out_of_order)
{
    struct parts parts;
    make_matrix(9, 64, 4, 16);
    make_symmetric();
    shuffle_groups();
    parts_begin(&parts, COMPRESSED("pack-quantized",
                                   "'num_bits':4,'group_size':16,'actorder':'group'", "null"));
    add_packed(&parts, false);
    add_group_index(&parts, "m.weight_g_idx");
    expect_matrix(&parts, NIB_FORMAT_INT4);
    parts_end(&parts);
}

/// Writes a matrix of signed bytes with `n_scales` scales.
static void add_bytes(struct parts *parts, bool asymmetric, uint32_t n_scales)
{
    uint8_t *codes = parts_add(parts, "m.weight", NIB_DTYPE_I8, matrix.rows, matrix.cols);
    uint8_t *scales = n_scales == 1 ? parts_add(parts, "m.weight_scale", matrix.scale_type, 1, 0)
                                    : parts_add(parts, "m.weight_scale", matrix.scale_type,
                                                matrix.rows, matrix.n_groups);
    uint8_t *zeros = NULL;
    if (asymmetric)
        zeros = parts_add(parts, "m.weight_zero_point", NIB_DTYPE_I8, matrix.rows, matrix.n_groups);
    for (uint32_t r = 0; r < matrix.rows; r++) {
        for (uint32_t i = 0; i < matrix.cols; i++)
            codes[r * matrix.cols + i] = (uint8_t)(matrix.code[r][i] - 128);
        for (uint32_t g = 0; g < matrix.n_groups; g++) {
            const uint32_t index = r * matrix.n_groups + g;
            if (n_scales > 1 || index == 0)
                put_float(scales, index, matrix.scale_type, matrix.scale[r][g]);
            if (zeros)
                zeros[index] = (uint8_t)(matrix.zero[r][g] - 128);
        }
    }
}

Test(layouts, bytes_with_zero_points_and_dynamic_activations)
{
    struct parts parts;
    make_matrix(11, 80, 8, 16);
    matrix.scale_type = NIB_DTYPE_BF16;
    parts_begin(&parts,
                COMPRESSED("int-quantized", "'num_bits':8,'group_size':16,'symmetric':false",
                           "{'num_bits':8,'dynamic':true,'strategy':'token'}"));
    add_bytes(&parts, true, 11);
    expect_matrix(&parts, NIB_FORMAT_INT8_ZERO);
    const struct nib_row_reader *reader = find_reader(&parts);
    cr_expect_eq(reader->activation, NIB_ACTIVATION_INT8_TOKEN);
    parts_end(&parts);
}

Test(layouts, bytes_with_one_scale_and_static_activations)
{
    struct parts parts;
    make_matrix(11, 80, 8, 0);
    make_symmetric();
    for (uint32_t r = 1; r < matrix.rows; r++)
        matrix.scale[r][0] = matrix.scale[0][0];
    parts_begin(&parts, COMPRESSED("int-quantized", "'num_bits':8,'strategy':'tensor'",
                                   "{'num_bits':8,'dynamic':false,'strategy':'tensor'}"));
    add_bytes(&parts, false, 1);
    put_float(parts_add(&parts, "m.input_scale", NIB_DTYPE_F16, 1, 0), 0, NIB_DTYPE_F16, 0.125f);
    expect_matrix(&parts, NIB_FORMAT_INT8);
    const struct nib_row_reader *reader = find_reader(&parts);
    cr_expect_eq(reader->activation, NIB_ACTIVATION_INT8_STATIC);
    cr_expect_eq(reader->activation_scale, 0.125f);
    parts_end(&parts);
}

/// Blocks of the flattened matrix, which rows share where they do not fill them.
static void check_blocks(uint32_t rows, uint32_t cols, uint32_t blocksize, bool nested,
                         enum nib_dtype storage)
{
    struct parts parts;
    char state[256];
    const uint32_t n_weights = rows * cols;
    const uint32_t n_blocks = (n_weights + blocksize - 1) / blocksize;
    uint32_t random = rows + cols;
    float book[16], absmax[512], map[256];
    parts_begin(&parts, "{'quant_method':'bitsandbytes','load_in_4bit':true,"
                        "'bnb_4bit_quant_type':'nf4','load_in_8bit':false}");
    const int size = snprintf(state, sizeof state,
                              "{\"quant_type\":\"nf4\",\"blocksize\":%u,\"shape\":[%u,%u],"
                              "\"nested_blocksize\":4,\"nested_offset\":0.3}",
                              blocksize, rows, cols);
    memcpy(parts_add(&parts, "m.weight.quant_state.bitsandbytes__nf4", NIB_DTYPE_U8, (uint64_t)size,
                     0),
           state, (size_t)size);
    uint8_t *codes = storage == NIB_DTYPE_U8
                         ? parts_add(&parts, "m.weight", NIB_DTYPE_U8, n_weights / 2, 1)
                         : parts_add(&parts, "m.weight", storage, n_weights / 4, 1);
    uint8_t *map_data = parts_add(&parts, "m.weight.quant_map", NIB_DTYPE_F32, 16, 0);
    for (uint32_t i = 0; i < 16; i++) {
        book[i] = (float)i * 0.37f - 2.0f;
        put_float(map_data, i, NIB_DTYPE_F32, book[i]);
    }
    for (uint32_t i = 0; i < n_weights / 2; i++)
        codes[i] = (uint8_t)random_below(&random, 256);
    if (nested) {
        uint8_t *bytes = parts_add(&parts, "m.weight.absmax", NIB_DTYPE_U8, n_blocks, 0);
        uint8_t *second =
            parts_add(&parts, "m.weight.nested_absmax", NIB_DTYPE_F32, (n_blocks + 3) / 4, 0);
        uint8_t *nested_map = parts_add(&parts, "m.weight.nested_quant_map", NIB_DTYPE_F32, 256, 0);
        for (uint32_t i = 0; i < 256; i++) {
            map[i] = (float)i * 0.0039f;
            put_float(nested_map, i, NIB_DTYPE_F32, map[i]);
        }
        for (uint32_t b = 0; b < n_blocks; b++) {
            bytes[b] = (uint8_t)random_below(&random, 256);
            if (b % 4 == 0)
                put_float(second, b / 4, NIB_DTYPE_F32, 0.1f * (float)(b + 1));
            const float product = map[bytes[b]] * nib_load_f32(second + b / 4 * 4);
            absmax[b] = product + 0.3f;
        }
    } else {
        uint8_t *data = parts_add(&parts, "m.weight.absmax", NIB_DTYPE_F32, n_blocks, 0);
        for (uint32_t b = 0; b < n_blocks; b++) {
            absmax[b] = 0.013f * (float)(b + 1);
            put_float(data, b, NIB_DTYPE_F32, absmax[b]);
        }
    }

    const struct nib_row_reader *reader = parts_reader(&parts, rows, cols);
    float *weights = read_weights(reader, 3);
    for (uint32_t i = 0; i < n_weights; i++) {
        const uint32_t code = i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
        const float expected = book[code] * absmax[i / blocksize];
        cr_assert_eq(weights[i], expected, "weight %u: %g, not %g", i, (double)weights[i],
                     (double)expected);
    }
    free(weights);
    parts_end(&parts);
}

Test(layouts, blocks_in_rows)
{
    check_blocks(5, 128, 64, false, NIB_DTYPE_U8);
    check_blocks(5, 128, 32, true, NIB_DTYPE_U8);
}

Test(layouts, blocks_over_rows)
{
    check_blocks(7, 96, 64, false, NIB_DTYPE_U8);
    check_blocks(7, 96, 64, true, NIB_DTYPE_U8);
    check_blocks(8, 32, 64, true, NIB_DTYPE_U8);
    check_blocks(6, 70, 64, false, NIB_DTYPE_U8);
}

Test(layouts, codes_stored_as_another_type)
{
    check_blocks(4, 64, 64, true, NIB_DTYPE_BF16);
}
