#include "tests/support/folder.h"
#include "tests/unit/formats/bytes.h"
#include "tests/unit/formats/visit.h"

#include <criterion/criterion.h>
#include <string.h>

static struct nib_error error;

TestSuite(writers, .init = make_folder, .fini = remove_folder);

static const struct nib_tensor matrix = {
    .name = "m", .dtype = NIB_DTYPE_F32, .n_dims = 2, .dims = {2, 3, 1, 1}};
static const struct nib_tensor blocks = {
    .name = "b", .dtype = NIB_DTYPE_Q4_K, .n_dims = 3, .dims = {1, 2, 256, 1}};
static const struct nib_tensor scalar = {.name = "s", .dtype = NIB_DTYPE_F32};

static bool file_exists(const char *name)
{
    return nib_path_kind(path_in_folder(name)) != NIB_PATH_ABSENT;
}

static struct nib_gguf_writer *open_gguf(const char *name)
{
    struct nib_gguf_writer *writer;
    cr_assert_eq(nib_gguf_writer_open(path_in_folder(name), &writer, &error), NIB_OK, "%s",
                 error.message);
    return writer;
}

static struct nib_safetensors_writer *open_safetensors(const char *name)
{
    struct nib_safetensors_writer *writer;
    cr_assert_eq(nib_safetensors_writer_open(path_in_folder(name), &writer, &error), NIB_OK, "%s",
                 error.message);
    return writer;
}

#define ok(call) cr_assert_eq(call, NIB_OK, "%s", error.message)
#define fails(call, status, part)                                             \
    do {                                                                      \
        cr_expect_eq(call, status, "%s", error.message);                      \
        cr_expect_not_null(strstr(error.message, part), "%s", error.message); \
    } while (0)

Test(writers, gguf_round_trip)
{
    static const struct nib_text texts[] = {{"", 0}, {"a\0b", 3}, {"\xe2\x82\xac", 3}};
    uint8_t data[288 + 24 + 4];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    struct nib_gguf_writer *writer = open_gguf("w.gguf");
    ok(nib_gguf_writer_add_text(writer, "general.architecture", (struct nib_text){"llama", 5},
                                &error));
    ok(nib_gguf_writer_add_u32(writer, "u32", UINT32_MAX, &error));
    ok(nib_gguf_writer_add_tensor(writer, &matrix, &error));
    ok(nib_gguf_writer_add_f32(writer, "f32", -0.25f, &error));
    ok(nib_gguf_writer_add_bool(writer, "bool", true, &error));
    ok(nib_gguf_writer_add_texts(writer, "texts", texts, 3, &error));
    ok(nib_gguf_writer_add_texts(writer, "none", NULL, 0, &error));
    ok(nib_gguf_writer_add_tensor(writer, &blocks, &error));
    ok(nib_gguf_writer_add_tensor(writer, &scalar, &error));
    ok(nib_gguf_writer_append(writer, data, 10, &error));
    cr_expect_not(file_exists("w.gguf"));
    ok(nib_gguf_writer_append(writer, data + 10, 14, &error));
    ok(nib_gguf_writer_append(writer, NULL, 0, &error));
    ok(nib_gguf_writer_append(writer, data + 24, 288, &error));
    ok(nib_gguf_writer_append(writer, data + 312, 4, &error));
    ok(nib_gguf_writer_commit(&writer, NULL, &error));
    cr_expect_null(writer);

    struct nib_gguf *gguf;
    ok(nib_gguf_open(path_in_folder("w.gguf"), &gguf, &error));
    const struct nib_file_map *map = &gguf->directory.maps[0];
    cr_assert(visit_gguf(gguf, map->data, map->size));
    cr_expect_eq(gguf->n_values, 6);
    cr_expect_eq(gguf->directory.n_tensors, 3);
    float f32;
    bool flag;
    uint32_t u32;
    struct nib_text text;
    uint64_t cursor = 0;
    cr_expect(nib_gguf_get_u32(nib_gguf_find(gguf, "u32"), &u32) && u32 == UINT32_MAX);
    cr_expect(nib_gguf_get_f32(nib_gguf_find(gguf, "f32"), &f32) && f32 == -0.25f);
    cr_expect(nib_gguf_get_bool(nib_gguf_find(gguf, "bool"), &flag) && flag);
    cr_expect(nib_gguf_get_text(nib_gguf_find(gguf, "general.architecture"), &text) &&
              text.size == 5 && memcmp(text.ptr, "llama", 5) == 0);
    for (size_t i = 0; i < 3; i++) {
        cr_assert(nib_gguf_next_text(nib_gguf_find(gguf, "texts"), &cursor, &text));
        cr_expect(text.size == texts[i].size && memcmp(text.ptr, texts[i].ptr, text.size) == 0);
    }
    cursor = 0;
    cr_expect_not(nib_gguf_next_text(nib_gguf_find(gguf, "none"), &cursor, &text));
    const struct nib_tensor *tensor = nib_tensor_find(&gguf->directory, "m");
    cr_expect(memcmp(tensor->dims, matrix.dims, sizeof(matrix.dims)) == 0);
    cr_expect(memcmp(tensor->data, data, 24) == 0);
    tensor = nib_tensor_find(&gguf->directory, "b");
    cr_expect(memcmp(tensor->dims, blocks.dims, sizeof(blocks.dims)) == 0);
    cr_expect(tensor->dtype == NIB_DTYPE_Q4_K && memcmp(tensor->data, data + 24, 288) == 0);
    tensor = nib_tensor_find(&gguf->directory, "s");
    cr_expect(tensor->n_dims == 0 && memcmp(tensor->data, data + 312, 4) == 0);
    nib_gguf_destroy(&gguf);
}

Test(writers, gguf_copies_a_files_values)
{
    struct nib_buffer file = read_test_file("package.gguf");
    struct nib_gguf *from, *to;
    ok(nib_gguf_parse((uint8_t *)file.data, file.size, "p", &from, &error));
    struct nib_gguf_writer *writer = open_gguf("w.gguf");
    for (uint32_t i = 0; i < from->n_values; i++)
        ok(nib_gguf_writer_add_value(writer, &from->values[i], &error));
    ok(nib_gguf_writer_add_u32(writer, "general.alignment", 64, &error));
    for (uint32_t i = 0; i < from->directory.n_tensors; i++)
        ok(nib_gguf_writer_add_tensor(writer, &from->directory.tensors[i], &error));
    for (uint32_t i = 0; i < from->directory.n_tensors; i++)
        ok(nib_gguf_writer_append(writer, from->directory.tensors[i].data,
                                  (size_t)from->directory.tensors[i].size, &error));
    ok(nib_gguf_writer_commit(&writer, NULL, &error));

    ok(nib_gguf_open(path_in_folder("w.gguf"), &to, &error));
    cr_expect_eq(to->n_values, from->n_values + 1);
    for (uint32_t i = 0; i < from->n_values; i++) {
        cr_expect_eq(from->values[i].size, to->values[i].size);
        cr_expect(memcmp(from->values[i].data, to->values[i].data, from->values[i].size) == 0);
    }
    for (uint32_t i = 0; i < from->directory.n_tensors; i++) {
        const struct nib_tensor *a = &from->directory.tensors[i], *b = &to->directory.tensors[i];
        cr_expect(strcmp(a->name, b->name) == 0 && memcmp(a->data, b->data, a->size) == 0);
        cr_expect_eq((b->data - to->directory.maps[0].data) % 64, 0);
    }
    nib_gguf_destroy(&to);
    nib_gguf_destroy(&from);
    nib_buffer_free(&file);
}

Test(writers, gguf_refuses_what_it_could_not_read)
{
    struct nib_gguf_writer *writer = open_gguf("w.gguf");
    struct nib_tensor wrong = matrix;
    struct nib_gguf_value value = {.key = {"v", 1},
                                   .type = NIB_GGUF_U32,
                                   .element_type = NIB_GGUF_U32,
                                   .count = 1,
                                   .data = (const uint8_t *)"12345678",
                                   .size = 8};
    fails(nib_gguf_writer_add_value(writer, &value, &error), NIB_ERROR_ARGUMENT, "'v'");
    value.size = 4, value.count = 2;
    fails(nib_gguf_writer_add_value(writer, &value, &error), NIB_ERROR_ARGUMENT, "'v'");
    value.type = NIB_GGUF_ARRAY, value.size = 8;
    ok(nib_gguf_writer_add_value(writer, &value, &error));
    fails(nib_gguf_writer_add_value(writer, &value, &error), NIB_ERROR_ARGUMENT, "twice");
    fails(nib_gguf_writer_add_u32(writer, "", 1, &error), NIB_ERROR_ARGUMENT, "1 to 65535");
    fails(nib_gguf_writer_add_u32(writer, "\xff", 1, &error), NIB_ERROR_ARGUMENT, "UTF-8");
    fails(nib_gguf_writer_add_u32(writer, "general.alignment", 3, &error), NIB_ERROR_ARGUMENT,
          "power of two");

    ok(nib_gguf_writer_add_tensor(writer, &matrix, &error));
    fails(nib_gguf_writer_add_tensor(writer, &matrix, &error), NIB_ERROR_ARGUMENT, "twice");
    wrong.name = "";
    fails(nib_gguf_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_ARGUMENT, "1 to 256");
    wrong.name = "u", wrong.dtype = NIB_DTYPE_U8;
    fails(nib_gguf_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_UNSUPPORTED, "u8");
    wrong.dtype = NIB_DTYPE_Q8_0;
    fails(nib_gguf_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_FORMAT, "multiple");
    wrong.dtype = NIB_DTYPE_I8, wrong.dims[0] = 0;
    fails(nib_gguf_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_ARGUMENT, "0 bytes");
    wrong.dims[0] = wrong.dims[1] = UINT64_MAX;
    fails(nib_gguf_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_FORMAT, "too large");
    // Nothing is looked for behind the fourth dimension, where the data's address lies.
    wrong = (struct nib_tensor){.name = "five",
                                .dtype = NIB_DTYPE_Q8_0,
                                .n_dims = 5,
                                .dims = {1, 1, 1, 32},
                                .data = (const uint8_t *)(uintptr_t)1};
    fails(nib_gguf_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_ARGUMENT, "dimensions");
    nib_gguf_writer_destroy(&writer);
    cr_expect_not(file_exists("w.gguf"));
}

Test(writers, gguf_data_must_fit)
{
    uint8_t data[64] = {0};
    struct nib_gguf_writer *writer = open_gguf("w.gguf");
    fails(nib_gguf_writer_append(writer, data, 1, &error), NIB_ERROR_ARGUMENT, "last tensor");
    nib_gguf_writer_destroy(&writer);

    writer = open_gguf("w.gguf");
    ok(nib_gguf_writer_add_tensor(writer, &matrix, &error));
    ok(nib_gguf_writer_append(writer, data, 20, &error));
    fails(nib_gguf_writer_add_tensor(writer, &scalar, &error), NIB_ERROR_STATE, "'s'");
    fails(nib_gguf_writer_add_u32(writer, "k", 1, &error), NIB_ERROR_STATE, "'k'");
    fails(nib_gguf_writer_append(writer, data, 5, &error), NIB_ERROR_ARGUMENT, "'m' holds 24");
    fails(nib_gguf_writer_commit(&writer, NULL, &error), NIB_ERROR_STATE, "20 of its 24");
    cr_expect_null(writer);
    cr_expect_not(file_exists("w.gguf"));
    fails(nib_gguf_writer_open(path_in_folder("no/such/folder.gguf"), &writer, &error),
          NIB_ERROR_IO, "folder.gguf");
    cr_expect_null(writer);

    struct nib_gguf *gguf;
    writer = open_gguf("empty.gguf");
    ok(nib_gguf_writer_commit(&writer, NULL, &error));
    ok(nib_gguf_open(path_in_folder("empty.gguf"), &gguf, &error));
    cr_expect(gguf->n_values == 0 && gguf->directory.n_tensors == 0);
    nib_gguf_destroy(&gguf);
}

Test(writers, safetensors_round_trip)
{
    static const char odd[] = "quote\" slash\\ line\n \xc3\xa9";
    static const struct nib_tensor none = {
        .name = "none", .dtype = NIB_DTYPE_F16, .n_dims = 2, .dims = {0, 5, 1, 1}};
    struct nib_tensor named = matrix;
    named.name = odd;
    uint8_t data[28];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;
    struct nib_safetensors_writer *writer = open_safetensors("w.safetensors");
    ok(nib_safetensors_writer_add_metadata(writer, "format", "pt", &error));
    ok(nib_safetensors_writer_add_metadata(writer, odd, odd, &error));
    ok(nib_safetensors_writer_add_tensor(writer, &none, &error));
    ok(nib_safetensors_writer_add_tensor(writer, &named, &error));
    ok(nib_safetensors_writer_add_tensor(writer, &scalar, &error));
    ok(nib_safetensors_writer_append(writer, data, 23, &error));
    ok(nib_safetensors_writer_append(writer, data + 23, 1, &error));
    ok(nib_safetensors_writer_append(writer, data + 24, 4, &error));
    ok(nib_safetensors_writer_commit(&writer, &error));

    struct nib_safetensors *file;
    ok(nib_safetensors_open(path_in_folder("w.safetensors"), &file, &error));
    const struct nib_file_map *map = &file->directory.maps[0];
    cr_assert(visit_safetensors(file, map->data, map->size));
    cr_expect_eq(file->directory.n_tensors, 3);
    cr_expect_str_eq(nib_safetensors_metadata(file, "format"), "pt");
    cr_expect_str_eq(nib_safetensors_metadata(file, odd), odd);
    const struct nib_tensor *tensor = nib_tensor_find(&file->directory, odd);
    cr_assert_not_null(tensor);
    cr_expect(tensor->n_dims == 2 && memcmp(tensor->data, data, 24) == 0);
    cr_expect_eq((tensor->data - map->data) % 8, 0);
    cr_expect_eq(nib_tensor_find(&file->directory, "none")->size, 0);
    nib_safetensors_destroy(&file);
}

/// Writes `n` bytes to a tensor F32 [open, 3] and returns what the commit says.
static enum nib_status write_open(const char *name, size_t n)
{
    struct nib_tensor open = matrix;
    open.dims[0] = NIB_DIM_OPEN;
    struct nib_safetensors_writer *writer = open_safetensors(name);
    ok(nib_safetensors_writer_add_metadata(writer, "k", "v", &error));
    ok(nib_safetensors_writer_add_tensor(writer, &open, &error));
    fails(nib_safetensors_writer_add_tensor(writer, &scalar, &error), NIB_ERROR_ARGUMENT, "only");
    for (size_t i = 0; i < n; i++)
        ok(nib_safetensors_writer_append(writer, "x", 1, &error));
    return nib_safetensors_writer_commit(&writer, &error);
}

Test(writers, safetensors_open_dimension)
{
    static const size_t rows[] = {0, 1, 12, 100};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct nib_safetensors *file;
        ok(write_open("w.safetensors", rows[i] * 12));
        ok(nib_safetensors_open(path_in_folder("w.safetensors"), &file, &error));
        const struct nib_tensor *tensor = &file->directory.tensors[0];
        cr_expect(tensor->dims[0] == rows[i] && tensor->dims[1] == 3);
        cr_expect_eq(tensor->size, rows[i] * 12);
        nib_safetensors_destroy(&file);
    }
    fails(write_open("v.safetensors", 13), NIB_ERROR_STATE, "within a row");
    cr_expect_not(file_exists("v.safetensors"));
}

Test(writers, safetensors_refuses_what_it_could_not_read)
{
    struct nib_tensor wrong = matrix;
    struct nib_safetensors_writer *writer = open_safetensors("w.safetensors");
    ok(nib_safetensors_writer_add_metadata(writer, "k", "v", &error));
    fails(nib_safetensors_writer_add_metadata(writer, "k", "v", &error), NIB_ERROR_ARGUMENT,
          "twice");
    fails(nib_safetensors_writer_add_metadata(writer, "l", "\xff", &error), NIB_ERROR_ARGUMENT,
          "UTF-8");
    ok(nib_safetensors_writer_add_tensor(writer, &matrix, &error));
    fails(nib_safetensors_writer_add_tensor(writer, &matrix, &error), NIB_ERROR_ARGUMENT, "twice");
    fails(nib_safetensors_writer_add_tensor(writer, &blocks, &error), NIB_ERROR_UNSUPPORTED,
          "q4_k");
    wrong.name = "__metadata__";
    fails(nib_safetensors_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_ARGUMENT,
          "__metadata__");
    wrong.name = "n", wrong.dims[1] = UINT64_MAX / 4;
    fails(nib_safetensors_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_FORMAT, "too large");
    wrong.dims[0] = NIB_DIM_OPEN, wrong.dims[1] = 3;
    fails(nib_safetensors_writer_add_tensor(writer, &wrong, &error), NIB_ERROR_ARGUMENT, "only");
    fails(nib_safetensors_writer_commit(&writer, &error), NIB_ERROR_STATE, "'m' has 0 of its 24");
    cr_expect_not(file_exists("w.safetensors"));
}
