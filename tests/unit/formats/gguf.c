#include "runtime/formats/gguf.h"

#include "tests/unit/formats/bytes.h"
#include "tests/unit/formats/visit.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_F32 = 0, TYPE_Q8_0 = 8, TYPE_IQ2_XXS = 16, TYPE_TQ1_0 = 34 };

static struct nib_error error;

/// Parses an exact copy, visits the result, and frees both.
static enum nib_status parse(const void *bytes, size_t size)
{
    uint8_t *copy = exact_copy(bytes, size);
    struct nib_gguf *gguf;
    error = (struct nib_error){0};
    const enum nib_status status = nib_gguf_parse(copy, size, "file.gguf", &gguf, &error);
    cr_assert_eq(status == NIB_OK, gguf != NULL);
    if (gguf)
        cr_assert(visit_gguf(gguf, copy, size));
    else
        cr_assert_eq(error.status, status);
    nib_gguf_destroy(&gguf);
    free(copy);
    return status;
}

/// Parses and frees `file`, and expects a failure whose message holds `part`.
static void expect(struct nib_buffer *file, enum nib_status status, const char *part)
{
    cr_expect_eq(parse(file->data, file->size), status, "not %d: %s", status, error.message);
    cr_expect_not_null(strstr(error.message, part), "no '%s' in: %s", part, error.message);
    cr_expect_not_null(strstr(error.message, "file.gguf"), "no path in: %s", error.message);
    nib_buffer_free(file);
}

/// A header for one F32 tensor "t" of `n` elements at data offset 0, and its data.
static void put_one_tensor(struct nib_buffer *file, uint64_t n)
{
    put_gguf_tensor(file, "t", TYPE_F32, n, 0);
    put_padding(file, 32);
    put_zeros(file, (size_t)n * 4);
}

Test(gguf, reads_what_the_gguf_package_wrote)
{
    struct nib_buffer file = read_test_file("package.gguf");
    struct nib_gguf *gguf;
    cr_assert_eq(nib_gguf_parse((uint8_t *)file.data, file.size, "p", &gguf, NULL), NIB_OK);
    cr_assert(visit_gguf(gguf, (uint8_t *)file.data, file.size));
    cr_expect_eq(gguf->version, 3);
    cr_expect_eq(gguf->directory.n_tensors, 5);

    struct nib_text text;
    cr_assert(nib_gguf_get_text(nib_gguf_find(gguf, "test.text"), &text));
    cr_expect(text.size == 7 && memcmp(text.ptr,
                                       "Gr\xc3\xbc\xc3\x9f"
                                       "e",
                                       7) == 0);
    const struct nib_gguf_value *texts = nib_gguf_find(gguf, "test.texts");
    static const size_t sizes[] = {0, 1, 6, 6};
    uint64_t cursor = 0;
    for (size_t i = 0; i < 4; i++) {
        cr_assert(nib_gguf_next_text(texts, &cursor, &text));
        cr_expect_eq(text.size, sizes[i]);
    }
    cr_expect_not(nib_gguf_next_text(texts, &cursor, &text));

    const struct nib_tensor *tensor = nib_tensor_find(&gguf->directory, "plain.i32");
    cr_assert_not_null(tensor);
    cr_expect(tensor->dtype == NIB_DTYPE_I32 && tensor->n_dims == 3);
    cr_expect(tensor->dims[0] == 2 && tensor->dims[1] == 3 && tensor->dims[2] == 4);
    cr_expect(tensor->dims[3] == 1 && tensor->size == 96);
    cr_expect_eq(tensor->data[4 * 23], 23);
    tensor = nib_tensor_find(&gguf->directory, "block.q4_1");
    cr_assert_not_null(tensor);
    cr_expect(tensor->dtype == NIB_DTYPE_Q4_1 && tensor->dims[0] == 2 && tensor->dims[1] == 64);
    cr_expect_eq(tensor->size, 80);
    cr_expect_null(nib_tensor_find(&gguf->directory, "absent"));
    nib_gguf_destroy(&gguf);
    nib_buffer_free(&file);
}

Test(gguf, numbers_are_read_where_they_fit)
{
    struct nib_buffer file = read_test_file("package.gguf");
    struct nib_gguf *gguf;
    cr_assert_eq(nib_gguf_parse((uint8_t *)file.data, file.size, "p", &gguf, NULL), NIB_OK);
    uint32_t u32 = 7;
    uint64_t u64 = 7;
    int64_t i64 = 7;
    float f32 = 7;
    bool flag = false;
#define FIND(key) nib_gguf_find(gguf, "test." key)
    cr_expect(nib_gguf_get_u32(FIND("u8"), &u32) && u32 == 200);
    cr_expect(nib_gguf_get_u32(FIND("u16"), &u32) && u32 == 60000);
    cr_expect(nib_gguf_get_u32(FIND("u32"), &u32) && u32 == 4000000000);
    cr_expect(nib_gguf_get_u64(FIND("u64"), &u64) && u64 == UINT64_C(1) << 63);
    u32 = 7, u64 = 7;
    cr_expect_not(nib_gguf_get_u32(FIND("i8"), &u32) || nib_gguf_get_u64(FIND("i16"), &u64));
    cr_expect_not(nib_gguf_get_u32(FIND("u64"), &u32) || nib_gguf_get_u64(FIND("i64"), &u64));
    cr_expect_not(nib_gguf_get_u32(FIND("f32"), &u32) || nib_gguf_get_u32(FIND("bool"), &u32));
    cr_expect_not(nib_gguf_get_u32(FIND("text"), &u32) || nib_gguf_get_u32(FIND("numbers"), &u32));
    cr_expect_not(nib_gguf_get_u32(NULL, &u32) || nib_gguf_get_bool(NULL, &flag));
    cr_expect(u32 == 7 && u64 == 7);

    cr_expect(nib_gguf_get_f32(FIND("f32"), &f32) && f32 == 0.1f);
    cr_expect(nib_gguf_get_f32(FIND("f64"), &f32) && f32 == 0.1f);
    cr_expect(nib_gguf_get_f32(FIND("i32"), &f32) && f32 == -2e9f);
    cr_expect(nib_gguf_get_f32(FIND("i64"), &f32) && f32 == -0x1p62f);
    cr_expect_not(nib_gguf_get_f32(FIND("bool"), &f32) || nib_gguf_get_f32(FIND("reals"), &f32));
    cr_expect(nib_gguf_get_bool(FIND("bool"), &flag) && flag);

    cr_expect(nib_gguf_element_i64(FIND("numbers"), 1, &i64) && i64 == -2);
    cr_expect(nib_gguf_element_f32(FIND("numbers"), 2, &f32) && f32 == 3);
    cr_expect(nib_gguf_element_f32(FIND("reals"), 1, &f32) && f32 == -0.25f);
    cr_expect(nib_gguf_element_i64(FIND("flags"), 2, &i64) && i64 == 1);
    cr_expect_not(nib_gguf_element_i64(FIND("numbers"), 3, &i64));
    cr_expect_not(nib_gguf_element_i64(FIND("reals"), 0, &i64));
    cr_expect_not(nib_gguf_element_i64(FIND("texts"), 0, &i64));
    cr_expect_not(nib_gguf_element_i64(FIND("u8"), 0, &i64));
#undef FIND
    nib_gguf_destroy(&gguf);
    nib_buffer_free(&file);
}

Test(gguf, doubles_beyond_fp32_are_refused)
{
    uint8_t bytes[8];
    float out = 7;
    const double large = 1e300, infinite = INFINITY;
    struct nib_gguf_value value = {
        .type = NIB_GGUF_F64, .element_type = NIB_GGUF_F64, .count = 1, .data = bytes, .size = 8};
    memcpy(bytes, &large, 8);
    cr_expect_not(nib_gguf_get_f32(&value, &out));
    memcpy(bytes, &infinite, 8);
    cr_expect(nib_gguf_get_f32(&value, &out) && isinf(out));
}

Test(gguf, every_prefix_is_refused)
{
    struct nib_buffer file = read_test_file("package.gguf");
    // The last tensor ends before the file's last padding: 80 bytes are no multiple of 32.
    const size_t end = file.size - 16;
    for (size_t size = 0; size < file.size; size++)
        cr_assert_eq(parse(file.data, size) == NIB_OK, size >= end, "%zu bytes", size);
    nib_buffer_free(&file);
}

Test(gguf, any_changed_byte_is_survived)
{
    static const uint8_t masks[] = {0x01, 0x02, 0x08, 0x20, 0x80, 0xff, 0x7f, 0x11};
    struct nib_buffer file = read_test_file("package.gguf");
    for (size_t i = 0; i < file.size; i++) {
        for (size_t m = 0; m < sizeof(masks); m++) {
            file.data[i] = (char)(file.data[i] ^ masks[m]);
            parse(file.data, file.size);
            file.data[i] = (char)(file.data[i] ^ masks[m]);
        }
    }
    cr_expect_eq(parse(file.data, file.size), NIB_OK);
    nib_buffer_free(&file);
}

Test(gguf, wrong_beginnings)
{
    struct nib_buffer file = {0};
    cr_expect_eq(parse(NULL, 0), NIB_ERROR_FORMAT);
    put_gguf_header(&file, 0, 0);
    cr_expect_eq(parse(file.data, file.size), NIB_OK);
    file.data[4] = 2;
    cr_expect_eq(parse(file.data, file.size), NIB_OK);
    file.data[4] = 1;
    cr_expect_eq(parse(file.data, file.size), NIB_ERROR_UNSUPPORTED);
    file.data[4] = 4;
    cr_expect_eq(parse(file.data, file.size), NIB_ERROR_UNSUPPORTED);
    memcpy(file.data + 4, "\0\0\0\3", 4);
    cr_expect_eq(parse(file.data, file.size), NIB_ERROR_UNSUPPORTED);
    cr_expect_not_null(strstr(error.message, "big-endian"));
    file.data[0] = 'g';
    expect(&file, NIB_ERROR_FORMAT, "not a GGUF file");
}

Test(gguf, counts_are_checked_against_the_size)
{
    static const uint64_t counts[] = {1, 3, 1 << 20, UINT32_MAX, UINT64_C(1) << 61, UINT64_MAX};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct nib_buffer file = {0};
        put_gguf_header(&file, counts[i], 0);
        expect(&file, NIB_ERROR_FORMAT, "tensors");
        put_gguf_header(&file, 0, counts[i]);
        expect(&file, NIB_ERROR_FORMAT, "metadata values");
        put_gguf_header(&file, 0, 1);
        put_text(&file, "key");
        put_u32(&file, NIB_GGUF_ARRAY);
        put_u32(&file, NIB_GGUF_U64);
        put_u64(&file, counts[i]);
        expect(&file, NIB_ERROR_FORMAT, "'key'");
        put_gguf_header(&file, 0, 1);
        put_text(&file, "key");
        put_u32(&file, NIB_GGUF_ARRAY);
        put_u32(&file, NIB_GGUF_STRING);
        put_u64(&file, counts[i]);
        expect(&file, NIB_ERROR_FORMAT, "'key'");
        put_gguf_header(&file, 0, 1);
        put_text(&file, "key");
        put_u32(&file, NIB_GGUF_STRING);
        put_u64(&file, counts[i]);
        expect(&file, NIB_ERROR_FORMAT, "'key'");
    }
}

Test(gguf, names_and_keys)
{
    struct nib_buffer file = {0};
    put_gguf_header(&file, 0, 1);
    put_gguf_u32(&file, "", 1);
    put_zeros(&file, 8);
    expect(&file, NIB_ERROR_FORMAT, "key at offset 24");
    put_gguf_header(&file, 0, 1);
    put_gguf_u32(&file, "a\xff", 1);
    expect(&file, NIB_ERROR_FORMAT, "UTF-8");
    put_gguf_header(&file, 0, 2);
    put_gguf_u32(&file, "a", 1);
    put_gguf_u32(&file, "a", 1);
    expect(&file, NIB_ERROR_FORMAT, "'a' is there twice");

    put_gguf_header(&file, 1, 0);
    put_one_tensor(&file, 8);
    file.data[24 + 8] = 0;
    expect(&file, NIB_ERROR_FORMAT, "tensor name at offset 24");
    put_gguf_header(&file, 2, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, 8, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, 8, 32);
    put_zeros(&file, 200);
    expect(&file, NIB_ERROR_FORMAT, "'t' is there twice");

    char name[258] = {0};
    memset(name, 'n', 257);
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, name, TYPE_F32, 1, 0);
    expect(&file, NIB_ERROR_FORMAT, "257 bytes");
    name[256] = 0;
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, name, TYPE_F32, 1, 0);
    put_padding(&file, 32);
    put_zeros(&file, 4);
    cr_expect_eq(parse(file.data, file.size), NIB_OK);
    nib_buffer_free(&file);
}

Test(gguf, values)
{
    struct nib_buffer file = {0};
    put_gguf_header(&file, 0, 1);
    put_text(&file, "k");
    put_u32(&file, 13);
    put_u64(&file, 0);
    expect(&file, NIB_ERROR_FORMAT, "unknown type");
    put_gguf_header(&file, 0, 1);
    put_text(&file, "k");
    put_u32(&file, NIB_GGUF_ARRAY);
    put_u32(&file, 77);
    put_u64(&file, 0);
    expect(&file, NIB_ERROR_FORMAT, "unknown type");
    put_gguf_header(&file, 0, 1);
    put_text(&file, "k");
    put_u32(&file, NIB_GGUF_ARRAY);
    put_u32(&file, NIB_GGUF_ARRAY);
    put_u64(&file, 0);
    expect(&file, NIB_ERROR_UNSUPPORTED, "array of arrays");
    put_gguf_header(&file, 0, 1);
    put_text(&file, "k");
    put_u32(&file, NIB_GGUF_BOOL);
    put_u8(&file, 2);
    expect(&file, NIB_ERROR_FORMAT, "neither true nor false");
}

Test(gguf, dimensions_and_types)
{
    struct nib_buffer file = {0};
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, 0, 0);
    put_zeros(&file, 64);
    expect(&file, NIB_ERROR_FORMAT, "dimension of 0");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, UINT64_C(1) << 62, 0);
    put_zeros(&file, 64);
    expect(&file, NIB_ERROR_FORMAT, "too large");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_Q8_0, 48, 0);
    put_zeros(&file, 64);
    expect(&file, NIB_ERROR_FORMAT, "no multiple of the 32");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_IQ2_XXS, 256, 0);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_UNSUPPORTED, "iq2_xxs");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_TQ1_0, 256, 0);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_UNSUPPORTED, "tq1_0");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", 12345, 256, 0);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_UNSUPPORTED, "12345 (unknown)");

    put_gguf_header(&file, 1, 0);
    put_text(&file, "t");
    put_u32(&file, 5);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_FORMAT, "5 dimensions");
    put_gguf_header(&file, 1, 0);
    put_text(&file, "t");
    put_u32(&file, 4);
    for (int i = 0; i < 4; i++)
        put_u64(&file, UINT64_C(1) << 16);
    put_u32(&file, TYPE_F32);
    put_u64(&file, 0);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_FORMAT, "too large");
}

Test(gguf, places)
{
    struct nib_buffer file = {0};
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, 8, 16);
    put_padding(&file, 32);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_FORMAT, "not aligned to 32");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, 8, UINT64_MAX - 31);
    put_padding(&file, 32);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_FORMAT, "beyond the end");
    put_gguf_header(&file, 1, 0);
    put_gguf_tensor(&file, "t", TYPE_F32, 8, 0);
    expect(&file, NIB_ERROR_FORMAT, "ends before the data");
    put_gguf_header(&file, 2, 0);
    put_gguf_tensor(&file, "second", TYPE_F32, 8, 32);
    put_gguf_tensor(&file, "first", TYPE_F32, 9, 0);
    put_padding(&file, 32);
    put_zeros(&file, 128);
    expect(&file, NIB_ERROR_FORMAT, "'first' and 'second' overlap");
}

Test(gguf, alignment_is_obeyed)
{
    static const uint32_t bad[] = {0, 1, 4, 12, 48, 131072, UINT32_MAX};
    struct nib_buffer file = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_gguf_header(&file, 0, 1);
        put_gguf_u32(&file, "general.alignment", bad[i]);
        expect(&file, NIB_ERROR_FORMAT, "power of two");
    }
    put_gguf_header(&file, 1, 1);
    put_gguf_u32(&file, "general.alignment", 1024);
    put_gguf_tensor(&file, "t", TYPE_F32, 1, 1024);
    put_padding(&file, 1024);
    put_zeros(&file, 1024);
    put_u32(&file, 0x12345678);
    struct nib_gguf *gguf;
    cr_assert_eq(nib_gguf_parse((uint8_t *)file.data, file.size, "p", &gguf, NULL), NIB_OK);
    cr_expect_eq(gguf->directory.tensors[0].data[0], 0x78);
    nib_gguf_destroy(&gguf);
    nib_buffer_free(&file);
}

Test(gguf, destroying_nothing_is_allowed)
{
    struct nib_gguf *gguf = NULL;
    nib_gguf_destroy(&gguf);
    cr_expect_null(gguf);
}
