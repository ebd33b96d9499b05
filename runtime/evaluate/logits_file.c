#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/evaluate/evaluate.h"
#include "runtime/formats/safetensors.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENSOR_NAME "logits"
#define WINDOWS_KEY "windows"
#define HASH_DIGITS 16
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
    char path[]; ///< for messages
};

static uint64_t hash_u32(uint64_t hash, uint32_t value)
{
    uint8_t bytes[sizeof value];
    nib_store_u32(bytes, value);
    for (size_t i = 0; i < sizeof bytes; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/// Writes the note of the windows that `params` runs, a text that the caller frees.
static enum nib_status note_windows(const struct nib_evaluate_params *params, char **out_note,
                                    struct nib_error *err)
{
    struct nib_windows windows;
    enum nib_status status = nib_evaluation_windows(params, &windows, err);
    if (status != NIB_OK)
        return status;
    char *note = calloc((size_t)windows.count + 1, HASH_DIGITS);
    if (!note)
        return nib_fail_memory(err);
    for (uint32_t w = 0; w < windows.count; w++) {
        const int32_t *ids = params->ids + (size_t)w * windows.context;
        uint64_t hash = hash_u32(UINT64_C(0xcbf29ce484222325), windows.first_scored);
        for (uint32_t i = 0; i < windows.context; i++)
            hash = hash_u32(hash, (uint32_t)(i == 0 && params->bos >= 0 ? params->bos : ids[i]));
        snprintf(note + (size_t)w * HASH_DIGITS, HASH_DIGITS + 1, "%016" PRIx64, hash);
    }
    *out_note = note;
    return NIB_OK;
}

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

enum nib_status nib_logits_note_windows(struct nib_logits_writer *writer,
                                        const struct nib_evaluate_params *params,
                                        struct nib_error *err)
{
    char *note = NULL;
    enum nib_status status = note_windows(params, &note, err);
    if (status == NIB_OK)
        status = nib_safetensors_writer_add_metadata(writer->file, WINDOWS_KEY, note, err);
    free(note);
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
    const size_t path_size = strlen(path) + 1;
    struct nib_logits_reader *reader = calloc(1, sizeof *reader + path_size);
    if (!reader)
        return nib_fail_memory(err);
    memcpy(reader->path, path, path_size);
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

enum nib_status nib_logits_check_windows(const struct nib_logits_reader *reader,
                                         const struct nib_evaluate_params *params,
                                         struct nib_error *err)
{
    const char *stored = nib_safetensors_metadata(reader->file, WINDOWS_KEY);
    char *note = NULL;
    if (!stored)
        return NIB_OK;
    enum nib_status status = note_windows(params, &note, err);
    if (status != NIB_OK)
        return status;
    size_t same = 0;
    while (note[same] && stored[same] == note[same])
        same++;
    if (note[same])
        status = nib_fail(err, NIB_ERROR_ARGUMENT,
                          "%s: window %zu is not that of this text; make it with the same text, "
                          "tokenizer, --ctx and --score",
                          reader->path, same / HASH_DIGITS + 1);
    free(note);
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
