#include <float.h>
#include <math.h>

#include "runtime/base/half.h"
#include "runtime/cpu/kernels.h"
#include "runtime/cpu/scalar/lanes.h"

#define PAGE NIB_KV_PAGE_TOKENS
/// Query heads of one KV head that share a page's conversion to fp32.
#define MAX_HEADS 16
/// Where the running maximum begins: finite, so that differences of maxima are never NaN.
#define LEAST_SCORE (-FLT_MAX / 2)

// Planes are page-aligned and every number lies at a multiple of its size: no unaligned access.

static void store_numbers(enum nib_kv_format format, const float *x, uint32_t n, void *to)
{
    if (format == NIB_KV_F32) {
        memcpy(to, x, n * sizeof *x);
        return;
    }
    uint16_t *half = to;
    for (uint32_t i = 0; i < n; i++)
        half[i] = nib_f16_from_f32(x[i]);
}

/// Returns `n` tokens of a head from token `first` on as floats, in place or converted into
/// `buffer`.
static const float *load_tokens(const struct nib_cpu_kv_head *head, uint32_t first, uint32_t n,
                                float *restrict buffer)
{
    const void *from = head->numbers + (uint64_t)first * head->token_bytes;
    if (head->format == NIB_KV_F32)
        return from;
    if (head->scales) {
        for (uint32_t t = 0; t < n; t++)
            nib_cpu_kv_load_integers(head, first + t, buffer + (uint64_t)t * head->dim);
        return buffer;
    }
    const uint16_t *restrict half = from;
    for (uint32_t i = 0; i < n * head->dim; i++)
        buffer[i] = nib_f32_from_f16(half[i]);
    return buffer;
}

/// Stores the keys or the values of rows of one page.
static void store_rows(const struct nib_cpu_kv_store *a, const struct nib_cpu_kv_rows *rows,
                       bool is_key)
{
    const struct nib_cpu_rows *in = is_key ? &a->key : &a->value;
    enum nib_kv_format format = is_key ? a->cache->key_format : a->cache->value_format;
    if (nib_kv_has_codes(format)) {
        nib_cpu_kv_store_integers(a, rows, is_key);
        return;
    }
    struct nib_cpu_kv_head head = nib_cpu_kv_find_head(a->cache, is_key, rows->page, 0);
    for (uint64_t r = rows->first; r < rows->first + rows->n; r++) {
        const float *x = in->data + r * in->stride;
        uint64_t slot = a->step->rows[r].position % PAGE;
        for (uint32_t h = 0; h < a->cache->layer->n_heads; h++)
            store_numbers(format, x + (uint64_t)h * head.dim, head.dim,
                          head.numbers + (h * PAGE + slot) * head.token_bytes);
    }
}

void nib_cpu_scalar_kv_store(const struct nib_cpu_kv_store *a, uint64_t first, uint64_t last,
                             uint32_t thread)
{
    (void)thread;
    for (uint64_t r = first, n; r < last; r += n) {
        n = 1;
        if (a->step->rows[r].sequence == NIB_NONE)
            continue;
        struct nib_cpu_kv_rows rows = nib_cpu_kv_find_rows(a, r, last);
        store_rows(a, &rows, true);
        store_rows(a, &rows, false);
        n = rows.n;
    }
}

/// One query head on its way through the cache (online softmax: Milakov and Gimelshein 2018).
struct head {
    const float *query;
    float *out; ///< Σ e^(score − max) · value
    float max;
    float sum; ///< Σ e^(score − max)
};

/// Some tokens of a page: [n][key_dim] and [n][value_dim].
struct tokens {
    const float *keys;
    const float *values;
    uint32_t n;
};

static void attend(const struct nib_cpu_attention *a, const struct tokens *tokens,
                   struct head *head)
{
    uint32_t key_dim = a->cache->layer->key_dim, value_dim = a->cache->layer->value_dim;
    float score[PAGE], max = head->max;
    uint32_t blocks = tokens->n / 4 * 4;
    for (uint32_t t = 0; t < blocks; t += 4)
        nib_dot_4(tokens->keys + (uint64_t)t * key_dim, key_dim, head->query, key_dim, score + t);
    for (uint32_t t = blocks; t < tokens->n; t++)
        score[t] = nib_dot(tokens->keys + (uint64_t)t * key_dim, head->query, key_dim);
    for (uint32_t t = 0; t < tokens->n; t++) {
        score[t] *= a->scale;
        if (a->softcap > 0)
            score[t] = a->softcap * tanhf(score[t] / a->softcap);
        max = score[t] > max ? score[t] : max;
    }
    if (max > head->max) {
        float shrink = expf(head->max - max);
        head->max = max;
        head->sum *= shrink;
        for (uint32_t d = 0; d < value_dim; d++)
            head->out[d] *= shrink;
    }
    for (uint32_t t = 0; t < tokens->n; t++) {
        const float *restrict value = tokens->values + (uint64_t)t * value_dim;
        float *restrict out = head->out;
        float p = expf(score[t] - max);
        head->sum += p;
        for (uint32_t d = 0; d < value_dim; d++)
            out[d] += p * value[d];
    }
}

/// Runs `n` query heads that share KV head `kv_head` over what row `row` sees.
static void attend_row(const struct nib_cpu_attention *a, const struct nib_step_row *row,
                       uint32_t kv_head, struct head *heads, uint32_t n,
                       const struct nib_cpu_scratch *scratch)
{
    const struct nib_cpu_cache *cache = a->cache;
    const struct nib_kv_layer *layer = cache->layer;
    const uint32_t *pages = nib_cpu_kv_find_table(a->step, row, layer->kv_class);
    const uint32_t *recent_pages = nib_cpu_kv_find_table(a->step, row, cache->recent_class);
    uint64_t recent = nib_cpu_kv_first_recent(cache, row->position);
    uint64_t end = (uint64_t)row->position + 1;
    uint64_t begin = layer->window && layer->window < end ? end - layer->window : 0;
    for (uint64_t next; begin < end; begin = next) {
        next = (begin / PAGE + 1) * PAGE;
        next = next < end ? next : end;
        uint64_t page = pages[begin / PAGE];
        struct nib_cpu_kv_head keys = nib_cpu_kv_find_head(cache, true, page, kv_head);
        struct nib_cpu_kv_head values = nib_cpu_kv_find_head(cache, false, page, kv_head);
        if (begin >= recent || nib_cpu_kv_is_first(cache, begin)) {
            uint64_t recent_page = recent_pages[begin / PAGE];
            keys = nib_cpu_kv_find_recent(cache, true, recent_page, page, kv_head);
            values = nib_cpu_kv_find_recent(cache, false, recent_page, page, kv_head);
        }
        struct tokens tokens = {.n = (uint32_t)(next - begin)};
        tokens.keys = load_tokens(&keys, begin % PAGE, tokens.n, scratch->keys);
        tokens.values = load_tokens(&values, begin % PAGE, tokens.n, scratch->page_values);
        for (uint32_t h = 0; h < n; h++)
            attend(a, &tokens, &heads[h]);
    }
}

/// Returns the query of head `h` of row `r`, in place or, where keys are transformed, so is it, in
/// `buffer`.
static const float *load_query(const struct nib_cpu_attention *a, uint64_t r, uint32_t h,
                               float *buffer)
{
    uint32_t dim = a->cache->layer->key_dim;
    const float *query = a->query.data + r * a->query.stride + (uint64_t)h * dim;
    if (!nib_kv_transforms_keys(a->cache->layer, a->cache->key_format))
        return query;
    memcpy(buffer, query, dim * sizeof *query);
    nib_cpu_kv_transform(buffer, dim, NIB_KV_READ_FACTOR);
    return buffer;
}

void nib_cpu_scalar_attention(const struct nib_cpu_attention *a, uint64_t first, uint64_t last,
                              uint32_t thread)
{
    const struct nib_kv_layer *layer = a->cache->layer;
    uint32_t shared = a->n_heads / layer->n_heads;
    uint32_t value_dim = layer->value_dim;
    for (uint64_t item = first, next; item < last; item = next) {
        uint64_t r = item / a->n_heads;
        uint32_t h = (uint32_t)(item % a->n_heads);
        next = item + (shared - h % shared);
        next = item + MAX_HEADS < next ? item + MAX_HEADS : next;
        next = last < next ? last : next;
        uint32_t n = (uint32_t)(next - item);

        struct head heads[MAX_HEADS];
        for (uint32_t k = 0; k < n; k++) {
            heads[k] = (struct head){
                .query = load_query(a, r, h + k,
                                    a->scratch[thread].queries + (uint64_t)k * layer->key_dim),
                .out = a->out.data + r * a->out.stride + (uint64_t)(h + k) * value_dim,
                .max = LEAST_SCORE,
            };
            memset(heads[k].out, 0, value_dim * sizeof(float));
        }
        const struct nib_step_row *row = &a->step->rows[r];
        if (row->sequence == NIB_NONE)
            continue;
        attend_row(a, row, h / shared, heads, n, &a->scratch[thread]);
        for (uint32_t k = 0; k < n; k++) {
            for (uint32_t d = 0; d < value_dim; d++)
                heads[k].out[d] /= heads[k].sum;
            if (nib_kv_transforms_values(layer, a->cache->value_format))
                nib_cpu_kv_transform(heads[k].out, value_dim, NIB_KV_READ_FACTOR);
        }
    }
}
