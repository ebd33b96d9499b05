#include "runtime/import/reader.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"

#include <inttypes.h>

static void drop_rows(const struct nib_row_reader *reader, uint64_t first, uint64_t count)
{
    uint64_t row_bytes;
    if (nib_format_row_bytes(&reader->format, reader->cols, &row_bytes))
        nib_tensor_drop(reader->source, reader->detail[0], first * row_bytes, count * row_bytes);
}

static bool has_shape(const struct nib_tensor *tensor, struct nib_shape shape)
{
    if (shape.rows == 1 && tensor->n_dims == 1)
        return tensor->dims[0] == shape.cols;
    return tensor->n_dims == 2 && tensor->dims[0] == shape.rows && tensor->dims[1] == shape.cols;
}

enum nib_status nib_reader_blocks(const struct nib_tensor_directory *directory,
                                  const struct nib_tensor *tensor, struct nib_shape shape,
                                  struct nib_row_reader *out_reader, struct nib_error *err)
{
    *out_reader = (struct nib_row_reader){0};
    if (!has_shape(tensor, shape))
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "tensor '%s' has shape [%" PRIu64 ", %" PRIu64 "], not [%" PRIu64
                        ", %" PRIu64 "] as the configuration says",
                        tensor->name, tensor->n_dims < 2 ? 1 : tensor->dims[0],
                        tensor->n_dims < 2 ? tensor->dims[0] : tensor->dims[1], shape.rows,
                        shape.cols);
    const struct nib_format *format = nib_format_find(nib_dtype_name(tensor->dtype));
    if (!format || (tensor->n_dims == 1 && format->code != NIB_CODE_FLOAT))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "tensor '%s' has type %s, which no %s can have",
                        tensor->name, nib_dtype_name(tensor->dtype),
                        tensor->n_dims == 1 ? "vector" : "matrix");
    *out_reader = (struct nib_row_reader){
        .name = tensor->name,
        .format = *format,
        .rows = shape.rows,
        .cols = shape.cols,
        .activation = NIB_ACTIVATION_F32,
        .raw = tensor->data,
        .read = nib_row_reader_read_raw,
        .drop = drop_rows,
        .source = directory,
        .detail = {tensor},
    };
    return NIB_OK;
}

static enum nib_status read_with_offset(const struct nib_row_reader *reader, uint64_t first,
                                        struct nib_row_block *block, struct nib_error *err)
{
    const struct nib_tensor *tensor = reader->detail[0];
    const float offset = *(const float *)reader->detail[1];
    if (first != 0 || block->rows != 1 || block->cols != reader->cols)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "vector '%s' has one row of %" PRIu64 " numbers",
                        reader->name, reader->cols);
    for (uint64_t i = 0; i < reader->cols; i++) {
        float value = tensor->dtype == NIB_DTYPE_F32 ? nib_load_f32(tensor->data + 4 * i)
                      : tensor->dtype == NIB_DTYPE_F16
                          ? nib_f32_from_f16(nib_load_u16(tensor->data + 2 * i))
                          : nib_f32_from_bf16(nib_load_u16(tensor->data + 2 * i));
        block->values[i] = value + offset;
    }
    return NIB_OK;
}

void nib_reader_add_offset(struct nib_row_reader *reader, const float *offset)
{
    reader->format = *nib_format_get(NIB_FORMAT_F32);
    reader->raw = NULL;
    reader->read = read_with_offset;
    reader->drop = NULL;
    reader->detail[1] = offset;
}
