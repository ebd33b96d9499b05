#include "runtime/base/buffer.h"
#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/formats/gguf_type.h"
#include "runtime/formats/write_order.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 3, DEFAULT_ALIGNMENT = 32 };

struct nib_gguf_writer {
    struct nib_file_writer *file;
    struct nib_buffer values; ///< as they will lie in the file
    uint64_t n_values;
    struct nib_string_map by_key;
    struct nib_write_order order; ///< its arena holds the keys, too
    uint64_t alignment;
    bool begun; ///< the header is written
};

enum nib_status nib_gguf_writer_open(const char *path, struct nib_gguf_writer **out_writer,
                                     struct nib_error *err)
{
    *out_writer = NULL;
    struct nib_gguf_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return nib_fail_memory(err);
    writer->alignment = DEFAULT_ALIGNMENT;
    const enum nib_status status = nib_file_writer_open(path, &writer->file, err);
    if (status == NIB_OK)
        *out_writer = writer;
    else
        nib_gguf_writer_destroy(&writer);
    return status;
}

void nib_gguf_writer_destroy(struct nib_gguf_writer **writer)
{
    struct nib_gguf_writer *dead = *writer;
    if (!dead)
        return;
    nib_file_writer_destroy(&dead->file);
    nib_write_order_free(&dead->order);
    nib_string_map_free(&dead->by_key);
    nib_buffer_free(&dead->values);
    free(dead);
    *writer = NULL;
}

static enum nib_status append_u32(struct nib_buffer *buffer, uint32_t value, struct nib_error *err)
{
    uint8_t bytes[4];
    nib_store_u32(bytes, value);
    return nib_buffer_append(buffer, bytes, sizeof(bytes), err);
}

static enum nib_status append_u64(struct nib_buffer *buffer, uint64_t value, struct nib_error *err)
{
    uint8_t bytes[8];
    nib_store_u64(bytes, value);
    return nib_buffer_append(buffer, bytes, sizeof(bytes), err);
}

static enum nib_status append_text(struct nib_buffer *buffer, struct nib_text text,
                                   struct nib_error *err)
{
    const enum nib_status status = append_u64(buffer, text.size, err);
    return status == NIB_OK ? nib_buffer_append(buffer, text.ptr, text.size, err) : status;
}

static enum nib_status check_value(const struct nib_gguf_writer *writer,
                                   const struct nib_gguf_value *value, struct nib_error *err)
{
    const struct nib_text key = value->key;
    uint32_t index;
    uint64_t size;
    if (writer->begun)
        return nib_fail(err, NIB_ERROR_STATE, "key '%.*s' comes after data", (int)key.size,
                        key.ptr);
    if (key.size == 0 || key.size > NIB_GGUF_MAX_KEY_SIZE || memchr(key.ptr, 0, key.size) ||
        !nib_utf8_valid(key.ptr, key.size))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "a key is not 1 to %d bytes of UTF-8 text",
                        (int)NIB_GGUF_MAX_KEY_SIZE);
    if (nib_string_map_find(&writer->by_key, key, &index))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "key '%.*s' is added twice", (int)key.size,
                        key.ptr);
    if ((value->type != NIB_GGUF_ARRAY &&
         (value->count != 1 || value->type != value->element_type)) ||
        !nib_gguf_elements_size(value->element_type, value->count, value->data, value->size,
                                &size) ||
        size != value->size)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the value of key '%.*s' is not of the size that its type and count say",
                        (int)key.size, key.ptr);
    return NIB_OK;
}

/// Takes over general.alignment, so that the metadata of another file can be copied as they are.
static enum nib_status set_alignment(struct nib_gguf_writer *writer,
                                     const struct nib_gguf_value *value, struct nib_error *err)
{
    const size_t size = sizeof(NIB_GGUF_ALIGNMENT_KEY) - 1;
    if (value->key.size != size || memcmp(value->key.ptr, NIB_GGUF_ALIGNMENT_KEY, size) != 0)
        return NIB_OK;
    uint64_t alignment;
    if (!nib_gguf_get_u64(value, &alignment) || !nib_gguf_alignment_valid(alignment))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "key '%s' is no power of two from 8 to 65536",
                        NIB_GGUF_ALIGNMENT_KEY);
    writer->alignment = alignment;
    return NIB_OK;
}

enum nib_status nib_gguf_writer_add_value(struct nib_gguf_writer *writer,
                                          const struct nib_gguf_value *value, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const size_t old_size = writer->values.size;
    struct nib_text key = {NULL, value->key.size};
    NIB_TRY(check_value(writer, value, err));
    NIB_TRY(append_text(&writer->values, value->key, err));
    NIB_TRY(append_u32(&writer->values, (uint32_t)value->type, err));
    if (value->type == NIB_GGUF_ARRAY) {
        NIB_TRY(append_u32(&writer->values, (uint32_t)value->element_type, err));
        NIB_TRY(append_u64(&writer->values, value->count, err));
    }
    NIB_TRY(nib_buffer_append(&writer->values, value->data, (size_t)value->size, err));
    key.ptr = nib_arena_text(&writer->order.arena, value->key.ptr, value->key.size);
    if (!key.ptr)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(set_alignment(writer, value, err));
    NIB_TRY(nib_string_map_add(&writer->by_key, key, 0, NULL, err));
    writer->n_values++;
    return NIB_OK;
fail:
    writer->values.size = old_size;
    return status;
}

static enum nib_status add_scalar(struct nib_gguf_writer *writer, const char *key,
                                  enum nib_gguf_type type, const uint8_t *data,
                                  struct nib_error *err)
{
    const struct nib_gguf_value value = {
        .key = {key, strlen(key)},
        .type = type,
        .element_type = type,
        .count = 1,
        .data = data,
        .size = nib_gguf_type_size(type),
    };
    return nib_gguf_writer_add_value(writer, &value, err);
}

enum nib_status nib_gguf_writer_add_u32(struct nib_gguf_writer *writer, const char *key,
                                        uint32_t value, struct nib_error *err)
{
    uint8_t bytes[4];
    nib_store_u32(bytes, value);
    return add_scalar(writer, key, NIB_GGUF_U32, bytes, err);
}

enum nib_status nib_gguf_writer_add_f32(struct nib_gguf_writer *writer, const char *key,
                                        float value, struct nib_error *err)
{
    uint8_t bytes[4];
    nib_store_u32(bytes, nib_f32_bits(value));
    return add_scalar(writer, key, NIB_GGUF_F32, bytes, err);
}

enum nib_status nib_gguf_writer_add_bool(struct nib_gguf_writer *writer, const char *key,
                                         bool value, struct nib_error *err)
{
    const uint8_t byte = value;
    return add_scalar(writer, key, NIB_GGUF_BOOL, &byte, err);
}

static enum nib_status add_strings(struct nib_gguf_writer *writer, const char *key,
                                   enum nib_gguf_type type, const struct nib_text *texts,
                                   uint64_t count, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer data = {0};
    for (uint64_t i = 0; i < count; i++)
        NIB_TRY(append_text(&data, texts[i], err));
    const struct nib_gguf_value value = {
        .key = {key, strlen(key)},
        .type = type,
        .element_type = NIB_GGUF_STRING,
        .count = count,
        .data = (const uint8_t *)data.data,
        .size = data.size,
    };
    NIB_TRY(nib_gguf_writer_add_value(writer, &value, err));
fail:
    nib_buffer_free(&data);
    return status;
}

enum nib_status nib_gguf_writer_add_text(struct nib_gguf_writer *writer, const char *key,
                                         struct nib_text value, struct nib_error *err)
{
    return add_strings(writer, key, NIB_GGUF_STRING, &value, 1, err);
}

enum nib_status nib_gguf_writer_add_texts(struct nib_gguf_writer *writer, const char *key,
                                          const struct nib_text *texts, uint64_t count,
                                          struct nib_error *err)
{
    return add_strings(writer, key, NIB_GGUF_ARRAY, texts, count, err);
}

enum nib_status nib_gguf_writer_add_tensor(struct nib_gguf_writer *writer,
                                           const struct nib_tensor *tensor, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint64_t size;
    uint32_t type;
    if (writer->begun)
        return nib_fail(err, NIB_ERROR_STATE, "tensor '%s' comes after data", tensor->name);
    if (!nib_gguf_type_from_dtype(tensor->dtype, &type))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "tensor '%s': GGUF has no type %s",
                        tensor->name, nib_dtype_name(tensor->dtype));
    NIB_TRY(nib_tensor_compute_size(tensor, &size, err));
    if (size == 0 || size > INT64_MAX)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "tensor '%s' cannot have %" PRIu64 " bytes",
                        tensor->name, size);
    NIB_TRY(nib_write_order_add(&writer->order, tensor, size, err));
fail:
    return status;
}

static enum nib_status append_tensor_info(struct nib_buffer *header,
                                          const struct nib_tensor *tensor, uint64_t offset,
                                          struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t type;
    nib_gguf_type_from_dtype(tensor->dtype, &type);
    const struct nib_text name = {tensor->name, strlen(tensor->name)};
    NIB_TRY(append_text(header, name, err));
    NIB_TRY(append_u32(header, tensor->n_dims, err));
    for (uint32_t i = tensor->n_dims; i-- > 0;)
        NIB_TRY(append_u64(header, tensor->dims[i], err));
    NIB_TRY(append_u32(header, type, err));
    NIB_TRY(append_u64(header, offset, err));
fail:
    return status;
}

/// Appends zeros to the file after `size` bytes, up to a multiple of the alignment.
static enum nib_status pad_file(struct nib_gguf_writer *writer, uint64_t size,
                                struct nib_error *err)
{
    static const uint8_t zeros[256];
    enum nib_status status = NIB_OK;
    uint64_t rest = (writer->alignment - size % writer->alignment) % writer->alignment;
    while (rest > 0) {
        const size_t piece = rest < sizeof(zeros) ? (size_t)rest : sizeof(zeros);
        NIB_TRY(nib_file_writer_append(writer->file, zeros, piece, err));
        rest -= piece;
    }
fail:
    return status;
}

static enum nib_status write_header(struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer header = {0};
    uint64_t offset = 0;
    NIB_TRY(nib_buffer_append(&header, "GGUF", 4, err));
    NIB_TRY(append_u32(&header, VERSION, err));
    NIB_TRY(append_u64(&header, writer->order.n_tensors, err));
    NIB_TRY(append_u64(&header, writer->n_values, err));
    NIB_TRY(nib_buffer_append(&header, writer->values.data, writer->values.size, err));
    for (size_t i = 0; i < writer->order.n_tensors; i++) {
        const struct nib_tensor *tensor = &writer->order.tensors[i];
        NIB_TRY(append_tensor_info(&header, tensor, offset, err));
        if (!nib_add_u64(offset, tensor->size, &offset) ||
            !nib_round_up_u64(offset, writer->alignment, &offset))
            NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT, "the tensors do not fit in a file"));
    }
    NIB_TRY(nib_file_writer_append(writer->file, header.data, header.size, err));
    NIB_TRY(pad_file(writer, header.size, err));
    writer->begun = true;
fail:
    nib_buffer_free(&header);
    return status;
}

enum nib_status nib_gguf_writer_append(struct nib_gguf_writer *writer, const void *bytes,
                                       size_t size, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_tensor *tensor;
    if (size == 0)
        return NIB_OK;
    if (!writer->begun)
        NIB_TRY(write_header(writer, err));
    NIB_TRY(nib_write_order_advance(&writer->order, size, &tensor, err));
    NIB_TRY(nib_file_writer_append(writer->file, bytes, size, err));
    if (writer->order.written == tensor->size)
        NIB_TRY(pad_file(writer, tensor->size, err));
fail:
    return status;
}

enum nib_status nib_gguf_writer_commit(struct nib_gguf_writer **writer, uint64_t *out_size,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (!(*writer)->begun)
        NIB_TRY(write_header(*writer, err));
    NIB_TRY(nib_write_order_finish(&(*writer)->order, err));
    if (out_size)
        *out_size = nib_file_writer_size((*writer)->file);
    NIB_TRY(nib_file_writer_commit(&(*writer)->file, err));
fail:
    nib_gguf_writer_destroy(writer);
    return status;
}
