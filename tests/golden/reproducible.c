/// A position's logits are the same bit for bit, whatever the number of threads, however the tokens
/// are cut into chunks, and whoever else is in the step.
#include "tests/golden/golden.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define SMOLLM2 "SmolLM2-135M-Instruct.Q4_1.gguf"
#define N_IDS 150
#define N_SESSIONS 5

/// Ids from the middle of the vocabulary, the same in every run.
static void make_ids(int32_t *ids, uint32_t n, uint32_t seed, uint32_t vocabulary)
{
    uint32_t state = seed * 2654435761u + 1;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)((state >> 8) % (vocabulary - 20)) + 10;
    }
}

static void expect_equal(const struct golden_rows *a, const struct golden_rows *b)
{
    cr_assert_eq(a->count, b->count);
    size_t size = (size_t)a->count * a->vocabulary * sizeof(float);
    cr_assert_eq(memcmp(a->logits, b->logits, size), 0);
}

/// Computes rows in an engine of their own: in one that has computed these tokens before, whole
/// pages would become the ones that are there already.
static struct golden_rows forward_anew(const char *path, const struct nib_engine_params *params,
                                       const int32_t *ids, uint32_t n_ids, uint32_t chunk,
                                       uint32_t first)
{
    struct golden golden;
    golden_open(&golden, path, params);
    struct golden_rows rows = golden_forward(&golden, ids, n_ids, chunk, first);
    golden_close(&golden);
    return rows;
}

static void check_threads(const char *path, uint32_t n_ids, uint32_t first)
{
    int32_t ids[N_IDS];
    struct golden_rows rows[3];
    for (uint32_t i = 0; i < 3; i++) {
        struct nib_error error;
        struct nib_device *device = NULL;
        cr_assert_eq(nib_device_open(nib_device_params(.threads = i + 1), &device, &error), NIB_OK,
                     "%s", error.message);
        struct nib_model *model = NULL;
        struct nib_model_info info;
        cr_assert_eq(nib_model_open(path, NULL, &model, &error), NIB_OK, "%s", error.message);
        nib_model_get_info(model, &info);
        struct nib_placement placement = {.device = device, .n_segments = info.layers + 2};
        struct golden golden;
        golden_open(&golden, path,
                    nib_engine_params(.placements = &placement, .n_placements = 1, .context = 256));
        nib_device_destroy(&device);
        nib_model_destroy(&model);
        make_ids(ids, n_ids, 1, golden.vocabulary);
        rows[i] = golden_forward(&golden, ids, n_ids, 0, first);
        golden_close(&golden);
    }
    expect_equal(&rows[0], &rows[1]);
    expect_equal(&rows[0], &rows[2]);
    for (uint32_t i = 0; i < 3; i++)
        golden_rows_free(&rows[i]);
}

/// The same tokens whole, in uneven chunks, one by one, and over two placements.
static void check_chunks(const char *path, uint32_t n_ids, uint32_t first)
{
    const uint32_t chunks[] = {37, 32, 1};
    int32_t ids[N_IDS];
    struct golden golden;
    golden_open(&golden, path, nib_engine_params(.context = 256));
    make_ids(ids, n_ids, 2, golden.vocabulary);
    struct golden_rows whole = golden_forward(&golden, ids, n_ids, 0, first);
    struct nib_engine_info info;
    nib_engine_get_info(golden.engine, &info);
    golden_close(&golden);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        struct golden_rows rows =
            forward_anew(path, nib_engine_params(.context = 256), ids, n_ids, chunks[i], first);
        expect_equal(&whole, &rows);
        golden_rows_free(&rows);
    }
    const struct nib_placement placements[3] = {
        {.n_segments = 2},
        {.first_segment = 2, .n_segments = info.n_segments - 3},
        {.first_segment = info.n_segments - 1, .n_segments = 1},
    };
    struct golden_rows placed =
        forward_anew(path,
                     nib_engine_params(.placements = placements, .n_placements = 3, .context = 256,
                                       .max_rows = 16),
                     ids, n_ids, 0, first);
    expect_equal(&whole, &placed);
    golden_rows_free(&placed);
    golden_rows_free(&whole);
}

/// Several prompts of different lengths at once against each alone.
static void check_company(const char *path, uint32_t n_ids)
{
    const uint32_t n_new = 12;
    int32_t ids[N_SESSIONS][N_IDS];
    int32_t alone[N_SESSIONS][16];
    uint32_t lengths[N_SESSIONS];
    for (uint32_t i = 0; i < N_SESSIONS; i++)
        lengths[i] = n_ids - i * (n_ids / (N_SESSIONS + 1));
    struct nib_error error;
    struct golden golden;
    const struct nib_engine_params *engine_params =
        nib_engine_params(.context = 256, .max_sessions = N_SESSIONS + 1, .max_rows = 64);
    golden_open(&golden, path, engine_params);
    struct nib_session *sessions[N_SESSIONS] = {NULL};
    const struct nib_generate_params *params =
        nib_generate_params(.max_tokens = n_new, .ignore_eos = true,
                            .sampling = {.temperature = 0.9f, .top_k = 40, .seed = 11});
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        size_t count;
        make_ids(ids[i], lengths[i], 10 + i, golden.vocabulary);
        cr_assert_eq(nib_session_truncate(golden.session, 0, &error), NIB_OK);
        cr_assert_eq(nib_session_append(golden.session, ids[i], lengths[i], &error), NIB_OK);
        cr_assert_eq(nib_session_generate(golden.session, params, NULL, &error), NIB_OK);
        const int32_t *tokens = nib_session_tokens(golden.session, &count);
        memcpy(alone[i], tokens + lengths[i], n_new * sizeof *tokens);
    }
    golden_close(&golden); // whose pages the others would share
    golden_open(&golden, path, engine_params);
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        cr_assert_eq(nib_session_create(golden.engine, &sessions[i], &error), NIB_OK);
        cr_assert_eq(nib_session_append(sessions[i], ids[i], lengths[i], &error), NIB_OK);
        cr_assert_eq(nib_session_begin(sessions[i], params, &error), NIB_OK);
    }
    uint32_t active = 1;
    while (active > 0)
        cr_assert_eq(nib_engine_step(golden.engine, &active, &error), NIB_OK);
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        size_t count;
        const int32_t *tokens = nib_session_tokens(sessions[i], &count);
        cr_assert_eq(memcmp(tokens + count - n_new, alone[i], n_new * sizeof *tokens), 0,
                     "session %u", i);
        nib_session_destroy(&sessions[i]);
    }
    golden_close(&golden);
}

/// Caches whose bytes a cut could change: keys that are packed when a page of them is there, codes
/// that are not transformed, first tokens in f16.
static const struct nib_engine_params caches[] = {
    {.key_format = NIB_KV_I4_CHANNEL, .value_format = NIB_KV_I4},
    {.key_format = NIB_KV_I4_CHANNEL, .value_format = NIB_KV_F16, .kv_recent = 32},
    {.key_format = NIB_KV_I4, .value_format = NIB_KV_I8, .kv_transform = NIB_KV_TRANSFORM_OFF},
    {.key_format = NIB_KV_I4_CHANNEL, .value_format = NIB_KV_I4, .kv_recent = 32, .kv_first = 64},
    {.key_format = NIB_KV_I8,
     .value_format = NIB_KV_I4,
     .kv_recent = NIB_KV_RECENT_NONE,
     .kv_first = 32},
};

static bool expect_row(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    const struct golden_rows *rows = user;
    cr_assert_eq(memcmp(golden_row(rows, position), logits, vocabulary * sizeof *logits), 0,
                 "position %u", position);
    return true;
}

/// Cuts a session of all ids back to `n` tokens, computes the rest again and expects `whole`.
static void expect_again(struct nib_session *session, const int32_t *ids, uint32_t n_ids,
                         uint32_t n, struct golden_rows *whole)
{
    struct nib_error error;
    cr_assert_eq(nib_session_truncate(session, n, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_append(session, ids + n, n_ids - n, &error), NIB_OK);
    cr_assert_eq(nib_session_forward(session, n, expect_row, whole, &error), NIB_OK, "%s",
                 error.message);
}

/// Sessions that are forked, cut back, given other tokens, saved and loaded compute the same.
static void check_cache(const char *path, const struct nib_engine_params *cache)
{
    static const uint32_t chunks[] = {37, 32, 1};
    enum { N = 290, CUT = 277 }; // behind a multiple of 256, within a page
    int32_t ids[N], others[N];
    const char *file = path_in_folder("session");
    struct nib_error error;
    struct nib_session *fork = NULL, *loaded = NULL;
    struct golden golden;
    struct nib_engine_params params = *cache;
    params.struct_size = sizeof params;
    params.context = N;
    params.max_sessions = 3;
    golden_open(&golden, path, &params);
    make_ids(ids, N, 3, golden.vocabulary);
    make_ids(others, N, 4, golden.vocabulary);
    struct golden_rows whole = golden_forward(&golden, ids, N, 0, 0);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        struct golden_rows rows = forward_anew(path, &params, ids, N, chunks[i], 0);
        expect_equal(&whole, &rows);
        golden_rows_free(&rows);
    }
    cr_assert_eq(nib_session_fork(golden.session, &fork, &error), NIB_OK);
    cr_assert_eq(nib_session_truncate(fork, CUT, &error), NIB_OK);
    cr_assert_eq(nib_session_append(fork, others, N - CUT, &error), NIB_OK);
    cr_assert_eq(nib_session_forward(fork, N, NULL, NULL, &error), NIB_OK, "%s", error.message);
    expect_again(golden.session, ids, N, N - 1, &whole);
    expect_again(fork, ids, N, CUT, &whole);
    expect_again(fork, ids, N, 100, &whole);
    cr_assert_eq(nib_session_truncate(golden.session, CUT, &error), NIB_OK);
    cr_assert_eq(nib_session_save(golden.session, file, &error), NIB_OK, "%s", error.message);
    nib_session_destroy(&fork);
    golden_close(&golden);
    golden_open(&golden, path, &params);
    cr_assert_eq(nib_session_load(golden.engine, file, &loaded, &error), NIB_OK, "%s",
                 error.message);
    expect_again(loaded, ids, N, CUT, &whole);
    nib_session_destroy(&loaded);
    golden_rows_free(&whole);
    golden_close(&golden);
}

static void tiny_path(const char *name, char *out_path, size_t capacity)
{
    snprintf(out_path, capacity, "%s/architectures/%s", NIB_TEST_DATA, name);
}

static const char *const tiny_models[] = {"gemma3", "mistral-window", "phi3", "qwen2"};
#define N_TINY (sizeof tiny_models / sizeof tiny_models[0])

Test(reproducible, tiny_models_any_threads)
{
    char path[1024];
    for (size_t i = 0; i < N_TINY; i++) {
        tiny_path(tiny_models[i], path, sizeof path);
        check_threads(path, 100, 0);
    }
}

Test(reproducible, tiny_models_any_chunks)
{
    char path[1024];
    for (size_t i = 0; i < N_TINY; i++) {
        tiny_path(tiny_models[i], path, sizeof path);
        check_chunks(path, N_IDS, 0);
    }
}

Test(reproducible, tiny_models_any_company)
{
    char path[1024];
    for (size_t i = 0; i < N_TINY; i++) {
        tiny_path(tiny_models[i], path, sizeof path);
        check_company(path, N_IDS);
    }
}

Test(reproducible, tiny_models_any_cache, .init = make_folder, .fini = remove_folder)
{
    char path[1024];
    const size_t n = sizeof caches / sizeof caches[0];
    for (size_t i = 0; i < 2 * n; i++) {
        tiny_path(i < n ? "gemma3" : "qwen3", path, sizeof path);
        check_cache(path, &caches[i % n]);
    }
}

Test(reproducible, smollm2_any_threads)
{
    char path[1024];
    golden_model_path(SMOLLM2, path, sizeof path);
    check_threads(path, 40, 36);
}

Test(reproducible, smollm2_any_chunks)
{
    char path[1024];
    golden_model_path(SMOLLM2, path, sizeof path);
    check_chunks(path, 50, 44);
}

Test(reproducible, smollm2_any_company)
{
    char path[1024];
    golden_model_path(SMOLLM2, path, sizeof path);
    check_company(path, 48);
}

Test(reproducible, llm_int8_any_company)
{
    check_company(NIB_TEST_DATA "/checkpoints/bnb-int8", N_IDS);
}
