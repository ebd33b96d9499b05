/// Every allocation of every parser and writer fails once: the call says so, and nothing leaks
/// (which the leak sanitizer sees).
#include "tests/support/alloc_fail.h"
#include "tests/support/folder.h"
#include "tests/unit/formats/bytes.h"
#include "tests/unit/formats/visit.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

/// jansson, a shared library, has been given the failing functions. It reports some of its failures
/// as errors of syntax.
static bool jansson_fails;

TestSuite(alloc, .init = make_folder, .fini = remove_folder);

/// Runs `call` with its first, second, ... allocation failing, until none has failed.
static void fail_each(enum nib_status (*call)(void), uint32_t least)
{
    for (uint32_t n = 0;; n++) {
        cr_assert_lt(n, 10000);
        error = (struct nib_error){0};
        alloc_fail_after(n);
        const enum nib_status status = call();
        if (!alloc_fail_off()) {
            cr_assert_eq(status, NIB_OK, "%s", error.message);
            cr_expect_geq(n, least, "only %u allocations", n);
            return;
        }
        cr_assert(status == NIB_ERROR_MEMORY || (jansson_fails && status == NIB_ERROR_FORMAT),
                  "allocation %u: %d %s", n, status, error.message);
        cr_assert_eq(error.status, status);
    }
}

static enum nib_status open_gguf(const char *path)
{
    struct nib_gguf *gguf;
    const enum nib_status status = nib_gguf_open(path, &gguf, &error);
    cr_assert_eq(status == NIB_OK, gguf != NULL);
    nib_gguf_destroy(&gguf);
    return status;
}

static enum nib_status open_whole_gguf(void)
{
    return open_gguf(NIB_TEST_DATA "/formats/package.gguf");
}

static enum nib_status open_split_gguf(void)
{
    return open_gguf(NIB_TEST_DATA "/formats/split-00002-of-00003.gguf");
}

static enum nib_status open_folder(void)
{
    struct nib_safetensors *files;
    const enum nib_status status = nib_safetensors_open_folder(path_in_folder("."), &files, &error);
    cr_assert_eq(status == NIB_OK, files != NULL);
    nib_safetensors_destroy(&files);
    return status;
}

static enum nib_status write_gguf(void)
{
    static const struct nib_text texts[] = {{"a", 1}, {"b", 1}};
    static const struct nib_tensor tensor = {
        .name = "t", .dtype = NIB_DTYPE_F32, .n_dims = 1, .dims = {1, 1, 1, 1}};
    enum nib_status status = NIB_OK;
    struct nib_gguf_writer *writer = NULL;
#define TRY(call)         \
    if (status == NIB_OK) \
    status = (call)
    TRY(nib_gguf_writer_open(path_in_folder("w.gguf"), &writer, &error));
    TRY(nib_gguf_writer_add_texts(writer, "k", texts, 2, &error));
    TRY(nib_gguf_writer_add_u32(writer, "general.alignment", 8, &error));
    TRY(nib_gguf_writer_add_tensor(writer, &tensor, &error));
    TRY(nib_gguf_writer_append(writer, "data", 4, &error));
    TRY(nib_gguf_writer_commit(&writer, NULL, &error));
    nib_gguf_writer_destroy(&writer);
    return status;
}

static enum nib_status write_safetensors(void)
{
    static const struct nib_tensor tensor = {
        .name = "t", .dtype = NIB_DTYPE_F32, .n_dims = 1, .dims = {NIB_DIM_OPEN, 1, 1, 1}};
    enum nib_status status = NIB_OK;
    struct nib_safetensors_writer *writer = NULL;
    TRY(nib_safetensors_writer_open(path_in_folder("w.safetensors"), &writer, &error));
    TRY(nib_safetensors_writer_add_metadata(writer, "k", "v", &error));
    TRY(nib_safetensors_writer_add_tensor(writer, &tensor, &error));
    TRY(nib_safetensors_writer_append(writer, "data", 4, &error));
    TRY(nib_safetensors_writer_commit(&writer, &error));
    nib_safetensors_writer_destroy(&writer);
    return status;
#undef TRY
}

Test(alloc, gguf)
{
    fail_each(open_whole_gguf, 5);
}

Test(alloc, gguf_split)
{
    fail_each(open_split_gguf, 20);
}

Test(alloc, safetensors_folder)
{
    static const char index[] =
        "{\"weight_map\":{\"last_logits\":\"a.safetensors\",\"t\":\"b.safetensors\"}}";
    struct nib_buffer file = read_test_file("package.safetensors");
    put_file(path_in_folder("a.safetensors"), file.data, file.size);
    nib_buffer_free(&file);
    put_safetensors(&file,
                    "{\"__metadata__\":{\"k\":\"v\"},\"t\":{\"dtype\":\"F32\",\"shape\":[1],"
                    "\"data_offsets\":[0,4]}}",
                    4);
    put_file(path_in_folder("b.safetensors"), file.data, file.size);
    nib_buffer_free(&file);
    put_file(path_in_folder("model.safetensors.index.json"), index, sizeof(index) - 1);
    fail_each(open_folder, 10);
    jansson_fails = true;
    json_set_alloc_funcs(malloc, free);
    fail_each(open_folder, 50);
}

Test(alloc, gguf_writer)
{
    fail_each(write_gguf, 10);
}

Test(alloc, safetensors_writer)
{
    fail_each(write_safetensors, 8);
}
