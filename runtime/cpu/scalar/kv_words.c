// Keys and values in i8 and i4, as shaders/shared/kv.h defines them. Vector levels store by these
// functions as well, so that all levels give the same bytes.
#include "runtime/base/half.h"
#include "runtime/cpu/kernels.h"

#define GROUP NIB_KV_GROUP
#define PAGE NIB_KV_PAGE_TOKENS
/// Numbers of a group that are looked at side by side.
#define LANES 8
/// Added to a number below 2^22 it rounds it to an integer, ties to even, which is then the end of
/// the sum's bits.
#define ROUNDER 0x1.8p23f

struct nib_cpu_kv_head nib_cpu_kv_find_head(const struct nib_cpu_cache *cache, bool is_key,
                                            uint64_t page, uint32_t kv_head)
{
    const struct nib_kv_layer *layer = cache->layer;
    struct nib_cpu_kv_head head = {
        .format = is_key ? cache->key_format : cache->value_format,
        .dim = is_key ? layer->key_dim : layer->value_dim,
        .is_key = is_key,
    };
    uint32_t filled = nib_kv_groups(head.dim) * GROUP;
    head.token_bytes = head.format == NIB_KV_F32  ? head.dim * 4
                       : head.format == NIB_KV_I8 ? filled
                       : head.format == NIB_KV_I4 ? filled / 2
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
    if (is_key && head.format == NIB_KV_I4) {
        uint8_t *bases = numbers + (uint64_t)layer->n_heads * PAGE * head.token_bytes;
        head.base = (uint16_t *)(void *)bases + (uint64_t)kv_head * filled;
    }
    return head;
}

/// Returns a binary16 that is never infinite.
static uint16_t half_of(float x)
{
    x = x < NIB_KV_HALF_MAX ? x : NIB_KV_HALF_MAX;
    return nib_f16_from_f32(x > -NIB_KV_HALF_MAX ? x : -NIB_KV_HALF_MAX);
}

static float drop_nan(float x)
{
    return x == x ? x : 0.0f;
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

/// Returns number `d` of a token in i8, as its codes alone give it. The product is exact.
static float load_i8(const struct nib_cpu_kv_head *head, uint32_t token, uint32_t d)
{
    const uint32_t *words = (const uint32_t *)(const void *)head->numbers;
    uint32_t n_words = head->token_bytes / 4, g = d / GROUP;
    uint32_t word = words[head->is_key ? NIB_KV_BY_TOKEN(0, n_words, d / 4, token)
                                       : NIB_KV_BY_NUMBER(0, n_words, d / 4, token)];
    uint32_t scales = head->scales[NIB_KV_BY_TOKEN(0, 0, g / 2, token)];
    float scale = nib_f32_from_f16((uint16_t)(scales >> g % 2 * 16));
    return scale * ((float)(word >> d % 4 * 8 & 255) - 128.0f);
}

/// Copies the numbers of a group, of which `n` are there, to out[GROUP].
static void load_group(const float *x, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < GROUP; i++)
        out[i] = i < n ? drop_nan(x[i]) : 0.0f;
}

/// Takes from a group of a key in i8, from number `d` on, what it is relative to: the page's first
/// token as it is stored, which is made of its numbers `first` or, where that is NULL, is there.
static void subtract_stored(const struct nib_cpu_kv_head *head, const float *first, uint32_t d,
                            uint32_t n, float *x)
{
    float numbers[GROUP];
    uint8_t codes[GROUP];
    if (!first) {
        for (uint32_t i = 0; i < n; i++)
            x[i] -= load_i8(head, 0, d + i);
        return;
    }
    load_group(first + d, n, numbers);
    float scale = nib_f32_from_f16((uint16_t)pack_i8(numbers, codes));
    for (uint32_t i = 0; i < n; i++)
        x[i] -= scale * ((float)codes[i] - 128.0f);
}

/// What the base of a page of keys in i4 is made of: first tokens of pages.
struct base_source {
    const float *first; ///< of one head, the earliest of this step that counts
    uint64_t step;      ///< floats from there to the next page's first token
    uint32_t n;         ///< pages of this step, the last one the page itself; 0: it has its base
    const uint16_t *before; ///< base of the page before them, or NULL
};

/// Returns number `d` of the base.
static uint16_t make_base(const struct base_source *source, uint32_t d)
{
    uint16_t base = source->before ? source->before[d] : 0;
    for (uint32_t i = 0; i < source->n; i++) {
        float x = drop_nan(source->first[i * source->step + d]), old = nib_f32_from_f16(base);
        base = half_of(i > 0 || source->before ? old + (x - old) * NIB_KV_BASE_SHARE : x);
    }
    return base;
}

/// Takes from a group of a key in i4, from number `d` on, its page's base, which the page's first
/// token leaves there.
static void subtract_base(const struct nib_cpu_kv_head *head, const struct base_source *source,
                          bool is_first, uint32_t d, uint32_t n, float *x)
{
    for (uint32_t i = 0; i < n; i++) {
        uint16_t half = source->n > 0 ? make_base(source, d + i) : head->base[d + i];
        x[i] -= nib_f32_from_f16(half);
        if (is_first)
            head->base[d + i] = half;
    }
    for (uint32_t i = n; is_first && i < GROUP; i++)
        head->base[d + i] = 0;
}

/// `first` is the page's first token, or NULL where it is not in this step.
static void store_head(const struct nib_cpu_kv_head *head, uint32_t token, const float *x,
                       const float *first, const struct base_source *source)
{
    bool is_i8 = head->format == NIB_KV_I8;
    for (uint32_t d = 0, g = 0; d < head->dim; d += GROUP, g++) {
        float group[GROUP];
        uint8_t codes[GROUP];
        uint32_t n = head->dim - d < GROUP ? head->dim - d : GROUP;
        load_group(x + d, n, group);
        if (head->base)
            subtract_base(head, source, token == 0, d, n, group);
        else if (head->is_key && token > 0)
            subtract_stored(head, first, d, n, group);
        uint32_t scale = is_i8 ? pack_i8(group, codes) : pack_i4(group, codes);
        uint32_t *word = head->scales + NIB_KV_BY_TOKEN(0, 0, is_i8 ? g / 2 : g, token);
        *word = is_i8 && g % 2 ? *word | scale << 16 : scale;
        write_codes(head, token, g, codes);
    }
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
    while (n < most && has_row(a->step, r, slot + (uint64_t)n * PAGE))
        n++;
    struct base_source source = {.step = PAGE * a->key.stride, .n = n};
    if (n == 0)
        return source;
    source.first = x - slot * a->key.stride - (n - 1) * source.step;
    if (n < most) {
        uint32_t table = a->step->sequences[row->sequence].page_table +
                         layer->kv_class * a->step->header.page_table_stride;
        source.before =
            nib_cpu_kv_find_head(a->cache, true, a->step->page_tables[table + page - n], h).base;
    }
    return source;
}

void nib_cpu_kv_store_integers(const struct nib_cpu_kv_store *a, uint64_t r, uint64_t page,
                               bool is_key)
{
    const struct nib_cpu_rows *in = is_key ? &a->key : &a->value;
    uint32_t slot = a->step->rows[r].position % PAGE;
    // Rows are stored in any order: where the page's first token is in the same step, its input is
    // looked at, not the cache.
    bool has_first = has_row(a->step, r, slot);
    for (uint32_t h = 0; h < a->cache->layer->n_heads; h++) {
        struct nib_cpu_kv_head head = nib_cpu_kv_find_head(a->cache, is_key, page, h);
        const float *x = in->data + r * in->stride + (uint64_t)h * head.dim;
        struct base_source source = {0};
        if (head.base)
            source = find_source(a, r, h, x);
        store_head(&head, slot, x, has_first ? x - slot * in->stride : NULL, &source);
    }
}

/// Returns number `d` of a token in i4.
static float load_i4(const struct nib_cpu_kv_head *head, uint32_t token, uint32_t d)
{
    const uint32_t *words = (const uint32_t *)(const void *)head->numbers;
    uint32_t n_words = head->token_bytes / 4, g = d / GROUP, i = d % GROUP;
    uint32_t w = head->is_key ? d / 8 : g * 4 + i % 16 / 4;
    uint32_t shift = head->is_key ? d % 8 * 4 : i % 4 * 8 + i / 16 * 4;
    uint32_t word = words[head->is_key ? NIB_KV_BY_TOKEN(0, n_words, w, token)
                                       : NIB_KV_BY_NUMBER(0, n_words, w, token)];
    uint32_t scales = head->scales[NIB_KV_BY_TOKEN(0, 0, g, token)];
    float scale = nib_f32_from_f16((uint16_t)scales);
    float base = head->base ? nib_f32_from_f16(head->base[d]) : 0.0f;
    return scale * (float)(word >> shift & 15) +
           (nib_f32_from_f16((uint16_t)(scales >> 16)) + base);
}

void nib_cpu_kv_load_integers(const struct nib_cpu_kv_head *head, uint32_t token, float *out)
{
    bool is_i8 = head->format == NIB_KV_I8;
    for (uint32_t d = 0; d < head->dim; d++) {
        out[d] = is_i8 ? load_i8(head, token, d) : load_i4(head, token, d);
        if (is_i8 && head->is_key && token > 0)
            out[d] += load_i8(head, 0, d);
    }
}
