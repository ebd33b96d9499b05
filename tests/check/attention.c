#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "runtime/base/half.h"

#define PAGE NIB_KV_PAGE_TOKENS
enum { SEQUENCES = 3, TABLE = 8, PAGES = SEQUENCES * TABLE + 1, SENTINEL = 0xa5 };

/// What an attention is like.
struct shape {
    uint32_t n_heads, n_kv_heads, key_dim, value_dim, window;
    enum nib_kv_format key_format, value_format;
    float softcap;
    float query_size; ///< large: one score takes all
};

/// A cache of three sequences, and the last rows of each as queries.
struct test {
    struct nib_kv_layer layer;
    struct nib_cpu_cache cache;
    uint32_t tables[2 * SEQUENCES * TABLE]; ///< the second class is ours
    struct nib_step_sequence sequences[SEQUENCES];
    uint32_t lengths[SEQUENCES];
    float *keys, *values; ///< [SEQUENCES][TABLE · PAGE][heads · dim]
    struct nib_step_row *rows;
    struct nib_step step;
    float *query;
    double *expected, *bound;
    struct nib_cpu_attention args;
};

static void call_attention(const struct nib_cpu_kernels *kernels, const void *args, uint64_t first,
                           uint64_t last, uint32_t thread)
{
    kernels->attention(args, first, last, thread);
}

/// Gives each sequence pages in random order; one page belongs to nobody.
static void deal_pages(struct check *c, struct test *t)
{
    uint32_t pages[PAGES];
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t k = random_below(c, i + 1);
        pages[i] = pages[k];
        pages[k] = i;
    }
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        for (uint32_t i = 0; i < TABLE; i++) {
            t->tables[s * 2 * TABLE + i] = NIB_NONE; // the other class
            t->tables[s * 2 * TABLE + TABLE + i] = pages[s * TABLE + i];
        }
    }
}

static void create_cache(struct test *t, const struct shape *s)
{
    t->layer = (struct nib_kv_layer){
        .n_heads = s->n_kv_heads,
        .key_dim = s->key_dim,
        .value_dim = s->value_dim,
        .window = s->window,
        .kv_class = 1,
        .key_page_size = nib_kv_page_size(s->key_format, s->n_kv_heads, s->key_dim),
        .value_page_size = nib_kv_page_size(s->value_format, s->n_kv_heads, s->value_dim),
    };
    t->cache = (struct nib_cpu_cache){
        .layer = &t->layer,
        .key_format = s->key_format,
        .value_format = s->value_format,
        .keys = new_zeros(PAGES, t->layer.key_page_size),
        .values = new_zeros(PAGES, t->layer.value_page_size),
    };
    memset(t->cache.keys, SENTINEL, (size_t)PAGES * t->layer.key_page_size);
    memset(t->cache.values, SENTINEL, (size_t)PAGES * t->layer.value_page_size);
}

/// Stores all tokens of all sequences, in one step with padding rows at its end.
static void fill_cache(struct check *c, struct test *t, const struct shape *s)
{
    uint64_t key_width = (uint64_t)s->n_kv_heads * s->key_dim;
    uint64_t value_width = (uint64_t)s->n_kv_heads * s->value_dim;
    uint32_t n = SEQUENCES * TABLE * PAGE, used = 0;
    t->keys = random_floats(c, n * key_width);
    t->values = random_floats(c, n * value_width);
    struct nib_step_row *rows = new_zeros(n, sizeof *rows);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t sequence = r / (TABLE * PAGE), position = r % (TABLE * PAGE);
        bool is_used = position < t->lengths[sequence];
        rows[r] =
            (struct nib_step_row){.position = position, .sequence = is_used ? sequence : NIB_NONE};
        used += is_used;
    }
    struct nib_step step = t->step;
    step.rows = rows;
    struct nib_cpu_kv_store args = {.cache = &t->cache,
                                    .step = &step,
                                    .key = {t->keys, key_width},
                                    .value = {t->values, value_width}};
    c->kernels->kv_store(&args, 0, n / 2, 0);
    c->kernels->kv_store(&args, n / 2, n, 1);
    free(rows);

    // What was not stored must be as before.
    uint64_t number = s->key_format == NIB_KV_F32 ? 4 : 2, untouched = 0;
    uint64_t key_bytes = (uint64_t)PAGES * t->layer.key_page_size;
    for (uint64_t i = 0; i < key_bytes; i++)
        untouched += t->cache.keys[i] == SENTINEL;
    if (untouched < key_bytes - used * key_width * number)
        check_fail(c, "kv_store wrote more than its tokens");
}

/// Takes the last tokens of each sequence as queries, and a padding row.
static void create_rows(struct check *c, struct test *t, const struct shape *s)
{
    uint32_t n = 0;
    t->rows = new_zeros(SEQUENCES * 4 + 1, sizeof *t->rows);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        uint32_t n_rows = i == 0 ? 1 : 1 + random_below(c, 4);
        n_rows = n_rows < t->lengths[i] ? n_rows : t->lengths[i];
        for (uint32_t k = 0; k < n_rows; k++) {
            t->rows[n++] =
                (struct nib_step_row){.position = t->lengths[i] - n_rows + k, .sequence = i};
        }
    }
    t->rows[n++] = (struct nib_step_row){.sequence = NIB_NONE};
    t->step.rows = t->rows;
    t->step.header.n_used_rows = n;
    t->query = new_zeros((uint64_t)n * s->n_heads * s->key_dim, sizeof(float));
    for (uint64_t i = 0; i < (uint64_t)n * s->n_heads * s->key_dim; i++)
        t->query[i] = random_float(c, s->query_size);
}

static double stored(enum nib_kv_format format, float x)
{
    return format == NIB_KV_F32 ? (double)x : (double)nib_f32_from_f16(nib_f16_from_f32(x));
}

/// One head of one row in two passes.
static void attend(const struct test *t, const struct shape *s, uint32_t r, uint32_t h)
{
    const struct nib_step_row *row = &t->rows[r];
    uint32_t kv_head = h / (s->n_heads / s->n_kv_heads), end = row->position + 1;
    uint32_t begin = s->window && end > s->window ? end - s->window : 0;
    const float *query = t->query + ((uint64_t)r * s->n_heads + h) * s->key_dim;
    double score[TABLE * PAGE], max = -DBL_MAX, sum = 0;
    for (uint32_t p = begin; p < end; p++) {
        uint64_t token = (uint64_t)row->sequence * TABLE * PAGE + p;
        const float *key = t->keys + (token * s->n_kv_heads + kv_head) * s->key_dim;
        double dot = 0;
        for (uint32_t d = 0; d < s->key_dim; d++)
            dot += (double)query[d] * stored(s->key_format, key[d]);
        score[p] = dot * (double)t->args.scale;
        if (s->softcap > 0)
            score[p] = (double)s->softcap * tanh(score[p] / (double)s->softcap);
        max = fmax(max, score[p]);
    }
    uint64_t out = ((uint64_t)r * s->n_heads + h) * s->value_dim;
    for (uint32_t p = begin; p < end; p++)
        sum += exp(score[p] - max);
    for (uint32_t p = begin; p < end; p++) {
        uint64_t token = (uint64_t)row->sequence * TABLE * PAGE + p;
        const float *value = t->values + (token * s->n_kv_heads + kv_head) * s->value_dim;
        for (uint32_t d = 0; d < s->value_dim; d++) {
            double term = exp(score[p] - max) / sum * stored(s->value_format, value[d]);
            t->expected[out + d] += term;
            t->bound[out + d] += fabs(term);
        }
    }
}

static void check_shape(struct check *c, const struct shape *s, const uint32_t *lengths)
{
    if (!check_begin(
            c, "attention heads %u/%u dims %u/%u window %u cache %d/%d cap %g query %g at %u",
            s->n_heads, s->n_kv_heads, s->key_dim, s->value_dim, s->window, (int)s->key_format,
            (int)s->value_format, (double)s->softcap, (double)s->query_size, lengths[0]))
        return;
    struct test t = {0};
    memcpy(t.lengths, lengths, sizeof t.lengths);
    deal_pages(c, &t);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        t.sequences[i] = (struct nib_step_sequence){.page_table = i * 2 * TABLE};
    t.step = (struct nib_step){.header = {.n_sequences = SEQUENCES, .page_table_stride = TABLE},
                               .sequences = t.sequences,
                               .page_tables = t.tables};
    create_cache(&t, s);
    fill_cache(c, &t, s);
    create_rows(c, &t, s);
    uint32_t n = t.step.header.n_used_rows;
    uint64_t width = (uint64_t)s->n_heads * s->value_dim;
    uint32_t widest = s->key_dim > s->value_dim ? s->key_dim : s->value_dim;
    t.expected = new_zeros(n * width, sizeof(double));
    t.bound = new_zeros(n * width, sizeof(double));
    t.args = (struct nib_cpu_attention){
        .cache = &t.cache,
        .step = &t.step,
        .query = {t.query, (uint64_t)s->n_heads * s->key_dim},
        .n_heads = s->n_heads,
        .scale = 1.0f / sqrtf((float)s->key_dim),
        .softcap = s->softcap,
        .scratch = new_scratch(nib_format_get(NIB_FORMAT_F32), widest),
    };
    for (uint32_t r = 0; r + 1 < n; r++) {
        for (uint32_t h = 0; h < s->n_heads; h++)
            attend(&t, s, r, h);
    }
    // A score's error e changes its weight by a factor e^e; scores have magnitudes of up to
    // |query| · 90 · sqrt(dim).
    double score_error = (4 + s->key_dim / 8.0) * 90 * (double)s->query_size * sqrt(s->key_dim);
    struct kernel_case k = {.call = call_attention,
                            .args = &t.args,
                            .out = &t.args.out,
                            .n_items = (uint64_t)n * s->n_heads,
                            .n_rows = n,
                            .width = width,
                            .expected = t.expected,
                            .bound = t.bound,
                            .tolerance = ROUNDING * (TABLE * PAGE + 2 * score_error)};
    check_kernel(c, &k);
    void *const all[] = {t.cache.keys, t.cache.values, t.keys,  t.values,
                         t.rows,       t.query,        t.bound, t.expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free_scratch(t.args.scratch);
}

void check_attention(struct check *c)
{
    // Lengths around the edges of pages.
    static const uint32_t lengths[][SEQUENCES] = {
        {1, 32, 33}, {31, 64, 65}, {63, 2, 256}, {97, 255, 17}};
    static const enum nib_kv_format formats[][2] = {{NIB_KV_F32, NIB_KV_F32},
                                                    {NIB_KV_F16, NIB_KV_F16},
                                                    {NIB_KV_F32, NIB_KV_F16},
                                                    {NIB_KV_F16, NIB_KV_F32}};
    static const uint32_t dims[][2] = {{64, 64}, {16, 24}, {7, 1}, {80, 80}};
    static const uint32_t heads[][2] = {{9, 3}, {4, 1}, {40, 2}, {2, 2}};
    static const uint32_t windows[] = {0, 1, 16, 32, 33, 100};
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t w = 0; w < 6; w++) {
            uint32_t mix = (i + w) % 4;
            struct shape s = {.n_heads = heads[i][0],
                              .n_kv_heads = heads[i][1],
                              .key_dim = dims[mix][0],
                              .value_dim = dims[mix][1],
                              .window = windows[w],
                              .key_format = formats[w % 4][0],
                              .value_format = formats[w % 4][1],
                              .softcap = w % 3 == 1 ? 50.0f : 0.0f,
                              .query_size = w == 5 ? 30.0f : 1.0f};
            check_shape(c, &s, lengths[(i + 2 * w) % 4]);
            check_shape(c, &s, lengths[(i + 2 * w + 1) % 4]);
        }
    }
}
