#include "runtime/formats/safetensors.h"

#include "tests/support/folder.h"
#include "tests/unit/formats/bytes.h"
#include "tests/unit/formats/visit.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define T(shape, begin, end) \
    "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static struct nib_error error;

static enum nib_status parse(const void *bytes, size_t size)
{
    uint8_t *copy = exact_copy(bytes, size);
    struct nib_safetensors *file;
    error = (struct nib_error){0};
    const enum nib_status status =
        nib_safetensors_parse(copy, size, "file.safetensors", &file, &error);
    cr_assert_eq(status == NIB_OK, file != NULL);
    if (file)
        cr_assert(visit_safetensors(file, copy, size));
    else
        cr_assert_eq(error.status, status);
    nib_safetensors_destroy(&file);
    free(copy);
    return status;
}

static enum nib_status parse_header(const char *header, size_t data_size)
{
    struct nib_buffer file = {0};
    put_safetensors(&file, header, data_size);
    const enum nib_status status = parse(file.data, file.size);
    nib_buffer_free(&file);
    return status;
}

Test(safetensors, reads_what_the_safetensors_package_wrote)
{
    struct nib_buffer file = read_test_file("package.safetensors");
    struct nib_safetensors *parsed;
    cr_assert_eq(nib_safetensors_parse((uint8_t *)file.data, file.size, "p", &parsed, NULL),
                 NIB_OK);
    cr_assert(visit_safetensors(parsed, (uint8_t *)file.data, file.size));
    cr_expect_eq(parsed->directory.n_tensors, 2);
    const struct nib_tensor *tensor = nib_tensor_find(&parsed->directory, "logits");
    cr_assert_not_null(tensor);
    cr_expect(tensor->dtype == NIB_DTYPE_F32 && tensor->n_dims == 2);
    cr_expect(tensor->dims[0] == 12 && tensor->dims[1] == 512 && tensor->size == 24576);
    cr_expect_eq((const char *)tensor->data + tensor->size, file.data + file.size);
    cr_expect_null(nib_safetensors_metadata(parsed, "format"));
    nib_safetensors_destroy(&parsed);
    nib_buffer_free(&file);
}

Test(safetensors, headers)
{
    // Each header with the bytes of data behind it; NULL as message: it is right.
    static const struct {
        const char *header;
        size_t data_size;
        enum nib_status status;
        const char *message;
    } cases[] = {
        {"{}", 0, NIB_OK, NULL},
        {"{}   ", 0, NIB_OK, NULL},
        {"{\"a\":" T("[2,3]", "0", "24") "}", 24, NIB_OK, NULL},
        {"{\"a\":" T("[]", "0", "4") "}", 4, NIB_OK, NULL},
        {"{\"a\":" T("[0,9]", "0", "0") ",\"b\":" T("[1]", "0", "4") "}", 4, NIB_OK, NULL},
        {"{\"b\":" T("[1]", "4", "8") ",\"a\":" T("[1]", "0", "4") "}", 8, NIB_OK, NULL},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, NIB_OK, NULL},
        {"", 0, NIB_ERROR_FORMAT, "begin with '{'"},
        {" {}", 0, NIB_ERROR_FORMAT, "begin with '{'"},
        {"{", 0, NIB_ERROR_FORMAT, "header, byte"},
        {"{} x", 0, NIB_ERROR_FORMAT, "header, byte"},
        {"{\"a\":1,\"a\":2}", 0, NIB_ERROR_FORMAT, "duplicate"},
        {"{\"a\":1}", 0, NIB_ERROR_FORMAT, "no dtype"},
        {"{\"a\":{\"dtype\":\"f32\"}}", 0, NIB_ERROR_UNSUPPORTED, "'f32'"},
        {"{\"a\":{\"dtype\":\"F8_E8M0\"}}", 0, NIB_ERROR_UNSUPPORTED, "'F8_E8M0'"},
        {"{\"a\":{\"dtype\":\"F32\"}}", 0, NIB_ERROR_FORMAT, "no shape"},
        {"{\"a\":" T("[-1]", "0", "4") "}", 4, NIB_ERROR_FORMAT, "no size"},
        {"{\"a\":" T("[1.5]", "0", "4") "}", 4, NIB_ERROR_FORMAT, "no size"},
        {"{\"a\":" T("[99999999999999999999]", "0", "4") "}", 4, NIB_ERROR_FORMAT, "header, byte"},
        {"{\"a\":" T("[9000000000000000000]", "0", "4") "}", 4, NIB_ERROR_FORMAT, "too large"},
        {"{\"a\":" T("[1,1,1,1,1]", "0", "4") "}", 4, NIB_ERROR_UNSUPPORTED, "5 dimensions"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, NIB_ERROR_FORMAT, "no data_offsets"},
        {"{\"a\":" T("[1]", "0", "4.0") "}", 4, NIB_ERROR_FORMAT, "no data_offsets"},
        {"{\"a\":" T("[1]", "4", "0") "}", 4, NIB_ERROR_FORMAT, "cut off"},
        {"{\"a\":" T("[1]", "0", "4") "}", 3, NIB_ERROR_FORMAT, "cut off"},
        {"{\"a\":" T("[1]", "0", "8") "}", 8, NIB_ERROR_FORMAT, "its shape needs 4"},
        {"{\"a\":" T("[1]", "0", "4") "}", 5, NIB_ERROR_FORMAT, "belong to no tensor"},
        {"{\"a\":" T("[1]", "4", "8") "}", 8, NIB_ERROR_FORMAT, "hole"},
        {"{\"a\":" T("[1]", "0", "4") ",\"b\":" T("[1]", "0", "4") "}", 4, NIB_ERROR_FORMAT,
         "overlaps"},
        {"{\"a\":" T("[2]", "0", "8") ",\"b\":" T("[1]", "4", "8") "}", 8, NIB_ERROR_FORMAT,
         "overlaps"},
        {"{\"__metadata__\":[]}", 0, NIB_ERROR_FORMAT, "no object"},
        {"{\"__metadata__\":{\"format\":1}}", 0, NIB_ERROR_FORMAT, "no text"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const enum nib_status status = parse_header(cases[i].header, cases[i].data_size);
        cr_expect_eq(status, cases[i].status, "%s: %s", cases[i].header, error.message);
        cr_expect(!cases[i].message || strstr(error.message, cases[i].message), "%s: %s",
                  cases[i].header, error.message);
    }
}

Test(safetensors, header_lengths)
{
    static const uint64_t lengths[] = {3, 100000001, UINT64_C(1) << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct nib_buffer file = {0};
        put_u64(&file, lengths[i]);
        put_u8(&file, '{');
        put_u8(&file, '}');
        cr_expect_eq(parse(file.data, file.size), NIB_ERROR_FORMAT);
        nib_buffer_free(&file);
    }
}

/// A small file with all that the format has.
static struct nib_buffer make_sample(void)
{
    struct nib_buffer file = {0};
    put_safetensors(&file,
                    "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},\"a\":" T(
                        "[2,3]", "0", "24") ",\"b\":{\"dtype\":\"BF16\",\"shape\":[2],"
                                            "\"data_offsets\":[24,28]}}  ",
                    28);
    return file;
}

Test(safetensors, every_prefix_is_refused)
{
    struct nib_buffer file = make_sample();
    for (size_t size = 0; size < file.size; size++)
        cr_assert_neq(parse(file.data, size), NIB_OK, "%zu bytes", size);
    cr_expect_eq(parse(file.data, file.size), NIB_OK);
    nib_buffer_free(&file);
}

Test(safetensors, any_byte_in_any_place_is_survived)
{
    struct nib_buffer file = make_sample();
    for (size_t i = 0; i < file.size; i++) {
        const char old = file.data[i];
        for (int byte = 0; byte < 256; byte += i < 8 ? 1 : 3) {
            file.data[i] = (char)byte;
            parse(file.data, file.size);
        }
        file.data[i] = old;
    }
    nib_buffer_free(&file);
}

TestSuite(safetensors_folder, .init = make_folder, .fini = remove_folder);

static void put_shard(const char *name, const char *header, size_t data_size)
{
    struct nib_buffer file = {0};
    put_safetensors(&file, header, data_size);
    put_file(path_in_folder(name), file.data, file.size);
    nib_buffer_free(&file);
}

static void put_index(const char *text)
{
    put_file(path_in_folder("model.safetensors.index.json"), text, strlen(text));
}

static enum nib_status open_folder(struct nib_safetensors **out_files)
{
    error = (struct nib_error){0};
    return nib_safetensors_open_folder(path_in_folder("."), out_files, &error);
}

static void expect_index(const char *index, enum nib_status status, const char *message)
{
    struct nib_safetensors *files;
    put_index(index);
    cr_expect_eq(open_folder(&files), status, "%s: %s", index, error.message);
    cr_expect_not_null(strstr(error.message, message), "%s: %s", index, error.message);
    cr_expect_null(files);
    nib_safetensors_destroy(&files);
}

Test(safetensors_folder, one_file)
{
    struct nib_safetensors *files;
    cr_expect_eq(open_folder(&files), NIB_ERROR_NOT_FOUND);
    cr_expect_not_null(strstr(error.message, "model.safetensors.index.json"));
    put_shard("model.safetensors", "{\"a\":" T("[1]", "0", "4") "}", 4);
    cr_assert_eq(open_folder(&files), NIB_OK, "%s", error.message);
    cr_expect(files->directory.n_tensors == 1 && files->directory.n_maps == 1);
    nib_tensor_drop(&files->directory, &files->directory.tensors[0], 0, 4);
    nib_safetensors_destroy(&files);
}

Test(safetensors_folder, shards)
{
    struct nib_safetensors *files;
    put_shard("s-1.safetensors",
              "{\"__metadata__\":{\"format\":\"pt\"},\"a\":" T("[1]", "0", "4") "}", 4);
    put_shard("s-2.safetensors", "{\"b\":" T("[1]", "0", "4") ",\"c\":" T("[2]", "4", "12") "}",
              12);
    put_index("{\"metadata\":{\"total_size\":16},\"weight_map\":{\"c\":\"s-2.safetensors\","
              "\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\"}}");
    cr_assert_eq(open_folder(&files), NIB_OK, "%s", error.message);
    cr_expect(files->directory.n_tensors == 3 && files->directory.n_maps == 2);
    for (uint32_t i = 0; i < 3; i++) {
        const struct nib_tensor *tensor = &files->directory.tensors[i];
        const struct nib_file_map *map = &files->directory.maps[tensor->file];
        cr_expect_eq(nib_tensor_find(&files->directory, tensor->name), tensor);
        cr_expect(tensor->data >= map->data &&
                  tensor->data + tensor->size <= map->data + map->size);
    }
    cr_expect_neq(nib_tensor_find(&files->directory, "a")->file,
                  nib_tensor_find(&files->directory, "b")->file);
    nib_safetensors_destroy(&files);
}

Test(safetensors_folder, wrong_indices)
{
    put_shard("s-1.safetensors", "{\"a\":" T("[1]", "0", "4") "}", 4);
    put_shard("s-2.safetensors", "{\"b\":" T("[1]", "0", "4") "}", 4);
    put_shard("s-3.safetensors", "{\"a\":" T("[1]", "0", "4") "}", 4);
    put_shard("s-4.safetensors", "{\"d\":1}", 4);
    expect_index("[]", NIB_ERROR_FORMAT, "weight_map");
    expect_index("{\"weight_map\":{}}", NIB_ERROR_FORMAT, "weight_map");
    expect_index("{\"weight_map\":{\"a\":1}}", NIB_ERROR_FORMAT, "plain name");
    expect_index("{\"weight_map\":", NIB_ERROR_FORMAT, "line 1");
    expect_index("{\"weight_map\":{\"a\":\"s-9.safetensors\"}}", NIB_ERROR_NOT_FOUND, "s-9");
    expect_index("{\"weight_map\":{\"a\":\"s-4.safetensors\"}}", NIB_ERROR_FORMAT, "s-4");
    expect_index("{\"weight_map\":{\"b\":\"s-1.safetensors\"}}", NIB_ERROR_FORMAT,
                 "'b' is not in s-1");
    expect_index("{\"weight_map\":{\"b\":\"s-1.safetensors\",\"a\":\"s-2.safetensors\"}}",
                 NIB_ERROR_FORMAT, "is not in");
    expect_index("{\"weight_map\":{\"a\":\"s-1.safetensors\",\"x\":\"s-3.safetensors\"}}",
                 NIB_ERROR_FORMAT, "'a' is there twice");

    static const char *const names[] = {"../s-1.safetensors",
                                        "/s-1.safetensors",
                                        "..\\\\s-1.safetensors",
                                        "c:s-1.safetensors",
                                        "s-1.safetensors\\u0000",
                                        "a\\u0000.safetensors",
                                        "s-1.bin",
                                        ".safetensors"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char index[200];
        snprintf(index, sizeof(index), "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        expect_index(index, NIB_ERROR_FORMAT, "plain name");
    }
}
