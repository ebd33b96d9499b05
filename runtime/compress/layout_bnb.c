// bitsandbytes. Eight bits: weight [out, in] of signed bytes and SCB [out], 127 times the scale.
// Four bits: weight [out · in / 2, 1], high nibble first, weight.absmax with a scale for each block
// of the whole run of weights, weight.quant_map, and a JSON text that describes them.
#include "runtime/compress/layout_write.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include "runtime/compress/nested.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/// Numbers of every length take the same room in the text, whose size comes before they are known.
#define STATE_BLOCKS "{\"quant_type\": \"%s\", \"blocksize\": %" PRIu32 ", "
#define STATE_SHAPE "\"dtype\": \"%s\", \"shape\": [%" PRIu64 ", %" PRIu64 "]"
#define STATE_NESTED \
    ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %24s"
enum { STATE_SIZE = 320, NUMBER_SIZE = 40 };

static const char *type_name(const struct nib_row_reader *matrix)
{
    return matrix->format.id == NIB_FORMAT_NF4 ? "nf4" : "fp4";
}

static const char *state_part(const struct nib_row_reader *matrix)
{
    return matrix->format.id == NIB_FORMAT_NF4 ? "weight.quant_state.bitsandbytes__nf4"
                                               : "weight.quant_state.bitsandbytes__fp4";
}

/// Writes a number as JSON has it: with a point, whatever the host's locale puts there.
static void format_number(double number, char out[NUMBER_SIZE])
{
    char text[NUMBER_SIZE];
    size_t n = 0;
    bool was_separator = false;
    snprintf(text, sizeof text, "%.17g", number);
    for (const char *p = text; *p; p++) {
        const bool is_separator = !strchr("0123456789+-e", *p);
        if (!is_separator || !was_separator)
            out[n++] = *p;
        if (is_separator)
            out[n - 1] = '.';
        was_separator = is_separator;
    }
    out[n] = '\0';
}

/// Writes the text to `out` and returns its length.
static size_t format_state(const struct nib_layout_job *job, float offset, char out[STATE_SIZE])
{
    const struct nib_row_reader *matrix = job->matrix;
    char number[NUMBER_SIZE];
    format_number((double)offset, number);
    int n = snprintf(out, STATE_SIZE, STATE_BLOCKS STATE_SHAPE, type_name(matrix),
                     matrix->format.group, job->layout->dtype, matrix->rows, matrix->cols);
    if (job->layout->nested)
        n += snprintf(out + n, STATE_SIZE - (size_t)n, STATE_NESTED, NIB_NESTED_BLOCK, number);
    n += snprintf(out + n, STATE_SIZE - (size_t)n, "}");
    return (size_t)n;
}

static uint64_t n_blocks(const struct nib_row_reader *matrix)
{
    return matrix->rows * (matrix->cols / matrix->format.group);
}

static uint64_t n_nested(const struct nib_row_reader *matrix)
{
    return nib_ceil_div_u64(n_blocks(matrix), NIB_NESTED_BLOCK);
}

static enum nib_status describe_4bit(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_row_reader *matrix = job->matrix;
    const uint32_t block = matrix->format.group;
    char text[STATE_SIZE];
    if (matrix->format.id != NIB_FORMAT_NF4 && matrix->format.id != NIB_FORMAT_FP4)
        return nib_layout_refuse(job, "codes must be nf4 or fp4", err);
    if (block < 64 || block > 4096 || (block & (block - 1)) != 0 || matrix->cols % block != 0)
        return nib_layout_refuse(job, "its blocks of 64, 128, ... or 4096 must divide the inputs",
                                 err);
    const uint64_t blocks = n_blocks(matrix);
    NIB_TRY(nib_layout_add(job, "weight", NIB_DTYPE_U8, matrix->rows * matrix->cols / 2, 1, err));
    NIB_TRY(nib_layout_add(job, "weight.absmax", job->layout->nested ? NIB_DTYPE_U8 : NIB_DTYPE_F32,
                           blocks, 0, err));
    NIB_TRY(nib_layout_add(job, "weight.quant_map", NIB_DTYPE_F32, 16, 0, err));
    NIB_TRY(
        nib_layout_add(job, state_part(matrix), NIB_DTYPE_U8, format_state(job, 0, text), 0, err));
    if (job->layout->nested) {
        NIB_TRY(
            nib_layout_add(job, "weight.nested_absmax", NIB_DTYPE_F32, n_nested(matrix), 0, err));
        NIB_TRY(nib_layout_add(job, "weight.nested_quant_map", NIB_DTYPE_F32, NIB_NESTED_CODES, 0,
                               err));
    }
fail:
    return status;
}

static void store_floats(uint8_t *data, const float *numbers, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        nib_store_u32(data + 4 * i, nib_f32_bits(numbers[i]));
}

static enum nib_status pack_4bit(const struct nib_layout_job *job, uint64_t first,
                                 const struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    const uint64_t per_row = block->cols / job->matrix->format.group;
    uint8_t *codes = nib_layout_data(job, "weight") + first * block->cols / 2;
    for (uint64_t i = 0; i < block->rows * block->cols / 2; i++)
        codes[i] = (uint8_t)(block->codes[2 * i] << 4 | (block->codes[2 * i + 1] & 15));
    if (!job->layout->nested)
        store_floats(nib_layout_data(job, "weight.absmax") + 4 * first * per_row, block->scale,
                     block->rows * per_row);
    return NIB_OK;
}

static enum nib_status end_4bit(const struct nib_layout_job *job, struct nib_error *err)
{
    const struct nib_row_reader *matrix = job->matrix;
    const struct nib_scale_codes *codes = job->layout->scale_codes;
    char text[STATE_SIZE];
    (void)err;
    store_floats(nib_layout_data(job, "weight.quant_map"), matrix->format.book, 16);
    if (job->layout->nested) {
        memcpy(nib_layout_data(job, "weight.absmax"), codes->codes, (size_t)n_blocks(matrix));
        store_floats(nib_layout_data(job, "weight.nested_absmax"), codes->scale, n_nested(matrix));
        store_floats(nib_layout_data(job, "weight.nested_quant_map"), codes->book,
                     NIB_NESTED_CODES);
    }
    const size_t size = format_state(job, job->layout->nested ? codes->offset : 0, text);
    memcpy(nib_layout_data(job, state_part(matrix)), text, size);
    return NIB_OK;
}

const struct nib_layout_functions nib_layout_bnb_4bit = {
    .describe = describe_4bit, .rows = pack_4bit, .end = end_4bit};

static enum nib_status describe_int8(const struct nib_layout_job *job, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_row_reader *matrix = job->matrix;
    if (matrix->format.id != NIB_FORMAT_INT8 ||
        nib_format_groups(&matrix->format, matrix->cols) != 1)
        return nib_layout_refuse(job, "codes must be signed integers with a scale a row", err);
    NIB_TRY(nib_layout_add(job, "weight", NIB_DTYPE_I8, matrix->rows, matrix->cols, err));
    NIB_TRY(nib_layout_add(job, "SCB", NIB_DTYPE_F32, matrix->rows, 0, err));
    NIB_TRY(nib_layout_add(job, "weight_format", NIB_DTYPE_U8, 0, 0, err));
    job->set->tensors[2].n_dims = 0;
    job->set->tensors[2].size = 1;
fail:
    return status;
}

/// Returns the number that comes nearest to `scale` when it is divided by 127.
static float absmax_of(float scale)
{
    const float middle = scale * 127;
    const float tries[] = {middle, nextafterf(middle, 0), nextafterf(middle, INFINITY)};
    for (size_t i = 0; i < 3; i++) {
        if (tries[i] / 127 == scale)
            return tries[i];
    }
    return middle;
}

static enum nib_status pack_int8(const struct nib_layout_job *job, uint64_t first,
                                 const struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    uint8_t *codes = nib_layout_data(job, "weight") + first * block->cols;
    uint8_t *scales = nib_layout_data(job, "SCB") + 4 * first;
    for (uint64_t i = 0; i < block->rows * block->cols; i++)
        codes[i] = block->codes[i] ^ 0x80;
    for (uint64_t row = 0; row < block->rows; row++) {
        const float *given = job->layout->row_absmax;
        const float absmax = given ? given[first + row] : absmax_of(block->scale[row]);
        store_floats(scales + 4 * row, &absmax, 1);
    }
    return NIB_OK;
}

const struct nib_layout_functions nib_layout_bnb_int8 = {.describe = describe_int8,
                                                         .rows = pack_int8};
