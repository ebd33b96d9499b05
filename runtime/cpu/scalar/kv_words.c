// Keys and values in codes, as shaders/shared/kv.h defines them. Vector levels store by these
// functions as well, so that all levels give the same bytes.
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/cpu/kernels.h"

#define GROUP NIB_KV_GROUP
#define PAGE NIB_KV_PAGE_TOKENS
/// Numbers of a group that are looked at side by side.
#define LANES 8
/// Added to a number below 2^22 it rounds it to an integer, ties to even, which is then the end of
/// the sum's bits.
#define ROUNDER 0x1.8p23f

static bool is_transformed(const struct nib_cpu_cache *cache, bool is_key)
{
    return is_key ? nib_kv_transforms_keys(cache->layer, cache->key_format)
                  : nib_kv_transforms_values(cache->layer, cache->value_format);
}

struct nib_cpu_kv_head nib_cpu_kv_find_head(const struct nib_cpu_cache *cache, bool is_key,
                                            uint64_t page, uint32_t kv_head)
{
    const struct nib_kv_layer *layer = cache->layer;
    struct nib_cpu_kv_head head = {
        .format = is_key ? cache->key_format : cache->value_format,
        .dim = is_key ? layer->key_dim : layer->value_dim,
        .is_key = is_key,
        .is_transformed = is_transformed(cache, is_key),
    };
    uint32_t filled = nib_kv_groups(head.dim) * GROUP;
    head.token_bytes = head.format == NIB_KV_F32       ? head.dim * 4
                       : head.format == NIB_KV_I8      ? filled
                       : nib_kv_has_codes(head.format) ? filled / 2
                                                       : head.dim * 2;
    uint8_t *keys = cache->pages + page * cache->page_stride;
    uint8_t *numbers = is_key ? keys : keys + layer->key_page_size;
    head.numbers = numbers + (uint64_t)kv_head * PAGE * head.token_bytes;
    uint32_t scale_words = nib_kv_scale_words(head.format, head.dim);
    if (scale_words) {
        uint8_t *scales = keys + layer->key_page_size + layer->value_page_size +
                          (is_key ? 0 : layer->key_scale_page_size);
        head.scales = (uint32_t *)(void *)scales + (uint64_t)kv_head * scale_words * PAGE;
    }
    if (is_key && nib_kv_base_words(head.format, head.dim) > 0) {
        uint64_t words = (uint64_t)layer->n_heads * scale_words * PAGE;
        head.base = numbers + (uint64_t)layer->n_heads * PAGE * head.token_bytes +
                    (uint64_t)kv_head * filled;
        head.base_scales = head.scales - (uint64_t)kv_head * scale_words * PAGE + words +
                           (uint64_t)kv_head * nib_kv_base_scale_words(head.format, head.dim);
    }
    return head;
}

struct nib_cpu_kv_head nib_cpu_kv_find_recent(const struct nib_cpu_cache *cache, bool is_key,
                                              uint64_t recent_page, uint64_t page, uint32_t kv_head)
{
    const struct nib_kv_layer *layer = cache->layer;
    if (!nib_kv_has_codes(is_key ? cache->key_format : cache->value_format))
        return nib_cpu_kv_find_head(cache, is_key, page, kv_head);
    struct nib_cpu_kv_head head = {
        .format = NIB_KV_F16,
        .dim = is_key ? layer->key_dim : layer->value_dim,
        .is_key = is_key,
        .is_transformed = is_transformed(cache, is_key),
    };
    head.token_bytes = head.dim * 2;
    bool is_step = recent_page >= cache->n_recent;
    uint8_t *keys = is_step
                        ? cache->step_pages + (recent_page - cache->n_recent) * cache->step_stride
                        : cache->recent + recent_page * cache->recent_stride;
    head.numbers = keys + (is_key ? 0 : layer->recent_key_page_size) +
                   (uint64_t)kv_head * PAGE * head.token_bytes;
    return head;
}

/// Returns a binary16 that is never infinite.
static uint16_t half_of(float x)
{
    x = x < NIB_KV_HALF_MAX ? x : NIB_KV_HALF_MAX;
    return nib_f16_from_f32(x > -NIB_KV_HALF_MAX ? x : -NIB_KV_HALF_MAX);
}

static float inverse_of(float scale)
{
    return scale > 0 ? 1.0f / scale : 0.0f;
}

/// Writes round(x · factor + offset), cut to [least, most], to `codes`.
static void round_codes(const float *x, float factor, float least, float most, uint8_t add,
                        uint8_t *codes)
{
    for (uint32_t i = 0; i < GROUP; i++) {
        float y = x[i] * factor;
        y = y > least ? y : least;
        y = y < most ? y : most;
        codes[i] = (uint8_t)(nib_f32_bits(y + ROUNDER) + add);
    }
}

/// Returns the scale's bits.
static uint32_t pack_i8(const float *x, uint8_t *codes)
{
    float lanes[LANES] = {0}, most = 0;
    for (uint32_t i = 0; i < GROUP; i += LANES) {
        for (uint32_t k = 0; k < LANES; k++) {
            float size = x[i + k] < 0 ? -x[i + k] : x[i + k];
            lanes[k] = size > lanes[k] ? size : lanes[k];
        }
    }
    for (uint32_t k = 0; k < LANES; k++)
        most = lanes[k] > most ? lanes[k] : most;
    uint16_t scale = half_of(most / 127.0f);
    round_codes(x, inverse_of(nib_f32_from_f16(scale)), -127.0f, 127.0f, 128, codes);
    return scale;
}

/// Returns the bits of the scale and, above them, of the minimum.
static uint32_t pack_i4(const float *x, uint8_t *codes)
{
    float low[LANES], high[LANES], rest[GROUP];
    for (uint32_t k = 0; k < LANES; k++)
        low[k] = high[k] = x[k];
    for (uint32_t i = LANES; i < GROUP; i += LANES) {
        for (uint32_t k = 0; k < LANES; k++) {
            low[k] = x[i + k] < low[k] ? x[i + k] : low[k];
            high[k] = x[i + k] > high[k] ? x[i + k] : high[k];
        }
    }
    for (uint32_t k = 1; k < LANES; k++) {
        low[0] = low[k] < low[0] ? low[k] : low[0];
        high[0] = high[k] > high[0] ? high[k] : high[0];
    }
    uint16_t minimum = half_of(low[0]), scale = half_of((high[0] - low[0]) / 15.0f);
    float first = nib_f32_from_f16(minimum);
    for (uint32_t i = 0; i < GROUP; i++)
        rest[i] = x[i] - first;
    round_codes(rest, inverse_of(nib_f32_from_f16(scale)), 0.0f, 15.0f, 0, codes);
    return scale | (uint32_t)minimum << 16;
}

/// Writes the words of group g.
static void write_codes(const struct nib_cpu_kv_head *head, uint32_t token, uint32_t g,
                        const uint8_t *codes)
{
    uint32_t n = head->format == NIB_KV_I8 ? GROUP / 4 : GROUP / 8;
    uint32_t *words = (uint32_t *)(void *)head->numbers;
    for (uint32_t w = 0; w < n; w++) {
        uint32_t word = 0;
        if (head->format == NIB_KV_I8) {
            for (uint32_t j = 0; j < 4; j++)
                word |= (uint32_t)codes[4 * w + j] << 8 * j;
        } else if (head->is_key) {
            for (uint32_t j = 0; j < 8; j++)
                word |= (uint32_t)codes[8 * w + j] << 4 * j;
        } else {
            for (uint32_t j = 0; j < 4; j++)
                word |= (uint32_t)(codes[4 * w + j] | codes[16 + 4 * w + j] << 4) << 8 * j;
        }
        uint32_t n_words = head->token_bytes / 4;
        words[head->is_key ? NIB_KV_BY_TOKEN(0, n_words, g * n + w, token)
                           : NIB_KV_BY_NUMBER(0, n_words, g * n + w, token)] = word;
    }
}

void nib_cpu_kv_transform(float *x, uint32_t dim, float factor)
{
    for (uint32_t d = 0; d + GROUP <= dim; d += GROUP)
        nib_kv_transform_group(x + d, factor);
}

/// Writes group g of a head's numbers to out[GROUP] as it is to be stored.
static void load_group(const struct nib_cpu_kv_head *head, const float *x, uint32_t g, float *out)
{
    uint32_t left = head->dim - g * GROUP, n = left < GROUP ? left : GROUP;
    for (uint32_t i = 0; i < GROUP; i++)
        out[i] = i < n ? nib_kv_clean(x[g * GROUP + i]) : 0.0f;
    if (n == GROUP && head->is_transformed)
        nib_kv_transform_group(out, NIB_KV_STORE_FACTOR);
}

/// Writes the numbers that codes of 8 bits stand for. The products are exact.
static void unpack_i8(const uint8_t *codes, uint16_t scale, float *out)
{
    float factor = nib_f32_from_f16(scale);
    for (uint32_t i = 0; i < GROUP; i++)
        out[i] = factor * ((float)codes[i] - 128.0f);
}

/// Returns the scale of group g from the words of scales in i8 of which it has one.
static uint16_t half_of_word(uint32_t word, uint32_t g)
{
    return (uint16_t)(word >> g % 2 * 16);
}

/// Puts the scale of group g, the upper half's after the lower one's, into a word of scales in i8.
static void put_half(uint32_t *word, uint32_t g, uint32_t scale)
{
    *word = g % 2 ? *word | scale << 16 : scale;
}

void nib_cpu_kv_load_base(const struct nib_cpu_kv_head *head, uint32_t group, float *out)
{
    unpack_i8(head->base + group * GROUP, half_of_word(head->base_scales[group / 2], group), out);
}

/// What the base of a page of keys is made of: first tokens of pages.
struct base_source {
    const float *first; ///< of one head, the earliest of this step that counts
    uint64_t step;      ///< floats from there to the next page's first token
    uint32_t n;         ///< pages of this step, the last one the page itself; 0: it has its base
    struct nib_cpu_kv_head before; ///< the page before them; no base: there is none
};

/// Group g of a base.
struct base_group {
    float numbers[GROUP];
    uint8_t codes[GROUP];
    uint16_t scale;
};

static void make_base(const struct nib_cpu_kv_head *head, const struct base_source *source,
                      uint32_t g, struct base_group *out)
{
    if (source->n == 0)
        nib_cpu_kv_load_base(head, g, out->numbers);
    else if (source->before.base)
        nib_cpu_kv_load_base(&source->before, g, out->numbers);
    for (uint32_t i = 0; i < source->n; i++) {
        float x[GROUP];
        load_group(head, source->first + i * source->step, g, x);
        for (uint32_t k = 0; k < GROUP && (i > 0 || source->before.base); k++)
            x[k] = out->numbers[k] + (x[k] - out->numbers[k]) * NIB_KV_BASE_SHARE;
        out->scale = (uint16_t)pack_i8(x, out->codes);
        unpack_i8(out->codes, out->scale, out->numbers);
    }
}

/// Stores group g of a token in f16.
static void store_recent(const struct nib_cpu_kv_head *recent, uint32_t token, uint32_t g,
                         const float *group)
{
    uint32_t left = recent->dim - g * GROUP, n = left < GROUP ? left : GROUP;
    uint16_t *to = (uint16_t *)(void *)(recent->numbers + (uint64_t)token * recent->token_bytes) +
                   (uint64_t)g * GROUP;
    for (uint32_t i = 0; i < n; i++)
        to[i] = half_of(group[i]);
}

/// Reads what was stored there.
static void load_recent(const struct nib_cpu_kv_head *recent, uint32_t token, uint32_t g,
                        float *out)
{
    uint32_t left = recent->dim - g * GROUP, n = left < GROUP ? left : GROUP;
    const uint16_t *from =
        (const uint16_t *)(const void *)(recent->numbers + (uint64_t)token * recent->token_bytes) +
        (uint64_t)g * GROUP;
    for (uint32_t i = 0; i < GROUP; i++)
        out[i] = i < n ? nib_f32_from_f16(from[i]) : 0.0f;
}

/// Stores group g of a token; `base` and `recent`, where it goes in f16, may be NULL.
static void store_group(const struct nib_cpu_kv_head *head, const struct nib_cpu_kv_head *recent,
                        uint32_t token, uint32_t g, const float *x, const struct base_group *base)
{
    bool is_i8 = head->format == NIB_KV_I8;
    float group[GROUP];
    uint8_t codes[GROUP];
    load_group(head, x, g, group);
    if (recent)
        store_recent(recent, token, g, group);
    for (uint32_t i = 0; base && i < GROUP; i++)
        group[i] -= base->numbers[i];
    uint32_t *word = head->scales + NIB_KV_BY_TOKEN(0, 0, is_i8 ? g / 2 : g, token);
    if (is_i8)
        put_half(word, g, pack_i8(group, codes));
    else
        *word = pack_i4(group, codes);
    write_codes(head, token, g, codes);
}

/// Tells whether the row `before` rows before row r is that many tokens before it.
static bool has_row(const struct nib_step *step, uint64_t r, uint64_t before)
{
    const struct nib_step_row *row = &step->rows[r];
    return before <= r && row[-(int64_t)before].sequence == row->sequence &&
           row[-(int64_t)before].position + before == row->position;
}

/// Returns what the base of head `h` of row r's page is made of; `x` are the head's numbers.
static struct base_source find_source(const struct nib_cpu_kv_store *a, uint64_t r, uint32_t h,
                                      const float *x)
{
    const struct nib_step_row *row = &a->step->rows[r];
    const struct nib_kv_layer *layer = a->cache->layer;
    uint32_t slot = row->position % PAGE, page = row->position / PAGE, n = 0;
    uint32_t most = page <= NIB_KV_BASE_BEGIN || layer->window == 1 ? 1 : page;
    // Rows are stored in any order: where a page's first token is in the same step, its input is
    // looked at, not the cache.
    while (n < most && has_row(a->step, r, slot + (uint64_t)n * PAGE))
        n++;
    struct base_source source = {.step = PAGE * a->key.stride, .n = n};
    if (n == 0)
        return source;
    source.first = x - slot * a->key.stride - (n - 1) * source.step;
    if (n < most)
        source.before = nib_cpu_kv_find_head(
            a->cache, true, nib_cpu_kv_find_page(a->cache, a->step, row, (page - n) * PAGE), h);
    return source;
}

struct nib_cpu_kv_rows nib_cpu_kv_find_rows(const struct nib_cpu_kv_store *a, uint64_t r,
                                            uint64_t last)
{
    const struct nib_step_row *row = &a->step->rows[r];
    struct nib_cpu_kv_rows rows = {.first = r, .n = 1, .recent_page = NIB_NONE};
    rows.page = nib_cpu_kv_find_page(a->cache, a->step, row, row->position);
    uint32_t left = PAGE - row->position % PAGE;
    if (a->cache->recent_pages > 0 || nib_cpu_kv_is_first(a->cache, row->position))
        rows.recent_page =
            nib_cpu_kv_find_table(a->step, row, a->cache->recent_class)[row->position / PAGE];
    while (rows.n < left && r + rows.n < last && has_row(a->step, r + rows.n, rows.n))
        rows.n++;
    return rows;
}

/// Writes group g of a page's tokens, rounded to f16, to out; `last` is the row of the last one and
/// `x` its head's numbers. Other threads may be storing those of this step: their input is looked
/// at.
static void load_tokens(const struct nib_cpu_kv_store *a, uint64_t last, const float *x,
                        const struct nib_cpu_kv_head *recent, uint32_t g, float out[PAGE][GROUP])
{
    for (uint32_t t = 0; t < PAGE; t++) {
        uint64_t before = PAGE - 1 - t;
        if (!has_row(a->step, last, before)) {
            load_recent(recent, t, g, out[t]);
            continue;
        }
        load_group(recent, x - before * a->key.stride, g, out[t]);
        for (uint32_t i = 0; i < GROUP; i++)
            out[t][i] = nib_f32_from_f16(half_of(out[t][i]));
    }
}

/// Makes codes of group g of a page's tokens, each channel with a scale and a minimum of its own.
static void pack_channels(const struct nib_cpu_kv_head *head, uint32_t g, float x[PAGE][GROUP])
{
    uint32_t *words = head->scales + NIB_KV_BY_TOKEN(0, 0, g, 0);
    float low[GROUP], high[GROUP], factor[GROUP];
    uint8_t codes[GROUP];
    memcpy(low, x[0], sizeof low);
    memcpy(high, x[0], sizeof high);
    for (uint32_t t = 1; t < PAGE; t++) {
        for (uint32_t i = 0; i < GROUP; i++) {
            low[i] = x[t][i] < low[i] ? x[t][i] : low[i];
            high[i] = x[t][i] > high[i] ? x[t][i] : high[i];
        }
    }
    for (uint32_t i = 0; i < GROUP; i++) {
        uint16_t minimum = half_of(low[i]), scale = half_of((high[i] - low[i]) / 15.0f);
        words[i] = scale | (uint32_t)minimum << 16;
        low[i] = nib_f32_from_f16(minimum);
        factor[i] = inverse_of(nib_f32_from_f16(scale));
    }
    for (uint32_t t = 0; t < PAGE; t++) {
        for (uint32_t i = 0; i < GROUP; i++)
            x[t][i] = (x[t][i] - low[i]) * factor[i];
        round_codes(x[t], 1.0f, 0.0f, 15.0f, 0, codes);
        write_codes(head, t, g, codes);
    }
}

/// Stores keys in f16, and packs their page where they are its last ones.
static void store_channels(const struct nib_cpu_kv_store *a, const struct nib_cpu_kv_rows *rows)
{
    uint64_t last = rows->first + rows->n - 1, stride = a->key.stride;
    uint32_t slot = a->step->rows[rows->first].position % PAGE;
    for (uint32_t h = 0; h < a->cache->layer->n_heads; h++) {
        struct nib_cpu_kv_head head = nib_cpu_kv_find_head(a->cache, true, rows->page, h);
        struct nib_cpu_kv_head recent =
            nib_cpu_kv_find_recent(a->cache, true, rows->recent_page, rows->page, h);
        const float *x = a->key.data + rows->first * stride + (uint64_t)h * head.dim;
        for (uint32_t g = 0; g < nib_kv_groups(head.dim); g++) {
            float group[GROUP], tokens[PAGE][GROUP];
            for (uint32_t i = 0; i < rows->n; i++) {
                load_group(&recent, x + i * stride, g, group);
                store_recent(&recent, slot + i, g, group);
            }
            if (slot + rows->n < PAGE)
                continue;
            load_tokens(a, last, x + (rows->n - 1) * stride, &recent, g, tokens);
            pack_channels(&head, g, tokens);
        }
    }
}

void nib_cpu_kv_store_integers(const struct nib_cpu_kv_store *a, const struct nib_cpu_kv_rows *rows,
                               bool is_key)
{
    const struct nib_cpu_rows *in = is_key ? &a->key : &a->value;
    if (is_key && a->cache->key_format == NIB_KV_I4_CHANNEL) {
        store_channels(a, rows);
        return;
    }
    uint32_t slot = a->step->rows[rows->first].position % PAGE;
    for (uint32_t h = 0; h < a->cache->layer->n_heads; h++) {
        struct nib_cpu_kv_head head = nib_cpu_kv_find_head(a->cache, is_key, rows->page, h);
        const float *x = in->data + rows->first * in->stride + (uint64_t)h * head.dim;
        struct nib_cpu_kv_head recent = {.dim = 0};
        struct base_source source = {0};
        struct base_group base;
        if (rows->recent_page != NIB_NONE)
            recent = nib_cpu_kv_find_recent(a->cache, is_key, rows->recent_page, rows->page, h);
        if (head.base)
            source = find_source(a, rows->first, h, x);
        for (uint32_t g = 0; g < nib_kv_groups(head.dim); g++) {
            if (head.base)
                make_base(&head, &source, g, &base);
            for (uint32_t i = 0; i < rows->n; i++)
                store_group(&head, recent.dim ? &recent : NULL, slot + i, g, x + i * in->stride,
                            head.base ? &base : NULL);
            if (!head.base || slot > 0)
                continue;
            memcpy(head.base + g * GROUP, base.codes, GROUP);
            put_half(&head.base_scales[g / 2], g, base.scale);
        }
    }
}

/// Writes group g of a token, as its codes alone give it, to out[GROUP].
static void load_codes(const struct nib_cpu_kv_head *head, uint32_t token, uint32_t g, float *out)
{
    const uint32_t *words = (const uint32_t *)(const void *)head->numbers;
    bool is_i8 = head->format == NIB_KV_I8, is_channel = head->format == NIB_KV_I4_CHANNEL;
    uint32_t n_words = head->token_bytes / 4;
    const uint32_t *scales = head->scales + NIB_KV_BY_TOKEN(0, 0, is_i8 ? g / 2 : g, 0);
    uint32_t pair = scales[token];
    float scale = nib_f32_from_f16(is_i8 ? half_of_word(pair, g) : (uint16_t)pair);
    float minimum = is_i8 ? -128.0f * scale : nib_f32_from_f16((uint16_t)(pair >> 16));
    for (uint32_t i = 0; i < GROUP; i++) {
        if (is_channel) {
            scale = nib_f32_from_f16((uint16_t)scales[i]);
            minimum = nib_f32_from_f16((uint16_t)(scales[i] >> 16));
        }
        uint32_t w = is_i8 ? i / 4 : head->is_key ? i / 8 : i % 16 / 4;
        uint32_t shift = is_i8 || !head->is_key ? i % 4 * 8 : i % 8 * 4;
        if (!is_i8 && !head->is_key)
            shift += i / 16 * 4;
        w += g * (is_i8 ? GROUP / 4 : GROUP / 8);
        uint32_t word = words[head->is_key ? NIB_KV_BY_TOKEN(0, n_words, w, token)
                                           : NIB_KV_BY_NUMBER(0, n_words, w, token)];
        out[i] = scale * (float)(word >> shift & (is_i8 ? 255 : 15)) + minimum;
    }
}

void nib_cpu_kv_load_integers(const struct nib_cpu_kv_head *head, uint32_t token, float *out)
{
    for (uint32_t g = 0; g < nib_kv_groups(head->dim); g++) {
        float x[GROUP], base[GROUP] = {0};
        load_codes(head, token, g, x);
        if (head->base)
            nib_cpu_kv_load_base(head, g, base);
        for (uint32_t i = 0; i < GROUP && g * GROUP + i < head->dim; i++)
            out[g * GROUP + i] = x[i] + base[i];
    }
}
