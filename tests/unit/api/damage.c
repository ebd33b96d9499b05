#define _GNU_SOURCE

// Files cut short or changed anywhere, opened as a program opens them: each gives one line that
// names the file, or a model that runs.
#include "runtime/formats/gguf.h"
#include "tests/support/folder.h"
#include "tests/unit/api/checkpoint.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(damage, .init = make_folder, .fini = remove_folder);

/// Returns the distance of two places to damage; NIB_DAMAGE divides it (tests/heavy/damage).
static uint64_t stride(uint64_t usual)
{
    const char *divisor = getenv("NIB_DAMAGE");
    uint64_t n = divisor ? strtoull(divisor, NULL, 10) : 1;
    return n < usual ? usual / (n ? n : 1) : 1;
}

/// Draws two tokens; whatever goes wrong must be told.
static void run(struct nib_model *model)
{
    const int32_t ids[] = {1, 2, 3};
    struct nib_error error = {0};
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    enum nib_status status =
        nib_engine_create(model, nib_engine_params(.context = 8, .max_rows = 4), &engine, &error);
    if (status == NIB_OK)
        status = nib_session_create(engine, &session, &error);
    if (status == NIB_OK)
        status = nib_session_append(session, ids, 3, &error);
    if (status == NIB_OK)
        status = nib_session_generate(session, nib_generate_params(.max_tokens = 2), NULL, &error);
    cr_assert_eq(error.status, status, "%s", error.message);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
}

/// Opens `path` and returns whether it is a model.
static bool try_open(const char *path, bool runs)
{
    struct nib_error error = {0};
    struct nib_model *model = NULL;
    enum nib_status status = nib_model_open(path, NULL, &model, &error);
    cr_assert_eq(status == NIB_OK, model != NULL);
    cr_assert_eq(status, error.status);
    if (!model) {
        cr_assert(status == NIB_ERROR_FORMAT || status == NIB_ERROR_UNSUPPORTED ||
                      status == NIB_ERROR_NOT_FOUND,
                  "%d: %s", status, error.message);
        cr_assert_eq(strncmp(error.message, path, strlen(path)), 0, "%s", error.message);
        return false;
    }
    if (runs)
        run(model);
    nib_model_destroy(&model);
    return true;
}

static FILE *open_file(const char *path, uint64_t *out_size)
{
    FILE *file = fopen(path, "r+b");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(setvbuf(file, NULL, _IONBF, 0), 0);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    *out_size = (uint64_t)ftell(file);
    return file;
}

static int swap_byte(FILE *file, uint64_t at, int byte)
{
    fseek(file, (long)at, SEEK_SET);
    int old = fgetc(file);
    fseek(file, (long)at, SEEK_SET);
    cr_assert_eq(fputc(byte, file), byte);
    return old;
}

/// Changes single bytes of [first, end), of each byte one bit or all of it.
static void change(const char *model, FILE *file, uint64_t first, uint64_t end, uint64_t step,
                   bool runs)
{
    uint64_t random = 1;
    for (uint64_t at = first; at < end; at += step) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        int old = swap_byte(file, at, 0);
        int byte = random >> 63 ? old ^ 1 << (random >> 40 & 7) : (int)(random >> 40 & 0xff);
        swap_byte(file, at, byte);
        try_open(model, runs);
        swap_byte(file, at, old);
    }
}

/// Cuts the file to the lengths of [first, end), the longest first; its bytes come back at the end.
static void cut(const char *model, FILE *file, uint64_t first, uint64_t end, uint64_t step)
{
    fseek(file, 0, SEEK_END);
    size_t rest = (size_t)ftell(file) - (size_t)first;
    char *bytes = malloc(rest);
    cr_assert_not_null(bytes);
    fseek(file, (long)first, SEEK_SET);
    cr_assert_eq(fread(bytes, 1, rest, file), rest);
    for (uint64_t n = end - first; n > 0; n = n > step ? n - step : 0) {
        cr_assert_eq(ftruncate(fileno(file), (off_t)(first + n - 1)), 0);
        cr_assert(!try_open(model, false), "cut to %" PRIu64 " bytes", first + n - 1);
    }
    cr_assert_eq(ftruncate(fileno(file), (off_t)first), 0);
    fseek(file, (long)first, SEEK_SET);
    cr_assert_eq(fwrite(bytes, 1, rest, file), rest);
    free(bytes);
}

/// Damages each file of a copy of `folder`, with `tokenizer` (or NULL) put in.
static void damage_folder(const char *folder, const char *tokenizer)
{
    checkpoint_copy(folder, tokenizer);
    char model[400];
    snprintf(model, sizeof model, "%s", path_in_folder(""));
    cr_assert(try_open(model, true), "%s", folder);
    for (size_t i = 0; i < CHECKPOINT_FILES; i++) {
        uint64_t size;
        if (access(path_in_folder(checkpoint_names[i]), F_OK) != 0)
            continue;
        FILE *file = open_file(path_in_folder(checkpoint_names[i]), &size);
        uint64_t header = size;
        if (i == CHECKPOINT_WEIGHTS) {
            uint8_t length[8];
            fseek(file, 0, SEEK_SET);
            cr_assert_eq(fread(length, 1, 8, file), 8);
            header = 8 + (length[0] | (uint64_t)length[1] << 8 | (uint64_t)length[2] << 16);
            cut(model, file, header, size, stride(40009));
            change(model, file, header, size, stride(40009), true);
        }
        // JSON stands on its own only as a whole.
        cut(model, file, 0, header, stride(3));
        change(model, file, 0, header, stride(3), true);
        fclose(file);
    }
    cr_assert(try_open(model, true), "%s", folder);
}

Test(damage, folder_with_byte_level_tokenizer)
{
    damage_folder("architectures/gemma3", "smollm");
}

Test(damage, folder_with_unigram_tokenizer)
{
    damage_folder("architectures/phi3", "unigram-bytes");
}

Test(damage, folder_of_gptq)
{
    damage_folder("checkpoints/gptq-int4-g64-actorder", NULL);
}

Test(damage, folder_of_nf4)
{
    damage_folder("checkpoints/bnb-nf4", NULL);
}

/// Makes a file of the real one's header and size whose weights are zeros that take no place.
static FILE *put_header(const char *path, uint64_t *out_header, uint64_t *out_size)
{
    const char *real = NIB_MODELS "/SmolLM2-135M-Instruct.Q4_1.gguf";
    struct nib_gguf *gguf;
    if (access(real, R_OK) != 0)
        cr_skip_test("%s is absent; tools/fetch-model brings it", real);
    cr_assert_eq(nib_gguf_open(real, &gguf, NULL), NIB_OK);
    const struct nib_file_map *map = &gguf->directory.maps[0];
    *out_size = map->size;
    *out_header = map->size;
    for (uint32_t i = 0; i < gguf->directory.n_tensors; i++) {
        uint64_t offset = (uint64_t)(gguf->directory.tensors[i].data - map->data);
        *out_header = offset < *out_header ? offset : *out_header;
    }
    put_file(path, map->data, (size_t)*out_header);
    nib_gguf_destroy(&gguf);
    FILE *file = fopen(path, "r+b");
    cr_assert_not_null(file);
    cr_assert_eq(setvbuf(file, NULL, _IONBF, 0), 0);
    cr_assert_eq(ftruncate(fileno(file), (off_t)*out_size), 0);
    return file;
}

enum { FIRST_KEYS = 2048, TENSORS = 16384 };

Test(damage, real_header_changed)
{
    uint64_t header, size;
    const char *path = path_in_folder("real.gguf");
    char model[400];
    snprintf(model, sizeof model, "%s", path);
    FILE *file = put_header(model, &header, &size);
    cr_assert(try_open(model, false));
    change(model, file, 0, FIRST_KEYS, stride(29), false);
    change(model, file, FIRST_KEYS, header - TENSORS, stride(31013), false);
    change(model, file, header - TENSORS, header, stride(211), false);
    fclose(file);
}

Test(damage, real_header_cut)
{
    uint64_t header, size;
    char model[400];
    snprintf(model, sizeof model, "%s", path_in_folder("real.gguf"));
    FILE *file = put_header(model, &header, &size);
    for (uint64_t left = size - 1; left > header; left /= 2) {
        cr_assert_eq(ftruncate(fileno(file), (off_t)left), 0);
        cr_assert(!try_open(model, false), "cut to %" PRIu64 " bytes", left);
    }
    cut(model, file, header - TENSORS, header, stride(13));
    cut(model, file, FIRST_KEYS, header - TENSORS, stride(1009));
    cut(model, file, 0, FIRST_KEYS, 1);
    fclose(file);
}
