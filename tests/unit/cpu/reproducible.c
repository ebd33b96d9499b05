// A row's logits are the same bits whatever the threads, the chunks, the neighbours and the pages.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tiny_model.h"

enum { LENGTH = 40, NUMBERS = LENGTH * TINY_VOCABULARY };

/// Models that between them have every kind of format and every activation mode.
static const struct tiny_params models[] = {
    {NIB_FORMAT_F16, NIB_ACTIVATION_F32, NIB_KV_F32, NIB_KV_F32, false},
    {NIB_FORMAT_Q4_0, NIB_ACTIVATION_F32, NIB_KV_F32, NIB_KV_F16, false},
    {NIB_FORMAT_Q4_1, NIB_ACTIVATION_INT8_GROUP, NIB_KV_F16, NIB_KV_F16, false},
    {NIB_FORMAT_Q6_K, NIB_ACTIVATION_INT8_GROUP, NIB_KV_F16, NIB_KV_F32, false},
    {NIB_FORMAT_IQ4_NL, NIB_ACTIVATION_INT8_GROUP, NIB_KV_I8, NIB_KV_I8, false},
    {NIB_FORMAT_NF4, NIB_ACTIVATION_INT8_GROUP, NIB_KV_I4, NIB_KV_I4, false},
    {NIB_FORMAT_INT4_ZERO, NIB_ACTIVATION_INT8_GROUP, NIB_KV_F16, NIB_KV_F16, true},
    {NIB_FORMAT_INT4, NIB_ACTIVATION_F32, NIB_KV_F32, NIB_KV_F32, true},
    {NIB_FORMAT_INT8, NIB_ACTIVATION_INT8_TOKEN, NIB_KV_I4, NIB_KV_I8, false},
    {NIB_FORMAT_INT8, NIB_ACTIVATION_INT8_STATIC, NIB_KV_F16, NIB_KV_I4, false},
    {NIB_FORMAT_INT8, NIB_ACTIVATION_LLM_INT8, NIB_KV_F16, NIB_KV_F16, false},
    {NIB_FORMAT_F32, NIB_ACTIVATION_LLM_INT8, NIB_KV_F16, NIB_KV_F16, false},
};
enum { N_MODELS = sizeof models / sizeof *models };

static void assert_same(const float *a, const float *b, size_t n, const char *what, int model)
{
    cr_assert_eq(memcmp(a, b, n * sizeof *a), 0, "model %d: %s changes the logits", model, what);
}

/// Runs one sequence in one step on a fresh instance.
static void run_whole(const struct tiny_model *m, uint32_t threads, float *logits)
{
    struct tiny_instance t;
    tiny_open(&t, m, threads, 0, TINY_SEGMENTS);
    tiny_run_chunk(&t, 0, 0, LENGTH, logits);
    tiny_close(&t);
}

Test(cpu_reproducible, logits_are_numbers_that_differ)
{
    for (int i = 0; i < N_MODELS; i++) {
        struct tiny_model m;
        float logits[NUMBERS];
        tiny_model_init(&m, &models[i]);
        run_whole(&m, 1, logits);
        for (int k = 0; k < NUMBERS; k++)
            cr_assert(isfinite(logits[k]) && fabsf(logits[k]) <= 20.0f);
        cr_assert_neq(memcmp(logits, logits + TINY_VOCABULARY, 4 * TINY_VOCABULARY), 0);
        tiny_model_free(&m);
    }
}

Test(cpu_reproducible, threads)
{
    for (int i = 0; i < N_MODELS; i++) {
        struct tiny_model m;
        float one[NUMBERS], more[NUMBERS];
        tiny_model_init(&m, &models[i]);
        run_whole(&m, 1, one);
        for (uint32_t threads = 2; threads <= 3; threads++) {
            run_whole(&m, threads, more);
            assert_same(one, more, NUMBERS, "the number of threads", i);
        }
        tiny_model_free(&m);
    }
}

Test(cpu_reproducible, chunks_and_padding)
{
    static const uint32_t cuts[] = {0, 1, 2, 9, 31, 33, LENGTH};
    for (int i = 0; i < N_MODELS; i++) {
        if (models[i].activation == NIB_ACTIVATION_LLM_INT8)
            continue; // its outliers are those of the chunk
        struct tiny_model m;
        struct tiny_instance t;
        float whole[NUMBERS], cut[NUMBERS];
        tiny_model_init(&m, &models[i]);
        run_whole(&m, 2, whole);
        tiny_open(&t, &m, 2, 0, TINY_SEGMENTS);
        for (size_t k = 0; k + 1 < sizeof cuts / sizeof *cuts; k++) {
            struct tiny_chunk chunk = {.first = cuts[k], .n = cuts[k + 1] - cuts[k]};
            struct tiny_step step = {
                .chunks = &chunk, .n_chunks = 1, .n_padding = (uint32_t)k, .max_logits = 3};
            tiny_run(&t, &step, cut + cuts[k] * TINY_VOCABULARY);
        }
        assert_same(whole, cut, NUMBERS, "cutting the prompt", i);
        tiny_close(&t);
        tiny_model_free(&m);
    }
}

/// The last layer goes on with the others alone, once keys and values are stored.
Test(cpu_reproducible, rows_that_want_no_logits)
{
    for (int i = 0; i < N_MODELS; i++) {
        if (models[i].activation == NIB_ACTIVATION_LLM_INT8)
            continue; // the head's outliers are those of the rows that want logits
        struct tiny_model m;
        struct tiny_instance t;
        float all[4 * NUMBERS], some[4 * NUMBERS];
        tiny_model_init(&m, &models[i]);
        for (int is_silent = 0; is_silent < 2; is_silent++) {
            float *logits = is_silent ? some : all;
            const struct tiny_chunk steps[][2] = {
                {{0, 0, 18, is_silent ? 18 : 0}, {1, 0, 5, is_silent ? 5 : 0}},
                {{0, 18, 20, is_silent ? 19 : 0}, {1, 5, 6, is_silent ? 5 : 0}},
                {{1, 11, 9, is_silent ? 6 : 0}, {0, 38, 1, 0}},
            };
            tiny_open(&t, &m, 2, 0, TINY_SEGMENTS);
            for (int k = 0; k < 3; k++) {
                const struct tiny_step step = {.chunks = steps[k], .n_chunks = 2};
                tiny_run(&t, &step, logits);
                for (int c = 0; c < 2; c++)
                    logits += (steps[k][c].n - steps[k][c].n_silent) * TINY_VOCABULARY;
            }
            tiny_close(&t);
        }
        // Rows in `all`: 23 of the first step, 26 of the second, 10 of the last.
        static const uint32_t wanted[] = {23 + 19, 23 + 25, 49 + 6, 49 + 7, 49 + 8, 49 + 9};
        for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++)
            assert_same(all + wanted[k] * TINY_VOCABULARY, some + k * TINY_VOCABULARY,
                        TINY_VOCABULARY, "a row that wants none", i);
        tiny_model_free(&m);
    }
}

Test(cpu_reproducible, neighbours_and_pages)
{
    for (int i = 0; i < N_MODELS; i++) {
        struct tiny_model m;
        struct tiny_instance t;
        float alone[NUMBERS], mixed[TINY_MAX_ROWS * TINY_VOCABULARY];
        tiny_model_init(&m, &models[i]);
        tiny_open(&t, &m, 2, 0, TINY_SEGMENTS);
        tiny_run_chunk(&t, 0, 0, 20, alone);
        tiny_run_chunk(&t, 0, 20, 20, alone + 20 * TINY_VOCABULARY);
        tiny_close(&t);

        tiny_open(&t, &m, 2, 0, TINY_SEGMENTS);
        const struct tiny_chunk before[] = {{2, 0, 7, 0}, {0, 0, 20, 0}};
        const struct tiny_chunk after[] = {{1, 0, 3, 0}, {0, 20, 20, 0}, {2, 7, 1, 0}};
        struct tiny_step step = {.chunks = before, .n_chunks = 2, .page_offset = 9};
        tiny_run(&t, &step, mixed);
        assert_same(alone, mixed + 7 * TINY_VOCABULARY, 20 * TINY_VOCABULARY, "a neighbour", i);
        step.chunks = after;
        step.n_chunks = 3;
        tiny_run(&t, &step, mixed);
        assert_same(alone + 20 * TINY_VOCABULARY, mixed + 3 * TINY_VOCABULARY, 20 * TINY_VOCABULARY,
                    "a neighbour", i);
        tiny_close(&t);
        tiny_model_free(&m);
    }
}

Test(cpu_reproducible, placements)
{
    struct tiny_model m;
    struct tiny_instance front, back;
    float whole[NUMBERS], hidden[LENGTH * 64];
    tiny_model_init(&m, &models[2]);
    run_whole(&m, 1, whole);
    tiny_open(&front, &m, 1, 0, 2);
    tiny_open(&back, &m, 2, 2, TINY_SEGMENTS - 2);

    struct nib_step_row rows[LENGTH];
    uint32_t tables[2 * TINY_TABLE] = {0, 1, 2, 3, 0, 1, 2, 3};
    struct nib_step_sequence sequence = {.kv_length = LENGTH, .n_rows = LENGTH};
    for (uint32_t r = 0; r < LENGTH; r++) {
        rows[r] = (struct nib_step_row){
            .token = (7 * r + r * r / 5) % TINY_VOCABULARY, .position = r, .logit_row = r};
    }
    float logits[NUMBERS];
    struct nib_step step = {.header = {.n_rows = LENGTH,
                                       .n_used_rows = LENGTH,
                                       .n_sequences = 1,
                                       .n_logits = LENGTH,
                                       .page_table_stride = TINY_TABLE},
                            .rows = rows,
                            .sequences = &sequence,
                            .page_tables = tables,
                            .logits = logits};
    struct nib_error error;
    cr_assert_eq(nib_cpu_backend.run(front.self, 0, 1, &step, NULL, hidden, &error), NIB_OK);
    cr_assert_eq(nib_cpu_backend.run(back.self, 2, 2, &step, hidden, NULL, &error), NIB_OK);
    cr_assert_eq(nib_cpu_backend.run(back.self, 3, 3, &step, NULL, NULL, &error), NIB_OK);
    assert_same(whole, logits, NUMBERS, "a second placement", 2);
    tiny_close(&front);
    tiny_close(&back);
    tiny_model_free(&m);
}

/// Reads the rows of another reader, whose `raw` the backend does not get to see.
static enum nib_status read_hidden(const struct nib_row_reader *reader, uint64_t first,
                                   struct nib_row_block *block, struct nib_error *err)
{
    return nib_row_reader_read_raw(reader->source, first, block, err);
}

Test(cpu_reproducible, a_packed_copy_equals_rows_in_place)
{
    static const enum nib_format_id formats[] = {
        NIB_FORMAT_Q4_0,   NIB_FORMAT_Q5_1, NIB_FORMAT_Q3_K, NIB_FORMAT_Q5_K,
        NIB_FORMAT_IQ4_XS, NIB_FORMAT_BF16, NIB_FORMAT_MXFP4};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct tiny_params params = {formats[i], NIB_ACTIVATION_INT8_GROUP, NIB_KV_F16, NIB_KV_F16,
                                     false};
        struct tiny_model m;
        struct tiny_instance t;
        struct nib_error error;
        float in_place[NUMBERS], copied[NUMBERS];
        tiny_model_init(&m, &params);
        run_whole(&m, 1, in_place);
        tiny_open(&t, &m, 1, 0, TINY_SEGMENTS);
        for (uint32_t w = 0; w < m.plan.n_weights; w++) {
            struct nib_row_reader hidden = m.readers[w];
            hidden.raw = NULL;
            hidden.read = read_hidden;
            hidden.source = &m.readers[w];
            if (m.weights[w].shared_with == NIB_NO_WEIGHT)
                cr_assert_eq(nib_cpu_backend.pack(t.self, w, &hidden, &error), NIB_OK);
        }
        tiny_run_chunk(&t, 0, 0, LENGTH, copied);
        assert_same(in_place, copied, NUMBERS, "a packed copy", (int)i);
        tiny_close(&t);
        tiny_model_free(&m);
    }
}
