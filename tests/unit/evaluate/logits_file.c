#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <nibble/evaluate.h>
#include <string.h>
#include <unistd.h>

#define VOCABULARY 1500

TestSuite(logits_file, .init = make_folder, .fini = remove_folder);

Test(logits_file, round_trip)
{
    const char *path = path_in_folder("logits");
    static float row[VOCABULARY];
    static float back[VOCABULARY];
    struct nib_logits_writer *writer = NULL;
    struct nib_logits_reader *reader = NULL;
    struct nib_error error;
    uint64_t rows;
    uint32_t vocabulary;
    cr_assert_eq(nib_logits_writer_open(path, VOCABULARY, &writer, &error), NIB_OK, "%s",
                 error.message);
    for (uint32_t r = 0; r < 5; r++) {
        for (uint32_t i = 0; i < VOCABULARY; i++)
            row[i] = (float)(r * 10000 + i) / 7.0f;
        row[3] = INFINITY;
        cr_assert_eq(nib_logits_writer_append(writer, row, &error), NIB_OK);
    }
    cr_assert_eq(nib_logits_writer_commit(&writer, &error), NIB_OK, "%s", error.message);
    cr_assert_null(writer);

    cr_assert_eq(nib_logits_reader_open(path, &reader, &rows, &vocabulary, &error), NIB_OK, "%s",
                 error.message);
    cr_assert_eq(rows, 5);
    cr_assert_eq(vocabulary, VOCABULARY);
    cr_assert(nib_logits_reader_read(reader, 4, back));
    cr_assert_eq(memcmp(back, row, sizeof row), 0);
    cr_assert_not(nib_logits_reader_read(reader, 5, back));
    nib_logits_reader_destroy(&reader);
    nib_logits_reader_destroy(&reader);
}

static enum nib_status check_windows(const struct nib_logits_reader *reader, const int32_t *ids,
                                     const struct nib_evaluate_params *other)
{
    struct nib_error error = {0};
    struct nib_evaluate_params params = *other;
    params.ids = ids;
    enum nib_status status = nib_logits_reader_check_windows(reader, &params, &error);
    cr_assert_eq(status != NIB_OK, strstr(error.message, "logits: window 2 ") != NULL);
    return status;
}

Test(logits_file, knows_its_windows)
{
    const char *path = path_in_folder("logits");
    const float row[VOCABULARY] = {0};
    int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};
    const struct nib_evaluate_params *params =
        nib_evaluate_params(.ids = ids, .n_ids = 13, .bos = 0, .context = 4);
    struct nib_logits_writer *writer = NULL;
    struct nib_logits_reader *reader = NULL;
    uint64_t rows;
    uint32_t vocabulary;
    cr_assert_eq(nib_logits_writer_open(path, VOCABULARY, &writer, NULL), NIB_OK);
    cr_assert_eq(nib_logits_writer_note_windows(writer, params, NULL), NIB_OK);
    cr_assert_eq(nib_logits_writer_append(writer, row, NULL), NIB_OK);
    cr_assert_eq(nib_logits_writer_commit(&writer, NULL), NIB_OK);
    cr_assert_eq(nib_logits_reader_open(path, &reader, &rows, &vocabulary, NULL), NIB_OK);

    cr_assert_eq(check_windows(reader, ids, params), NIB_OK);
    ids[4] = 77;  // which BOS replaces
    ids[12] = 77; // which is in no window
    cr_assert_eq(check_windows(reader, ids, params), NIB_OK);
    ids[6] = 77;
    cr_assert_eq(check_windows(reader, ids, params), NIB_ERROR_ARGUMENT);
    cr_assert_eq(
        check_windows(reader, ids,
                      nib_evaluate_params(.n_ids = 13, .bos = 0, .context = 4, .windows = 1)),
        NIB_OK);
    nib_logits_reader_destroy(&reader);
}

Test(logits_file, params_are_checked)
{
    const char *path = path_in_folder("logits");
    const int32_t ids[] = {1, 2, 3, 4};
    struct nib_logits_writer *writer = NULL;
    struct nib_logits_reader *reader = NULL;
    uint64_t rows;
    uint32_t vocabulary;
    const struct nib_evaluate_params *good =
        nib_evaluate_params(.ids = ids, .n_ids = 4, .context = 4);
    struct nib_evaluate_params no_size = *good, no_ids = *good;
    no_size.struct_size = 0;
    no_ids.ids = NULL;
    const struct nib_evaluate_params *bad[] = {NULL, &no_size, &no_ids};
    cr_assert_eq(nib_logits_writer_open(path, 4, &writer, NULL), NIB_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(nib_logits_writer_note_windows(writer, bad[i], NULL), NIB_ERROR_ARGUMENT,
                     "%zu", i);
    cr_assert_eq(nib_logits_writer_note_windows(writer, good, NULL), NIB_OK);
    cr_assert_eq(nib_logits_writer_append(writer, (float[4]){0}, NULL), NIB_OK);
    cr_assert_eq(nib_logits_writer_commit(&writer, NULL), NIB_OK);
    cr_assert_eq(nib_logits_reader_open(path, &reader, &rows, &vocabulary, NULL), NIB_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(nib_logits_reader_check_windows(reader, bad[i], NULL), NIB_ERROR_ARGUMENT,
                     "%zu", i);
    cr_assert_eq(nib_logits_reader_check_windows(reader, good, NULL), NIB_OK);
    nib_logits_reader_destroy(&reader);
}

Test(logits_file, an_abandoned_file_does_not_appear)
{
    const char *path = path_in_folder("logits");
    struct nib_logits_writer *writer = NULL;
    cr_assert_eq(nib_logits_writer_open(path, 4, &writer, NULL), NIB_OK);
    nib_logits_writer_destroy(&writer);
    cr_assert_null(writer);
    cr_assert_eq(rmdir(path_in_folder(NULL)), 0, "the folder must be empty");
    cr_assert_eq(nib_logits_writer_commit(&writer, NULL), NIB_ERROR_ARGUMENT);
}

Test(logits_file, files_of_other_kinds_are_refused)
{
    struct nib_logits_reader *reader = NULL;
    uint64_t rows;
    uint32_t vocabulary;
    struct nib_error error;
    const char *other = NIB_TEST_DATA "/architectures/qwen2/model.safetensors";
    cr_assert_eq(nib_logits_reader_open(other, &reader, &rows, &vocabulary, &error),
                 NIB_ERROR_NOT_FOUND);
    cr_assert_null(reader);
    cr_assert_not_null(strstr(error.message, "logits"));
    other = NIB_TEST_DATA "/architectures/qwen2/config.json";
    cr_assert_eq(nib_logits_reader_open(other, &reader, &rows, &vocabulary, &error),
                 NIB_ERROR_FORMAT);
    cr_assert_eq(nib_logits_reader_open("no/such/file", &reader, &rows, &vocabulary, &error),
                 NIB_ERROR_IO);
    cr_assert_eq(
        nib_logits_writer_open("no/such/folder/file", 4, &(struct nib_logits_writer *){0}, &error),
        NIB_ERROR_IO);
}
