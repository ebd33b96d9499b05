#include "runtime/formats/json.h"

#include "tests/support/folder.h"
#include "tests/unit/formats/bytes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

static json_t *parse(const char *text)
{
    json_t *json;
    char *copy = (char *)exact_copy(text, strlen(text));
    nib_json_parse(copy, strlen(text), "file.json", &json, &error);
    free(copy);
    return json;
}

Test(json, getters)
{
    json_t *json = parse("{\"whole\": 7, \"max\": 4294967295, \"over\": 4294967296, \"neg\": -1,"
                         "\"real\": 0.5, \"huge\": 1000000000000000019884624838656, \"far\": 1e300,"
                         "\"yes\": true, \"no\": false, \"null\": null, \"text\": \"a\\u0000b\"}");
    cr_assert_not_null(json);
    uint32_t u32 = 1;
    float f32 = 1;
    bool flag = false;
    struct nib_text text = {0};
    cr_expect(nib_json_get_u32(json, "whole", &u32) && u32 == 7);
    cr_expect(nib_json_get_u32(json, "max", &u32) && u32 == UINT32_MAX);
    static const char *const no_u32[] = {"over", "neg", "real", "huge", "yes", "text", "absent"};
    for (size_t i = 0; i < sizeof(no_u32) / sizeof(no_u32[0]); i++)
        cr_expect_not(nib_json_get_u32(json, no_u32[i], &u32), "%s", no_u32[i]);
    cr_expect_eq(u32, UINT32_MAX);

    cr_expect(nib_json_get_f32(json, "real", &f32) && f32 == 0.5f);
    cr_expect(nib_json_get_f32(json, "neg", &f32) && f32 == -1);
    cr_expect(nib_json_get_f32(json, "huge", &f32) && f32 > 9e29f);
    cr_expect_not(nib_json_get_f32(json, "far", &f32) || nib_json_get_f32(json, "null", &f32));
    cr_expect(nib_json_get_bool(json, "yes", &flag) && flag);
    cr_expect(nib_json_get_bool(json, "no", &flag) && !flag);
    cr_expect_not(nib_json_get_bool(json, "null", &flag) ||
                  nib_json_get_bool(json, "whole", &flag));
    cr_expect(nib_json_get_text(json, "text", &text) && text.size == 3);
    cr_expect_eq(memcmp(text.ptr, "a\0b", 3), 0);
    cr_expect_not(nib_json_get_text(json, "real", &text));
    cr_expect_not(nib_json_get_u32(NULL, "whole", &u32));
    cr_expect_not(nib_json_get_text(json_object_get(json, "text"), "text", &text));
    json_decref(json);
}

Test(json, errors_name_the_place)
{
    cr_expect_null(parse("{\"a\": 1,\n \"b\" 2}"));
    cr_expect_eq(error.status, NIB_ERROR_FORMAT);
    cr_expect_not_null(strstr(error.message, "file.json: line 2, column 6"), "%s", error.message);
    static const char *const bad[] = {"",
                                      "{",
                                      "[1,]",
                                      "{} {}",
                                      "{\"a\":NaN}",
                                      "[1e400]",
                                      "\"\\ud800\"",
                                      "[\"\xff\"]",
                                      "{\"a\\u0000\":1}",
                                      "nul"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_expect_null(parse(bad[i]), "%s", bad[i]);
        cr_expect_eq(error.status, NIB_ERROR_FORMAT, "%s", bad[i]);
    }
}

Test(json, deep_nesting_is_refused)
{
    enum { DEPTH = 1000000 };
    char *text = malloc(DEPTH + 1);
    cr_assert_not_null(text);
    memset(text, '[', DEPTH);
    text[DEPTH] = 0;
    cr_expect_null(parse(text));
    cr_expect_eq(error.status, NIB_ERROR_FORMAT);
    free(text);
}

TestSuite(json_file, .init = make_folder, .fini = remove_folder);

Test(json_file, missing_and_present)
{
    json_t *json;
    cr_expect_eq(nib_json_open(path_in_folder("."), "a.json", false, &json, &error), NIB_OK);
    cr_expect_null(json);
    cr_expect_eq(nib_json_open(path_in_folder("."), "a.json", true, &json, &error),
                 NIB_ERROR_NOT_FOUND);
    cr_expect_not_null(strstr(error.message, "a.json"));
    put_file(path_in_folder("a.json"), "", 0);
    cr_expect_eq(nib_json_open(path_in_folder("."), "a.json", true, &json, &error),
                 NIB_ERROR_FORMAT);
    put_file(path_in_folder("a.json"), "{\"n\":3}", 7);
    cr_assert_eq(nib_json_open(path_in_folder("."), "a.json", true, &json, &error), NIB_OK);
    uint32_t n;
    cr_expect(nib_json_get_u32(json, "n", &n) && n == 3);
    json_decref(json);
}
