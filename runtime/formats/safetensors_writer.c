#include "runtime/base/buffer.h"
#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/formats/safetensors.h"
#include "runtime/formats/safetensors_dtype.h"
#include "runtime/formats/write_order.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/// Data begin at a multiple of this, so that a mapped file's elements are aligned. The limit is
/// that of the specification.
enum { ALIGNMENT = 8, MAX_HEADER_SIZE = 100000000 };

struct nib_safetensors_writer {
    struct nib_file_writer *file;
    struct nib_buffer metadata; ///< members of "__metadata__" as JSON text
    struct nib_string_map by_key;
    struct nib_write_order order; ///< its arena holds the keys of `by_key`, too
    uint64_t row_size;            ///< of the open tensor: bytes of one step of its first dimension
    bool open;                    ///< the only tensor's first dimension is not known yet
    bool begun;                   ///< the header is written
    size_t header_size;           ///< once it is
};

enum nib_status nib_safetensors_writer_open(const char *path,
                                            struct nib_safetensors_writer **out_writer,
                                            struct nib_error *err)
{
    *out_writer = NULL;
    struct nib_safetensors_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return nib_fail_memory(err);
    const enum nib_status status = nib_file_writer_open(path, &writer->file, err);
    if (status == NIB_OK)
        *out_writer = writer;
    else
        nib_safetensors_writer_destroy(&writer);
    return status;
}

void nib_safetensors_writer_destroy(struct nib_safetensors_writer **writer)
{
    struct nib_safetensors_writer *dead = *writer;
    if (!dead)
        return;
    nib_file_writer_destroy(&dead->file);
    nib_write_order_free(&dead->order);
    nib_string_map_free(&dead->by_key);
    nib_buffer_free(&dead->metadata);
    free(dead);
    *writer = NULL;
}

/// Appends `text` as a JSON string.
static enum nib_status append_json_text(struct nib_buffer *buffer, const char *text,
                                        struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(nib_buffer_append(buffer, "\"", 1, err));
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20)
            NIB_TRY(nib_buffer_printf(buffer, err, "\\u%04x", (unsigned)*c));
        else if (*c == '"' || *c == '\\')
            NIB_TRY(nib_buffer_printf(buffer, err, "\\%c", *c));
        else
            NIB_TRY(nib_buffer_append(buffer, c, 1, err));
    }
    NIB_TRY(nib_buffer_append(buffer, "\"", 1, err));
fail:
    return status;
}

enum nib_status nib_safetensors_writer_add_metadata(struct nib_safetensors_writer *writer,
                                                    const char *key, const char *value,
                                                    struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const size_t old_size = writer->metadata.size;
    struct nib_text text = {key, strlen(key)};
    uint32_t index;
    if (writer->begun)
        return nib_fail(err, NIB_ERROR_STATE, "metadata '%s' come after data", key);
    if (!nib_utf8_valid(key, text.size) || !nib_utf8_valid(value, strlen(value)))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "metadata '%s' are no UTF-8 text", key);
    if (nib_string_map_find(&writer->by_key, text, &index))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "metadata '%s' are added twice", key);

    if (old_size > 0)
        NIB_TRY(nib_buffer_append(&writer->metadata, ",", 1, err));
    NIB_TRY(append_json_text(&writer->metadata, key, err));
    NIB_TRY(nib_buffer_append(&writer->metadata, ":", 1, err));
    NIB_TRY(append_json_text(&writer->metadata, value, err));
    text.ptr = nib_arena_text(&writer->order.arena, key, text.size);
    if (!text.ptr)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(nib_string_map_add(&writer->by_key, text, 0, NULL, err));
    return NIB_OK;
fail:
    writer->metadata.size = old_size;
    return status;
}

enum nib_status nib_safetensors_writer_add_tensor(struct nib_safetensors_writer *writer,
                                                  const struct nib_tensor *tensor,
                                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const bool open = tensor->n_dims > 0 && tensor->dims[0] == NIB_DIM_OPEN;
    struct nib_tensor row = *tensor;
    uint64_t size;
    if (writer->begun)
        return nib_fail(err, NIB_ERROR_STATE, "tensor '%s' comes after data", tensor->name);
    if (!nib_safetensors_dtype_name(tensor->dtype))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "tensor '%s': safetensors has no type %s",
                        tensor->name, nib_dtype_name(tensor->dtype));
    if (strcmp(tensor->name, "__metadata__") == 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "no tensor may have the name '__metadata__'");
    if (writer->open || (open && writer->order.n_tensors > 0))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "a tensor with an open dimension must be the only one in its file");

    if (open)
        row.dims[0] = 1;
    NIB_TRY(nib_tensor_compute_size(&row, &size, err));
    if (size > INT64_MAX || (open && size == 0))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "tensor '%s' cannot have %" PRIu64 " bytes",
                        tensor->name, size);
    NIB_TRY(nib_write_order_add(&writer->order, tensor, open ? UINT64_MAX : size, err));
    writer->open = open;
    writer->row_size = size;
fail:
    return status;
}

static enum nib_status append_entry(struct nib_buffer *header, const struct nib_tensor *tensor,
                                    uint64_t begin, uint64_t end, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(append_json_text(header, tensor->name, err));
    NIB_TRY(nib_buffer_printf(header, err, ":{\"dtype\":\"%s\",\"shape\":[",
                              nib_safetensors_dtype_name(tensor->dtype)));
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        NIB_TRY(nib_buffer_printf(header, err, "%s%" PRIu64, i ? "," : "", tensor->dims[i]));
    NIB_TRY(nib_buffer_printf(header, err, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin,
                              end));
fail:
    return status;
}

/// Makes the header's text, with spaces at its end up to `padded_size` (0: up to the alignment). An
/// open dimension and its size are written as the largest numbers, so what replaces them later
/// fits.
static enum nib_status format_header(const struct nib_safetensors_writer *writer,
                                     size_t padded_size, struct nib_buffer *header,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const char *separator = "";
    uint64_t begin = 0, end;
    NIB_TRY(nib_buffer_append(header, "{", 1, err));
    if (writer->metadata.size > 0) {
        NIB_TRY(nib_buffer_printf(header, err, "\"__metadata__\":{"));
        NIB_TRY(nib_buffer_append(header, writer->metadata.data, writer->metadata.size, err));
        NIB_TRY(nib_buffer_append(header, "}", 1, err));
        separator = ",";
    }
    for (size_t i = 0; i < writer->order.n_tensors; i++, begin = end, separator = ",") {
        const struct nib_tensor *tensor = &writer->order.tensors[i];
        if (!nib_add_u64(begin, tensor->size, &end))
            NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT, "the tensors do not fit in a file"));
        NIB_TRY(nib_buffer_append(header, separator, strlen(separator), err));
        NIB_TRY(append_entry(header, tensor, begin, end, err));
    }
    NIB_TRY(nib_buffer_append(header, "}", 1, err));
    while (padded_size ? header->size < padded_size : header->size % ALIGNMENT != 0)
        NIB_TRY(nib_buffer_append(header, " ", 1, err));
fail:
    return status;
}

static enum nib_status write_header(struct nib_safetensors_writer *writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer header = {0};
    uint8_t size[8];
    NIB_TRY(format_header(writer, 0, &header, err));
    if (header.size > MAX_HEADER_SIZE)
        NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT,
                         "a header of %" PRIu64 " bytes is longer than the format allows",
                         (uint64_t)header.size));
    nib_store_u64(size, header.size);
    NIB_TRY(nib_file_writer_append(writer->file, size, sizeof(size), err));
    NIB_TRY(nib_file_writer_append(writer->file, header.data, header.size, err));
    writer->header_size = header.size;
    writer->begun = true;
fail:
    nib_buffer_free(&header);
    return status;
}

/// Closes the open dimension with what the data turned out to hold.
static enum nib_status close_dimension(struct nib_safetensors_writer *writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer header = {0};
    struct nib_tensor *tensor = &writer->order.tensors[0];
    tensor->size = writer->order.written;
    tensor->dims[0] = tensor->size / writer->row_size;
    if (tensor->size % writer->row_size != 0)
        return nib_fail(err, NIB_ERROR_STATE,
                        "tensor '%s' ends within a row: %" PRIu64 " bytes in rows of %" PRIu64,
                        tensor->name, tensor->size, writer->row_size);
    NIB_TRY(format_header(writer, writer->header_size, &header, err));
    NIB_TRY(nib_file_writer_patch(writer->file, 8, header.data, header.size, err));
fail:
    nib_buffer_free(&header);
    return status;
}

enum nib_status nib_safetensors_writer_append(struct nib_safetensors_writer *writer,
                                              const void *bytes, size_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_tensor *tensor;
    if (size == 0)
        return NIB_OK;
    if (!writer->begun)
        NIB_TRY(write_header(writer, err));
    NIB_TRY(nib_write_order_advance(&writer->order, size, &tensor, err));
    NIB_TRY(nib_file_writer_append(writer->file, bytes, size, err));
fail:
    return status;
}

enum nib_status nib_safetensors_writer_commit(struct nib_safetensors_writer **writer,
                                              struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (!(*writer)->begun)
        NIB_TRY(write_header(*writer, err));
    if ((*writer)->open)
        NIB_TRY(close_dimension(*writer, err));
    NIB_TRY(nib_write_order_finish(&(*writer)->order, err));
    NIB_TRY(nib_file_writer_commit(&(*writer)->file, err));
fail:
    nib_safetensors_writer_destroy(writer);
    return status;
}
