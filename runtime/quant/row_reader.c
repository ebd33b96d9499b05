#include "runtime/quant/row_reader.h"

#include "runtime/base/status.h"

enum nib_status nib_row_reader_read_raw(const struct nib_row_reader *reader, uint64_t first,
                                        struct nib_row_block *block, struct nib_error *err)
{
    uint64_t row_bytes;
    if (!reader->raw || !nib_format_row_bytes(&reader->format, reader->cols, &row_bytes)) {
        return nib_fail(err, NIB_ERROR_STATE,
                        "tensor '%s' does not lie in whole blocks of format %s", reader->name,
                        reader->format.name);
    }
    if (block->cols != reader->cols || first > reader->rows || block->rows > reader->rows - first) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "rows %llu to %llu of tensor '%s' were asked for, but it has %llu",
                        (unsigned long long)first, (unsigned long long)(first + block->rows),
                        reader->name, (unsigned long long)reader->rows);
    }
    for (uint64_t row = 0; row < block->rows; row++)
        nib_row_unpack(&reader->format, reader->raw + (first + row) * row_bytes, row, block);
    return NIB_OK;
}
