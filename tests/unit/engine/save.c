// Saved sessions: what goes into a file comes back, and what does not fit is refused.
#include "runtime/base/bytes.h"
#include "runtime/engine/session_file.h"
#include "tests/support/folder.h"
#include "tests/unit/engine/rig.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT 400

TestSuite(save, .init = make_folder, .fini = remove_folder);

static const struct nib_sampling greedy = {0};

/// Generates `n` tokens and checks them.
static void generate(struct nib_session *session, uint32_t n)
{
    struct nib_error error;
    struct nib_generate_params params = {.max_tokens = n, .ignore_eos = true};
    uint32_t first = session->n_tokens;
    cr_assert_eq(nib_generator_run(session, &params, NULL, &error), NIB_OK, "%s", error.message);
    for (uint32_t i = first; i < first + n; i++)
        cr_assert_eq(session->tokens[i], rig_expected(session, &greedy, i), "token %u", i);
}

/// Saves a session of `n_prompt` tokens and some drawn ones as "s" in the test's folder.
static void save_one(uint32_t n_prompt, struct nib_engine_params params)
{
    struct rig rig;
    struct nib_error error;
    params.context = CONTEXT;
    rig_open(&rig, params);
    struct nib_session *session = rig_session(&rig);
    if (n_prompt > 0) {
        rig_append(session, n_prompt, 1);
        generate(session, 5);
    }
    cr_assert_eq(nib_session_save(session, path_in_folder("s"), &error), NIB_OK, "%s",
                 error.message);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(save, a_session_goes_on_from_its_file)
{
    static const uint32_t lengths[] = {0, 1, 20, 59, 60, 61, 90, 300};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct rig rig;
        struct nib_error error;
        struct nib_session *session = NULL;
        save_one(lengths[i], (struct nib_engine_params){.max_rows = 16});
        // Another engine, which has longer steps and a longer context.
        rig_open(&rig, (struct nib_engine_params){.context = CONTEXT + 50, .max_sessions = 3});
        cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error), NIB_OK,
                     "%s", error.message);
        uint32_t n = lengths[i] > 0 ? lengths[i] + 5 : 0;
        cr_assert_eq(session->n_tokens, n);
        cr_assert_eq(session->n_computed, n > 0 ? (n - 1) / 32 * 32 : 0);
        rig_append(session, 3, 2);
        rig.fake.n_rows = 0;
        generate(session, 20);
        cr_assert_eq(rig.fake.n_rows, n + 3 - (n > 0 ? (n - 1) / 32 * 32 : 0) + 19);
        // Who begins alike computes for itself.
        struct nib_session *other = rig_session(&rig);
        rig_append(other, 60, 1);
        rig.fake.n_rows = 0;
        generate(other, 1);
        cr_assert_eq(rig.fake.n_rows, 60);
        nib_session_destroy(&other);
        nib_session_destroy(&session);
        rig_close(&rig);
    }
}

/// Saves sessions that have tokens in f16, and loads them.
static void check_in_f16(uint32_t recent, uint32_t n_first, const char *recent_flag)
{
    static const uint32_t lengths[] = {20, 61, 90, 270, 300};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct rig rig;
        struct nib_error error;
        struct nib_session *session = NULL;
        const struct nib_engine_params params = {.context = CONTEXT,
                                                 .key_format = NIB_KV_I4,
                                                 .value_format = NIB_KV_I4,
                                                 .kv_recent = recent,
                                                 .kv_first = n_first};
        save_one(lengths[i], params);
        rig_open(&rig, params);
        cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error), NIB_OK,
                     "%s", error.message);
        cr_assert_eq(session->n_computed, (session->n_tokens - 1) / 32 * 32);
        rig_append(session, 3, 2);
        generate(session, 40);
        nib_session_destroy(&session);
        rig_close(&rig);
        // Others keep more of them, or none.
        struct nib_engine_params others = params;
        others.kv_recent = 96;
        rig_open(&rig, others);
        cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error),
                     NIB_ERROR_UNSUPPORTED);
        cr_assert(strstr(error.message, recent_flag), "%s", error.message);
        rig_close(&rig);
        others = params;
        others.kv_first = 128;
        rig_open(&rig, others);
        char first_flag[64];
        snprintf(first_flag, sizeof first_flag, "keeps %u first tokens in f16, this one 128",
                 n_first);
        cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error),
                     NIB_ERROR_UNSUPPORTED);
        cr_assert(strstr(error.message, first_flag), "%s", error.message);
        rig_close(&rig);
        // Others do not transform them.
        struct nib_engine_params plain = params;
        plain.kv_transform = NIB_KV_TRANSFORM_OFF;
        rig_open(&rig, plain);
        cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error),
                     NIB_ERROR_UNSUPPORTED);
        cr_assert(strstr(error.message, "transform=on"), "%s", error.message);
        rig_close(&rig);
    }
}

Test(save, newest_tokens_go_along)
{
    check_in_f16(64, 0, "recent=64");
}

Test(save, first_tokens_go_along)
{
    check_in_f16(NIB_KV_RECENT_NONE, 64, "recent=0");
    check_in_f16(64, 32, "recent=64");
}

Test(save, a_check_of_the_model_says_what_is_transformed)
{
    struct rig rig;
    struct nib_error error;
    struct nib_session *session = NULL;
    uint32_t plain[2][2];
    const struct nib_engine_params params = {.context = CONTEXT,
                                             .key_format = NIB_KV_I8,
                                             .value_format = NIB_KV_I4,
                                             .kv_transform = NIB_KV_TRANSFORM_AUTO};
    save_one(61, params);
    for (int i = 0; i < 2; i++) {
        rig_open(&rig, params);
        plain[i][0] = rig.engine->plan->kv_layers[0].plain_keys;
        plain[i][1] = rig.engine->plan->kv_layers[0].plain_values;
        cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error), NIB_OK,
                     "%s", error.message);
        nib_session_destroy(&session);
        rig_close(&rig);
    }
    cr_assert_arr_eq(plain[0], plain[1], sizeof plain[0]);
    // There is nothing to choose where nothing is made codes of.
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_params model_params = {0};
    const struct nib_engine_params none = {.kv_transform = NIB_KV_TRANSFORM_AUTO};
    cr_assert_eq(nib_shared_model_open(NIB_TEST_DATA "/" RIG_MODEL, &model_params, &model, &error),
                 NIB_OK);
    cr_assert_eq(nib_engine_build(model, &none, &engine, &error), NIB_ERROR_ARGUMENT);
    cr_assert(strstr(error.message, "i8 and i4"), "%s", error.message);
    nib_model_release(model);
}

Test(save, what_is_never_transformed_fits_any_transform)
{
    struct rig rig;
    struct nib_error error;
    struct nib_session *session = NULL;
    struct nib_engine_params params = {.context = CONTEXT,
                                       .key_format = NIB_KV_I4_CHANNEL,
                                       .value_format = NIB_KV_F16,
                                       .kv_transform = NIB_KV_TRANSFORM_OFF};
    save_one(61, params);
    params.kv_transform = NIB_KV_TRANSFORM_DEFAULT;
    rig_open(&rig, params);
    cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error), NIB_OK, "%s",
                 error.message);
    generate(session, 5);
    nib_session_destroy(&session);
    rig_close(&rig);
}

Test(save, every_placement_gets_its_layers)
{
    struct rig rig;
    struct nib_session *session = NULL;
    struct fake_device fakes[2];
    fake_device_init(&fakes[0]);
    fake_device_init(&fakes[1]);
    save_one(100, (struct nib_engine_params){0});
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    uint32_t n_segments = rig.engine->plan->n_segments;
    rig_close(&rig);
    const struct nib_placement placements[2] = {
        {.device = &fakes[0].device, .n_segments = 3},
        {.device = &fakes[1].device, .first_segment = 3, .n_segments = n_segments - 3}};
    rig_open(&rig, (struct nib_engine_params){
                       .context = CONTEXT, .placements = placements, .n_placements = 2});
    cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, NULL), NIB_OK);
    generate(session, 10);
    nib_session_destroy(&session);
    rig_close(&rig);
    cr_assert_eq(fakes[0].violations + fakes[1].violations, 0);
}

/// Makes sure that a thread loads, which goes on until it is stopped.
static void load_beside(struct rig *rig)
{
    bool ready;
    rig->fake.ready_calls = UINT32_MAX;
    cr_assert_eq(nib_engine_prepare(rig->engine, 1, &ready, NULL), NIB_OK);
    cr_assert_not_null(rig->engine->loader);
}

Test(save, no_thread_loads_while_pages_are_copied)
{
    struct rig rig;
    struct nib_session *session = NULL;
    struct nib_engine_params params = {.context = CONTEXT};
    save_one(100, params);
    rig_open(&rig, params);
    load_beside(&rig);
    cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, NULL), NIB_OK);
    cr_assert_null(rig.engine->loader);
    load_beside(&rig);
    cr_assert_eq(nib_session_save(session, path_in_folder("again"), NULL), NIB_OK);
    cr_assert_null(rig.engine->loader);
    rig.fake.ready_calls = 0;
    generate(session, 20);
    nib_session_destroy(&session);
    rig_close(&rig);
}

/// Loads "s" with such an engine, which must fail with words that say `why`.
static void refuse(struct nib_engine_params params, const char *model, enum nib_status status,
                   const char *why)
{
    struct rig rig;
    struct nib_error error = {0};
    struct nib_session *session = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/architectures/%s", NIB_TEST_DATA, model);
    rig_open_file(&rig, path, params);
    cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, &error), status, "%s",
                 error.message);
    cr_assert_not_null(strstr(error.message, why), "%s", error.message);
    cr_assert_not_null(strstr(error.message, path_in_folder("s")), "%s", error.message);
    cr_assert_null(session);
    cr_assert_null(rig.engine->sessions[0]);
    for (uint32_t c = 0; c < rig.engine->plan->n_kv_classes; c++) {
        struct nib_kv_pool_usage usage = nib_kv_pool_get_usage(rig.engine->pool, c);
        cr_assert_eq(usage.n_free, usage.n_pages);
    }
    rig_close(&rig);
}

Test(save, what_does_not_fit_is_refused)
{
    const struct nib_engine_params fits = {.context = CONTEXT};
    refuse(fits, "gemma3", NIB_ERROR_IO, "");
    save_one(100, fits);
    refuse(fits, "gemma2", NIB_ERROR_UNSUPPORTED, "another model");
    refuse((struct nib_engine_params){.context = 90}, "gemma3", NIB_ERROR_CONTEXT_FULL,
           "105 tokens, but the context holds 90; raise --ctx");
    refuse((struct nib_engine_params){.context = CONTEXT, .key_format = NIB_KV_F32}, "gemma3",
           NIB_ERROR_UNSUPPORTED, "use --kv k=f16,v=f16");
    refuse((struct nib_engine_params){.context = CONTEXT, .precise = true}, "gemma3",
           NIB_ERROR_UNSUPPORTED, "open it without it");

    struct rig rig;
    struct nib_session *session = NULL, *second = NULL;
    rig_open(&rig, fits);
    cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &session, NULL), NIB_OK);
    cr_assert_eq(nib_session_load(rig.engine, path_in_folder("s"), &second, NULL), NIB_ERROR_STATE);
    cr_assert_eq(nib_session_load(NULL, "s", &second, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_load(rig.engine, NULL, &second, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_save(NULL, "s", NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_session_save(session, path_in_folder("no/s"), NULL), NIB_ERROR_IO);
    nib_session_destroy(&session);
    rig_close(&rig);
}

/// Returns the bytes of the file "s", which are to be freed.
static uint8_t *read_file(size_t *out_size)
{
    FILE *file = fopen(path_in_folder("s"), "rb");
    cr_assert_not_null(file);
    fseek(file, 0, SEEK_END);
    *out_size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*out_size);
    cr_assert_eq(fread(bytes, 1, *out_size, file), *out_size);
    fclose(file);
    return bytes;
}

Test(save, damaged_files_are_refused)
{
    struct rig rig;
    struct nib_error error;
    struct nib_session_content content;
    save_one(40, (struct nib_engine_params){0});
    size_t size;
    uint8_t *bytes = read_file(&size);
    rig_open(&rig, (struct nib_engine_params){.context = CONTEXT});
    const struct nib_session_shape shape = {
        .plan = rig.engine->plan,
        .reach = rig.engine->reach,
        .model = nib_session_model_print(rig.model->source),
        .cache = nib_session_cache_print(rig.engine->plan),
    };
    cr_assert_eq(nib_session_parse(&shape, bytes, size, "s", &content, &error), NIB_OK, "%s",
                 error.message);
    for (size_t i = 0; i < size; i += i < 512 ? 1 : 97) {
        bytes[i] ^= 0x10;
        cr_assert_neq(nib_session_parse(&shape, bytes, size, "s", &content, &error), NIB_OK,
                      "byte %zu", i);
        bytes[i] ^= 0x10;
        cr_assert_neq(nib_session_parse(&shape, bytes, i, "s", &content, &error), NIB_OK,
                      "%zu bytes", i);
    }
    // Well-formed bytes that make no sense.
    static const struct {
        size_t offset;
        uint32_t value;
    } lies[] = {{64, 0}, {64, 44}, {64, UINT32_MAX}, {68, 64}, {68, 33}, {68, 0}, {80, 320}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        uint32_t truth = nib_load_u32(bytes + lies[i].offset);
        nib_store_u32(bytes + lies[i].offset, lies[i].value);
        nib_store_u64(
            bytes + NIB_SESSION_CHECKSUM,
            nib_session_checksum(0, bytes + NIB_SESSION_CHECKED, size - NIB_SESSION_CHECKED));
        cr_assert_eq(nib_session_parse(&shape, bytes, size, "s", &content, &error),
                     NIB_ERROR_FORMAT, "lie %zu", i);
        nib_store_u32(bytes + lies[i].offset, truth);
    }
    free(bytes);
    rig_close(&rig);
}
