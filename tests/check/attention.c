#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "runtime/base/half.h"
#include "runtime/base/os.h"

#define PAGE NIB_KV_PAGE_TOKENS
enum { SEQUENCES = 3, TABLE = 36, PAGES = SEQUENCES * TABLE + 1, SENTINEL = 0xa5, MAX_DIM = 80 };

/// What an attention is like.
struct shape {
    uint32_t n_heads, n_kv_heads, key_dim, value_dim, window;
    enum nib_kv_format key_format, value_format;
    float softcap;
    float query_size; ///< large: one score takes all
    uint32_t recent_pages, first_pages;
    bool is_plain; ///< codes are not transformed
};

/// A cache of three sequences, and the last rows of each as queries.
struct test {
    struct nib_kv_layer layer;
    struct nib_cpu_cache cache;
    uint32_t tables[3 * SEQUENCES * TABLE]; ///< the second class is ours, the third that in f16
    struct nib_step_sequence sequences[SEQUENCES];
    uint32_t lengths[SEQUENCES];
    float *keys, *values;                ///< [SEQUENCES][TABLE · PAGE][heads · dim]
    double *stored_keys, *stored_values; ///< the same, as the cache has them
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
            t->tables[s * 3 * TABLE + i] = NIB_NONE; // the other class
            t->tables[s * 3 * TABLE + TABLE + i] = pages[s * TABLE + i];
            t->tables[s * 3 * TABLE + 2 * TABLE + i] = PAGES - 1 - pages[s * TABLE + i];
        }
    }
}

/// The cache has parts of other layers before and behind its own.
#define OTHER_LAYER 192

static uint64_t cache_bytes(const struct test *t)
{
    return PAGES * t->cache.page_stride;
}

static void create_cache(struct test *t, const struct shape *s)
{
    t->layer = (struct nib_kv_layer){
        .n_heads = s->n_kv_heads,
        .key_dim = s->key_dim,
        .value_dim = s->value_dim,
        .window = s->window,
        .kv_class = 1,
        .plain_keys = s->is_plain,
        .plain_values = s->is_plain,
    };
    (void)nib_kv_layer_size(&t->layer, s->key_format, s->value_format);
    t->cache = (struct nib_cpu_cache){
        .layer = &t->layer,
        .key_format = s->key_format,
        .value_format = s->value_format,
        .page_stride = nib_kv_page_bytes(&t->layer) + 2 * OTHER_LAYER,
    };
    uint8_t *pages = nib_pages_alloc((size_t)cache_bytes(t));
    if (!pages) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memset(pages, SENTINEL, (size_t)cache_bytes(t));
    t->cache.pages = pages + OTHER_LAYER;
    if (s->recent_pages == 0 && s->first_pages == 0)
        return;
    // A part of the pages is the step's.
    uint64_t size = nib_kv_recent_bytes(&t->layer);
    t->cache.recent_pages = s->recent_pages;
    t->cache.first_pages = s->first_pages;
    t->cache.recent_class = 2;
    t->cache.n_recent = PAGES / 2;
    t->cache.recent_stride = 2 * size;
    t->cache.step_stride = 3 * size;
    t->cache.recent = new_zeros(5 * PAGES, size);
    t->cache.step_pages = t->cache.recent + 2 * PAGES * size;
}

static void free_cache(struct test *t)
{
    nib_pages_free(t->cache.pages - OTHER_LAYER, (size_t)cache_bytes(t));
    free(t->cache.recent);
}

/// Stores all tokens of all sequences, in two steps with padding rows.
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
    uint32_t first = random_below(c, n / 2);
    c->kernels->kv_store(&args, 0, first, 0);
    step.rows += first;
    args.key.data += first * key_width;
    args.value.data += first * value_width;
    n -= first;
    // The later half first: a page's other tokens are found wherever they are.
    uint32_t half = n / 2 + random_below(c, PAGE);
    c->kernels->kv_store(&args, half, n, 1);
    c->kernels->kv_store(&args, 0, half, 0);
    free(rows);

    // What was not stored must be as before.
    uint64_t base_bytes = UINT64_C(4) * s->n_kv_heads *
                          (nib_kv_base_words(s->key_format, s->key_dim) +
                           nib_kv_base_scale_words(s->key_format, s->key_dim));
    uint64_t token_bytes = (nib_kv_page_bytes(&t->layer) - base_bytes) / PAGE;
    uint64_t touched = used * token_bytes + SEQUENCES * TABLE * base_bytes, untouched = 0;
    for (uint64_t i = 0; i < cache_bytes(t); i++)
        untouched += (t->cache.pages - OTHER_LAYER)[i] == SENTINEL;
    if (untouched + touched < cache_bytes(t))
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

static double half(uint32_t bits)
{
    return (double)nib_f32_from_f16((uint16_t)bits);
}

/// Multiplies the whole groups of a head by the Hadamard matrix and `factor`.
static void transform(double *x, uint32_t dim, double factor)
{
    for (uint32_t d = 0; d + 32 <= dim; d += 32) {
        double y[32] = {0};
        for (uint32_t i = 0; i < 32; i++) {
            for (uint32_t k = 0; k < 32; k++)
                y[i] += __builtin_parity(i & k) ? -x[d + k] : x[d + k];
        }
        for (uint32_t i = 0; i < 32; i++)
            x[d + i] = y[i] * factor;
    }
}

/// Returns whether keys or values are stored transformed.
static bool is_transformed(const struct test *t, bool is_key)
{
    enum nib_kv_format format = is_key ? t->cache.key_format : t->cache.value_format;
    return nib_kv_has_codes(format) && format != NIB_KV_I4_CHANNEL && !t->layer.plain_keys;
}

/// Writes a token's key or value as the cache has it to out[dim], by the words of
/// shaders/shared/kv.h, transformed where it has codes; `*steps` are the distances of two codes.
static void load_head(const struct test *t, bool is_key, uint32_t h, uint64_t token, double *out,
                      double *steps)
{
    const struct nib_kv_layer *layer = &t->layer;
    enum nib_kv_format format = is_key ? t->cache.key_format : t->cache.value_format;
    uint32_t dim = is_key ? layer->key_dim : layer->value_dim, slot = token % PAGE;
    const float *x = (is_key ? t->keys : t->values) + (token * layer->n_heads + h) * dim;
    uint64_t page = t->tables[token / (TABLE * PAGE) * 3 * TABLE + TABLE + token / PAGE % TABLE];
    struct nib_cpu_kv_head head = nib_cpu_kv_find_head(&t->cache, is_key, page, 0);
    const uint32_t *words = (const void *)head.numbers, *scales = head.scales;
    uint32_t groups = (dim + 31) / 32, pairs = (groups + 1) / 2, n = format == NIB_KV_I8 ? 8 : 4;
    uint32_t n_scales = layer->n_heads * (format == NIB_KV_I8 ? pairs : groups) * PAGE;
    const uint8_t *bases = head.numbers + (uint64_t)layer->n_heads * groups * n * 4 * PAGE;
    for (uint32_t d = 0; d < dim; d++) {
        uint32_t g = d / 32, i = d % 32;
        uint32_t w = g * n + (n == 8 ? i / 4 : is_key ? i / 8 : i % 16 / 4);
        steps[d] = 0;
        out[d] = format == NIB_KV_F32 ? (double)x[d] : half(nib_f16_from_f32(x[d]));
        if (!nib_kv_has_codes(format))
            continue;
        uint32_t word = words[is_key ? NIB_KV_BY_TOKEN(h, n * groups, w, slot)
                                     : NIB_KV_BY_NUMBER(h, n * groups, w, slot)];
        if (n == 8) {
            steps[d] = half(scales[NIB_KV_BY_TOKEN(h, pairs, g / 2, slot)] >> g % 2 * 16);
            out[d] = steps[d] * ((word >> i % 4 * 8 & 255) - 128.0);
        } else {
            bool is_channel = format == NIB_KV_I4_CHANNEL;
            uint32_t pair = scales[NIB_KV_BY_TOKEN(h, groups, g, is_channel ? i : slot)];
            uint32_t shift = is_key ? i % 8 * 4 : i % 4 * 8 + (i < 16 ? 0 : 4);
            steps[d] = half(pair);
            out[d] = steps[d] * (word >> shift & 15) + half(pair >> 16);
        }
        if (is_key && format != NIB_KV_I4_CHANNEL) {
            double scale = half(scales[n_scales + h * pairs + g / 2] >> g % 2 * 16);
            out[d] += scale * (bases[(h * groups + g) * 32 + i] - 128.0);
        }
    }
}

/// What was stored must be within half a step of the numbers, but for the rounding of the scale.
static void check_stored(struct check *c, const struct test *t)
{
    uint32_t n_heads = t->layer.n_heads;
    for (uint64_t i = 0; i < UINT64_C(2) * SEQUENCES * TABLE * PAGE * n_heads; i++) {
        bool is_key = i % 2;
        uint32_t h = (uint32_t)(i / 2 % n_heads),
                 dim = is_key ? t->layer.key_dim : t->layer.value_dim;
        uint64_t token = i / 2 / n_heads;
        double value[MAX_DIM], step[MAX_DIM], wanted[MAX_DIM];
        uint32_t length = t->lengths[token / (TABLE * PAGE)];
        if (is_key && t->cache.key_format == NIB_KV_I4_CHANNEL)
            length -= length % PAGE; // others are not packed yet
        if (token % 3 || token % (TABLE * PAGE) >= length)
            continue;
        const float *x = (is_key ? t->keys : t->values) + (token * n_heads + h) * dim;
        for (uint32_t d = 0; d < dim; d++)
            wanted[d] = (double)x[d];
        if (is_transformed(t, is_key))
            transform(wanted, dim, 0.125);
        load_head(t, is_key, h, token, value, step);
        for (uint32_t d = 0; d < dim; d++) {
            if (fabs(value[d] - wanted[d]) <= 0.59 * step[d] + 1e-3 * fabs(wanted[d]) + 1e-5)
                continue;
            check_fail(c, "number %u of token %u was stored as %g, not %g", d, (uint32_t)token,
                       value[d], wanted[d]);
            return;
        }
    }
}

/// Writes the key or value of a row's token `p` to out[] as the row sees it: where it is among the
/// newest or the first ones, the number that was stored, rounded to f16 while it was transformed.
static void load_seen(const struct test *t, bool is_key, const struct nib_step_row *row, uint32_t p,
                      uint32_t kv_head, double *out)
{
    enum nib_kv_format format = is_key ? t->cache.key_format : t->cache.value_format;
    uint32_t dim = is_key ? t->layer.key_dim : t->layer.value_dim, recent = t->cache.recent_pages;
    uint32_t page = row->position / PAGE, first = page + 1;
    uint64_t token = (uint64_t)row->sequence * TABLE * PAGE + p;
    uint64_t at = (token * t->layer.n_heads + kv_head) * dim;
    if (recent > 0) {
        first = page + 1 > recent ? page + 1 - recent : 0;
        first = first < page / 8 * 8 ? page / 8 * 8 : first;
    }
    bool is_first = p / PAGE < t->cache.first_pages;
    if ((p / PAGE < first && !is_first) || !nib_kv_has_codes(format)) {
        memcpy(out, (is_key ? t->stored_keys : t->stored_values) + at, dim * sizeof *out);
        return;
    }
    for (uint32_t d = 0; d < dim; d++)
        out[d] = (double)(is_key ? t->keys : t->values)[at + d];
    if (is_transformed(t, is_key))
        transform(out, dim, 0.125);
    for (uint32_t d = 0; d < dim; d++)
        out[d] = half(nib_f16_from_f32((float)out[d]));
    if (is_transformed(t, is_key))
        transform(out, dim, 0.25);
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
        double key[MAX_DIM], dot = 0;
        load_seen(t, true, row, p, kv_head, key);
        for (uint32_t d = 0; d < s->key_dim; d++)
            dot += (double)query[d] * key[d];
        score[p] = dot * (double)t->args.scale;
        if (s->softcap > 0)
            score[p] = (double)s->softcap * tanh(score[p] / (double)s->softcap);
        max = fmax(max, score[p]);
    }
    uint64_t out = ((uint64_t)r * s->n_heads + h) * s->value_dim;
    for (uint32_t p = begin; p < end; p++)
        sum += exp(score[p] - max);
    for (uint32_t p = begin; p < end; p++) {
        double value[MAX_DIM];
        load_seen(t, false, row, p, kv_head, value);
        for (uint32_t d = 0; d < s->value_dim; d++) {
            double term = exp(score[p] - max) / sum * value[d];
            t->expected[out + d] += term;
            t->bound[out + d] += fabs(term);
        }
    }
    // A transformed group is rounded as a whole.
    for (uint32_t d = 0; is_transformed(t, false) && d < s->value_dim; d += 32) {
        double all = 0;
        for (uint32_t i = d; i < d + 32 && i < s->value_dim; i++)
            all += t->bound[out + i];
        for (uint32_t i = d; i < d + 32 && i < s->value_dim; i++)
            t->bound[out + i] = all;
    }
}

/// Loads all keys or values as the cache has them.
static double *load_stored(const struct test *t, bool is_key)
{
    uint32_t dim = is_key ? t->layer.key_dim : t->layer.value_dim, n = t->layer.n_heads * dim;
    double *out = new_zeros((uint64_t)SEQUENCES * TABLE * PAGE * n, sizeof *out), steps[MAX_DIM];
    for (uint64_t token = 0; token < SEQUENCES * TABLE * PAGE; token++) {
        if (token % (TABLE * PAGE) >= t->lengths[token / (TABLE * PAGE)])
            continue;
        for (uint32_t h = 0; h < t->layer.n_heads; h++) {
            double *head = out + token * n + (uint64_t)h * dim;
            load_head(t, is_key, h, token, head, steps);
            if (is_transformed(t, is_key))
                transform(head, dim, 0.25);
        }
    }
    return out;
}

/// Attention in blocks of tokens must give the bits of attention at once.
static void check_blocks(struct check *c, const struct test *t, uint32_t n_rows)
{
    struct nib_cpu_attention a = t->args;
    uint32_t n_kv_heads = t->layer.n_heads, last = 0;
    if (!c->kernels->attention_blocks)
        return;
    for (uint32_t r = 0; r < n_rows; r++)
        last = t->rows[r].position > last ? t->rows[r].position : last;
    a.n_blocks = last / NIB_CPU_BLOCK_TOKENS + 1;
    uint64_t width = (uint64_t)a.n_heads * t->layer.value_dim, n_out = n_rows * width;
    uint64_t size =
        (uint64_t)n_rows * a.n_heads * a.n_blocks * NIB_CPU_PART_SIZE(t->layer.value_dim);
    float *whole = new_zeros(n_out, sizeof *whole), *blocks = new_zeros(n_out, sizeof *blocks);
    a.parts = new_zeros(size, sizeof *a.parts);
    memset(a.parts, 0xff, size * sizeof *a.parts);
    a.out = (struct nib_cpu_rows){whole, width};
    c->kernels->attention(&a, 0, (uint64_t)n_rows * a.n_heads, 0);
    a.out.data = blocks;
    uint64_t n_items = (uint64_t)n_rows * n_kv_heads * a.n_blocks;
    c->kernels->attention_blocks(&a, n_items / 2, n_items, 1);
    c->kernels->attention_blocks(&a, 0, n_items / 2, 0);
    c->kernels->attention_merge(&a, 0, 1, 0);
    c->kernels->attention_merge(&a, 1, (uint64_t)n_rows * a.n_heads, 1);
    if (memcmp(whole, blocks, n_out * sizeof *whole) != 0)
        check_fail(c, "attention in %u blocks differs", a.n_blocks);
    free(whole);
    free(blocks);
    free(a.parts);
}

static void check_shape(struct check *c, const struct shape *s, const uint32_t *lengths)
{
    if (!check_begin(c,
                     "attention heads %u/%u dims %u/%u window %u cache %d/%d%s newest %u first %u "
                     "cap %g query %g at %u",
                     s->n_heads, s->n_kv_heads, s->key_dim, s->value_dim, s->window,
                     (int)s->key_format, (int)s->value_format, s->is_plain ? " plain" : "",
                     s->recent_pages, s->first_pages, (double)s->softcap, (double)s->query_size,
                     lengths[0]))
        return;
    struct test t = {0};
    memcpy(t.lengths, lengths, sizeof t.lengths);
    deal_pages(c, &t);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        t.sequences[i] = (struct nib_step_sequence){.page_table = i * 3 * TABLE};
    t.step = (struct nib_step){.header = {.n_sequences = SEQUENCES, .page_table_stride = TABLE},
                               .sequences = t.sequences,
                               .page_tables = t.tables};
    create_cache(&t, s);
    fill_cache(c, &t, s);
    check_stored(c, &t);
    t.stored_keys = load_stored(&t, true);
    t.stored_values = load_stored(&t, false);
    create_rows(c, &t, s);
    uint32_t n = t.step.header.n_used_rows;
    uint64_t width = (uint64_t)s->n_heads * s->value_dim;
    uint32_t widest = s->key_dim > s->value_dim ? s->key_dim : s->value_dim;
    t.expected = new_zeros(n * width, sizeof(double));
    t.bound = new_zeros(n * width, sizeof(double));
    t.args = (struct nib_cpu_attention){
        .cache = &t.cache,
        .step = &t.step,
        .n_rows = n,
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
    check_blocks(c, &t, n);
    free_cache(&t);
    void *const all[] = {t.keys, t.values, t.stored_keys, t.stored_values,
                         t.rows, t.query,  t.bound,       t.expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free_scratch(t.args.scratch);
}

void check_attention(struct check *c)
{
    // Lengths around the edges of pages.
    static const uint32_t lengths[][SEQUENCES] = {
        {1, 32, 33}, {31, 64, 65}, {63, 2, 256}, {97, 513, 1100}};
    static const enum nib_kv_format formats[][2] = {
        {NIB_KV_F32, NIB_KV_F32},       {NIB_KV_F16, NIB_KV_F16}, {NIB_KV_F32, NIB_KV_F16},
        {NIB_KV_F16, NIB_KV_F32},       {NIB_KV_I8, NIB_KV_I8},   {NIB_KV_I4, NIB_KV_I4},
        {NIB_KV_I8, NIB_KV_I4},         {NIB_KV_I4, NIB_KV_F16},  {NIB_KV_I4_CHANNEL, NIB_KV_I4},
        {NIB_KV_I4_CHANNEL, NIB_KV_F32}};
    static const uint32_t dims[][2] = {{64, 64}, {16, 24}, {7, 1}, {80, 80}};
    static const uint32_t heads[][2] = {{9, 3}, {4, 1}, {40, 2}, {2, 2}};
    static const uint32_t windows[] = {0, 1, 16, 32, 33, 700};
    for (uint32_t i = 0; i < 10; i++) {
        for (uint32_t w = 0; w < 6; w++) {
            uint32_t mix = (i + w) % 4;
            struct shape s = {.n_heads = heads[i % 4][0],
                              .n_kv_heads = heads[i % 4][1],
                              .key_dim = dims[mix][0],
                              .value_dim = dims[mix][1],
                              .window = windows[w],
                              .key_format = formats[(i + w) % 10][0],
                              .value_format = formats[(i + w) % 10][1],
                              .softcap = w % 3 == 1 ? 50.0f : 0.0f,
                              .query_size = w == 5 ? 30.0f : 1.0f};
            s.recent_pages = s.key_format == NIB_KV_I4_CHANNEL;
            check_shape(c, &s, lengths[(i + 2 * w) % 4]);
            check_shape(c, &s, lengths[(i + 2 * w + 1) % 4]);
            if (!nib_kv_has_codes(s.key_format) && !nib_kv_has_codes(s.value_format))
                continue;
            s.is_plain = i % 2;
            s.recent_pages = 1 + (i + w) % 3;
            check_shape(c, &s, lengths[(i + 2 * w) % 4]);
            s.first_pages = 1 + (i + w) % 2;
            s.recent_pages = (i + w) % 3 == 0 && s.key_format != NIB_KV_I4_CHANNEL ? 0 : 1 + w % 2;
            check_shape(c, &s, lengths[3 - (i + w) % 2]);
        }
    }
}
