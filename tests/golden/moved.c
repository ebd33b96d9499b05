#define _POSIX_C_SOURCE 200809L // setenv, unsetenv
/// Sessions that move between the CPU and a Vulkan device: saved on one, loaded on the other.
#include "tests/golden/golden.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(moved, .init = make_folder, .fini = remove_folder);

enum { N_PROMPT = 150, N_FIRST = 10, N_NEXT = 24 };

/// What a session has done on one backend.
struct course {
    int32_t tokens[N_PROMPT + N_FIRST + N_NEXT];
    uint8_t *file; ///< as it was saved, or loaded and saved again
    size_t size;
};

static void read_file(const char *path, struct course *out)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    out->size = (size_t)ftell(file);
    rewind(file);
    out->file = malloc(out->size);
    cr_assert_not_null(out->file);
    cr_assert_eq(fread(out->file, 1, out->size, file), out->size);
    fclose(file);
}

/// What the cache is like.
struct cache {
    enum nib_kv_format keys, values;
    enum nib_kv_transform transform;
    uint32_t first; ///< tokens in f16
};

/// Which Vulkan device the tests were started for.
static char device_index[16];

/// Opens an engine on the CPU, or on that device.
static void open_on(bool is_cpu, const char *model, const struct cache *cache, struct golden *out)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/architectures/%s", NIB_TEST_DATA, model);
    if (is_cpu)
        unsetenv("NIB_TEST_VULKAN");
    else
        setenv("NIB_TEST_VULKAN", device_index, 1);
    golden_open(out, path,
                nib_engine_params(.context = 256, .max_sessions = 2, .precise = true,
                                  .key_format = cache->keys, .value_format = cache->values,
                                  .kv_transform = cache->transform, .kv_first = cache->first));
}

static void generate(struct nib_session *session, uint32_t n, int32_t *out_tokens)
{
    struct nib_error error;
    size_t count;
    cr_assert_eq(nib_session_generate(session,
                                      nib_generate_params(.max_tokens = n, .ignore_eos = true),
                                      NULL, &error),
                 NIB_OK, "%s", error.message);
    const int32_t *tokens = nib_session_tokens(session, &count);
    memcpy(out_tokens, tokens, count * sizeof *tokens);
}

static void save(const struct nib_session *session, const char *path, struct course *out)
{
    struct nib_error error;
    cr_assert_eq(nib_session_save(session, path, &error), NIB_OK, "%s", error.message);
    read_file(path, out);
}

/// Computes a prompt and some tokens, saves the session in `path`, and goes on.
static void begin(const struct golden *golden, const char *path, struct course *out)
{
    struct nib_error error;
    int32_t ids[N_PROMPT];
    for (uint32_t i = 0; i < N_PROMPT; i++)
        ids[i] = (int32_t)(10 + i * i * 7 % (golden->vocabulary - 20));
    cr_assert_eq(nib_session_append(golden->session, ids, N_PROMPT, &error), NIB_OK);
    generate(golden->session, N_FIRST, out->tokens);
    save(golden->session, path, out);
    generate(golden->session, N_NEXT, out->tokens);
}

/// Loads a session from `path`, saves it again, and goes on.
static void go_on(const struct golden *golden, const char *path, struct course *out)
{
    struct nib_error error;
    struct nib_session *session = NULL;
    cr_assert_eq(nib_session_load(golden->engine, path, &session, &error), NIB_OK, "%s",
                 error.message);
    save(session, path, out);
    generate(session, N_NEXT, out->tokens);
    nib_session_destroy(&session);
}

static void check_move(bool from_cpu, const char *model, const struct cache *cache)
{
    const char *path = path_in_folder("session");
    struct golden here, there;
    struct course stays = {0}, moves = {0};
    open_on(from_cpu, model, cache, &here);
    open_on(!from_cpu, model, cache, &there);
    begin(&here, path, &stays);
    go_on(&there, path, &moves);
    cr_expect_eq(stays.size, moves.size);
    cr_expect_eq(memcmp(stays.file, moves.file, stays.size), 0, "%s in format %d: pages differ",
                 model, (int)cache->keys);
    cr_expect_eq(memcmp(stays.tokens, moves.tokens, sizeof stays.tokens), 0,
                 "%s in format %d: tokens differ", model, (int)cache->keys);
    golden_close(&here);
    golden_close(&there);
    free(stays.file);
    free(moves.file);
}

static void check_moves(bool from_cpu)
{
    static const char *const models[] = {"qwen3", "gemma3", "phi3"};
    static const struct cache caches[] = {
        {.keys = NIB_KV_F16, .values = NIB_KV_F16},
        {.keys = NIB_KV_I8, .values = NIB_KV_I8},
        {.keys = NIB_KV_I4, .values = NIB_KV_I4},
        {.keys = NIB_KV_I4, .values = NIB_KV_I8, .transform = NIB_KV_TRANSFORM_OFF},
        {.keys = NIB_KV_I4_CHANNEL, .values = NIB_KV_I4},
        {.keys = NIB_KV_I4_CHANNEL, .values = NIB_KV_I4, .first = 64},
        {.keys = NIB_KV_I4, .values = NIB_KV_I8, .first = 32}};
    const char *index = getenv("NIB_TEST_VULKAN");
    if (!index)
        cr_skip_test("no Vulkan device: run as vulkan_moved");
    snprintf(device_index, sizeof device_index, "%s", index);
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        for (size_t f = 0; f < sizeof caches / sizeof caches[0]; f++)
            check_move(from_cpu, models[m], &caches[f]);
    }
}

Test(moved, from_the_cpu_to_vulkan)
{
    check_moves(true);
}

Test(moved, from_vulkan_to_the_cpu)
{
    check_moves(false);
}
