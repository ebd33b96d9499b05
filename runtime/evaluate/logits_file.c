#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/formats/safetensors.h"
#include <nibble/evaluate.h>
#include <stdlib.h>

#define TENSOR_NAME "logits"
/// Rows are turned to little-endian bytes in pieces of so many logits.
#define PIECE 1024

struct nib_logits_writer {
    struct nib_safetensors_writer *file;
    uint32_t vocabulary;
};

struct nib_logits_reader {
    struct nib_safetensors *file;
    const uint8_t *data;
    uint64_t rows;
    uint32_t vocabulary;
};

enum nib_status nib_logits_writer_open(const char *path, uint32_t vocabulary,
                                       struct nib_logits_writer **out_writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_writer = NULL;
    struct nib_logits_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return nib_fail_memory(err);
    writer->vocabulary = vocabulary;
    struct nib_tensor tensor = {
        .name = TENSOR_NAME,
        .dtype = NIB_DTYPE_F32,
        .n_dims = 2,
        .dims = {NIB_DIM_OPEN, vocabulary, 1, 1},
    };
    NIB_TRY(nib_safetensors_writer_open(path, &writer->file, err));
    NIB_TRY(nib_safetensors_writer_add_tensor(writer->file, &tensor, err));
    *out_writer = writer;
    return NIB_OK;

fail:
    nib_logits_writer_destroy(&writer);
    return status;
}

enum nib_status nib_logits_writer_append(struct nib_logits_writer *writer, const float *logits,
                                         struct nib_error *err)
{
    uint8_t bytes[PIECE * sizeof(float)];
    for (uint32_t first = 0; first < writer->vocabulary; first += PIECE) {
        uint32_t left = writer->vocabulary - first;
        uint32_t count = left < PIECE ? left : PIECE;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, &logits[first + i], sizeof bits);
            nib_store_u32(bytes + i * sizeof bits, bits);
        }
        enum nib_status status =
            nib_safetensors_writer_append(writer->file, bytes, count * sizeof(float), err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

enum nib_status nib_logits_writer_commit(struct nib_logits_writer **writer, struct nib_error *err)
{
    if (!writer || !*writer)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "writer is NULL");
    enum nib_status status = nib_safetensors_writer_commit(&(*writer)->file, err);
    nib_logits_writer_destroy(writer);
    return status;
}

void nib_logits_writer_destroy(struct nib_logits_writer **writer)
{
    if (!writer || !*writer)
        return;
    nib_safetensors_writer_destroy(&(*writer)->file);
    free(*writer);
    *writer = NULL;
}

enum nib_status nib_logits_reader_open(const char *path, struct nib_logits_reader **out_reader,
                                       uint64_t *out_rows, uint32_t *out_vocabulary,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_reader = NULL;
    *out_rows = 0;
    *out_vocabulary = 0;
    struct nib_logits_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return nib_fail_memory(err);
    NIB_TRY(nib_safetensors_open(path, &reader->file, err));
    const struct nib_tensor *tensor = nib_tensor_find(&reader->file->directory, TENSOR_NAME);
    if (!tensor)
        NIB_TRY(
            nib_fail(err, NIB_ERROR_NOT_FOUND, "%s: there is no tensor '%s'", path, TENSOR_NAME));
    if (tensor->dtype != NIB_DTYPE_F32 || tensor->n_dims != 2 || tensor->dims[1] == 0 ||
        tensor->dims[1] > UINT32_MAX)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "%s: tensor '%s' must be f32 with dimensions [rows, vocabulary]", path,
                         TENSOR_NAME));
    reader->data = tensor->data;
    reader->rows = tensor->dims[0];
    reader->vocabulary = (uint32_t)tensor->dims[1];
    *out_rows = reader->rows;
    *out_vocabulary = reader->vocabulary;
    *out_reader = reader;
    return NIB_OK;

fail:
    nib_logits_reader_destroy(&reader);
    return status;
}

bool nib_logits_reader_read(const struct nib_logits_reader *reader, uint64_t row, float *out_logits)
{
    if (row >= reader->rows)
        return false;
    const uint8_t *bytes = reader->data + row * reader->vocabulary * sizeof(float);
    for (uint32_t i = 0; i < reader->vocabulary; i++)
        out_logits[i] = nib_load_f32(bytes + (size_t)i * sizeof(float));
    return true;
}

void nib_logits_reader_destroy(struct nib_logits_reader **reader)
{
    if (!reader || !*reader)
        return;
    nib_safetensors_destroy(&(*reader)->file);
    free(*reader);
    *reader = NULL;
}
